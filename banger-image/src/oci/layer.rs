//! Applies layers to a file system, bottom-up, each in one pass over its stream (OCI image
//! specification, "Image Layer Filesystem Changeset").
//!
//! Nothing but the image file is written. A path is only ever looked up in the tree that was built
//! so far, by names: there is no folder of the host that `..` or a link could lead to. Symbolic
//! links above an entry are followed inside that tree, as umoci, docker and containerd follow them
//! inside the image's root.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use crate::archive::{Entry, Reader, Type};
use crate::error::{Error, Result};
use crate::ext4::{self, EntryKind, Metadata, Special, Writer};

/// A file's name that begins so says that the file of the rest is gone.
const WHITEOUT: &[u8] = b".wh.";
/// The name that says that nothing is left of what lower layers have in this folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What else begins so is AUFS's own, and no part of an image.
const AUFS: &[u8] = b".wh..wh.";
/// The longest path of the kernel's interfaces, with its NUL: path_resolution(7).
const MAX_PATH: usize = 4096;
/// Attributes of these names are an image's. Others are the builder's file system's, and no Linux
/// file system takes them.
const XATTRS: [&[u8]; 5] =
    [b"user.", b"security.", b"trusted.", b"system.posix_acl_access", b"system.posix_acl_default"];
/// How an overlay keeps whiteouts and the like: they would be taken for orders by the guest's.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

/// What remains of the limits of an image.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    /// Entries.
    pub(super) entries: u64,
    /// Bytes of names and attributes.
    pub(super) metadata: u64,
    /// Bytes of uncompressed layers, and of holes of files.
    pub(super) bytes: u64,
    /// What `bytes` was at the start.
    pub(super) limit: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { entries: 2_000_000, metadata: 512 << 20, bytes: limit, limit }
    }

    pub(super) fn take_bytes(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Error::ImageTooLarge { limit: self.limit })?;
        Ok(())
    }

    /// Takes an entry with the bytes of its names and attributes.
    fn take_entry(&mut self, entry: &Entry) -> Result<()> {
        let length: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        // Headers that say the same more than once, or nothing that is kept, cost their length all
        // the same.
        let metadata = ((entry.path.len() + entry.link.len() + length) as u64).max(entry.extended);
        self.take(&entry.path, metadata)
    }

    /// Takes an entry with this much metadata, in bytes.
    fn take(&mut self, path: &[u8], metadata: u64) -> Result<()> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| too_many(path))?;
        self.metadata = self.metadata.checked_sub(metadata).ok_or_else(|| too_many(path))?;
        Ok(())
    }

    /// Takes more metadata of an entry that was taken, in bytes.
    fn take_more(&mut self, path: &[u8], metadata: usize) -> Result<()> {
        self.metadata = self.metadata.checked_sub(metadata as u64).ok_or_else(|| too_many(path))?;
        Ok(())
    }
}

/// Applies the layer that is the tar stream `stream`. Returns the stream, which is at the end of
/// the archive.
///
/// # Errors
/// [`Error::Archive`], [`Error::FileSystem`], [`Error::ImageTooLarge`], errors of the stream.
pub(super) fn apply<R: Read>(stream: R, writer: &mut Writer, budget: &mut Budget) -> Result<R> {
    let mut reader = Reader::new(stream);
    let mut layer = Layer { writer, budget, own: HashSet::new(), links: Vec::new() };
    while let Some(entry) = reader.next()? {
        layer.budget.take_entry(&entry)?;
        if entry.size > 0 {
            // Stored bytes count where the stream is decompressed; what a sparse file adds counts
            // here.
            layer.budget.take_bytes(entry.size.saturating_sub(reader.stored()))?;
        }
        layer.add(entry, &mut reader)?;
    }
    layer.link_later()?;
    Ok(reader.into_inner())
}

