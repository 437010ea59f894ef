//! The end that writes files. What it is sent is hostile.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::{CopyError, Entry, EntryKind, MAX_PIECE, read_piece};
use crate::beneath::{Beneath, c, split};
use crate::protocol::Bytes;
use crate::protocol::copy::{Copied, Source};

/// Where a copy goes, as docker-cp(1) has it.
pub struct Target {
    /// The folder that nothing is written out of.
    parent: Beneath,
    /// The name that the copied thing gets there; empty: its contents go into the folder itself.
    name: Vec<u8>,
    is_folder: bool,
}

impl Target {
    /// The place for `source` at `path`: in it if that is a folder, else it itself.
    ///
    /// # Errors
    /// [`CopyError::Place`] where there is none, [`CopyError::Io`].
    pub fn find(path: &Path, source: &Source) -> Result<Target, CopyError> {
        let bytes = path.as_os_str().as_bytes();
        let place = |why| Err(CopyError::Place { path: Bytes(bytes.to_vec()), why });
        let means_folder = matches!(bytes.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."));
        let io = |source| CopyError::Io { action: "copy to", path: Bytes(bytes.to_vec()), source };
        let is_folder = source.is_folder;
        let name = &source.name.0;
        if !source.contents && (name.contains(&b'/') || matches!(&name[..], b"" | b"." | b"..")) {
            return Err(CopyError::Malformed("what is copied has no name"));
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let name = if source.contents { Vec::new() } else { name.clone() };
                let parent = Beneath::open(&fs::canonicalize(path).map_err(io)?).map_err(io)?;
                Ok(Target { parent, name, is_folder })
            }
            Ok(_) if means_folder || is_folder => place("it is no folder"),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => place("something on the way is no folder"),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
            Err(_) if means_folder && !is_folder => place("there is no such folder"),
            // Something to be replaced, nothing, or a link that leads nowhere.
            _ => {
                let Some(name) = path.file_name() else { return place("there is no such folder") };
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let Ok(parent) = fs::canonicalize(parent) else {
                    return place("the folder that it would be in does not exist");
                };
                let parent = Beneath::open(&parent).map_err(io)?;
                Ok(Target { parent, name: name.as_bytes().to_vec(), is_folder })
            }
        }
    }

    fn path(&self, entry: &Entry) -> Vec<u8> {
        match (self.name.is_empty(), entry.path.is_empty()) {
            (true, _) => entry.path.clone(),
            (_, true) => self.name.clone(),
            _ => [&self.name[..], b"/", &entry.path].concat(),
        }
    }
}

