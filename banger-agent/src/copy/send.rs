//! The end that reads files.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::{CopyError, Entry, EntryKind, MAX_PIECE, SourcePath, write_piece};
use crate::protocol::WireBytes;
use crate::protocol::copy::{Copied, Source};
use crate::rooted_dir::{RootedDir, c, split};
use crate::sparse::next_data;

/// Files that the kernel makes up have no length; this much of one is read, in bytes.
const MAX_MADE_UP: u64 = 16 << 20;

/// A file, directory or link that is to be copied. It is open, so it stays the one that was found.
pub struct Opened {
    /// What is copied, for the receiving end.
    pub source: Source,
    what: What,
}

enum What {
    Folder(RootedDir),
    File(File),
    Link { target: Vec<u8>, stat: FileStat },
}

/// What failed on the path that is looked at.
fn at<'a>(action: &'static str, path: &'a [u8]) -> impl FnOnce(io::Error) -> CopyError + 'a {
    move |source| CopyError::Io { action, path: WireBytes(path.to_vec()), source }
}

impl Opened {
    /// Opens what is at `path`. A link is opened itself, unless a slash follows it.
    ///
    /// # Errors
    /// [`CopyError::Io`], also for what is no file, folder or link.
    pub fn new(path: &Path) -> Result<Opened, CopyError> {
        let bytes = path.as_os_str().as_bytes();
        let SourcePath { name, contents, is_folder: follow } = SourcePath::new(path);
        let read = at("read", bytes);
        let open = |flags: i32| {
            let mut options = std::fs::OpenOptions::new();
            options.read(true).custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
        };
        let opened = if follow { open(libc::O_DIRECTORY) } else { open(libc::O_NOFOLLOW) };
        let file = match opened {
            // The link itself: open(2), O_NOFOLLOW.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) && !follow => {
                let link = open(libc::O_NOFOLLOW | libc::O_PATH).map_err(at("read", bytes))?;
                let stat = fstat(&link).map_err(|error| at("read", bytes)(error.into()))?;
                let target = readlinkat(&link, c"").map_err(|error| at("read", bytes)(error.into()))?;
                let source = Source { name, is_folder: false, contents };
                return Ok(Opened { source, what: What::Link { target: target.into_vec(), stat } });
            }
            opened => opened.map_err(read)?,
        };
        let stat = fstat(&file).map_err(|error| at("read", bytes)(error.into()))?;
        match kind(&stat) {
            SFlag::S_IFDIR => {
                let source = Source { name, is_folder: true, contents };
                Ok(Opened { source, what: What::Folder(RootedDir::new(file.into())) })
            }
            SFlag::S_IFREG => {
                let source = Source { name, is_folder: false, contents };
                Ok(Opened { source, what: What::File(file) })
            }
            _ => Err(at("copy", bytes)(io::Error::other("it is a device, a FIFO or a socket"))),
        }
    }
}

/// Writes the entries of what was opened.
///
/// # Errors
/// [`CopyError::Io`] for what cannot be read, [`CopyError::Stream`].
pub fn send(opened: Opened, out: &mut dyn Write) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    let root = opened.source.name.0;
    match opened.what {
        What::File(file) => file_entry(Vec::new(), &root, &file, out, &mut copied)?,
        What::Link { target, stat } => {
            link_entry(Vec::new(), target, &stat, out, &mut copied)?;
        }
        What::Folder(tree) => folder(tree, out, &mut copied)?,
    }
    out.flush().map_err(CopyError::Stream)?;
    Ok(copied)
}

fn folder(mut tree: RootedDir, out: &mut dyn Write, copied: &mut Copied) -> Result<(), CopyError> {
    let mut folders = vec![Vec::new()];
    while let Some(path) = folders.pop() {
        let opened = match tree.open_beneath(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(opened) => opened,
            // It has gone, or become something else, since it was listed.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if !path.is_empty() => continue,
            Err(error) => return Err(at("read", &path)(error.into())),
        };
        let stat = fstat(&opened).map_err(|error| at("read", &path)(error.into()))?;
        let kind = EntryKind::Folder { mode: stat.st_mode & 0o777 };
        Entry { path: path.clone(), kind, mtime_ns: mtime_ns(&stat) }.write(out)?;
        copied.folders += 1;
        for name in names(opened).map_err(at("read", &path))? {
            let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
            if let Some(below) = child(&mut tree, path, out, copied)? {
                folders.push(below);
            }
        }
    }
    Ok(())
}

