//! Opens files of a workspace and of git's directories for it, and no other file of this host.
//!
//! A path may be opened if it is beneath the workspace's root, or beneath a place outside that is
//! open to it: git's own back link proves it (see `dot_git`), or the user trusts the workspace with
//! it (see [`Outside`]). Such a path has no `..`, and openat2(2) opens it with
//! `RESOLVE_NO_SYMLINKS`: no component can lead away, also if a directory is replaced by a link
//! after it was listed. Links among git's own files are resolved here, one at a time, and only to a
//! place that is open.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};

use super::outside::{Outside, OutsidePolicy};
use super::{GitError, Host, Result};

/// The most symbolic links on the way to one file: as many as path_resolution(7) allows.
const MAX_LINKS: usize = 40;

/// The paths that the repositories of a workspace may read. All of them share one boundary.
#[derive(Debug)]
pub struct Boundary {
    root: PathBuf,
    collects: bool,
    trusted: BTreeSet<PathBuf>,
    places: Mutex<OutsidePlaces>,
}

/// Places outside the boundary that may be opened.
#[derive(Debug, Default)]
struct OutsidePlaces {
    /// Proven to be the workspace's by git's own back link.
    proven: BTreeSet<PathBuf>,
    /// Allowed by the user, with what leads there.
    admitted: BTreeSet<Outside>,
}

/// A regular file's content and metadata.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) metadata: Metadata,
}

/// An entry of a directory.
pub(crate) struct Child {
    pub(crate) name: Vec<u8>,
    pub(crate) path: PathBuf,
    pub(crate) kind: Option<Type>,
}

impl Boundary {
    /// The boundary of the workspace at `root`, a canonical path.
    pub(crate) fn new(root: &Path, host: &Host) -> Self {
        let collects = matches!(host.outside, OutsidePolicy::Collect);
        let trusted = host.outside.trusted(root);
        Self { root: root.to_owned(), collects, trusted, places: Mutex::default() }
    }

    /// The places outside of the workspace that the user has allowed, with what leads there.
    pub(crate) fn admitted(&self) -> Vec<Outside> {
        self.places().admitted.iter().cloned().collect()
    }

    /// Whether `path`, canonical, is beneath the root or beneath a place that git's back link
    /// proves.
    pub(crate) fn is_inside(&self, path: &Path) -> bool {
        self.is_in_root(path) || self.places().proven.iter().any(|place| path.starts_with(place))
    }

    /// Whether `path` is beneath the root.
    pub(crate) fn is_in_root(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    /// Adds a directory whose back link was checked.
    pub(crate) fn prove(&self, place: &Path) {
        self.places().proven.insert(place.to_owned());
    }

    /// Adds `target`, a canonical path that `from` leads to, if the user has allowed it for this
    /// workspace.
    ///
    /// # Errors
    /// [`GitError::Outside`] if the user has not.
    pub(crate) fn admit(&self, from: String, target: &Path) -> Result<()> {
        let outside = Outside { target: target.to_owned(), from };
        if !self.collects && !self.trusted.contains(target) {
            return Err(GitError::Outside { outside, root: self.root.clone() });
        }
        self.places().admitted.insert(outside);
        Ok(())
    }

    /// `path` for people: relative to the root where it is beneath.
    pub(crate) fn name(&self, path: &Path) -> String {
        format!("`{}`", path.strip_prefix(&self.root).unwrap_or(path).display())
    }

    /// The place that `path` is beneath, if it may be opened.
    fn place_of(&self, path: &Path) -> Option<PathBuf> {
        if self.is_in_root(path) {
            return Some(self.root.clone());
        }
        let places = self.places();
        let all = places.proven.iter().chain(places.admitted.iter().map(|outside| &outside.target));
        all.filter(|place| path.starts_with(place)).max_by_key(|place| place.as_os_str().len()).cloned()
    }

    fn places(&self) -> MutexGuard<'_, OutsidePlaces> {
        self.places.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Opens what is at `path`. ELOOP where a link is in the way, EXDEV where the path is not ours.
    fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let is_plain = !path.components().any(|part| part == Component::ParentDir);
        if !is_plain || (!self.is_in_root(path) && self.place_of(path).is_none()) {
            return Err(Errno::EXDEV);
        }
        open_plainly(path, flags)
    }

