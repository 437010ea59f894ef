//! How large a file system must be to hold a tree, and hardly larger.

use std::collections::HashMap;
use std::path::Path;

use crate::ext4::tree::{Kind, Node, name_length};

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
/// Bytes of an inode.
pub(crate) const INODE: u64 = 256;
/// Blocks of a block group: as many as one bitmap block has bits.
const GROUP: u64 = BLOCK * 8;
/// Inodes below 11 are ext4's own; 11 is lost+found.
const RESERVED_INODES: u64 = 11;
/// A shorter link target fits into the inode.
const FAST_SYMLINK: u64 = 60;
/// Blocks that one extent can span at most are 32768; free space is seldom so even.
const BLOCKS_PER_EXTENT_BLOCK: u64 = 8192;

/// The size of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) blocks: u64,
    pub(crate) inodes: u64,
}

/// Reckons the size for a tree, with a slack of about one percent: a sparse file pays nothing for it.
pub(crate) fn of<'a>(nodes: impl Iterator<Item = (&'a Path, &'a Node)>) -> Size {
    let mut inodes = RESERVED_INODES;
    let mut blocks = 0;
    let mut directories: HashMap<&Path, u64> = HashMap::new();
    for (path, node) in nodes {
        if let Some(parent) = path.parent() {
            // 8 bytes and the name, rounded up to 4 (linux/Documentation/filesystems/ext4/directory.rst).
            *directories.entry(parent).or_default() += 8 + name_length(path).next_multiple_of(4);
        }
        inodes += u64::from(!matches!(node.kind, Kind::HardLink(_)));
        blocks += match node.kind {
            Kind::Directory => 1,
            Kind::File(bytes) => {
                let data = bytes.div_ceil(BLOCK);
                data + data / BLOCKS_PER_EXTENT_BLOCK
            }
            Kind::Symlink(bytes) => u64::from(bytes >= FAST_SYMLINK),
            Kind::HardLink(_) | Kind::Special(_) => 0,
        };
        blocks += u64::from(!node.xattrs.is_empty());
    }
    // A folder's blocks are never quite full; the first was counted above.
    blocks += directories.values().map(|bytes| bytes * 4 / 3 / BLOCK).sum::<u64>();
    blocks += inodes * INODE / BLOCK;
    blocks += blocks / 100 + 256;
    // Two bitmaps for each group, and in some a superblock and descriptors.
    let groups = blocks.div_ceil(GROUP);
    blocks += groups * 4;
    Size { blocks, inodes: inodes + 16 * groups }
}
