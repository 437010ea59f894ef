//! A directory, and the way to what is beneath it: never out of it, and never through a link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// The longest path or link target, in bytes.
pub const MAX_PATH: usize = 4096;

/// A directory that paths are resolved beneath. No path leads out of it, and none through a
/// symbolic link. Remembers the subdirectory used last, since neighbours come in order.
pub struct RootedDir {
    root: OwnedFd,
    last: Option<(Vec<u8>, OwnedFd)>,
}

/// Splits a path into its directory, empty if it has none, and its last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Whether `path` is relative and names something beneath its root by plain components.
pub fn is_plain(path: &[u8]) -> bool {
    path.len() <= MAX_PATH
        && !path.contains(&0)
        && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..") && part.len() <= 255)
}

/// A path for a system call. A path with a NUL byte, which no file has, becomes the empty one.
pub fn c(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_default()
}

impl RootedDir {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// If there is none, or a link to one.
    pub fn open(path: &Path) -> io::Result<RootedDir> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(RootedDir::new(open(path, flags, Mode::empty())?))
    }

    /// Takes over a directory that is open.
    pub fn new(root: OwnedFd) -> RootedDir {
        RootedDir { root, last: None }
    }

    /// Opens what is at `path`; the directory itself if the path is empty.
    ///
    /// # Errors
    /// The kernel's: ELOOP where a link is in the way, EXDEV where the path leads out.
    pub fn open_beneath(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        if path.is_empty() {
            return nix::fcntl::openat(self.root.as_fd(), c".", flags | OFlag::O_CLOEXEC, Mode::empty());
        }
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        openat2(self.root.as_fd(), c(path).as_c_str(), how)
    }

    /// Opens the directory at `path` with O_PATH, to start from.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR or ELOOP if there is none.
    pub fn folder(&mut self, path: &[u8]) -> nix::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let fd = self.open_beneath(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            self.last = Some((path.to_vec(), fd));
        }
        Ok(self.last.as_ref().expect("just set").1.as_fd())
    }

    /// Opens the directory at `path` with O_PATH; it and its parents are made where they are
    /// missing.
    ///
    /// # Errors
    /// If something else is in the way, or a directory cannot be made.
    pub fn make_folder(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_some_and(|(last, _)| last == path) {
            return Ok(self.last.as_ref().expect("just seen").1.as_fd());
        }
        if let Err(error) = self.open_beneath(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            if error != Errno::ENOENT {
                return Err(error.into());
            }
            let (parent, name) = split(path);
            let parent = self.make_folder(parent)?;
            match mkdirat(parent, c(name).as_c_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.folder(path)?)
    }

    /// The directory itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Forgets the subdirectory used last: another one may have its path now.
    pub fn forget(&mut self) {
        self.last = None;
    }
}
