//! The superblock and the group descriptors (Documentation/filesystems/ext4/super.rst,
//! group_descr.rst).

use super::bytes::{BLOCK_LEN, put_split16, put_split32, put16, put32};
use super::checksum::{START, crc16, crc32c};
use super::extent::IBlock;
use super::hash::HALF_MD4;
use super::layout::{FIRST_INODE, GROUP, Group, INODE, LOG_FLEX, Layout};
use super::options::Options;
use super::{inode, journal};

/// Bytes of a descriptor with 64-bit block numbers.
pub(super) const DESCRIPTOR: usize = 64;
/// Where a descriptor's checksum is.
const DESCRIPTOR_CHECKSUM: usize = 30;
/// The superblock begins so far into its block, if that is block 0.
const OFFSET: usize = 1024;
const LEN: usize = 1024;

// Features that the kernel may ignore, that it must know, and that it must know to write.
const COMPAT_JOURNAL: u32 = 0x4;
/// ext_attr, dir_index.
const COMPAT: u32 = 0x8 | 0x20;
/// sparse_super2: copies are in the groups that the superblock names, which are none.
const COMPAT_NO_COPIES: u32 = 0x200;
/// filetype, extents, 64bit, flex_bg.
const INCOMPAT: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize.
const RO_COMPAT: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40;
const RO_COMPAT_GROUP_CHECKSUMS: u32 = 0x10;
const RO_COMPAT_METADATA_CHECKSUMS: u32 = 0x400;

/// The inodes of a group are not in use: its bitmap is not written.
pub(super) const INODE_UNINIT: u16 = 1;
/// The blocks of a group are not in use: its bitmap is not written.
pub(super) const BLOCK_UNINIT: u16 = 2;
/// The inode table reads as zeros where it is not in use.
pub(super) const INODE_ZEROED: u16 = 4;

/// The fields of the superblock that follow from neither layout nor options.
pub(super) struct Counts<'a> {
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u64,
    /// Blocks that can never hold content.
    pub(super) overhead: u64,
    /// Where the journal's blocks are, and its bytes.
    pub(super) journal: Option<(&'a IBlock, u64)>,
}

/// The superblock of group `group`, as the whole block that it is in.
pub(super) fn superblock(layout: &Layout, options: &Options, counts: &Counts<'_>, group: u32) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    let place = if group == 0 { OFFSET } else { 0 };
    let fields = &mut block[place..place + LEN];
    let inodes = layout.inodes_per_group * layout.groups.len() as u64;
    let time = options.time.seconds.max(0).cast_unsigned();
    put32(fields, 0x00, inodes as u32);
    put_split32(fields, 0x04, 0x150, layout.blocks);
    put_split32(fields, 0x0c, 0x158, counts.free_blocks);
    put32(fields, 0x10, counts.free_inodes as u32);
    // Blocks of 2^(10+2) bytes; a cluster is a block.
    put32(fields, 0x18, 2);
    put32(fields, 0x1c, 2);
    put32(fields, 0x20, GROUP as u32);
    put32(fields, 0x24, GROUP as u32);
    put32(fields, 0x28, layout.inodes_per_group as u32);
    put32(fields, 0x30, time as u32);
    // Checks are not due after a number of mounts.
    put16(fields, 0x36, u16::MAX);
    put16(fields, 0x38, 0xef53);
    // Cleanly unmounted; go on after errors.
    put16(fields, 0x3a, 1);
    put16(fields, 0x3c, 1);
    put32(fields, 0x40, time as u32);
    // The revision with features and inodes of any size.
    put32(fields, 0x4c, 1);
    put32(fields, 0x54, FIRST_INODE as u32);
    put16(fields, 0x58, INODE as u16);
    put16(fields, 0x5a, group as u16);
    let journal = counts.journal.map_or(0, |_| COMPAT_JOURNAL);
    let checksums = if options.metadata_checksums { RO_COMPAT_METADATA_CHECKSUMS } else { RO_COMPAT_GROUP_CHECKSUMS };
    let copies = if options.size.is_none() { COMPAT_NO_COPIES } else { 0 };
    put32(fields, 0x5c, COMPAT | copies | journal);
    put32(fields, 0x60, INCOMPAT);
    put32(fields, 0x64, RO_COMPAT | checksums);
    fields[0x68..0x78].copy_from_slice(&options.uuid);
    fields[0x78..0x78 + options.label.len()].copy_from_slice(options.label.as_bytes());
    fields[0xec..0xfc].copy_from_slice(&options.hash_seed);
    fields[0xfc] = HALF_MD4;
    put16(fields, 0xfe, DESCRIPTOR as u16);
    // Mounts have extended attributes and access control lists.
    put32(fields, 0x100, 0x4 | 0x8);
    put32(fields, 0x108, time as u32);
    put16(fields, 0x15c, 32);
    put16(fields, 0x15e, 32);
    // Hashes of names take bytes as signed.
    put32(fields, 0x160, 1);
    fields[0x174] = LOG_FLEX;
    put32(fields, 0x248, counts.overhead as u32);
    if let Some((root, bytes)) = counts.journal {
        put32(fields, 0xe0, journal::INODE);
        // A copy of the journal's inode, should that be damaged.
        fields[0xfd] = 1;
        fields[0x10c..0x148].copy_from_slice(root);
        put32(fields, 0x148, (bytes >> 32) as u32);
        put32(fields, 0x14c, bytes as u32);
    }
    if options.metadata_checksums {
        fields[0x175] = 1;
        let crc = crc32c(START, &fields[..LEN - 4]);
        put32(fields, LEN - 4, crc);
    }
    block
}

