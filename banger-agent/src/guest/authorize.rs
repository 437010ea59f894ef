//! The user's key among those that an SSH server of the guest's own lets in.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use super::users::User;
use crate::protocol::{AgentFailure, AgentFailureKind, Authorize};

/// Servers that read `~/.ssh/authorized_keys`.
const SERVERS: [&str; 6] = [
    "/usr/sbin/sshd",
    "/usr/bin/sshd",
    "/usr/local/sbin/sshd",
    "/sbin/sshd",
    "/usr/sbin/dropbear",
    "/usr/bin/dropbear",
];
/// A file that is longer is left alone, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// Puts the key there for root, if the guest has a server or is to get one. Says whether it is
/// there.
pub(super) fn authorize(request: &Authorize) -> Result<bool, AgentFailure> {
    if !request.awaited && !SERVERS.iter().any(|server| Path::new(server).exists()) {
        return Ok(false);
    }
    let home = User::find(None)?.home;
    put(&home, &request.key).map(|()| true).map_err(|error| {
        let file = home.join(".ssh/authorized_keys");
        AgentFailure::new(
            AgentFailureKind::Other,
            format!("cannot put a key into `{}` in the guest: {error}", file.display()),
        )
    })
}

/// Adds the key to those of who lives in `home`, unless it is there. The others stay as they are,
/// as do the modes of what exists.
fn put(home: &Path, key: &str) -> io::Result<()> {
    let folder = home.join(".ssh");
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // A pipe in its place is not waited for.
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK)
        .open(folder.join("authorized_keys"))?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut there = Vec::new();
    if (&file).take(MAX_LENGTH + 1).read_to_end(&mut there)? as u64 > MAX_LENGTH {
        return Err(io::Error::other(format!("it has more than {MAX_LENGTH} bytes")));
    }
    if there.split(|byte| *byte == b'\n').any(|line| holds(line, key)) {
        return Ok(());
    }
    let start = if there.last().is_none_or(|byte| *byte == b'\n') { "" } else { "\n" };
    file.write_all(format!("{start}{key}\n").as_bytes())?;
    file.sync_all()
}

/// Whether a line of sshd(8)'s is about this key, with whatever options and comment: then it stays
/// as somebody wants it.
fn holds(line: &[u8], key: &str) -> bool {
    let Some(body) = key.split_whitespace().nth(1) else { return false };
    let line = line.trim_ascii_start();
    !line.starts_with(b"#") && line.split(u8::is_ascii_whitespace).any(|word| word == body.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAmine banger";

    #[test]
    fn authorized_key_is_added_once_and_keeps_others() {
        let home = tempfile::tempdir().unwrap();
        let (folder, file) = (home.path().join(".ssh"), home.path().join(".ssh/authorized_keys"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for _ in 0..2 {
            put(home.path(), KEY).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{KEY}\n"));
        }
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));

        // One without a line's end, and one that is there with conditions, or is not any more.
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        fs::write(&file, format!("#{KEY}\nssh-rsa AAAAtheirs them")).unwrap();
        put(home.path(), KEY).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("#{KEY}\nssh-rsa AAAAtheirs them\n{KEY}\n"));
        let restricted = "restrict,command=\"true\" ssh-ed25519 AAAAmine me@here\n";
        fs::write(&file, restricted).unwrap();
        put(home.path(), KEY).unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), (restricted, 0o640));
    }

    #[test]
    fn invalid_authorized_keys_file_is_left_unchanged() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".ssh/authorized_keys");
        fs::create_dir_all(&file).unwrap();
        put(home.path(), KEY).unwrap_err();
        fs::remove_dir(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(put(home.path(), KEY).unwrap_err().to_string().contains("no regular file"));
        fs::remove_file(&file).unwrap();
        fs::write(&file, vec![b'\n'; MAX_LENGTH as usize + 1]).unwrap();
        assert!(put(home.path(), KEY).unwrap_err().to_string().contains("more than"));
    }
}
