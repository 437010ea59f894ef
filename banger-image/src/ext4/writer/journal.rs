//! An empty journal: a superblock and, behind it, blocks that are only set aside
//! (Documentation/filesystems/ext4/journal.rst).

use super::bytes::{BLOCK, BLOCK_LEN};

/// Its inode.
pub(super) const INODE: u32 = 8;
/// jbd2 takes no fewer blocks.
pub(super) const MIN_BLOCKS: u64 = 1024;

/// The first block of an empty journal of `blocks` blocks. It is in network byte order, unlike
/// everything else.
pub(super) fn superblock(blocks: u64) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    let fields: [u32; 8] = [
        0xc03b_3998,
        // Version 2 of this structure.
        4,
        // The header's sequence number is not used here.
        0,
        BLOCK as u32,
        blocks as u32,
        // The first block for the log, and the first sequence number in it.
        1,
        1,
        // Where the log begins: nowhere, it is empty.
        0,
    ];
    for (target, field) in block.chunks_exact_mut(4).zip(fields) {
        target.copy_from_slice(&field.to_be_bytes());
    }
    // One file system uses it.
    block[0x40..0x44].copy_from_slice(&1u32.to_be_bytes());
    block
}
