//! State files, and files that exist to be locked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_util::file::{self, Durability};
use nix::fcntl::OFlag;
use nix::libc;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, IoContext, Result};

/// No state file is longer, in bytes.
const MAX_STATE: u64 = 1 << 20;

/// Makes a file of a cache, if it is not there. One process makes it, others wait; what one that
/// was killed left is made anew.
pub(crate) fn ensure_cached(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    create_folder(folder)?;
    let lock_path = folder.join(".lock");
    let lock = open_lock(&lock_path)?;
    lock.lock().at("lock", &lock_path)?;
    if path.exists() {
        return Ok(());
    }
    let making = folder.join(".making");
    remove_if_there(&making)?;
    let made = make(&making);
    made.and_then(|()| fs::rename(&making, path).at("make", path)).inspect_err(|_| _ = fs::remove_file(&making))
}

/// Removes the state files that were being written in `folder` when their writers died. To be
/// called by who alone writes there.
pub(crate) fn sweep_unfinished(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        if entry.file_name().to_string_lossy().contains(".json.") {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes renames in `folder` last.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    file::sync_directory(folder).at("sync", folder)
}

/// Makes a folder for this user alone, and those above it.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    file::create_private_directory(path).at("create", path)
}

/// Removes a file that may not exist.
pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

/// Replaces a state file as a whole, or makes it; it is on the disk then.
pub(crate) fn write_json<T: Serialize>(path: &Path, state: &T) -> Result<()> {
    let json = serde_json::to_vec_pretty(state).expect("state types have a JSON form");
    file::replace(path, &json, 0o600, Durability::Synced).at("write", path)
}

/// Reads a state file of a format up to `known`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, known: u32) -> Result<T> {
    read_json_of(File::open(path).at("read", path)?, path, known)
}

/// Reads a state file of a format up to `known` from `file`, which is the one at `path`.
pub(crate) fn read_json_of<T: DeserializeOwned>(file: File, path: &Path, known: u32) -> Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format_version: u64,
    }
    let mut json = Vec::new();
    file.take(MAX_STATE + 1).read_to_end(&mut json).at("read", path)?;
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    if json.len() as u64 > MAX_STATE {
        return Err(damaged(format!("longer than {MAX_STATE} bytes")));
    }
    let format: Format = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    if format.format_version > u64::from(known) {
        return Err(Error::Newer { path: path.to_owned(), found: format.format_version, known });
    }
    serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))
}

/// Opens a regular file in a directory of somebody else's for reading. A link is not followed, and a
/// FIFO that nobody writes to is not waited for.
///
/// # Errors
/// There is something else, as the error says; the file system's refusal.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let other = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    match opened.and_then(|file| Ok((file.metadata()?.file_type(), file))) {
        Ok((there, file)) if there.is_file() => Ok(file),
        Ok((there, _)) if there.is_dir() => other("it is a directory, not a file"),
        Ok(_) => other("it is not a regular file"),
        // open(2): with O_NOFOLLOW, of a link; and of a socket.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            other("it is a symbolic link, which is not followed")
        }
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => other("it is not a regular file"),
        Err(error) => Err(error),
    }
}

/// Opens a directory, and nothing else: a link is not followed.
///
/// # Errors
/// The file system's refusal.
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Opens, or makes, a file that exists to be locked.
pub(crate) fn open_lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).at("open", path)
}

/// Takes a lock within `patience`; false if somebody else kept it all that time.
pub(crate) fn lock_within(lock: &File, path: &Path, patience: Duration) -> Result<bool> {
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(fs::TryLockError::Error(error)) => return Err(error).at("lock", path),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() >= patience => return Ok(false),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// This many random bytes, in hexadecimal.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).expect("the kernel has random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// Has in turn everything in the place of the file `name` in `directory` that is no regular
    /// file, and calls `check` with what an error says of it.
    pub(crate) fn in_place_of_file(directory: &Path, name: &str, check: impl Fn(&str)) {
        let path = directory.join(name);
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        type Put<'a> = Box<dyn Fn(&Path) + 'a>;
        let others: [(Put<'_>, &str); 5] = [
            (Box::new(|path| mkfifo(path, Mode::S_IRWXU).unwrap()), "it is not a regular file"),
            (Box::new(|path| symlink(elsewhere.path(), path).unwrap()), "it is a symbolic link"),
            (Box::new(|path| fs::create_dir(path).unwrap()), "it is a directory"),
            (Box::new(|path| drop(UnixListener::bind(path).unwrap())), "it is not a regular file"),
            (Box::new(|path| assert!(!path.exists())), "No such file"),
        ];
        for (put, reason) in others {
            fs::create_dir_all(directory).unwrap();
            put(&path);
            check(&format!("cannot open {}: {reason}", path.display()));
            fs::remove_dir_all(directory).unwrap();
        }
    }

    #[test]
    fn directory_is_opened_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        open_directory(folder.path()).unwrap();
        let path = folder.path().join("it");
        symlink("/", &path).unwrap();
        open_directory(&path).unwrap_err();
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        open_directory(&path).unwrap_err();
    }
}
