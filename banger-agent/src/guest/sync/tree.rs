//! The workspace's folder tree: everything beneath one root, reached without following a link.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::protocol::sync::{Digest, Kind};
use crate::rooted_dir::{RootedDir, c};
pub(super) use crate::rooted_dir::{is_plain, split};
use crate::sparse;

/// What is known of a file without reading it. An edit that leaves size and modification time alone
/// still moves the change time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    /// None where the file has been renamed since, which moves it.
    pub(super) ctime_ns: Option<i64>,
}

impl Stamp {
    pub(super) fn of(stat: &FileStat) -> Stamp {
        Stamp {
            size: stat.st_size as u64,
            mtime_ns: stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec,
            ctime_ns: Some(stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec),
        }
    }

    /// Whether a file that had the stamp `self` is untouched if it has `now`.
    pub(super) fn is_still(&self, now: &Stamp) -> bool {
        self.size == now.size
            && self.mtime_ns == now.mtime_ns
            && (self.ctime_ns.is_none() || now.ctime_ns.is_none() || self.ctime_ns == now.ctime_ns)
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathState {
    /// Nothing is there.
    Absent,
    /// Nothing can be there: this many bytes of the path are a file or link where a folder belongs.
    Blocked(usize),
    Folder,
    File(Kind, Stamp),
    /// A device, FIFO or socket.
    Special,
}

/// The tree, and what is known of it.
pub(super) struct Tree(RootedDir);

/// Whether `path` belongs to a repository itself, and not to its worktree.
pub(super) fn is_git(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part == b".git")
}

impl Tree {
    /// The tree at `path`, which must be a folder.
    pub(super) fn open(path: &std::path::Path) -> io::Result<Tree> {
        Ok(Tree(RootedDir::open(path)?))
    }

    /// See [`RootedDir::folder`].
    pub(super) fn folder(&mut self, path: &[u8]) -> nix::Result<BorrowedFd<'_>> {
        self.0.folder(path)
    }

    /// See [`RootedDir::make_folder`].
    pub(super) fn make_folder(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        self.0.make_folder(path)
    }

