//! Where the metadata of block groups lies (Documentation/filesystems/ext4/blockgroup.rst).
//!
//! All file systems here have `flex_bg`: bitmaps and inode tables may be anywhere. A disk has
//! copies of superblock and descriptors in a few groups (`sparse_super`), since the kernel extends
//! no mounted file system that has them elsewhere; an image has none (`sparse_super2`).

use super::allocator::Run;
use super::bytes::BLOCK;
use super::error::{Error, Result};

/// Blocks of a group: as many as a bitmap of one block has bits.
pub(super) const GROUP: u64 = BLOCK * 8;
/// Bytes of an inode.
pub(super) const INODE: u64 = 256;
/// Inodes of a block.
pub(super) const INODES_PER_BLOCK: u64 = BLOCK / INODE;
/// A bitmap of one block has no more bits.
const MAX_INODES_PER_GROUP: u64 = BLOCK * 8;
/// Inodes below 11 are ext4's own.
pub(super) const FIRST_INODE: u64 = 11;
/// Group descriptors of a block.
const DESCRIPTORS_PER_BLOCK: u64 = BLOCK / 64;
/// On a disk the bitmaps and inode tables of so many groups lie together, as its power of two.
/// mke2fs has the same.
pub(super) const LOG_FLEX: u8 = 4;
const FLEX: u64 = 1 << LOG_FLEX;
/// On a disk there is an inode for so many bytes. mke2fs has the same.
const BYTES_PER_INODE: u64 = 16384;
/// A last group that is smaller than this is left away, rather than filled with its own metadata.
const MIN_LAST_GROUP: u64 = 1024;
/// An image's descriptors have so much room, since their number is known last: enough for 512 GiB
/// of content.
pub(super) const IMAGE_DESCRIPTOR_BLOCKS: u64 = 64;
/// Block numbers in extents have 48 bits, but 16 TiB is the most that was ever tried here.
const MAX_BLOCKS: u64 = 1 << 32;

/// The shape of a file system.
pub(super) struct Layout {
    pub(super) blocks: u64,
    pub(super) inodes_per_group: u64,
    pub(super) groups: Vec<Group>,
    /// The groups that hold a copy of superblock and descriptors, in order.
    pub(super) backup_groups: Vec<u64>,
}

/// The places of a group's metadata.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
}

impl Layout {
    /// A disk of a given size: everything has its place from the start.
    pub(super) fn disk(bytes: u64) -> Result<Layout> {
        let mut blocks = bytes / BLOCK;
        let last = blocks % GROUP;
        if blocks > GROUP && last < MIN_LAST_GROUP {
            blocks -= last;
        }
        if blocks < MIN_LAST_GROUP {
            return Err(Error::BadOptions("a disk needs 4 MiB"));
        }
        if blocks > MAX_BLOCKS {
            return Err(Error::BadOptions("a disk ends at 16 TiB"));
        }
        let count = blocks.div_ceil(GROUP);
        let inodes_per_group =
            (blocks * BLOCK / BYTES_PER_INODE).div_ceil(count).next_multiple_of(INODES_PER_BLOCK).max(64);
        let table = inodes_per_group / INODES_PER_BLOCK;
        let mut groups = Vec::new();
        for leader in (0..count).step_by(FLEX as usize) {
            let members = FLEX.min(count - leader);
            let start = leader * GROUP + if leader == 0 { 1 + count.div_ceil(DESCRIPTORS_PER_BLOCK) } else { 0 };
            groups.extend((0..members).map(|member| Group {
                block_bitmap: start + member,
                inode_bitmap: start + members + member,
                inode_table: start + 2 * members + member * table,
            }));
        }
        Ok(Layout { blocks, inodes_per_group, groups, backup_groups: backup_groups(count) })
    }

    /// An image with `used` blocks and `inodes` inodes, that is complete but for bitmaps and inode
    /// tables: how many groups it has, and inodes in each.
    pub(super) fn image(used: u64, inodes: u64) -> Result<(u64, u64)> {
        let mut groups = used.div_ceil(GROUP).max(inodes.div_ceil(MAX_INODES_PER_GROUP));
        loop {
            let inodes_per_group = inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
            let needed = (used + groups * (2 + inodes_per_group / INODES_PER_BLOCK)).div_ceil(GROUP);
            if needed > IMAGE_DESCRIPTOR_BLOCKS * DESCRIPTORS_PER_BLOCK {
                return Err(Error::NoSpace {
                    size: IMAGE_DESCRIPTOR_BLOCKS * DESCRIPTORS_PER_BLOCK * GROUP * BLOCK,
                    what: "it",
                });
            }
            if needed <= groups {
                return Ok((groups, inodes_per_group));
            }
            groups = needed;
        }
    }

    /// Blocks of the table of group descriptors.
    pub(super) fn descriptor_blocks(&self) -> u64 {
        (self.groups.len() as u64).div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    /// Blocks of a group's inode table.
    pub(super) fn table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// The blocks of a group.
    pub(super) fn extent_of(&self, group: usize) -> Run {
        let start = group as u64 * GROUP;
        Run { start, length: GROUP.min(self.blocks - start) }
    }

    /// Superblock and descriptors of each group that has them.
    pub(super) fn superblocks(&self) -> impl Iterator<Item = Run> {
        let length = 1 + self.descriptor_blocks();
        let groups = std::iter::once(0).chain(self.backup_groups.iter().copied());
        groups.map(move |group| Run { start: group * GROUP, length })
    }

    /// Everything that has its place on a disk, in order and apart.
    pub(super) fn reserved(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = self.superblocks().collect();
        for members in self.groups.chunks(FLEX as usize) {
            let start = members[0].block_bitmap;
            runs.push(Run { start, length: members.len() as u64 * (2 + self.table_blocks()) });
        }
        runs.sort_unstable_by_key(|run| run.start);
        runs
    }
}

/// The groups of a disk of `count` that have copies: 1, and the powers of 3, 5 and 7
/// (fs/ext4/balloc.c, `ext4_bg_has_super`).
fn backup_groups(count: u64) -> Vec<u64> {
    let powers = [3u64, 5, 7].into_iter().flat_map(|base| {
        std::iter::successors(Some(base), move |power| power.checked_mul(base)).take_while(|power| *power < count)
    });
    let mut groups: Vec<u64> = std::iter::once(1).filter(|_| count > 1).chain(powers).collect();
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblock_backups_are_in_the_groups_the_kernel_expects() {
        assert_eq!(backup_groups(1), [0u64; 0]);
        assert_eq!(backup_groups(2), [1]);
        assert_eq!(backup_groups(50), [1, 3, 5, 7, 9, 25, 27, 49]);
        // They are odd, and what leads a flexible group is not: its bitmaps and tables begin with
        // it.
        assert!(backup_groups(1 << 17).iter().all(|group| group % FLEX != 0));
    }
}