/// The fields of a group descriptor beyond the numbers of its metadata's blocks.
pub(super) struct GroupUsage {
    pub(super) free_blocks: u32,
    pub(super) free_inodes: u32,
    pub(super) directories: u32,
    /// Inodes behind the last in use.
    pub(super) unused_inodes: u32,
    pub(super) flags: u16,
    /// Checksums of the bitmaps; 0 if metadata has none.
    pub(super) block_bitmap_checksum: u32,
    pub(super) inode_bitmap_checksum: u32,
}

/// The descriptor of group `number`. `seed` is the file system's, if metadata has checksums.
pub(super) fn descriptor(
    number: u32,
    group: &Group,
    usage: &GroupUsage,
    uuid: &[u8; 16],
    seed: Option<u32>,
) -> [u8; DESCRIPTOR] {
    let mut fields = [0; DESCRIPTOR];
    put_split32(&mut fields, 0, 32, group.block_bitmap);
    put_split32(&mut fields, 4, 36, group.inode_bitmap);
    put_split32(&mut fields, 8, 40, group.inode_table);
    put_split16(&mut fields, 12, 44, usage.free_blocks);
    put_split16(&mut fields, 14, 46, usage.free_inodes);
    put_split16(&mut fields, 16, 48, usage.directories);
    put16(&mut fields, 18, usage.flags);
    put_split16(&mut fields, 24, 56, usage.block_bitmap_checksum);
    put_split16(&mut fields, 26, 58, usage.inode_bitmap_checksum);
    put_split16(&mut fields, 28, 50, usage.unused_inodes);
    let number = number.to_le_bytes();
    let checksum = match seed {
        Some(seed) => crc32c(crc32c(seed, &number), &fields) as u16,
        None => {
            // Here the checksum itself is left out, not taken for zeros.
            let crc = crc16(crc16(!0, uuid), &number);
            let crc = crc16(crc, &fields[..DESCRIPTOR_CHECKSUM]);
            crc16(crc, &fields[DESCRIPTOR_CHECKSUM + 2..])
        }
    };
    put16(&mut fields, DESCRIPTOR_CHECKSUM, checksum);
    fields
}

/// What the checksums of a file system start with.
pub(super) fn seed(options: &Options) -> Option<u32> {
    options.metadata_checksums.then(|| crc32c(START, &options.uuid))
}

/// What the checksums of an inode start with.
pub(super) fn inode_seed(file_system: Option<u32>, number: u32) -> Option<u32> {
    file_system.map(|seed| inode::seed(seed, number))
}