    /// What is at `path`.
    pub(super) fn find(&mut self, path: &[u8]) -> io::Result<PathState> {
        let (folder, name) = split(path);
        let fd = match self.folder(folder) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(PathState::Absent),
            Err(Errno::ENOTDIR | Errno::ELOOP) => return self.blocked(folder),
            Err(error) => return Err(error.into()),
        };
        match fstatat(fd, c(name).as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(path_state(&stat)),
            Err(Errno::ENOENT) => Ok(PathState::Absent),
            Err(error) => Err(error.into()),
        }
    }

    /// The first component of `folder` that is no folder.
    fn blocked(&mut self, folder: &[u8]) -> io::Result<PathState> {
        let ends = (0..folder.len()).filter(|at| folder[*at] == b'/').chain([folder.len()]);
        for end in ends {
            match self.find(&folder[..end])? {
                PathState::Folder => {}
                PathState::Absent => return Ok(PathState::Absent),
                _ => return Ok(PathState::Blocked(end)),
            }
        }
        Ok(PathState::Absent)
    }

    /// The digest of the file or link at `path`.
    pub(super) fn digest(&mut self, path: &[u8], kind: Kind) -> io::Result<Digest> {
        let (folder, name) = split(path);
        let fd = self.folder(folder)?;
        if kind == Kind::Link {
            let target = readlinkat(fd, c(name).as_c_str())?;
            return Ok(sparse::digest(&target.into_vec()));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = nix::fcntl::openat(fd, c(name).as_c_str(), flags, Mode::empty())?;
        sparse::digest_file(&file.into())
    }

    /// Removes the file or link at `path`, and the folders that are empty then. Its absence is
    /// fine.
    pub(super) fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        let (mut folder, name) = split(path);
        let Ok(fd) = self.folder(folder) else { return Ok(()) };
        match unlinkat(fd, c(name).as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        self.0.forget();
        while !folder.is_empty() {
            let (parent, name) = split(folder);
            let removed = match self.folder(parent) {
                Ok(fd) => unlinkat(fd, c(name).as_c_str(), UnlinkatFlags::RemoveDir),
                Err(error) => Err(error),
            };
            if removed.is_err() {
                break;
            }
            folder = parent;
        }
        Ok(())
    }

    /// Removes whatever is at `path`, folders with all that is in them.
    pub(super) fn remove_all(&mut self, path: &[u8]) -> io::Result<()> {
        if self.find(path)? != PathState::Folder {
            return self.remove(path);
        }
        self.0.forget();
        let root = std::path::PathBuf::from(format!("/proc/self/fd/{}", self.0.root().as_raw_fd()));
        std::fs::remove_dir_all(root.join(std::ffi::OsStr::from_bytes(path)))
    }

    /// Files, links and special files beneath the folder at `path`, to any depth.
    pub(super) fn files_beneath(&mut self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        let mut folders = vec![path.to_vec()];
        while let Some(folder) = folders.pop() {
            let fd = self.0.open_beneath(&folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            for entry in nix::dir::Dir::from_fd(fd)?.iter() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let path = [&folder[..], b"/", name].concat();
                match self.find(&path)? {
                    PathState::Folder => folders.push(path),
                    _ => found.push(path),
                }
            }
        }
        Ok(found)
    }

    /// Moves the file `name` of the folder `from` to `path`, whose folder is made, replacing what
    /// is there.
    pub(super) fn take(&mut self, from: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> io::Result<Stamp> {
        let (folder, new_name) = split(path);
        let fd = self.make_folder(folder)?;
        nix::fcntl::renameat(from, c(name).as_c_str(), fd, c(new_name).as_c_str())?;
        Ok(Stamp::of(&fstatat(fd, c(new_name).as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?))
    }

    /// Makes the link or file `path`, which must not exist; its folder is made.
    pub(super) fn create(&mut self, path: &[u8], permissions: u32) -> io::Result<std::fs::File> {
        let (folder, name) = split(path);
        let fd = self.make_folder(folder)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(permissions);
        let file = nix::fcntl::openat(fd, c(name).as_c_str(), flags, mode)?;
        if permissions & 0o022 != 0 {
            // The agent's own mask is no business of the host's files.
            nix::sys::stat::fchmod(&file, mode)?;
        }
        Ok(file.into())
    }

    /// Makes the link `path`, which must not exist, with this modification time.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8], mtime_ns: i64) -> io::Result<Stamp> {
        let (folder, name) = split(path);
        let fd = self.make_folder(folder)?;
        let name = c(name);
        nix::unistd::symlinkat(c(target).as_c_str(), fd, name.as_c_str())?;
        let times = times(mtime_ns);
        // SAFETY: the pointers are to values that outlive the call; utimensat(2) with a null-free
        // name.
        let set = unsafe { libc::utimensat(fd.as_raw_fd(), name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
        Errno::result(set)?;
        Ok(Stamp::of(&fstatat(fd, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?))
    }
}

/// Sets a file's modification time and returns its stamp.
pub(super) fn finish(file: &std::fs::File, mtime_ns: i64) -> io::Result<Stamp> {
    let times = times(mtime_ns);
    // SAFETY: the pointer is to two values that outlive the call; futimens(3).
    Errno::result(unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) })?;
    Ok(Stamp::of(&nix::sys::stat::fstat(file)?))
}

fn times(mtime_ns: i64) -> [libc::timespec; 2] {
    let time =
        libc::timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    [time, time]
}

fn path_state(stat: &FileStat) -> PathState {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => PathState::Folder,
        SFlag::S_IFREG => PathState::File(Kind::File(stat.st_mode & 0o777), Stamp::of(stat)),
        SFlag::S_IFLNK => PathState::File(Kind::Link, Stamp::of(stat)),
        _ => PathState::Special,
    }
}
