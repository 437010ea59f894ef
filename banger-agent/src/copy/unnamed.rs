//! Files and links that appear under their name when they are whole.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::rooted_dir::c;

/// A file in a directory, without a name there (`O_TMPFILE`, open(2)): nothing is left of one whose
/// process is killed. A file system that has none such gives it a name nobody else has, which is
/// removed unless it gets its own.
pub(super) struct UnnamedFile<'a> {
    folder: BorrowedFd<'a>,
    file: File,
    beside: Option<Beside<'a>>,
}

impl<'a> UnnamedFile<'a> {
    /// A file for its owner alone.
    pub(super) fn new(folder: BorrowedFd<'a>) -> io::Result<Self> {
        let mode = Mode::from_bits_truncate(0o600);
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        match openat(folder, c".", flags | OFlag::O_TMPFILE, mode) {
            Ok(file) => Ok(UnnamedFile { folder, file: file.into(), beside: None }),
            // As open(2) has it for file systems, and for kernels, without.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => {
                let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
                let (beside, file) = Beside::new(folder, |name| openat(folder, name, flags, mode))?;
                Ok(UnnamedFile { folder, file: file.into(), beside: Some(beside) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives it its name. What had that, which may be a link, is replaced, and not followed.
    pub(super) fn put(self, name: &[u8]) -> io::Result<()> {
        if let Some(beside) = self.beside {
            return beside.put(name);
        }
        let file = CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd())).expect("no NUL in it");
        let link = |name: &CStr| linkat(AT_FDCWD, file.as_c_str(), self.folder, name, AtFlags::AT_SYMLINK_FOLLOW);
        // A link cannot replace anything.
        put_new(self.folder, name, link)
    }
}

impl Deref for UnnamedFile<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// Makes a symbolic link. What had the name, which may be a link, is replaced, and not followed.
pub(super) fn make_link(folder: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
    let target = c(target);
    put_new(folder, name, |name| symlinkat(target.as_c_str(), folder, name))
}

/// Makes another name of the file, or of the symbolic link itself, that `of` is in the directory
/// `from`. What had the name is replaced, and not followed.
pub(super) fn make_hard_link(folder: BorrowedFd<'_>, name: &[u8], from: BorrowedFd<'_>, of: &[u8]) -> io::Result<()> {
    let of = c(of);
    put_new(folder, name, |name| linkat(from, of.as_c_str(), folder, name, AtFlags::empty()))
}

/// Has `make` make something of this name; where there is something, beside it, to replace it.
fn put_new(folder: BorrowedFd<'_>, name: &[u8], make: impl Fn(&CStr) -> nix::Result<()>) -> io::Result<()> {
    match make(&c(name)) {
        Err(Errno::EEXIST) => Beside::new(folder, make)?.0.put(name),
        made => Ok(made?),
    }
}

/// A name in a directory that is removed again, unless it becomes another one.
struct Beside<'a> {
    folder: BorrowedFd<'a>,
    name: CString,
}

impl<'a> Beside<'a> {
    /// Has `make` make something of a name that nobody has. That it is random lets no leftover be
    /// in the way; that what is there is an error, which `make` must give, is what makes it safe.
    fn new<T>(folder: BorrowedFd<'a>, make: impl Fn(&CStr) -> nix::Result<T>) -> io::Result<(Self, T)> {
        let mut tries = 0;
        loop {
            let name = c(format!(".banger-copy-{:016x}", RandomState::new().hash_one(tries)).as_bytes());
            match make(&name) {
                Ok(made) => return Ok((Beside { folder, name }, made)),
                Err(Errno::EEXIST) if tries < 100 => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn put(self, name: &[u8]) -> io::Result<()> {
        Ok(renameat(self.folder, self.name.as_c_str(), self.folder, c(name).as_c_str())?)
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // Gone, if it got its name. Not if that was another name of the same file: rename(2) does
        // nothing then.
        let _ = unlinkat(self.folder, self.name.as_c_str(), UnlinkatFlags::NoRemoveDir);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn unnamed_file_ignores_leftovers_and_cleans_up_on_drop() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let names = || {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.collect::<Vec<_>>()
        };
        drop(UnnamedFile::new(opened.as_fd()).unwrap());
        assert!(names().is_empty(), "{:?}", names());

        // What a killed process of this pid left, by the names that were once given.
        let pid = std::process::id();
        for number in 0..100 {
            fs::write(folder.path().join(format!(".banger-copy-{pid}-{number}")), "left").unwrap();
        }
        let others = names().len();
        for name in [b"new", b"new"] {
            UnnamedFile::new(opened.as_fd()).unwrap().put(name).unwrap();
            make_link(opened.as_fd(), b"link", b"target").unwrap();
        }
        assert_eq!(names().len(), others + 2);

        // A name that somebody else takes is tried no more.
        let taken = std::cell::RefCell::new(Vec::new());
        let refuse = |name: &CStr| {
            taken.borrow_mut().push(name.to_owned());
            if taken.borrow().len() < 3 { Err(Errno::EEXIST) } else { Ok(()) }
        };
        Beside::new(opened.as_fd(), refuse).map(drop).unwrap();
        let mut taken = taken.into_inner();
        taken.dedup();
        assert_eq!(taken.len(), 3);
    }

    #[test]
    fn unnamed_file_without_tmpfile_support_uses_a_temporary_name() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let folder_fd = opened.as_fd();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let make = |name: &CStr| openat(folder_fd, name, flags, Mode::from_bits_truncate(0o600));
        let (beside, file) = Beside::new(folder_fd, make).unwrap();
        let file = UnnamedFile { folder: folder_fd, file: file.into(), beside: Some(beside) };
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        file.put(b"name").unwrap();
        let (beside, _) = Beside::new(folder_fd, make).unwrap();
        drop(beside);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["name"]);
    }
}
