//! The size of a block, and little-endian numbers in structures on disk.

/// Bytes of a block. All block numbers and lengths in blocks count these.
pub(super) const BLOCK: u64 = 4096;
/// [`BLOCK`] as the length of a slice.
pub(super) const BLOCK_LEN: usize = 4096;

pub(super) fn put16(target: &mut [u8], at: usize, value: u16) {
    target[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(target: &mut [u8], at: usize, value: u32) {
    target[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes a number of 32 bits as two halves of 16 bits, at the offsets `low` and `high`.
pub(super) fn put_split16(target: &mut [u8], low: usize, high: usize, value: u32) {
    put16(target, low, value as u16);
    put16(target, high, (value >> 16) as u16);
}

/// Writes a number of 64 bits as two halves of 32 bits, at the offsets `low` and `high`.
pub(super) fn put_split32(target: &mut [u8], low: usize, high: usize, value: u64) {
    put32(target, low, value as u32);
    put32(target, high, (value >> 32) as u32);
}
