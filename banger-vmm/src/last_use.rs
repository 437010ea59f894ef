//! What is remembered of a VM's last use: `use.json`. The supervisor writes it, so that a VM can be
//! judged without being asked.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use banger_agent::protocol::sync::GuestOnly;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;

const FILE: &str = "use.json";
/// What [`FILE`] was before its count was not to be believed any more: only the time in it holds.
const FORMER: &str = "use.former.json";
const FORMAT: u32 = 1;
/// How many of the guest's own changes are named.
const MAX_NAMED: usize = 10;

/// When a VM was used, and what was found in it afterwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastUse {
    format_version: u32,
    /// When its last user left, in seconds since 1970.
    pub ended: u64,
    /// What changed in the guest alone; none: not known.
    pub guest_only: Option<GuestOnly>,
}

impl LastUse {
    /// A use that ends now.
    pub(crate) fn now(mut guest_only: Option<GuestOnly>) -> Self {
        if let Some(only) = &mut guest_only {
            only.named.truncate(MAX_NAMED);
        }
        let ended = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        LastUse { format_version: FORMAT, ended, guest_only }
    }

    /// None: nothing is known, be it because the file is damaged.
    pub(crate) fn read(vm: &Path) -> Result<Option<Self>> {
        let read = |name| Self::read_file(&vm.join(name));
        match read(FILE)? {
            Some(last_use) => Ok(Some(last_use)),
            None => Ok(read(FORMER)?.map(|former| LastUse { guest_only: None, ..former })),
        }
    }

    fn read_file(path: &Path) -> Result<Option<Self>> {
        match file::read_json(path, FORMAT) {
            Ok(last_use) => Ok(Some(last_use)),
            Err(Error::Damaged { .. } | Error::Newer { .. }) => Ok(None),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it down. What cannot be written, for want of space, is at least not believed any
    /// more.
    pub(crate) fn write(&self, vm: &Path) -> Result<()> {
        file::write_json(&vm.join(FILE), self).or_else(|_| file::remove_if_there(&vm.join(FILE)))
    }

    /// What was found does not hold any more. Every command does this at its start, so nothing is
    /// written: the file has another name. Should the machine lose power before that is on its
    /// disk, the VM has ended badly, which says the same.
    pub(crate) fn forget_changes(vm: &Path) -> Result<()> {
        let path = vm.join(FILE);
        match fs::rename(&path, vm.join(FORMER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => file::remove_if_there(&path),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use banger_agent::protocol::Bytes;
    use banger_agent::protocol::sync::Counts;

    use super::*;

    #[test]
    fn changes_are_known_until_they_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert!(LastUse::read(folder.path()).unwrap().is_none());
        LastUse::forget_changes(folder.path()).unwrap();
        let named = (0..100).map(|number| Bytes(format!("file-{number}").into_bytes())).collect();
        let only = GuestOnly { counts: Counts { files: 200, references: 1 }, named };
        LastUse::now(Some(only)).write(folder.path()).unwrap();
        let read = LastUse::read(folder.path()).unwrap().unwrap();
        let only = read.guest_only.unwrap();
        assert_eq!((only.counts.files, only.named.len()), (200, MAX_NAMED));
        assert!(read.ended > 1_600_000_000);
        LastUse::forget_changes(folder.path()).unwrap();
        let forgotten = LastUse::read(folder.path()).unwrap().unwrap();
        assert!(forgotten.guest_only.is_none() && forgotten.ended == read.ended);
        LastUse::forget_changes(folder.path()).unwrap();
        assert_eq!(LastUse::read(folder.path()).unwrap().unwrap().ended, read.ended);
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(LastUse::read(folder.path()).unwrap().unwrap().guest_only.is_none());
        LastUse::now(None).write(folder.path()).unwrap();
        assert!(LastUse::read(folder.path()).unwrap().unwrap().ended >= read.ended);
    }
}
