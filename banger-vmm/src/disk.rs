//! A VM's own disks: a sparse file with an empty ext4, and a blank one that a workspace comes on.
//!
//! `mke2fs` makes one template per size; each VM gets a copy of what the template really holds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_util::sparse;
use banger_util::text::printable;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::error::{Error, IoContext, Result};
use crate::file;
use crate::program::Programs;

/// Changes with the options below, so that an older template is not taken for the same.
const TEMPLATE: &str = "ext4-2";
/// For mke2fs(8). The journal is small and, as the inode tables, written by the kernel when it is
/// needed; nothing is kept back for root; there is no room for growing the file system, which would
/// take megabytes from the start; and no checksums of metadata, which cost a guest without hardware
/// virtualisation a third of the time it takes to make a file.
const OPTIONS: [&str; 13] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-L",
    "banger-disk",
    "-m",
    "0",
    "-J",
    "size=32",
    "-O",
    "^resize_inode,^metadata_csum",
    "-E",
];
const EXTENDED_OPTIONS: &str = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";

/// Makes the disk of a VM at `place`, which does not exist yet. `bytes` is its size as the guest
/// sees it.
pub(crate) fn create(programs: &Programs, cache: &Path, bytes: u64, place: &Path) -> Result<()> {
    let template = template(programs, cache, bytes)?;
    let source = File::open(&template).at("open", &template)?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place).at("create", place)?;
    sparse::copy(&source, &target).and_then(|()| target.sync_all()).at("write", place)
}

/// Makes a disk with nothing on it, at `place`, which does not exist yet.
pub(crate) fn create_blank(bytes: u64, place: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place).at("create", place)?;
    file.set_len(bytes).and_then(|()| file.sync_all()).at("write", place)
}

/// Makes a disk larger that has less than `bytes`; the guest extends the file system when it mounts
/// it. One that is not there stays so.
pub(crate) fn grow(path: &Path, bytes: u64) -> Result<()> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.at("open", path)?,
    };
    match file.metadata().at("read", path)?.len() < bytes {
        true => file.set_len(bytes).at("grow", path),
        false => Ok(()),
    }
}

/// The template of this size; made if it is not there.
fn template(programs: &Programs, cache: &Path, bytes: u64) -> Result<PathBuf> {
    let path = cache.join("disks").join(format!("{TEMPLATE}-{bytes}"));
    file::ensure_cached(&path, |making| make(programs, bytes, making))?;
    Ok(path)
}

fn make(programs: &Programs, bytes: u64, path: &Path) -> Result<()> {
    let mke2fs = programs.find("mke2fs", "e2fsprogs")?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at("create", path)?;
    file.set_len(bytes).at("create", path)?;
    let mut command = Command::new(&mke2fs);
    command.args(OPTIONS).arg(EXTENDED_OPTIONS).arg(path).stdin(Stdio::null());
    let output = command.output().at("run", &mke2fs)?;
    if !output.status.success() {
        let output_end = &output.stderr[output.stderr.len().saturating_sub(1000)..];
        return Err(Error::ProgramFailed {
            program: "mke2fs",
            status: output.status,
            output: printable(output_end.trim_ascii()),
        });
    }
    free_unwritten(&file).and_then(|()| file.sync_all()).at("write", path)
}

/// Gives back what mke2fs has reserved and written nothing to, which is most of what a template
/// would take.
fn free_unwritten(file: &File) -> io::Result<()> {
    let end = file.metadata()?.len().cast_signed();
    let mut at = 0;
    while at < end {
        let data = match lseek(file, at, Whence::SeekData) {
            Err(nix::Error::ENXIO) => end,
            data => data?,
        };
        if data > at {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(file, hole, at, data - at) {
                // A file system that has no holes reserves nothing either.
                Ok(()) | Err(nix::Error::EOPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        at = if data < end { lseek(file, data, Whence::SeekHole)? } else { end };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn new_disk_is_sparse_and_passes_e2fsck() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::new("/usr/bin:/bin");
        let disk = folder.path().join("disk");
        create(&programs, &folder.path().join("cache"), 32 << 30, &disk).unwrap();
        let metadata = fs::metadata(&disk).unwrap();
        assert_eq!(metadata.len(), 32 << 30);
        assert!(metadata.blocks() * 512 <= 4 << 20, "{} KiB", metadata.blocks() / 2);
        let templates: u64 = fs::read_dir(folder.path().join("cache/disks"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512)
            .sum();
        assert!(templates <= 8 << 20, "{templates}");
        let checked = Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(&disk).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }

    #[test]
    fn missing_program_error_names_its_package() {
        let error = Programs::new("/nowhere").find("no-such-mke2fs", "e2fsprogs").unwrap_err();
        assert!(error.hint().unwrap().contains("e2fsprogs"));
    }
}
