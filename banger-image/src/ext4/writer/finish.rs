//! The end of a file system: everything but content is written, in the order in which one depends
//! on the other.

use std::fs::File;

use super::allocator::Run;
use super::bytes::{BLOCK, BLOCK_LEN};
use super::checksum::crc32c;
use super::directory::{self, DirectoryFormat};
use super::error::{Error, Result};
use super::extent::{self, IBlock};
use super::inode::{self, Fields};
use super::layout::{FIRST_INODE, GROUP, Group, Layout};
use super::options::Metadata;
use super::superblock::{self, BLOCK_UNINIT, Counts, DESCRIPTOR, GroupUsage, INODE_UNINIT, INODE_ZEROED};
use super::tree::{Children, Content, Extent, InodeId, ROOT};
use super::xattr::Attributes;
use super::{FAST_SYMLINK, MAX_LINKS, Writer, journal};

/// The inode of the root.
const ROOT_NUMBER: u32 = 2;
/// Where e2fsck puts what has lost its name. It wants it to be there before.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// On a disk a fifth of each block of names is left free, as by e2fsck, so that not every new name
/// splits one.
const SLACK: usize = BLOCK_LEN / 5;
/// Inodes of a block.
const INODES: usize = BLOCK_LEN / inode::LEN;

/// An inode whose content is written: what its table and the bitmaps need.
struct StoredInode {
    number: u32,
    /// The inode in the tree; `None` for the journal, which has no name.
    id: Option<InodeId>,
    kind: u16,
    links: u16,
    root: IBlock,
    flags: u32,
    size: u64,
    blocks: u64,
    attribute_block: u64,
}

/// A bitmap of one block.
type Bitmap = [u8; BLOCK_LEN];

impl Writer {
    /// Writes names, inodes and group metadata, and returns the file, which is not synced.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Unsupported`], [`Error::Image`].
    pub fn finish(mut self) -> Result<File> {
        if self.tree.find(LOST_AND_FOUND)?.is_none() {
            let metadata = Metadata { mode: 0o700, mtime: self.options.time, ..Metadata::default() };
            self.directory(LOST_AND_FOUND, metadata)?;
        }
        let order = self.number();
        let mut inodes = Vec::with_capacity(order.len() + 1);
        for &(id, parent) in &order {
            inodes.push(self.store_inode(id, parent)?);
        }
        if let Some(journal) = self.store_journal()? {
            inodes.push(journal);
        }
        inodes.sort_unstable_by_key(|inode| inode.number);

        let layout = self.finish_layout(FIRST_INODE - 1 + order.len() as u64 - 1)?;
        self.write_tables(&layout, &inodes)?;
        self.write_groups(&layout, &inodes)?;
        self.output.flush()?;
        for gap in self.allocator.gaps() {
            self.output.discard(gap)?;
        }
        self.output.set_len(self.options.size.unwrap_or(layout.blocks * BLOCK))?;
        Ok(self.output.into_file())
    }

    /// Numbers the inodes so that those of a folder are neighbours. Returns them in this order,
    /// folders with their parent's number.
    fn number(&mut self) -> Vec<(InodeId, u32)> {
        self.tree.get_mut(ROOT).number = ROOT_NUMBER;
        let mut order = vec![(ROOT, ROOT_NUMBER)];
        let mut next = FIRST_INODE as u32;
        let mut pending = vec![ROOT];
        while let Some(folder) = pending.pop() {
            let parent = self.tree.get(folder).number;
            let children: Vec<InodeId> =
                self.tree.children(folder).into_iter().flat_map(Children::values).copied().collect();
            let before = pending.len();
            for child in children {
                let inode = self.tree.get_mut(child);
                if inode.number != 0 {
                    continue;
                }
                inode.number = next;
                next += 1;
                order.push((child, parent));
                if matches!(inode.content, Content::Directory(_)) {
                    pending.push(child);
                }
            }
            pending[before..].reverse();
        }
        order
    }

