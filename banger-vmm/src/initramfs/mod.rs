//! The initramfs: the agent as `/init`, and the modules that it loads first.

mod cpio;
mod elf;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, IoContext, Result};
use crate::file;

/// Folders that the agent mounts on.
const FOLDERS: [&str; 7] = ["dev", "proc", "sys", "base", "disk", "newroot", "modules"];
/// Changes with the layout, so that an older file is not taken for the same.
const LAYOUT: &[u8] = b"banger initramfs 1";
/// A file that no start has asked for in this time goes.
const KEEP_UNUSED: Duration = Duration::from_secs(14 * 24 * 3600);

/// The initramfs of this agent and these modules: made, or found in `cache`.
///
/// `agent` is a static ELF. `modules` are `<NN>-<name>.ko`, not compressed; the agent loads them in
/// lexical order. The file is named after a hash of what went into it, so whatever has that name is
/// right.
///
/// # Errors
/// [`Error::NotStatic`] for an agent that needs an interpreter, or the file system's refusal.
pub fn ensure(agent: &Path, modules: &[PathBuf], cache: &Path) -> Result<PathBuf> {
    let init = fs::read(agent).at("read", agent)?;
    elf::check_static(&init).map_err(|reason| Error::NotStatic { path: agent.to_owned(), reason })?;
    let modules = read_modules(modules)?;

    let mut hash = blake3::Hasher::new();
    hash.update(LAYOUT);
    for (name, bytes) in [("init", &init)].into_iter().chain(modules.iter().map(|(name, bytes)| (name.as_str(), bytes)))
    {
        hash.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hash.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    let folder = cache.join("initramfs");
    let path = folder.join(format!("{}.cpio", hash.finalize().to_hex()));
    if let Ok(found) = fs::File::open(&path) {
        // The time tells the pruning that it is in use. Nothing is lost where it cannot be set.
        let _ = found.set_modified(SystemTime::now());
        return Ok(path);
    }
    file::ensure_cached(&path, |making| {
        let archive = pack(&init, &modules);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(making).at("create", making)?;
        file.write_all(&archive).and_then(|()| file.sync_all()).at("write", making)
    })?;
    prune(&folder);
    Ok(path)
}

fn read_modules(paths: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>> {
    let read = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(std::io::ErrorKind::InvalidFilename);
        let name = name.map_err(std::io::Error::from).at("use", path)?;
        Ok((name.to_owned(), fs::read(path).at("read", path)?))
    };
    let mut modules = paths.iter().map(read).collect::<Result<Vec<_>>>()?;
    modules.sort_unstable();
    Ok(modules)
}

fn pack(init: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = cpio::Writer::default();
    for folder in FOLDERS {
        archive.folder(folder);
    }
    // The kernel opens /dev/console for /init before anything is mounted there.
    archive.character_device("dev/console", 5, 1);
    archive.file("init", 0o755, init);
    for (name, bytes) in modules {
        archive.file(&format!("modules/{name}"), 0o644, bytes);
    }
    archive.finish()
}

/// Removes what has not been used for long. A cache that cannot be pruned is no error.
fn prune(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_lock = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    for entry in entries.filter(|entry| !is_lock(entry)) {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > KEEP_UNUSED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initramfs_is_cached_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent");
        let modules = [folder.path().join("01-b.ko"), folder.path().join("00-a.ko")];
        fs::write(&agent, elf::tests::executable(&[1])).unwrap();
        modules.iter().for_each(|module| fs::write(module, "module").unwrap());

        let cache = folder.path().join("cache");
        let first = ensure(&agent, &modules, &cache).unwrap();
        let made = fs::metadata(&first).unwrap().created().ok();
        assert_eq!(ensure(&agent, &modules, &cache).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().created().ok(), made);
        fs::write(&modules[0], "another").unwrap();
        assert_ne!(ensure(&agent, &modules, &cache).unwrap(), first);
    }

    #[test]
    fn dynamically_linked_agent_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, reason) in [(elf::tests::executable(&[1, 3]), "static"), (b"#!/bin/sh".to_vec(), "ELF")] {
            let agent = folder.path().join("agent");
            fs::write(&agent, bytes).unwrap();
            let error = ensure(&agent, &[], folder.path()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
