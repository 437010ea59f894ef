//! Free space on this host's disks.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::sys::statvfs::statvfs;

use crate::error::Result;

/// Checks that there is room for `needs`: directories, which need not exist yet, and the bytes that
/// will be written into each. Directories of one file system share its free space. `what` begins
/// the error.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] if there is too little; others if a file system cannot be asked.
pub(crate) fn check_room(what: &str, needs: &[(&Path, u64)]) -> Result<()> {
    let mut disks: Vec<(u64, PathBuf, u64)> = Vec::new();
    for (directory, bytes) in needs {
        let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let device = fs::metadata(there)?.dev();
        match disks.iter_mut().find(|(other, ..)| *other == device) {
            Some((.., sum)) => *sum = sum.saturating_add(*bytes),
            None => disks.push((device, there.to_owned(), *bytes)),
        }
    }
    for (_, there, bytes) in disks {
        let found = statvfs(&there).map_err(|errno| {
            let error = io::Error::from(errno);
            io::Error::new(error.kind(), format!("cannot ask for the free space of `{}`: {error}", there.display()))
        })?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        if bytes > free {
            let reason = format!("{what} takes {bytes} bytes, and `{}` has {free} bytes free", there.display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_check_sums_needs_per_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("not/there"), folder.path().join("yet"));
        check_room("it", &[(&one, 0), (&other, 4096)]).unwrap();
        let free = statvfs(folder.path()).unwrap();
        let most = free.blocks_available() * free.fragment_size() / 10 * 6;
        for needs in [&[(&*one, most), (&*other, most)][..], &[(&*one, u64::MAX), (&*other, u64::MAX)]] {
            let error = check_room("the image", needs).unwrap_err();
            assert!(error.to_string().starts_with("the image takes ") && error.hint().unwrap().contains("disk space"));
        }
    }
}
