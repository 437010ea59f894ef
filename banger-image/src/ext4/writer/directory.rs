//! The blocks of a folder (Documentation/filesystems/ext4/directory.rst): one block of names, or an
//! index over many.

use super::bytes::{BLOCK_LEN, put16, put32};
use super::checksum::crc32c;
use super::hash::{HALF_MD4, half_md4};

/// Bytes of an entry before its name.
const ENTRY: usize = 8;
/// The entry at the end of a block that is its checksum.
const TAIL: usize = 12;
/// The end of an index block that is its checksum.
const INDEX_TAIL: usize = 8;
/// Where the index begins in its first block, after `.`, `..` and what describes the index, and in
/// others.
const ROOT_INDEX: usize = 32;
const NODE_INDEX: usize = 8;
/// Bytes of an entry of the index: a hash and a block.
const INDEX_ENTRY: usize = 8;

/// An entry of a directory: a name and the number of its inode (`struct ext4_dir_entry_2`).
pub(super) struct DirEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) number: u32,
    /// The file type bits of the inode's mode (`S_IFMT`, inode(7)).
    pub(super) kind: u16,
}

impl DirEntry<'_> {
    fn len(&self) -> usize {
        ENTRY + self.name.len().next_multiple_of(4)
    }

    /// What the entry says about the type: a copy of it, so that listing needs no inodes.
    fn file_type(&self) -> u8 {
        match self.kind >> 12 {
            0o10 => 1,
            0o04 => 2,
            0o02 => 3,
            0o06 => 4,
            0o01 => 5,
            0o14 => 6,
            _ => 7,
        }
    }
}

/// How the blocks of directories are written.
#[derive(Clone, Copy)]
pub(super) struct DirectoryFormat<'a> {
    /// The seed of the hash of names.
    pub(super) hash_seed: &'a [u8; 16],
    /// The seed of the inode's checksums, if metadata has checksums.
    pub(super) checksum_seed: Option<u32>,
    /// Bytes of a block of names that stay free, for later names.
    pub(super) slack: usize,
}

/// The blocks of a directory, in order; `None` if there are more names than an index of two levels
/// can hold. One block has no index.
pub(super) fn build(
    own: u32,
    parent: u32,
    entries: &[DirEntry<'_>],
    format: DirectoryFormat<'_>,
) -> Option<Vec<[u8; BLOCK_LEN]>> {
    let room = BLOCK_LEN - if format.checksum_seed.is_some() { TAIL } else { 0 };
    let dots = [
        DirEntry { name: b".", number: own, kind: super::inode::DIRECTORY },
        DirEntry { name: b"..", number: parent, kind: super::inode::DIRECTORY },
    ];
    if dots.iter().chain(entries).map(DirEntry::len).sum::<usize>() <= room {
        return Some(vec![leaf(dots.iter().chain(entries), room, format)]);
    }

    let mut hashed: Vec<(u32, &DirEntry<'_>)> =
        entries.iter().map(|entry| (half_md4(entry.name, format.hash_seed), entry)).collect();
    hashed.sort_by_key(|&(hash, entry)| (hash, entry.name));
    let mut leaves: Vec<(u32, [u8; BLOCK_LEN])> = Vec::new();
    let mut rest = hashed.as_slice();
    let mut previous = None;
    while !rest.is_empty() {
        let mut length = 0;
        let fit = rest
            .iter()
            .take_while(|(_, entry)| {
                length += entry.len();
                length <= room - format.slack
            })
            .count();
        let (these, others) = rest.split_at(fit);
        let first = these[0].0;
        // An odd hash says that some of the same hash are in the block before.
        let key = first | u32::from(previous == Some(first));
        leaves.push((key, leaf(these.iter().map(|(_, entry)| *entry), room, format)));
        previous = these.last().map(|&(hash, _)| hash);
        rest = others;
    }
    index(&dots, leaves, format)
}

/// A block of names.
fn leaf<'a>(
    entries: impl Iterator<Item = &'a DirEntry<'a>>,
    room: usize,
    format: DirectoryFormat<'_>,
) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    let mut at = 0;
    let mut last = 0;
    for entry in entries {
        put_entry(&mut block, at, entry, entry.len());
        last = at;
        at += entry.len();
    }
    // The last entry reaches to the end.
    put16(&mut block, last + 4, (room - last) as u16);
    if let Some(seed) = format.checksum_seed {
        put16(&mut block, room + 4, TAIL as u16);
        block[room + 7] = 0xde;
        let crc = crc32c(seed, &block[..room]);
        put32(&mut block, room + 8, crc);
    }
    block
}