    /// Opens the regular file at `path`, through no link and without waiting for a FIFO.
    ///
    /// # Errors
    /// The kernel's: ELOOP where a link is in the way, EXDEV where the path leads out; EINVAL for
    /// what is no regular file.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let file = File::from(self.open(path, READ)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::EINVAL.into()) }
    }

    /// Opens the directory at `path`, through no link.
    ///
    /// # Errors
    /// As [`Boundary::open_file`]; ENOTDIR for what is no directory.
    pub(crate) fn open_dir(&self, path: &Path) -> io::Result<Dir> {
        Ok(Dir::from_fd(self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?)
    }

    /// Opens the directory at `path`, through no link, for its name alone: nothing can be read by it.
    ///
    /// # Errors
    /// As [`Boundary::open_file`]; ENOTDIR for what is no directory.
    pub fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?)
    }

    /// The target of the symbolic link at `path`, whose directories are none.
    ///
    /// # Errors
    /// As [`Boundary::open_file`]; EINVAL or ENOENT for what is no link.
    pub fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        let link = self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        Ok(readlinkat(link, c"")?.into_vec())
    }

    /// What `lstat` says of `path`, whose directories are no links.
    ///
    /// # Errors
    /// As [`Boundary::open_file`].
    pub fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        File::from(self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?).metadata()
    }

    /// Opens one of git's own files. `None` where there is nothing.
    fn open_git(&self, path: &Path, flags: OFlag) -> Result<Option<(PathBuf, OwnedFd)>> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.open(&path, flags) {
                Ok(fd) => return Ok(Some((path, fd))),
                Err(Errno::ELOOP) => match self.follow_link(&path)? {
                    Some(next) => path = next,
                    None => return Ok(None),
                },
                // ENXIO: a socket.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO) => return Ok(None),
                Err(error) => return Err(GitError::io("read", path, error.into())),
            }
        }
        Err(GitError::io("read", path, Errno::ELOOP.into()))
    }

    /// Where the first link on `path` leads with the rest of it; `None` if nowhere.
    fn follow_link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some(place) = self.place_of(path) else { return Ok(None) };
        let mut link = place.clone();
        let mut rest = path.strip_prefix(&place).unwrap_or(Path::new("")).components();
        while let Some(part) = rest.next() {
            link.push(part);
            let Ok(metadata) = self.metadata(&link) else { return Ok(None) };
            if !metadata.is_symlink() {
                continue;
            }
            let Ok(target) = fs::canonicalize(&link) else { return Ok(None) };
            self.admit(self.name(&link), &target)?;
            return Ok(Some(join(&target, rest.as_path())));
        }
        Ok(None)
    }

    /// `path` of one of git's own files with every link on it resolved; `None` where there is
    /// nothing.
    pub(crate) fn real(&self, path: &Path) -> Result<Option<PathBuf>> {
        Ok(self.open_git(path, OFlag::O_PATH)?.map(|(path, _)| path))
    }

    /// What `stat` says of one of git's own files; `None` where there is nothing.
    pub(crate) fn stat(&self, path: &Path) -> Result<Option<Metadata>> {
        let Some((path, fd)) = self.open_git(path, OFlag::O_PATH)? else { return Ok(None) };
        File::from(fd).metadata().map(Some).map_err(|error| GitError::io("look at", path, error))
    }

    /// Whether there is a directory of git's own at `path`.
    pub(crate) fn is_dir(&self, path: &Path) -> Result<bool> {
        Ok(self.stat(path)?.is_some_and(|metadata| metadata.is_dir()))
    }

    /// Reads one of git's own files, of at most `limit` bytes; `None` if there is no regular file.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> Result<Option<Content>> {
        let Some((path, fd)) = self.open_git(path, READ)? else { return Ok(None) };
        read(&path, File::from(fd), limit)
    }

    /// The entries of one of git's own directories, by name; none if there is no directory.
    pub(crate) fn children(&self, path: &Path) -> Result<Vec<Child>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let Some((path, fd)) = self.open_git(path, flags)? else { return Ok(Vec::new()) };
        let failed = |error: Errno| GitError::io("list", &path, error.into());
        let mut children = Vec::new();
        for entry in Dir::from_fd(fd).map_err(failed)?.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let path = path.join(std::ffi::OsStr::from_bytes(&name));
            // Not every file system says it.
            let kind = entry.file_type().or_else(|| self.metadata(&path).ok().and_then(|metadata| kind(&metadata)));
            children.push(Child { name, path, kind });
        }
        children.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(children)
    }
}

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// Opens `path` if no link is on it.
fn open_plainly(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(AT_FDCWD, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

/// Reads a file of at most `limit` bytes that may be outside: only what proves that it is not.
pub(crate) fn read_back_link(path: &Path, limit: u64) -> Result<Option<Content>> {
    match open_plainly(path, READ) {
        Ok(fd) => read(path, File::from(fd), limit),
        Err(_) => Ok(None),
    }
}

/// Reads `file`, which was opened at `path` and may have at most `limit` bytes; `None` if it is no
/// regular file.
pub(crate) fn read(path: &Path, file: File, limit: u64) -> Result<Option<Content>> {
    let failed = |error| GitError::io("read", path, error);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(limit) as usize);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(GitError::TooLarge { path: path.to_owned(), size: metadata.len(), limit });
    }
    Ok(Some(Content { bytes, metadata }))
}

fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

fn kind(metadata: &Metadata) -> Option<Type> {
    match metadata.file_type() {
        kind if kind.is_dir() => Some(Type::Directory),
        kind if kind.is_file() => Some(Type::File),
        kind if kind.is_symlink() => Some(Type::Symlink),
        _ => None,
    }
}
