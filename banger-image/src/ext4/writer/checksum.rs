//! The checksums of ext4: CRC-32C for metadata, CRC-16 for group descriptors where metadata has
//! none.
//!
//! Both are the kernel's `crc32c_le` and `crc16`: no final inversion, the caller chains and seeds
//! (Documentation/filesystems/ext4/checksums.rst).

/// What a chain of CRC-32C, or of CRC-16, starts with.
pub(in crate::ext4) const START: u32 = !0;

/// Reversed polynomials.
const CASTAGNOLI: u32 = 0x82f6_3b78;
const ANSI: u16 = 0xa001;

/// `TABLES[n][byte]` is the checksum of `byte` followed by `n` zero bytes: eight bytes are taken at
/// once.
static TABLES: [[u32; 256]; 8] = tables();

static TABLE_16: [u16; 256] = table_16();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { CASTAGNOLI } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[n - 1][byte];
            tables[n][byte] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        n += 1;
    }
    tables
}

const fn table_16() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { ANSI } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// Goes on with the CRC-32C `crc` over `bytes`.
pub(in crate::ext4) fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let word = u64::from_le_bytes(*chunk) ^ u64::from(crc);
        crc = 0;
        for (place, byte) in word.to_le_bytes().into_iter().enumerate() {
            crc ^= TABLES[7 - place][usize::from(byte)];
        }
    }
    for &byte in rest {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

/// Goes on with the CRC-16 `crc` over `bytes`.
pub(in crate::ext4) fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(crc, |crc, &byte| (crc >> 8) ^ TABLE_16[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_check_values_match_the_catalogue() {
        assert_eq!(!crc32c(START, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c(crc32c(START, b"12345"), b"6789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
