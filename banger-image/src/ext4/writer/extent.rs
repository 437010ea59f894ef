//! Trees of extents (Documentation/filesystems/ext4/ifork.rst, "Extent Tree").

use super::allocator::Run;
use super::bytes::{BLOCK_LEN, put16, put32};
use super::checksum::crc32c;
use super::tree::Extent;

const MAGIC: u16 = 0xf30a;
/// Bytes of a header, and of an entry of either kind.
const ENTRY: usize = 12;
/// Entries in the inode.
const IN_INODE: usize = 4;
/// Entries in a block; 4 bytes remain, for its checksum.
const IN_BLOCK: usize = (BLOCK_LEN - ENTRY) / ENTRY;
/// Blocks of one extent; longer ones would be marked as not written yet.
const MAX_LENGTH: u64 = 32768;

/// The field `i_block` of an inode: the root of its tree of extents, the target of a short symbolic
/// link, or the numbers of a device.
pub(super) type IBlock = [u8; 60];

/// Adds a run of blocks to a file's extents, to the last of them if it goes on there.
pub(super) fn push(extents: &mut Vec<Extent>, logical: u32, run: Run) {
    if let Some(last) = extents.last_mut()
        && last.run.end() == run.start
        && last.end() == u64::from(logical)
    {
        last.run.length += run.length;
    } else {
        extents.push(Extent { logical, run });
    }
}

/// An entry of a node: of a leaf it is an extent, above one it names a block.
struct Entry {
    logical: u32,
    block: u64,
    /// Blocks of an extent.
    length: u16,
}

/// Makes the tree of `extents`. Returns its root, for the inode, and the number of blocks below the
/// root. `write` stores each of these blocks and returns the block's number. `seed` starts the
/// inode's checksums, if metadata has checksums.
pub(super) fn build<E>(
    extents: &[Extent],
    seed: Option<u32>,
    mut write: impl FnMut(&[u8; BLOCK_LEN]) -> Result<u64, E>,
) -> Result<(IBlock, u64), E> {
    let mut entries: Vec<Entry> = extents.iter().flat_map(split).collect();
    let mut depth = 0;
    let mut blocks = 0;
    while entries.len() > IN_INODE {
        let mut above = Vec::with_capacity(entries.len().div_ceil(IN_BLOCK));
        for chunk in entries.chunks(IN_BLOCK) {
            let mut block = [0; BLOCK_LEN];
            fill(&mut block[..BLOCK_LEN - 4], chunk, depth, IN_BLOCK);
            if let Some(seed) = seed {
                let crc = crc32c(seed, &block[..BLOCK_LEN - 4]);
                put32(&mut block, BLOCK_LEN - 4, crc);
            }
            above.push(Entry { logical: chunk[0].logical, block: write(&block)?, length: 0 });
            blocks += 1;
        }
        entries = above;
        depth += 1;
    }
    let mut root = [0; 60];
    fill(&mut root, &entries, depth, IN_INODE);
    Ok((root, blocks))
}

/// One run as extents of a length that can be expressed.
fn split(extent: &Extent) -> impl Iterator<Item = Entry> {
    let Extent { logical, run } = *extent;
    (0..run.length).step_by(MAX_LENGTH as usize).map(move |offset| Entry {
        logical: logical + offset as u32,
        block: run.start + offset,
        length: MAX_LENGTH.min(run.length - offset) as u16,
    })
}

/// Writes a node.
fn fill(node: &mut [u8], entries: &[Entry], depth: u16, most: usize) {
    put16(node, 0, MAGIC);
    put16(node, 2, entries.len() as u16);
    put16(node, 4, most as u16);
    put16(node, 6, depth);
    for (entry, target) in entries.iter().zip(node[ENTRY..].chunks_exact_mut(ENTRY)) {
        put32(target, 0, entry.logical);
        let high = (entry.block >> 32) as u16;
        if depth == 0 {
            put16(target, 4, entry.length);
            put16(target, 6, high);
            put32(target, 8, entry.block as u32);
        } else {
            put32(target, 4, entry.block as u32);
            put16(target, 8, high);
        }
    }
}
