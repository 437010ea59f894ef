//! Inodes (Documentation/filesystems/ext4/inodes.rst).

use super::bytes::{put_split16, put_split32, put16, put32};
use super::checksum::crc32c;
use super::error::{Error, Result};
use super::extent::IBlock;
use super::layout::INODE;
use super::options::{Metadata, Special, Timestamp};

pub(super) const LEN: usize = INODE as usize;
/// Bytes behind the first 128 that are fields; the rest is for extended attributes.
const EXTRA: u16 = 32;
/// Where extended attributes begin.
const ATTRIBUTES: usize = 128 + EXTRA as usize;
/// Room for extended attributes in an inode.
pub(super) const ATTRIBUTES_LEN: usize = LEN - ATTRIBUTES;

/// A folder with an index over its names.
pub(super) const INDEX: u32 = 0x1000;
/// The content is found by extents.
pub(super) const EXTENTS: u32 = 0x8_0000;

pub(super) const DIRECTORY: u16 = 0o040_000;
pub(super) const REGULAR: u16 = 0o100_000;
pub(super) const SYMLINK: u16 = 0o120_000;

/// The last second that the format knows, in the year 2446.
const LAST_SECOND: i64 = (3 << 32) + i32::MAX as i64;

/// What an inode is made of.
pub(super) struct Fields<'a> {
    pub(super) kind: u16,
    pub(super) metadata: &'a Metadata,
    pub(super) links: u16,
    pub(super) size: u64,
    /// All blocks that belong to it.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    pub(super) root: &'a IBlock,
    /// The block of extended attributes; 0 for none.
    pub(super) attribute_block: u64,
    /// Extended attributes in the inode; all zeros for none.
    pub(super) attributes: [u8; ATTRIBUTES_LEN],
}

impl Fields<'_> {
    /// Writes the inode; `seed` is its own, if metadata has checksums.
    pub(super) fn encode(&self, seed: Option<u32>) -> [u8; LEN] {
        let mut inode = [0; LEN];
        put16(&mut inode, 0, self.kind | self.metadata.mode);
        put_split16(&mut inode, 2, 120, self.metadata.uid);
        put_split16(&mut inode, 24, 122, self.metadata.gid);
        put_split32(&mut inode, 4, 108, self.size);
        let (seconds, extra) = time(self.metadata.mtime);
        // Access, change, modification, and creation.
        for (low, high) in [(8, 140), (12, 132), (16, 136), (144, 148)] {
            put32(&mut inode, low, seconds);
            put32(&mut inode, high, extra);
        }
        put16(&mut inode, 26, self.links);
        let sectors = self.blocks * 8;
        put32(&mut inode, 28, sectors as u32);
        put16(&mut inode, 116, (sectors >> 32) as u16);
        put32(&mut inode, 32, self.flags);
        inode[40..100].copy_from_slice(self.root);
        put32(&mut inode, 104, self.attribute_block as u32);
        put16(&mut inode, 118, (self.attribute_block >> 32) as u16);
        put16(&mut inode, 128, EXTRA);
        inode[ATTRIBUTES..].copy_from_slice(&self.attributes);
        if let Some(seed) = seed {
            let crc = crc32c(seed, &inode);
            put_split16(&mut inode, 124, 130, crc);
        }
        inode
    }
}

/// What the checksums of an inode, and of its own blocks, start with: number and generation, which
/// is 0.
pub(super) fn seed(file_system: u32, number: u32) -> u32 {
    crc32c(crc32c(file_system, &number.to_le_bytes()), &[0; 4])
}

/// The low 32 bits of the seconds; two more bits of them below the nanoseconds.
fn time(time: Timestamp) -> (u32, u32) {
    let seconds = time.seconds.clamp(i32::MIN.into(), LAST_SECOND);
    let nanoseconds = if seconds == time.seconds { time.nanoseconds.min(999_999_999) } else { 0 };
    let low = seconds as u32;
    let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
    (low, nanoseconds << 2 | epoch as u32)
}

/// The type in an inode's mode.
pub(super) fn special_kind(special: Special) -> u16 {
    match special {
        Special::Fifo => 0o010_000,
        Special::CharacterDevice { .. } => 0o020_000,
        Special::BlockDevice { .. } => 0o060_000,
        Special::Socket => 0o140_000,
    }
}

/// What an inode of that kind holds instead of content: device numbers, in the old form if they
/// fit.
pub(super) fn special_root(special: Special) -> IBlock {
    let mut root = [0; 60];
    if let Special::CharacterDevice { major, minor } | Special::BlockDevice { major, minor } = special {
        if major < 256 && minor < 256 {
            put32(&mut root, 0, major << 8 | minor);
        } else {
            put32(&mut root, 4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
        }
    }
    root
}

/// Makes sure that a device's numbers can be expressed.
pub(super) fn check_special(path: &[u8], special: Special) -> Result<()> {
    match special {
        Special::CharacterDevice { major, minor } | Special::BlockDevice { major, minor }
            if major >= 1 << 12 || minor >= 1 << 20 =>
        {
            Err(Error::Unsupported {
                path: path.to_owned(),
                reason: format!("a device with the numbers {major}:{minor}"),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_times_match_the_kernel_documentation() {
        // inodes.rst, "Inode Timestamps"; decoded as the low half, signed, plus the epoch.
        for (seconds, low, epoch) in [
            (i64::from(i32::MIN), 0x8000_0000, 0),
            (-1, 0xffff_ffff, 0),
            (0x7fff_ffff, 0x7fff_ffff, 0),
            (0x8000_0000, 0x8000_0000, 1),
            (0x1_7fff_ffff, 0x7fff_ffff, 1),
            (0x3_7fff_ffff, 0x7fff_ffff, 3),
            (i64::MAX, 0x7fff_ffff, 3),
            (i64::MIN, 0x8000_0000, 0),
        ] {
            assert_eq!(time(Timestamp { seconds, nanoseconds: 0 }), (low, epoch), "{seconds}");
        }
        assert_eq!(time(Timestamp { seconds: 1, nanoseconds: 999_999_999 }), (1, 999_999_999 << 2));
    }
}
