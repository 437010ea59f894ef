//! The end that writes files. What it is sent is hostile.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, mkdirat};

use super::unnamed::{UnnamedFile, make_hard_link, make_link};
use super::{CopyError, Entries, EntryKind, MAX_PIECE};
use crate::protocol::WireBytes;
use crate::protocol::copy::{Copied, Source};
use crate::rooted_dir::{RootedDir, c, split};

/// What a receiving end asks of entries beyond what no honest end sends.
pub trait Rules {
    /// The permission bits that a file or a directory of this mode gets.
    fn mode(&self, mode: u32) -> u32;

    /// Decides whether an entry is admitted. `folder` is the directory that it would be in.
    ///
    /// # Errors
    /// [`CopyError::Refused`] says why it is not.
    fn admit(&mut self, folder: BorrowedFd<'_>, path: &[u8], kind: &EntryKind) -> Result<(), &'static str>;

    /// Is told of each entry, and of as many bytes before they are written to a file of the
    /// directory.
    ///
    /// # Errors
    /// If there is no room for them.
    fn make_room(&mut self, folder: BorrowedFd<'_>, bytes: u64) -> io::Result<()>;
}

/// The rules of an end that trusts the other one: permission bits stay as they are, and every entry
/// is admitted.
pub struct AsSent;

impl Rules for AsSent {
    fn mode(&self, mode: u32) -> u32 {
        mode & 0o777
    }

    fn admit(&mut self, _: BorrowedFd<'_>, _: &[u8], _: &EntryKind) -> Result<(), &'static str> {
        Ok(())
    }

    fn make_room(&mut self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Where a copy goes, as docker-cp(1) has it.
pub struct Target {
    /// The folder that nothing is written out of.
    parent: RootedDir,
    /// The name that the copied thing gets there; empty: its contents go into the folder itself.
    name: Vec<u8>,
    is_folder: bool,
}

impl Target {
    /// [`Target::find`] where `path` itself may not be a symbolic link to a directory, unless it
    /// ends with a slash: a copy may have brought it, and the next one would go where it leads. The
    /// directories above are as they are, and a link to anything else is replaced.
    ///
    /// # Errors
    /// As [`Target::find`].
    pub fn find_at(path: &Path, source: &Source) -> Result<Target, CopyError> {
        let bytes = path.as_os_str().as_bytes();
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if is_link && path.is_dir() && !bytes.ends_with(b"/") {
            let why = "it is a link to a directory: remove it, or end the path with `/` to copy to where it leads";
            return Err(CopyError::Place { path: WireBytes(bytes.to_vec()), why });
        }
        Target::find(path, source)
    }

    /// Finds the place for `source` at `path`: in `path` if that is a directory, else `path`
    /// itself. The source is what the host says, never what the guest says.
    ///
    /// # Errors
    /// [`CopyError::Place`] where there is none, [`CopyError::Io`]; [`CopyError::Malformed`] for a
    /// name that is none.
    pub fn find(path: &Path, source: &Source) -> Result<Target, CopyError> {
        let bytes = path.as_os_str().as_bytes();
        let place = |why| Err(CopyError::Place { path: WireBytes(bytes.to_vec()), why });
        let means_folder = matches!(bytes.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."));
        let io = |source| CopyError::Io { action: "copy to", path: WireBytes(bytes.to_vec()), source };
        let is_folder = source.is_folder;
        let name = &source.name.0;
        if !source.contents && (name.contains(&b'/') || matches!(&name[..], b"." | b"..")) {
            return Err(CopyError::Malformed("what is copied has no name"));
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() && !source.contents && name.is_empty() => {
                place("what is copied has no name of its own: give it one there")
            }
            Ok(metadata) if metadata.is_dir() => {
                let name = if source.contents { Vec::new() } else { name.clone() };
                let parent = RootedDir::open(&fs::canonicalize(path).map_err(io)?).map_err(io)?;
                Ok(Target { parent, name, is_folder })
            }
            Ok(_) if means_folder || is_folder => place("it is no folder"),
            Ok(metadata) if !metadata.is_file() => place("it is a device, FIFO or socket, which no copy replaces"),
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
                let parent = RootedDir::open(&parent).map_err(io)?;
                Ok(Target { parent, name: name.as_bytes().to_vec(), is_folder })
            }
        }
    }

    /// Where an entry's path is, beneath the parent.
    fn path(&self, path: &[u8]) -> Vec<u8> {
        match (self.name.is_empty(), path.is_empty()) {
            (true, _) => path.to_vec(),
            (_, true) => self.name.clone(),
            _ => [&self.name[..], b"/", path].concat(),
        }
    }

    /// What a hard link is to be another name of: its directory, and its name there.
    fn linked(&self, kind: &EntryKind) -> io::Result<Option<(OwnedFd, Vec<u8>)>> {
        let EntryKind::HardLink { target } = kind else { return Ok(None) };
        let path = self.path(target);
        let (folder, name) = split(&path);
        let folder = self.parent.open_beneath(folder, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(explain)?;
        let stat = fstatat(&folder, c(name).as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG | SFlag::S_IFLNK => Ok(Some((folder, name.to_vec()))),
            _ => Err(io::Error::other("it is to be another name of what is no file")),
        }
    }
}

/// Writes what `input` brings to the target. A file appears under its name when it is whole; one
/// that was there before is replaced then.
///
/// # Errors
/// [`CopyError::Malformed`] for a stream that no honest end sends, [`CopyError::Refused`] for what
/// the rules do not admit, [`CopyError::Io`], [`CopyError::Stream`].
pub fn receive(mut target: Target, input: &mut dyn Read, rules: &mut dyn Rules) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    let mut buffer = Box::new([0; MAX_PIECE]);
    let mut entries = Entries::new(input, target.is_folder);
    while let Some(entry) = entries.entry()? {
        let path = target.path(&entry.path);
        let io = |action| {
            let path = WireBytes(path.clone());
            move |source: io::Error| CopyError::Io { action, path, source }
        };
        if path.is_empty() {
            // The folder that the contents go into.
            continue;
        }
        let linked = target.linked(&entry.kind).map_err(io("make the hard link"))?;
        let (parent, name) = split(&path);
        let parent = target.parent.folder(parent).map_err(|error| io("reach")(explain(error)))?;
        rules
            .admit(parent, &entry.path, &entry.kind)
            .map_err(|why| CopyError::Refused { path: WireBytes(path.clone()), why })?;
        rules.make_room(parent, 0).map_err(io("write"))?;
        match entry.kind {
            EntryKind::Folder { mode } => {
                make_folder(parent, name, rules.mode(mode)).map_err(io("make the folder"))?;
                copied.folders += 1;
            }
            EntryKind::Link { target } => {
                make_link(parent, name, &target).map_err(io("make the link"))?;
                copied.links += 1;
            }
            EntryKind::HardLink { .. } => {
                let (folder, of) = linked.as_ref().expect("a hard link is another name of something");
                make_hard_link(parent, name, folder.as_fd(), of).map_err(io("make the hard link"))?;
                copied.files += 1;
            }
            EntryKind::File { mode, .. } => {
                let file = UnnamedFile::new(parent).map_err(io("write"))?;
                copied.bytes += content(&file, parent, &mut entries, &mut buffer, rules, &io)?;
                let finish = || {
                    fchmod(&*file, Mode::from_bits_truncate(rules.mode(mode)))?;
                    set_mtime(&file, entry.mtime_ns)?;
                    file.put(name)
                };
                finish().map_err(io("write"))?;
                copied.files += 1;
            }
        }
    }
    Ok(copied)
}

/// Writes a file's pieces, and returns how many bytes they were.
fn content<E: FnOnce(io::Error) -> CopyError>(
    file: &File,
    folder: BorrowedFd<'_>,
    entries: &mut Entries<'_>,
    buffer: &mut [u8; MAX_PIECE],
    rules: &mut dyn Rules,
    io: &impl Fn(&'static str) -> E,
) -> Result<u64, CopyError> {
    let mut bytes = 0;
    loop {
        let piece = entries.piece(buffer)?;
        if piece.length == 0 {
            // What is missing at the end is a hole.
            file.set_len(piece.offset).map_err(io("write"))?;
            return Ok(bytes);
        }
        rules.make_room(folder, piece.length as u64).map_err(io("write"))?;
        file.write_all_at(&buffer[..piece.length], piece.offset).map_err(io("write"))?;
        bytes += piece.length as u64;
    }
}

/// Makes a folder that its owner can fill. One that is there stays as it is.
fn make_folder(parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    let name = c(name);
    match mkdirat(parent, name.as_c_str(), Mode::from_bits_truncate(0o700)) {
        Ok(()) => {
            let mode = Mode::from_bits_truncate(mode | 0o700);
            Ok(fchmodat(parent, name.as_c_str(), mode, FchmodatFlags::NoFollowSymlink).or_else(|error| {
                // A C library that cannot: the folder is ours, and nobody has swapped it but who
                // may do what we may.
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

fn set_mtime(file: &File, mtime_ns: i64) -> io::Result<()> {
    let time =
        libc::timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    // SAFETY: the pointer is to two values that outlive the call; futimens(3).
    Errno::result(unsafe { libc::futimens(file.as_raw_fd(), [time, time].as_ptr()) })?;
    Ok(())
}