    /// Writes the blocks that an inode has besides a file's content.
    fn store_inode(&mut self, id: InodeId, parent: u32) -> Result<StoredInode> {
        let inode = self.tree.get(id);
        let number = inode.number;
        let attributes = Attributes::new(b"", &inode.metadata.xattrs)?;
        let mut stored = StoredInode {
            number,
            id: Some(id),
            kind: self.kind(id),
            links: u16::try_from(inode.names).unwrap_or(u16::MAX),
            root: [0; 60],
            flags: 0,
            size: 0,
            blocks: 0,
            attribute_block: 0,
        };
        match &inode.content {
            Content::Special(special) => stored.root = inode::special_root(*special),
            Content::Symlink(target) if target.len() < FAST_SYMLINK => {
                stored.size = target.len() as u64;
                stored.root[..target.len()].copy_from_slice(target);
            }
            Content::Symlink(target) => {
                let mut block = [0; BLOCK_LEN];
                block[..target.len()].copy_from_slice(target);
                stored.size = target.len() as u64;
                let extents = self.write_blocks(&[block], "symbolic links")?;
                self.map(&mut stored, &extents)?;
            }
            Content::File { size, extents } => {
                stored.size = *size;
                let extents = extents.clone();
                self.map(&mut stored, &extents)?;
            }
            Content::Directory(children) => {
                let folders = children.values().filter(|&&child| self.tree.children(child).is_some()).count() as u32;
                // `.`, its own name, and `..` in each folder below; 1 stands for too many.
                stored.links = if folders + 2 > MAX_LINKS { 1 } else { folders as u16 + 2 };
                let blocks = self.directory_blocks(id, parent)?;
                stored.size = blocks.len() as u64 * BLOCK;
                let extents = self.write_blocks(&blocks, "folders")?;
                self.map(&mut stored, &extents)?;
                if blocks.len() > 1 {
                    stored.flags |= inode::INDEX;
                }
            }
        }
        if attributes.need_block() {
            let run = self.take(1, "extended attributes")?;
            self.output.write(run.start, &attributes.block(run.start, superblock::seed(&self.options)))?;
            stored.attribute_block = run.start;
            stored.blocks += 1;
        }
        Ok(stored)
    }

    /// The type in an inode's mode.
    fn kind(&self, id: InodeId) -> u16 {
        match &self.tree.get(id).content {
            Content::Directory(_) => inode::DIRECTORY,
            Content::File { .. } => inode::REGULAR,
            Content::Symlink(_) => inode::SYMLINK,
            Content::Special(special) => inode::special_kind(*special),
        }
    }

    fn directory_blocks(&self, id: InodeId, parent: u32) -> Result<Vec<[u8; BLOCK_LEN]>> {
        let number = self.tree.get(id).number;
        let entries: Vec<directory::DirEntry<'_>> = self
            .tree
            .children(id)
            .into_iter()
            .flatten()
            .map(|(name, &child)| directory::DirEntry {
                name,
                number: self.tree.get(child).number,
                kind: self.kind(child),
            })
            .collect();
        let format = DirectoryFormat {
            hash_seed: &self.options.hash_seed,
            checksum_seed: superblock::inode_seed(superblock::seed(&self.options), number),
            slack: if self.options.size.is_some() { SLACK } else { 0 },
        };
        directory::build(number, parent, &entries, format).ok_or_else(|| {
            let reason = format!("a folder with {} names, more than its index can hold", entries.len());
            Error::Unsupported { path: Vec::new(), reason }
        })
    }

    /// Writes blocks to wherever there is room.
    fn write_blocks(&mut self, blocks: &[[u8; BLOCK_LEN]], what: &'static str) -> Result<Vec<Extent>> {
        let extents = self.allocate(blocks.len() as u64, what)?;
        let places = extents.iter().flat_map(|extent| extent.run.start..extent.run.end());
        for (place, block) in places.zip(blocks) {
            self.output.write(place, block)?;
        }
        Ok(extents)
    }

    /// Records the extents of an inode's content in the inode.
    fn map(&mut self, stored: &mut StoredInode, extents: &[Extent]) -> Result<()> {
        let seed = superblock::inode_seed(superblock::seed(&self.options), stored.number);
        let content: u64 = extents.iter().map(|extent| extent.run.length).sum();
        let (root, nodes) = extent::build(extents, seed, |block| {
            let run = self.take(1, "trees of extents")?;
            self.output.write(run.start, block)?;
            Ok::<u64, Error>(run.start)
        })?;
        stored.root = root;
        stored.flags |= inode::EXTENTS;
        stored.blocks = content + nodes;
        Ok(())
    }

    /// The journal's inode, if there is one, and the one block of it that is not a hole.
    fn store_journal(&mut self) -> Result<Option<StoredInode>> {
        let extents = std::mem::take(&mut self.journal);
        let Some(first) = extents.first() else { return Ok(None) };
        let blocks: u64 = extents.iter().map(|extent| extent.run.length).sum();
        self.output.write(first.run.start, &journal::superblock(blocks))?;
        let mut stored = StoredInode {
            number: journal::INODE,
            id: None,
            kind: inode::REGULAR,
            links: 1,
            root: [0; 60],
            flags: 0,
            size: blocks * BLOCK,
            blocks: 0,
            attribute_block: 0,
        };
        self.map(&mut stored, &extents)?;
        Ok(Some(stored))
    }