fn names(folder: OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in nix::dir::Dir::from_fd(folder)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes the entry of what is in a folder. A folder is returned, for later.
fn child(
    tree: &mut RootedDir,
    path: Vec<u8>,
    out: &mut dyn Write,
    copied: &mut Copied,
) -> Result<Option<Vec<u8>>, CopyError> {
    let (parent, name) = split(&path);
    let name = c(name);
    let Ok(parent) = tree.folder(parent) else { return Ok(None) };
    let stat = match fstatat(parent, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        stat => stat.map_err(|error| at("read", &path)(error.into()))?,
    };
    match kind(&stat) {
        SFlag::S_IFDIR => return Ok(Some(path)),
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            match nix::fcntl::openat(parent, name.as_c_str(), flags, Mode::empty()) {
                Ok(file) => {
                    let shown = path.clone();
                    file_entry(path, &shown, &file.into(), out, copied)?;
                }
                Err(Errno::ENOENT | Errno::ELOOP) => {}
                Err(error) => return Err(at("read", &path)(error.into())),
            }
        }
        SFlag::S_IFLNK => match readlinkat(parent, name.as_c_str()) {
            Ok(target) => link_entry(path, target.into_vec(), &stat, out, copied)?,
            Err(Errno::ENOENT | Errno::EINVAL) => {}
            Err(error) => return Err(at("read", &path)(error.into())),
        },
        _ => copied.skipped += 1,
    }
    Ok(None)
}

fn link_entry(
    path: Vec<u8>,
    target: Vec<u8>,
    stat: &FileStat,
    out: &mut dyn Write,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    copied.links += 1;
    Entry { path, kind: EntryKind::Link { target }, mtime_ns: mtime_ns(stat) }.write(out)
}

fn file_entry(
    path: Vec<u8>,
    shown: &[u8],
    file: &File,
    out: &mut dyn Write,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    let stat = fstat(file).map_err(|error| at("read", shown)(error.into()))?;
    if kind(&stat) != SFlag::S_IFREG {
        copied.skipped += 1;
        return Ok(());
    }
    let mut size = stat.st_size as u64;
    let mut made_up = Vec::new();
    if size == 0 {
        // The kernel's own files say no length, and an entry must.
        made_up = read_made_up(file).map_err(at("read", shown))?;
        size = made_up.len() as u64;
    }
    let kind = EntryKind::File { mode: stat.st_mode & 0o777, size };
    Entry { path, kind, mtime_ns: mtime_ns(&stat) }.write(out)?;
    copied.files += 1;
    let end = if made_up.is_empty() {
        content(file, size, out, copied).map_err(|error| match error {
            Content::Read(error) => at("read", shown)(error),
            Content::Write(error) => error,
        })?
    } else {
        for (at, piece) in made_up.chunks(MAX_PIECE).enumerate() {
            write_piece(out, (at * MAX_PIECE) as u64, piece)?;
        }
        copied.bytes += size;
        size
    };
    write_piece(out, end, &[])
}

/// What a file without a length has all the same, up to [`MAX_MADE_UP`].
fn read_made_up(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_MADE_UP).read_to_end(&mut content)?;
    Ok(content)
}

enum Content {
    Read(io::Error),
    Write(CopyError),
}

/// Sends what a file has, without its holes, up to the length that it had when it was opened.
/// Returns where that ends.
fn content(file: &File, size: u64, out: &mut dyn Write, copied: &mut Copied) -> Result<u64, Content> {
    let mut buffer = vec![0; MAX_PIECE];
    let mut offset = 0;
    while offset < size {
        let Some((start, end)) = next_data(file, offset, size) else {
            return Ok(size);
        };
        offset = start;
        while offset < end {
            let wanted = buffer.len().min((end - offset) as usize);
            let read = match file.read_at(&mut buffer[..wanted], offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(Content::Read)?,
            };
            if read == 0 {
                // It has become shorter.
                return Ok(offset);
            }
            write_piece(out, offset, &buffer[..read]).map_err(Content::Write)?;
            copied.bytes += read as u64;
            offset += read as u64;
        }
    }
    Ok(offset)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn mtime_ns(stat: &FileStat) -> i64 {
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec)
}