/// Writes what `input` brings to the target. A file appears under its name when it is whole; one that was there before is replaced then.
///
/// # Errors
/// [`CopyError::Malformed`] for a stream that no honest end sends, [`CopyError::Io`], [`CopyError::Stream`].
pub fn receive(mut target: Target, input: &mut dyn Read) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    let mut buffer = Box::new([0; MAX_PIECE]);
    let mut is_first = true;
    while let Some(entry) = Entry::read(input)? {
        let is_folder = matches!(entry.kind, EntryKind::Folder { .. });
        if is_first && (!entry.path.is_empty() || is_folder != target.is_folder) {
            return Err(CopyError::Malformed("it is not what was announced"));
        }
        if !is_first && (entry.path.is_empty() || !target.is_folder) {
            return Err(CopyError::Malformed("there is more than what was announced"));
        }
        is_first = false;
        let path = target.path(&entry);
        let io = |action| {
            let path = Bytes(path.clone());
            move |source: io::Error| CopyError::Io { action, path, source }
        };
        if path.is_empty() {
            // The folder that the contents go into.
            continue;
        }
        let (parent, name) = split(&path);
        let parent = target.parent.folder(parent).map_err(|error| io("reach")(explain(error)))?;
        match entry.kind {
            EntryKind::Folder { mode } => {
                make_folder(parent, name, mode).map_err(io("make the folder"))?;
                copied.folders += 1;
            }
            EntryKind::Link { target } => {
                let beside = Beside::new(parent);
                symlinkat(c(&target).as_c_str(), parent, beside.name.as_c_str())
                    .map_err(|e| io("make the link")(e.into()))?;
                beside.put(name).map_err(io("make the link"))?;
                copied.links += 1;
            }
            EntryKind::File { mode, .. } => {
                let beside = Beside::new(parent);
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(parent, beside.name.as_c_str(), flags, Mode::from_bits_truncate(0o600));
                let file = File::from(file.map_err(|error| io("write")(error.into()))?);
                copied.bytes += content(&file, input, &mut buffer, &io)?;
                let finish = || {
                    fchmod(&file, Mode::from_bits_truncate(mode & 0o777))?;
                    set_mtime(&file, entry.mtime_ns)?;
                    beside.put(name)
                };
                finish().map_err(io("write"))?;
                copied.files += 1;
            }
        }
    }
    if is_first {
        return Err(CopyError::Stream(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(copied)
}

/// Writes a file's pieces, and returns how many bytes they were.
fn content<E: FnOnce(io::Error) -> CopyError>(
    file: &File,
    input: &mut dyn Read,
    buffer: &mut [u8; MAX_PIECE],
    io: &impl Fn(&'static str) -> E,
) -> Result<u64, CopyError> {
    let (mut end, mut bytes) = (0, 0);
    loop {
        let piece = read_piece(input, end, buffer)?;
        if piece.length == 0 {
            // What is missing at the end is a hole.
            file.set_len(piece.offset).map_err(io("write"))?;
            return Ok(bytes);
        }
        file.write_all_at(&buffer[..piece.length], piece.offset).map_err(io("write"))?;
        bytes += piece.length as u64;
        end = piece.offset + piece.length as u64;
    }
}

/// Makes a folder that its owner can fill. One that is there stays as it is.
fn make_folder(parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    let name = c(name);
    match mkdirat(parent, name.as_c_str(), Mode::from_bits_truncate(0o700)) {
        Ok(()) => {
            let mode = Mode::from_bits_truncate(mode & 0o777 | 0o700);
            Ok(fchmodat(parent, name.as_c_str(), mode, FchmodatFlags::NoFollowSymlink).or_else(|error| {
                // A C library that cannot: the folder is ours, and nobody has swapped it but who may do what we may.
                if error == Errno::EOPNOTSUPP { Ok(()) } else { Err(error) }
            })?)
        }
        Err(Errno::EEXIST) => {
            let stat = fstatat(parent, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFDIR => Ok(()),
                SFlag::S_IFLNK => Err(io::Error::other("a link is there, and links are not followed")),
                _ => Err(io::ErrorKind::AlreadyExists.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn explain(error: Errno) -> io::Error {
    match error {
        Errno::ELOOP => io::Error::other("a link is on the way, and links are not followed"),
        error => error.into(),
    }
}

/// A file that has not got its name yet; removed unless it gets it.
struct Beside<'a> {
    folder: BorrowedFd<'a>,
    name: CString,
}

impl<'a> Beside<'a> {
    fn new(folder: BorrowedFd<'a>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Beside { folder, name: c(format!(".banger-copy-{}-{number}", std::process::id()).as_bytes()) }
    }

    /// Puts it in the place of what has the name, which may be a link: that is replaced, and not followed.
    fn put(self, name: &[u8]) -> io::Result<()> {
        Ok(renameat(self.folder, self.name.as_c_str(), self.folder, c(name).as_c_str())?)
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // Gone, if it got its name.
        let _ = unlinkat(self.folder, self.name.as_c_str(), UnlinkatFlags::NoRemoveDir);
    }
}

fn set_mtime(file: &File, mtime_ns: i64) -> io::Result<()> {
    let time =
        libc::timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    // SAFETY: the pointer is to two values that outlive the call; futimens(3).
    Errno::result(unsafe { libc::futimens(file.as_raw_fd(), [time, time].as_ptr()) })?;
    Ok(())
}