    /// The layout: an image's is made now, for inodes up to the number `last`.
    fn finish_layout(&mut self, last: u64) -> Result<Layout> {
        if let Some(layout) = self.layout.take() {
            if last > layout.inodes_per_group * layout.groups.len() as u64 {
                return Err(Error::NoSpace { size: layout.blocks * BLOCK, what: "more inodes" });
            }
            return Ok(layout);
        }
        let (count, inodes_per_group) = Layout::image(self.allocator.next(), last)?;
        let mut layout = Layout { blocks: 0, inodes_per_group, groups: Vec::new(), backup_groups: Vec::new() };
        let table = layout.table_blocks();
        // Inode tables are sparse, so they must not be where something was before.
        let tables = self.take_fresh(count * table)?;
        let block_bitmaps = self.take_fresh(count)?;
        let inode_bitmaps = self.take_fresh(count)?;
        layout.groups = (0..count)
            .map(|group| Group {
                block_bitmap: block_bitmaps.start + group,
                inode_bitmap: inode_bitmaps.start + group,
                inode_table: tables.start + group * table,
            })
            .collect();
        layout.blocks = self.allocator.next().max((count - 1) * GROUP + 1);
        self.allocator.set_end(layout.blocks);
        let descriptors = 1 + layout.descriptor_blocks();
        self.allocator.release(Run { start: descriptors, length: 1 + super::IMAGE_DESCRIPTOR_BLOCKS - descriptors });
        Ok(layout)
    }

    fn take_fresh(&mut self, length: u64) -> Result<Run> {
        self.allocator.take_fresh(length).ok_or(Error::NoSpace { size: u64::MAX, what: "inodes" })
    }

    /// Writes the blocks of inode tables that have inodes in them.
    fn write_tables(&mut self, layout: &Layout, inodes: &[StoredInode]) -> Result<()> {
        let seed = superblock::seed(&self.options);
        let journal = Metadata { mode: 0o600, mtime: self.options.time, ..Metadata::default() };
        let block_of = |inode: &StoredInode| (inode.number - 1) / INODES as u32;
        for neighbours in inodes.chunk_by(|a, b| block_of(a) == block_of(b)) {
            let mut block = [0; BLOCK_LEN];
            for stored in neighbours {
                let metadata = stored.id.map_or(&journal, |id| &self.tree.get(id).metadata);
                let fields = Fields {
                    kind: stored.kind,
                    metadata,
                    links: stored.links,
                    size: stored.size,
                    blocks: stored.blocks,
                    flags: stored.flags,
                    root: &stored.root,
                    attribute_block: stored.attribute_block,
                    attributes: Attributes::new(b"", &metadata.xattrs)?.inode(),
                };
                let slot = (stored.number as usize - 1) % INODES * inode::LEN;
                let encoded = fields.encode(superblock::inode_seed(seed, stored.number));
                block[slot..slot + inode::LEN].copy_from_slice(&encoded);
            }
            let index = u64::from(block_of(&neighbours[0]));
            let group = &layout.groups[(index / layout.table_blocks()) as usize];
            self.output.write(group.inode_table + index % layout.table_blocks(), &block)?;
        }
        Ok(())
    }

