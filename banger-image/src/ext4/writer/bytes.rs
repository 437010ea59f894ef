//! Little-endian numbers at their places in a structure.

/// Bytes of a block, the unit of everything.
pub(super) const BLOCK: u64 = 4096;
/// The same as a length in memory.
pub(super) const BLOCK_LEN: usize = 4096;

pub(super) fn put16(target: &mut [u8], at: usize, value: u16) {
    target[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(target: &mut [u8], at: usize, value: u32) {
    target[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Puts the halves of a number whose upper half lies elsewhere.
pub(super) fn put_split16(target: &mut [u8], low: usize, high: usize, value: u32) {
    put16(target, low, value as u16);
    put16(target, high, (value >> 16) as u16);
}

/// Puts the halves of a number whose upper half lies elsewhere.
pub(super) fn put_split32(target: &mut [u8], low: usize, high: usize, value: u64) {
    put32(target, low, value as u32);
    put32(target, high, (value >> 32) as u32);
}
