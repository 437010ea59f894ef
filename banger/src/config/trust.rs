//! Trust in a repository's `banger.toml`: that it may hand something of this machine to the guest.
//!
//! It is in a file of this content at this place. Whoever changes it, such as `git pull`, ends it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use banger_agent::protocol::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::CommandError;
use crate::file::replace;
use crate::permissions;

/// Of the records' format.
const FORMAT_VERSION: u32 = 1;
/// No record is longer, in bytes.
const MAX_LENGTH: u64 = 64 << 10;

/// The records of trust, each a file.
#[derive(Clone, Debug)]
pub struct TrustStore {
    folder: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format_version: u32,
    /// The canonical root of the repository.
    root: Bytes,
    /// BLAKE3 of the trusted file, in hexadecimal.
    digest: String,
}

impl TrustStore {
    /// The records below banger's data folder.
    pub fn new(data: &Path) -> TrustStore {
        TrustStore { folder: data.join("trust") }
    }

    fn record(&self, root: &Path) -> PathBuf {
        self.folder.join(format!("{}.json", blake3::hash(root.as_os_str().as_bytes()).to_hex()))
    }

    /// Whether `text`, the file of the repository at `root`, is trusted. A record that cannot be read is none.
    pub fn trusts(&self, root: &Path, text: &str) -> bool {
        let read = || -> io::Result<Record> {
            let mut json = Vec::new();
            let (path, file) = (self.record(root), File::open(self.record(root))?);
            permissions::check(&path, &file.metadata()?).map_err(|error| io::Error::other(error.message))?;
            file.take(MAX_LENGTH).read_to_end(&mut json)?;
            Ok(serde_json::from_slice(&json)?)
        };
        read().is_ok_and(|record| {
            record.format_version == FORMAT_VERSION && record.root.as_os_str() == root && record.digest == digest(text)
        })
    }

    /// Trusts `text`, the file of the repository at `root`, as it is.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn trust(&self, root: &Path, text: &str) -> Result<(), CommandError> {
        let (format_version, root_bytes) = (FORMAT_VERSION, Bytes::from(root.as_os_str()));
        let record = Record { format_version, root: root_bytes, digest: digest(text) };
        let json = serde_json::to_vec_pretty(&record).expect("plain data has a JSON form");
        let path = self.record(root);
        let written = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        let written = written.and_then(|()| replace(&path, &json, 0o600));
        written.map_err(|error| CommandError::io("write", &path, &error))
    }

    /// Ends the trust in the file of the repository at `root`. True if there was a record of it.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn revoke(&self, root: &Path) -> Result<bool, CommandError> {
        let path = self.record(root);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CommandError::io("remove", &path, &error)),
        }
    }
}

fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_in_one_content_at_one_place_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let store = TrustStore::new(folder.path());
        let (here, there) = (Path::new("/a/repo"), Path::new("/a/copy"));
        assert!(!store.trusts(here, "x = 1"));
        store.trust(here, "x = 1").unwrap();
        assert!(store.trusts(here, "x = 1"));
        assert!(!store.trusts(here, "x = 2") && !store.trusts(there, "x = 1"));
        store.trust(here, "x = 2").unwrap();
        assert!(store.trusts(here, "x = 2") && !store.trusts(here, "x = 1"));
        fs::write(store.record(here), "{").unwrap();
        assert!(!store.trusts(here, "x = 2"));
        assert!(store.revoke(here).unwrap() && !store.revoke(here).unwrap());
    }
}