    /// Writes bitmaps, descriptors, and superblocks.
    fn write_groups(&mut self, layout: &Layout, inodes: &[StoredInode]) -> Result<()> {
        let seed = superblock::seed(&self.options);
        let mut descriptors = Vec::with_capacity(layout.groups.len() * DESCRIPTOR);
        let mut counts = Counts { free_blocks: 0, free_inodes: 0, overhead: 0, journal: None };
        for (number, group) in layout.groups.iter().enumerate() {
            let blocks = self.block_usage(layout, number);
            let inodes_used = inode_usage(layout, inodes, number);
            let mut usage = GroupUsage {
                free_blocks: blocks.free,
                free_inodes: inodes_used.free,
                directories: inodes_used.directories,
                unused_inodes: inodes_used.behind,
                flags: INODE_ZEROED,
                block_bitmap_checksum: 0,
                inode_bitmap_checksum: 0,
            };
            match blocks.bitmap {
                Some(bitmap) => {
                    usage.block_bitmap_checksum = seed.map_or(0, |seed| crc32c(seed, &bitmap));
                    self.output.write(group.block_bitmap, &bitmap)?;
                }
                None => usage.flags |= BLOCK_UNINIT,
            }
            match inodes_used.bitmap {
                Some(bitmap) => {
                    let bytes = layout.inodes_per_group as usize / 8;
                    usage.inode_bitmap_checksum = seed.map_or(0, |seed| crc32c(seed, &bitmap[..bytes]));
                    self.output.write(group.inode_bitmap, &bitmap)?;
                }
                None => usage.flags |= INODE_UNINIT,
            }
            counts.free_blocks += u64::from(blocks.free);
            counts.free_inodes += u64::from(inodes_used.free);
            descriptors.extend(superblock::descriptor(number as u32, group, &usage, &self.options.uuid, seed));
        }

        let journal = inodes.iter().find(|inode| inode.number == journal::INODE);
        counts.journal = journal.map(|journal| (&journal.root, journal.size));
        counts.overhead = layout.superblocks().map(|run| run.length).sum::<u64>()
            + layout.groups.len() as u64 * (2 + layout.table_blocks())
            + journal.map_or(0, |journal| journal.size / BLOCK);
        descriptors.resize(descriptors.len().next_multiple_of(BLOCK_LEN), 0);
        for copy in layout.superblocks() {
            let superblock = superblock::superblock(layout, &self.options, &counts, (copy.start / GROUP) as u32);
            self.output.write(copy.start, &superblock)?;
            let (blocks, _) = descriptors.as_chunks::<BLOCK_LEN>();
            for (place, block) in (copy.start + 1..).zip(blocks) {
                self.output.write(place, block)?;
            }
        }
        Ok(())
    }

    /// Which blocks of a group are in use.
    fn block_usage(&self, layout: &Layout, number: usize) -> BitmapUsage {
        let extent = layout.extent_of(number);
        let used = self.allocator.used(extent.start, extent.end());
        let count: u64 = used.iter().map(|run| run.length).sum();
        let own: u64 = layout.superblocks().filter(|run| run.start == extent.start).map(|run| run.length).sum();
        // The kernel knows where superblocks are. A last group always has a bitmap, says e2fsck.
        let is_needed = count != own || number + 1 == layout.groups.len();
        let bitmap = is_needed.then(|| {
            let mut bitmap = [0; BLOCK_LEN];
            for run in used {
                set(&mut bitmap, run.start - extent.start, run.end() - extent.start);
            }
            set(&mut bitmap, extent.length, GROUP);
            bitmap
        });
        BitmapUsage { bitmap, free: (extent.length - count) as u32, behind: 0, directories: 0 }
    }
}

/// Which of a group's blocks, or of its inodes, are in use.
struct BitmapUsage {
    /// The bitmap; `None` if it need not be written.
    bitmap: Option<Bitmap>,
    free: u32,
    /// Inodes behind the last in use.
    behind: u32,
    directories: u32,
}

/// Which inodes of a group are in use.
fn inode_usage(layout: &Layout, inodes: &[StoredInode], group: usize) -> BitmapUsage {
    let first = group as u64 * layout.inodes_per_group + 1;
    let end = first + layout.inodes_per_group;
    let place = |number: u64| inodes.partition_point(|inode| u64::from(inode.number) < number);
    let members = &inodes[place(first)..place(end)];
    let mut bitmap = [0; BLOCK_LEN];
    if group == 0 {
        set(&mut bitmap, 0, FIRST_INODE - 1);
    }
    for inode in members {
        let index = u64::from(inode.number) - first;
        set(&mut bitmap, index, index + 1);
    }
    let used = bitmap.iter().map(|byte| byte.count_ones()).sum::<u32>();
    set(&mut bitmap, layout.inodes_per_group, GROUP);
    let last = members.last().map_or(0, |inode| u64::from(inode.number) - first + 1);
    let last = if group == 0 { last.max(FIRST_INODE - 1) } else { last };
    BitmapUsage {
        bitmap: (used > 0).then_some(bitmap),
        free: layout.inodes_per_group as u32 - used,
        behind: (layout.inodes_per_group - last) as u32,
        directories: members.iter().filter(|inode| inode.kind == inode::DIRECTORY).count() as u32,
    }
}

/// Sets the bits `from..to`.
fn set(bitmap: &mut Bitmap, from: u64, to: u64) {
    let (from, to) = (from as usize, to as usize);
    let (first_whole, last_whole) = (from.next_multiple_of(8).min(to), to / 8 * 8);
    if first_whole >= last_whole {
        (from..to).for_each(|bit| bitmap[bit / 8] |= 1 << (bit % 8));
        return;
    }
    (from..first_whole).chain(last_whole..to).for_each(|bit| bitmap[bit / 8] |= 1 << (bit % 8));
    bitmap[first_whole / 8..last_whole / 8].fill(0xff);
}
