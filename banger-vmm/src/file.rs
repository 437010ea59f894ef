//! State files, and files that exist to be locked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_util::file::{self, Durability};
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
    #[derive(Deserialize)]
    struct Format {
        format_version: u64,
    }
    let mut json = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_STATE + 1).read_to_end(&mut json)).at("read", path)?;
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
