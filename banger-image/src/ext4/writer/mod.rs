//! Writes an ext4 file system into a file. Entries are added in any order; their content is read
//! once.
//!
//! Content goes to its blocks while it is read. Names, inodes and where content lies are kept in
//! memory until [`Writer::finish`], which writes them: memory grows with the number of entries, not
//! with their size. Nothing but the image file is written, so no entry reaches the host's own file
//! system, whatever it says about paths, owners and devices.
//!
//! The format is that of the kernel's Documentation/filesystems/ext4; each module names its page.

mod allocator;
mod bytes;
pub(super) mod checksum;
mod directory;
mod error;
mod extent;
mod finish;
mod hash;
mod inode;
mod journal;
mod layout;
mod options;
mod output;
mod read;
mod resolve;
mod superblock;
#[cfg(test)]
mod tests;
mod tree;
mod xattr;

use std::fs::File;
use std::io::Read;

pub use self::error::Error;
pub use self::options::{Metadata, Options, Special, Timestamp};

use self::allocator::{BlockAllocator, Run};
use self::bytes::{BLOCK, BLOCK_LEN};
use self::error::Result;
use self::layout::{IMAGE_DESCRIPTOR_BLOCKS, Layout};
use self::output::{Output, ReadError};
use self::tree::{Children, Content, Extent, InodeId, ROOT, Slot, Tree};
use self::xattr::Attributes;

/// The most names of a file, and the most folders in one before they are not counted any more.
const MAX_LINKS: u32 = 65000;
/// A shorter target of a symbolic link is kept in the inode; the longest is what fits into a block
/// with a NUL behind it.
const FAST_SYMLINK: usize = 60;
const MAX_SYMLINK: usize = BLOCK_LEN - 1;
/// Blocks of a file: their numbers have 32 bits, and the last one says "none".
const MAX_FILE_BLOCKS: u64 = u32::MAX as u64;

const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// A file system under construction.
///
/// Paths are bytes, relative to the root, with single slashes between names; the empty path is the
/// root. Folders above an entry are made when no entry has described them yet. An entry takes the
/// place of what was at its path before, with all that was below it; only a folder keeps what is in
/// it when it is described again.
pub struct Writer {
    options: Options,
    output: Output,
    allocator: BlockAllocator,
    tree: Tree,
    /// Known from the start for a disk, at the end for an image.
    layout: Option<Layout>,
    journal: Vec<Extent>,
}

/// What is at a path of a [`Writer`].
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The type, with what only this type has.
    pub kind: EntryKind<'a>,
    /// The metadata that it was last added with.
    pub metadata: &'a Metadata,
}

/// The type of an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A directory.
    Directory,
    /// A regular file: its size in bytes.
    File(u64),
    /// A symbolic link: its target.
    Symlink(&'a [u8]),
    /// A device, a FIFO or a socket.
    Special(Special),
}

impl Writer {
    /// Starts a file system in `file`, which must be open for writing. The file's content is lost.
    ///
    /// # Errors
    /// [`Error::BadOptions`], [`Error::NoSpace`] if the journal does not fit, [`Error::Image`].
    pub fn new(file: File, options: Options) -> Result<Writer> {
        if options.label.len() > 16 {
            return Err(Error::BadOptions("its label has more than 16 bytes"));
        }
        if options.size.is_none() && options.journal > 0 {
            return Err(Error::BadOptions("it has a journal and no size"));
        }
        let output = Output::new(file)?;
        let (layout, allocator) = match options.size {
            Some(size) => {
                let layout = Layout::disk(size)?;
                let allocator = BlockAllocator::new(layout.reserved(), layout.blocks);
                output.set_len(size)?;
                (Some(layout), allocator)
            }
            None => {
                let reserved = Run { start: 0, length: 1 + IMAGE_DESCRIPTOR_BLOCKS };
                (None, BlockAllocator::new(vec![reserved], u64::MAX))
            }
        };
        let implied = Metadata { mode: 0o755, mtime: options.time, ..Metadata::default() };
        let mut writer = Writer { options, output, allocator, tree: Tree::new(implied), layout, journal: Vec::new() };
        if writer.options.journal > 0 {
            let blocks = writer.options.journal / BLOCK;
            if blocks < journal::MIN_BLOCKS || blocks > u64::from(u32::MAX) {
                return Err(Error::BadOptions("its journal is to be smaller than 4 MiB, or larger than 16 TiB"));
            }
            writer.journal = writer.allocate(blocks, "the journal")?;
        }
        Ok(writer)
    }