fn put_entry(block: &mut [u8], at: usize, entry: &DirEntry<'_>, length: usize) {
    put32(block, at, entry.number);
    put16(block, at + 4, length as u16);
    block[at + 6] = entry.name.len() as u8;
    block[at + 7] = entry.file_type();
    block[at + ENTRY..at + ENTRY + entry.name.len()].copy_from_slice(entry.name);
}

/// Puts an index before the leaves, each of which comes with its lowest hash.
fn index(
    dots: &[DirEntry<'_>; 2],
    leaves: Vec<(u32, [u8; BLOCK_LEN])>,
    format: DirectoryFormat<'_>,
) -> Option<Vec<[u8; BLOCK_LEN]>> {
    let tail = if format.checksum_seed.is_some() { INDEX_TAIL } else { 0 };
    let in_root = (BLOCK_LEN - ROOT_INDEX - tail) / INDEX_ENTRY;
    let in_node = (BLOCK_LEN - NODE_INDEX - tail) / INDEX_ENTRY;

    // The root is block 0, then come nodes, if one index block is too few, and then the leaves.
    let nodes = if leaves.len() <= in_root { 0 } else { leaves.len().div_ceil(in_node) };
    if nodes > in_root {
        return None;
    }
    let first_leaf = 1 + nodes as u32;
    let keys: Vec<(u32, u32)> = leaves.iter().zip(first_leaf..).map(|(&(hash, _), block)| (hash, block)).collect();
    let chunks = || keys.chunks(in_node);
    let top: Vec<(u32, u32)> =
        if nodes == 0 { keys.clone() } else { chunks().zip(1..).map(|(chunk, block)| (chunk[0].0, block)).collect() };

    let mut root = [0; BLOCK_LEN];
    put_entry(&mut root, 0, &dots[0], dots[0].len());
    put_entry(&mut root, dots[0].len(), &dots[1], BLOCK_LEN - dots[0].len());
    // What describes the index: the hash, its own length, and the levels between the root and the
    // leaves.
    root[28] = HALF_MD4;
    root[29] = 8;
    root[30] = u8::from(nodes > 0);
    put_index(&mut root, ROOT_INDEX, in_root, &top, format);

    let mut blocks = Vec::with_capacity(1 + nodes + leaves.len());
    blocks.push(root);
    if nodes > 0 {
        for chunk in chunks() {
            let mut node = [0; BLOCK_LEN];
            // An unused entry over all of the block, for those who know no index.
            put16(&mut node, 4, BLOCK_LEN as u16);
            put_index(&mut node, NODE_INDEX, in_node, chunk, format);
            blocks.push(node);
        }
    }
    blocks.extend(leaves.into_iter().map(|(_, block)| block));
    Some(blocks)
}

/// Writes the entries of an index block from `at` on. The first has no hash; limit and count are in
/// its place.
fn put_index(block: &mut [u8; BLOCK_LEN], at: usize, limit: usize, keys: &[(u32, u32)], format: DirectoryFormat<'_>) {
    for (place, &(hash, target)) in keys.iter().enumerate() {
        put32(block, at + place * INDEX_ENTRY, hash);
        put32(block, at + place * INDEX_ENTRY + 4, target);
    }
    put16(block, at, limit as u16);
    put16(block, at + 2, keys.len() as u16);
    if let Some(seed) = format.checksum_seed {
        // The entries in use, and the tail with zeros for the checksum itself.
        let crc = crc32c(crc32c(seed, &block[..at + keys.len() * INDEX_ENTRY]), &[0; INDEX_TAIL]);
        put32(block, BLOCK_LEN - 4, crc);
    }
}
