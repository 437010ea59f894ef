//! The directory that a Firecracker runs in: its sockets, its log, and links to the VM's files.
//!
//! Firecracker gets relative paths only. So no path to a socket is longer than the 107 bytes of
//! unix(7), and a snapshot can be restored in another directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use banger_util::file::create_private_directory;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::net::unix::pipe;

use crate::error::{IoContext, Result};

/// The API's socket.
pub(super) const API_SOCKET: &str = "api.sock";
/// The socket that leads to the guest's vsock ports.
pub(super) const VSOCK_SOCKET: &str = "v.sock";
/// The FIFO for Firecracker's log.
pub(super) const LOG: &str = "log";
/// The directory's name, in the VM's.
const NAME: &str = "run";

/// The run directory of a VM.
#[derive(Debug)]
pub(super) struct RunDirectory {
    path: PathBuf,
    handle: File,
}

impl RunDirectory {
    /// Makes it anew in the VM's directory, with these links: what an earlier run has left is
    /// removed.
    pub(super) fn create(vm: &Path, links: &[(String, PathBuf)]) -> Result<RunDirectory> {
        let path = vm.join(NAME);
        remove(&path).at("remove", &path)?;
        create_private_directory(&path).at("create", &path)?;
        for (name, file) in links {
            symlink(file, path.join(name)).at("make a link to", file)?;
        }
        let log = path.join(LOG);
        mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR).at("create", &log)?;
        let handle = File::open(&path).at("open", &path)?;
        Ok(RunDirectory { path, handle })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path to what has this name there, short enough for a socket, as long as this exists.
    pub(super) fn short_path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()).into()
    }

    /// The reading end of the log. It is opened for writing too, so that reading does not end
    /// before Firecracker has begun, or once it has ended: fifo(7).
    pub(super) fn open_log(&self) -> Result<pipe::Receiver> {
        let path = self.path.join(LOG);
        pipe::OpenOptions::new().read_write(true).open_receiver(&path).at("open", &path)
    }
}

/// Removes a directory and what is in it, or what else is in its place, if anything.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use super::*;

    #[test]
    fn directory_is_private_and_has_nothing_of_an_earlier_run() {
        let vm = tempfile::tempdir().unwrap();
        let disk = vm.path().join("disk.ext4");
        fs::write(&disk, "disk").unwrap();
        let links = ["disk.ext4", "old"].map(|name| (name.to_owned(), disk.clone()));
        let first = RunDirectory::create(vm.path(), &links).unwrap();
        fs::write(first.path().join(VSOCK_SOCKET), "").unwrap();
        let directory = RunDirectory::create(vm.path(), &links[..1]).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["disk.ext4", LOG]);
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let log = fs::metadata(directory.path().join(LOG)).unwrap();
        assert!(log.file_type().is_fifo() && log.permissions().mode() & 0o777 == 0o600);
        // What the link leads to was not removed with the link.
        assert_eq!(fs::read(directory.short_path("disk.ext4")).unwrap(), b"disk");

        // Not even a directory.
        fs::remove_dir_all(directory.path()).unwrap();
        fs::write(directory.path(), "").unwrap();
        RunDirectory::create(vm.path(), &[]).unwrap();
    }
}
