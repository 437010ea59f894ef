//! The keys of user and server: the user authenticates with one, and ssh verifies the server by the
//! other.

use std::fs;
use std::io::{self, ErrorKind as IoKind, Write};
use std::path::{Path, PathBuf};

use banger::config::{Overrides, Settings};
use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::host::permissions;
use banger::vm::authorized_key::{self, with_pub};
use banger_util::file::{AtomicFile, Durability, create_private_directory, replace};
use russh::keys::key::safe_rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};

/// The name under which ssh looks up the server's key (`HostKeyAlias`).
pub(crate) const HOST_ALIAS: &str = "banger";

/// The keys that ssh and the server need.
pub(crate) struct Keys {
    /// The file of the user's private key, which banger need not be able to read.
    pub(crate) identity: PathBuf,
    /// The user's public key.
    pub(crate) user: PublicKey,
    /// The server's private key.
    pub(crate) host: PrivateKey,
    /// The file with the server's public key, in the form of known_hosts.
    pub(crate) known_hosts: PathBuf,
}

impl Keys {
    /// Reads the keys, and makes those that are missing.
    ///
    /// # Errors
    /// If a key cannot be read or made, or is of a kind that cannot be used.
    pub(crate) fn ensure(paths: &Paths) -> Result<Keys, CommandError> {
        let settings = Settings::of_process(paths, None, &Overrides::default())?;
        let no_home = || CommandError::new("there is no home folder to keep keys in").kind(ErrorKind::NoHome);
        let folder = authorized_key::folder().ok_or_else(no_home)?;
        let made = create_private_directory(&folder);
        made.map_err(|error| CommandError::io("make", &folder, &error))?;
        permissions::check_directory(&folder, paths.home.as_deref())?;
        let host = private_key(&folder.join("host_ed25519"), "the SSH server of banger's VMs")?;
        let (identity, user) = match settings.ssh_key_path(paths.home.as_deref()) {
            Some(path) => {
                let key = public_key(&path)?;
                (path, key)
            }
            None => {
                let path = folder.join(authorized_key::OWN);
                let key = private_key(&path, "made by banger for its VMs")?.public_key().clone();
                keep(&with_pub(&path), &line(&key)?)?;
                (path, key)
            }
        };
        let known_hosts = folder.join("known_hosts");
        keep(&known_hosts, &format!("{HOST_ALIAS} {}", line(host.public_key())?))?;
        Ok(Keys { identity, user, host, known_hosts })
    }
}

/// The public key of a private key that the user has made: from its `.pub` file, or else from the
/// private key, which may be encrypted.
fn public_key(path: &Path) -> Result<PublicKey, CommandError> {
    let beside = with_pub(path);
    let key = match fs::read_to_string(&beside) {
        Ok(text) => PublicKey::from_openssh(text.trim()).map_err(|error| unusable(&beside, &error))?,
        Err(error) if error.kind() == IoKind::NotFound => {
            let text = fs::read(path).map_err(|error| {
                CommandError::io("read", path, &error).hint("it is what `ssh_key_path` says: banger config")
            })?;
            PrivateKey::from_openssh(text).map_err(|error| unusable(path, &error))?.public_key().clone()
        }
        Err(error) => return Err(CommandError::io("read", &beside, &error)),
    };
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => Ok(key),
        other => {
            let error = CommandError::new(format!("the key `{}` is of the kind {other}", path.display()));
            let hint = "take one of ed25519 or ecdsa for `ssh_key_path`, or none: banger makes its own";
            Err(error.kind(ErrorKind::Config).hint(hint))
        }
    }
}

/// Reads a key of banger's own, or makes it if it is missing.
fn private_key(path: &Path, comment: &str) -> Result<PrivateKey, CommandError> {
    if let Err(error) = fs::symlink_metadata(path)
        && error.kind() == IoKind::NotFound
    {
        let new = || {
            let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519)?;
            key.set_comment(comment);
            key.to_openssh(LineEnding::LF)
        };
        let key = new().map_err(|error| CommandError::new(format!("cannot make a key: {error}")))?;
        write_once(path, &key, 0o600)?;
    }
    // Another command may have been faster.
    let text = fs::read(path).map_err(|error| CommandError::io("read", path, &error))?;
    PrivateKey::from_openssh(text).map_err(|error| unusable(path, &error).hint("delete it, and a new one is made"))
}

fn unusable(path: &Path, error: &russh::keys::ssh_key::Error) -> CommandError {
    CommandError::new(format!("`{}` holds no key that can be used: {error}", path.display()))
        .kind(ErrorKind::StateDamaged)
}

/// A public key as the text of a file.
pub(crate) fn line(key: &PublicKey) -> Result<String, CommandError> {
    let text = key.to_openssh().map_err(|error| CommandError::new(format!("cannot write a key: {error}")))?;
    Ok(text + "\n")
}

/// Writes a file that every user may read, unless it has this content already.
fn keep(path: &Path, content: &str) -> Result<(), CommandError> {
    if fs::read_to_string(path).ok().as_deref() == Some(content) {
        return Ok(());
    }
    replace(path, content.as_bytes(), 0o644, Durability::Synced)
        .map_err(|error| CommandError::io("write", path, &error))
}

/// Writes a file atomically, unless it exists.
fn write_once(path: &Path, content: &str, mode: u32) -> Result<(), CommandError> {
    let write = || -> io::Result<bool> {
        let mut file = AtomicFile::create(path, mode)?;
        file.write_all(content.as_bytes())?;
        file.put_new(Durability::Synced)
    };
    write().map(drop).map_err(|error| CommandError::io("write", path, &error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_key_is_created_once_with_private_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let first = private_key(&path, "c").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(private_key(&path, "other").unwrap().public_key(), first.public_key());
        fs::write(&path, "no key").unwrap();
        assert_eq!(private_key(&path, "c").unwrap_err().kind, ErrorKind::StateDamaged);
    }

    #[test]
    fn stale_public_key_is_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.pub");
        for text in ["one", "one", "another"] {
            keep(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn public_key_is_enough_for_an_external_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let key = private_key(&path, "c").unwrap().public_key().clone();
        assert_eq!(public_key(&path).unwrap().key_data(), key.key_data());
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        assert_eq!(public_key(&path).unwrap_err().hints.len(), 1);
        fs::write(with_pub(&path), line(&key).unwrap()).unwrap();
        assert_eq!(public_key(&path).unwrap().key_data(), key.key_data());
    }
}
