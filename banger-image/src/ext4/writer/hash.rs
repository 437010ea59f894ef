//! The hash that names are ordered by in a folder's index: half of MD4 (the kernel's
//! fs/ext4/hash.c).

use std::array;

/// What an index says its hash is. That bytes count as signed is said in the superblock:
/// mke2fs does the same on most hosts, and some readers know nothing else.
pub(super) const HALF_MD4: u8 = 1;

const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// Bytes that are mixed in at once.
const CHUNK: usize = 32;
/// The highest hash means "the end" to readdir.
const END: u32 = 0xffff_fffe;

/// Hashes a name with the file system's secret, which is not used if it is all zeros. The lowest
/// bit is 0.
pub(super) fn half_md4(name: &[u8], secret: &[u8; 16]) -> u32 {
    let mut state = START;
    if *secret != [0; 16] {
        let (words, _) = secret.as_chunks::<4>();
        state = array::from_fn(|index| u32::from_le_bytes(words[index]));
    }
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = &rest[rest.len().min(CHUNK)..];
    }
    match state[1] & !1 {
        END => END - 2,
        hash => hash,
    }
}

/// The first 32 bytes of what is left of a name, as big-endian words; what is missing is filled
/// with its length.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = rest.len() as u32 & 0xff;
    let padding = length * 0x0101_0101;
    let mut words = [padding; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes
            .iter()
            .fold(padding, |word, &byte| i32::from(byte.cast_signed()).cast_unsigned().wrapping_add(word << 8));
    }
    words
}

/// Mixes three words of the state.
type Mix = fn(u32, u32, u32) -> u32;

/// One of the three rounds: how it mixes, what it adds, in which order it takes the input, and how
/// far it rotates.
struct Round(Mix, u32, [usize; 8], [u32; 4]);

const ROUNDS: [Round; 3] = [
    Round(|x, y, z| z ^ (x & (y ^ z)), 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
    Round(|x, y, z| (x & y).wrapping_add((x ^ y) & z), 0x5a82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
    Round(|x, y, z| x ^ y ^ z, 0x6ed9_eba1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
];

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    for Round(mix, constant, order, shifts) in ROUNDS {
        for (step, index) in order.into_iter().enumerate() {
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(input[index]).wrapping_add(constant);
            (a, b, c, d) = (d, sum.rotate_left(shifts[step % 4]), b, c);
        }
    }
    for (word, change) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(change);
    }
}