struct Layer<'a> {
    writer: &'a mut Writer,
    budget: &'a mut Budget,
    /// Paths that this layer has brought, and all folders above them: its own whiteouts spare them,
    /// in whatever order they come.
    own: HashSet<Box<[u8]>>,
    /// Hard links to what was not there yet.
    links: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Layer<'_> {
    fn add<R: Read>(&mut self, entry: Entry, content: &mut Reader<R>) -> Result<()> {
        let path = normal(&entry.path).map_err(|reason| refuse(&entry.path, reason))?;
        let (parent, name) = split(&path);
        if path.split(|&byte| byte == b'/').any(|component| component.starts_with(AUFS) && component != OPAQUE) {
            return Ok(());
        }
        if parent.split(|&byte| byte == b'/').any(|component| component.starts_with(WHITEOUT)) {
            return Err(refuse(&path, "it is below a whiteout"));
        }
        let parent = &self.resolve(parent)?[..];
        if name == OPAQUE {
            return self.hide_below(parent);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(refuse(&path, "a whiteout of no name"));
            }
            return self.hide(join(parent, hidden));
        }
        let path = join(parent, name);
        // What links have made of the path is kept, and may be much longer than what the layer
        // says.
        self.budget.take_more(&path, path.len().saturating_sub(entry.path.len()))?;
        self.put(&entry, &path, content)?;
        self.own(&path)
    }

    /// The folder that a path leads to, symbolic links followed inside the image.
    fn resolve(&self, folder: &[u8]) -> Result<Vec<u8>> {
        let resolved = self.writer.resolve(folder)?;
        match resolved.len() {
            ..MAX_PATH => Ok(resolved),
            _ => Err(refuse(folder, "its links lead to a path of more than 4095 bytes")),
        }
    }

    /// A path with the links above its last name followed.
    fn resolve_parent(&self, path: &[u8]) -> Result<Vec<u8>> {
        let (parent, name) = split(path);
        Ok(join(&self.resolve(parent)?, name))
    }

    fn put<R: Read>(&mut self, entry: &Entry, path: &[u8], content: &mut Reader<R>) -> Result<()> {
        let is_wanted =
            |name: &[u8]| XATTRS.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with(OVERLAY_XATTRS);
        let metadata = Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.iter().filter(|(name, _)| is_wanted(name)).cloned().collect(),
        };
        let (major, minor) = entry.device;
        match entry.kind {
            Type::File => {
                if self.writer.file(path, metadata, content)? != entry.size {
                    return Err(refuse(path, "it is shorter than announced"));
                }
            }
            Type::Directory => self.writer.directory(path, metadata)?,
            Type::Symlink if entry.link.is_empty() => return Err(refuse(path, "a symbolic link to nothing")),
            Type::Symlink => self.writer.symlink(path, metadata, &entry.link)?,
            Type::CharacterDevice => self.writer.special(path, metadata, Special::CharacterDevice { major, minor })?,
            Type::BlockDevice => self.writer.special(path, metadata, Special::BlockDevice { major, minor })?,
            Type::Fifo => self.writer.special(path, metadata, Special::Fifo)?,
            Type::HardLink => {
                let target = normal(&entry.link).map_err(|reason| refuse(path, &format!("a hard link: {reason}")))?;
                let target = self.resolve_parent(&target)?;
                if self.writer.entry(&target)?.is_none() {
                    self.budget.take_more(path, path.len() + target.len())?;
                    self.links.push((path.to_vec(), target));
                } else {
                    self.writer.hard_link(path, &target)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the hard links that came before their targets. One may be the target of another.
    fn link_later(&mut self) -> Result<()> {
        let mut by_target: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        let mut there = Vec::new();
        for (path, target) in std::mem::take(&mut self.links) {
            // Either may lead through a link that came later.
            let (path, target) = (self.resolve_parent(&path)?, self.resolve_parent(&target)?);
            if self.writer.entry(&target)?.is_some() && !by_target.contains_key(&target) {
                there.push(target.clone());
            }
            by_target.entry(target).or_default().push(path);
        }
        while let Some(target) = there.pop() {
            for path in by_target.remove(&target).unwrap_or_default() {
                self.writer.hard_link(&path, &target)?;
                there.push(path);
            }
        }
        match by_target.iter().min() {
            None => Ok(()),
            Some((target, paths)) => {
                let reason = format!("a hard link to `{}`, which the image does not have", shown(target));
                Err(refuse(&paths[0], &reason))
            }
        }
    }

    /// Remembers what this layer has brought. A folder that no entry describes counts as one.
    fn own(&mut self, path: &[u8]) -> Result<()> {
        let mut at = path;
        while !at.is_empty() && self.own.insert(at.into()) {
            at = split(at).0;
            if !at.is_empty() && !self.own.contains(at) {
                self.budget.take(path, at.len() as u64)?;
            }
        }
        Ok(())
    }

    /// Takes away what lower layers have at a path.
    fn hide(&mut self, path: Vec<u8>) -> Result<()> {
        let mut pending = vec![path];
        while let Some(path) = pending.pop() {
            if !self.own.contains(&path[..]) {
                self.writer.remove(&path)?;
            } else if matches!(self.writer.entry(&path)?, Some(ext4::Entry { kind: EntryKind::Directory, .. })) {
                pending.extend(self.children(&path)?);
            }
        }
        Ok(())
    }

    /// Takes away what lower layers have in a folder.
    fn hide_below(&mut self, folder: &[u8]) -> Result<()> {
        self.children(folder)?.into_iter().try_for_each(|child| self.hide(child))
    }

    fn children(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.writer.children(folder)?.map(|(name, _)| join(folder, name)).collect())
    }
}

/// The folder and the name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// A path of a layer as the writer wants it: `./a//b/`, `/a/b` and `a/c/../b` are `a/b`, as Go's
/// `path.Clean` has it, which other runtimes use.
fn normal(path: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    if path.len() >= MAX_PATH {
        return Err("a path of more than 4095 bytes");
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => _ = names.pop().ok_or("it leads upwards")?,
            name => names.push(name),
        }
    }
    Ok(names.join(&b'/'))
}

fn too_many(path: &[u8]) -> Error {
    refuse(path, "the image has more than 2 million entries, or 512 MiB of names")
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn refuse(path: &[u8], reason: &str) -> Error {
    Error::Archive { entry: shown(path), reason: reason.to_owned() }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