    /// Adds a directory, or sets the metadata of one that is there.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`], [`Error::Unsupported`].
    pub fn directory(&mut self, path: &[u8], metadata: Metadata) -> Result<()> {
        Attributes::new(path, &metadata.xattrs)?;
        let there = if path.is_empty() {
            Some(ROOT)
        } else {
            let slot = self.tree.make_parents(path)?;
            self.tree.at(&slot).filter(|&id| self.tree.children(id).is_some())
        };
        match there {
            Some(id) => self.tree.get_mut(id).metadata = Writer::masked(metadata),
            None => self.put(path, metadata, Content::Directory(Children::new()))?,
        }
        Ok(())
    }

    /// Adds a regular file with all that `content` reads, and returns its size in bytes. Blocks of
    /// zeros become holes.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`], [`Error::Unsupported`], [`Error::Content`],
    /// [`Error::NoSpace`], [`Error::Image`].
    pub fn file(&mut self, path: &[u8], metadata: Metadata, content: &mut dyn Read) -> Result<u64> {
        Attributes::new(path, &metadata.xattrs)?;
        self.slot(path)?;
        let mut extents = Vec::new();
        match self.store(path, content, &mut extents) {
            Ok(size) => {
                self.put(path, metadata, Content::File { size, extents })?;
                Ok(size)
            }
            Err(error) => {
                extents.into_iter().for_each(|extent| self.allocator.release(extent.run));
                Err(error)
            }
        }
    }

    /// Adds a symbolic link with a target of 1 to 4095 bytes.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`], [`Error::Unsupported`].
    pub fn symlink(&mut self, path: &[u8], metadata: Metadata, target: &[u8]) -> Result<()> {
        Attributes::new(path, &metadata.xattrs)?;
        if target.is_empty() || target.len() > MAX_SYMLINK || target.contains(&0) {
            let reason = "a symbolic link whose target is empty, has more than 4095 bytes, or has a NUL".to_owned();
            return Err(Error::Unsupported { path: path.to_owned(), reason });
        }
        self.put(path, metadata, Content::Symlink(target.into()))
    }

    /// Adds a device node, a FIFO or a socket.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`], [`Error::Unsupported`].
    pub fn special(&mut self, path: &[u8], metadata: Metadata, special: Special) -> Result<()> {
        Attributes::new(path, &metadata.xattrs)?;
        inode::check_special(path, special)?;
        self.put(path, metadata, Content::Special(special))
    }

    /// Adds the name `path` to the inode at `target`, which is not a directory.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`], [`Error::BadLink`], [`Error::TooManyLinks`].
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let bad_link = |reason| Error::BadLink { path: path.to_owned(), target: target.to_owned(), reason };
        let id = self.tree.find(target)?.ok_or_else(|| bad_link("is not there"))?;
        if self.tree.children(id).is_some() {
            return Err(bad_link("is a folder"));
        }
        let slot = self.slot(path)?;
        if self.tree.at(&slot) == Some(id) {
            return Ok(());
        }
        if self.tree.get(id).names == MAX_LINKS {
            return Err(Error::TooManyLinks { path: path.to_owned(), target: target.to_owned() });
        }
        // What makes place for the link may be a folder with the target in it.
        self.tree.get_mut(id).names += 1;
        self.vacate(&slot);
        self.tree.get_mut(id).names -= 1;
        self.tree.link(&slot, id);
        Ok(())
    }

    /// Removes what is at `path` and below it. Returns whether anything was there.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`].
    pub fn remove(&mut self, path: &[u8]) -> Result<bool> {
        if self.tree.find(path)?.is_none() {
            return Ok(false);
        }
        let slot = self.slot(path)?;
        self.vacate(&slot);
        Ok(true)
    }

    /// What is at `path`, if anything is.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`].
    pub fn entry(&self, path: &[u8]) -> Result<Option<Entry<'_>>> {
        Ok(self.tree.find(path)?.map(|id| self.describe(id)))
    }

    /// The entries of the directory at `path`, with their names, in the order of the names' bytes.
    /// Empty if no directory is there.
    ///
    /// # Errors
    /// [`Error::BadPath`], [`Error::NotADirectory`].
    pub fn children<'a>(&'a self, path: &[u8]) -> Result<impl Iterator<Item = (&'a [u8], Entry<'a>)> + use<'a>> {
        let children = self.tree.find(path)?.and_then(|id| self.tree.children(id));
        Ok(children.into_iter().flatten().map(|(name, &id)| (&**name, self.describe(id))))
    }

    fn describe(&self, id: InodeId) -> Entry<'_> {
        let inode = self.tree.get(id);
        let kind = match &inode.content {
            Content::Directory(_) => EntryKind::Directory,
            Content::File { size, .. } => EntryKind::File(*size),
            Content::Symlink(target) => EntryKind::Symlink(target),
            Content::Special(special) => EntryKind::Special(*special),
        };
        Entry { kind, metadata: &inode.metadata }
    }

    /// The slot of a path that is not the root. Directories above it are made.
    fn slot<'a>(&mut self, path: &'a [u8]) -> Result<Slot<'a>> {
        if path.is_empty() {
            return Err(Error::BadPath { path: Vec::new(), reason: "the root is a folder, and stays one" });
        }
        self.tree.make_parents(path)
    }

    /// Puts a new inode at a path, instead of what is there.
    fn put(&mut self, path: &[u8], metadata: Metadata, content: Content) -> Result<()> {
        let slot = self.slot(path)?;
        self.vacate(&slot);
        let id = self.tree.insert(Writer::masked(metadata), content);
        self.tree.link(&slot, id);
        Ok(())
    }

    fn vacate(&mut self, slot: &Slot<'_>) {
        for run in self.tree.unlink(slot) {
            self.allocator.release(run);
        }
    }

    /// A mode has no bits of a type.
    fn masked(metadata: Metadata) -> Metadata {
        Metadata { mode: metadata.mode & 0o7777, ..metadata }
    }

    /// Reads a file's content to its blocks.
    fn store(&mut self, path: &[u8], content: &mut dyn Read, extents: &mut Vec<Extent>) -> Result<u64> {
        let mut size = 0;
        loop {
            let piece = self.output.read(content).map_err(|error| match error {
                ReadError::Content(source) => Error::Content { path: path.to_owned(), source },
                ReadError::Image(error) => error.into(),
            })?;
            let first = size / BLOCK;
            let count = piece.blocks();
            if first + count as u64 > MAX_FILE_BLOCKS {
                let reason = "a file of more than 16 TiB".to_owned();
                return Err(Error::Unsupported { path: path.to_owned(), reason });
            }
            let mut at = 0;
            while at < count {
                let is_hole = |index: &usize| self.output.peek(&piece, *index) == ZEROS;
                at += (at..count).take_while(is_hole).count();
                let end = at + (at..count).take_while(|index| !is_hole(index)).count();
                while at < end {
                    let run = self.take((end - at) as u64, "the content of files")?;
                    self.output.keep_piece(&piece, at, run.length as usize, run.start)?;
                    extent::push(extents, (first + at as u64) as u32, run);
                    at += run.length as usize;
                }
            }
            size += piece.bytes as u64;
            if piece.is_last {
                return Ok(size);
            }
        }
    }

    /// Takes up to `most` neighbouring blocks for `what`.
    fn take(&mut self, most: u64, what: &'static str) -> Result<Run> {
        self.allocator.take(most).ok_or(Error::NoSpace { size: self.options.size.unwrap_or(u64::MAX), what })
    }

    /// Takes `blocks` blocks for `what`.
    fn allocate(&mut self, blocks: u64, what: &'static str) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        let mut taken = 0;
        while taken < blocks {
            let run = self.take(blocks - taken, what)?;
            extent::push(&mut extents, taken as u32, run);
            taken += run.length;
        }
        Ok(extents)
    }
}
