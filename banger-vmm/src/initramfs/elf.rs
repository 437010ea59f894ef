//! As much of ELF as tells a static program: elf(5).

const HEADER: usize = 64;
const PT_INTERP: u32 = 3;
const EM_X86_64: u16 = 62;

/// Says why `bytes` are no x86-64 program that runs without an interpreter (the dynamic loader).
pub(super) fn check_static(bytes: &[u8]) -> Result<(), &'static str> {
    const DAMAGED: &str = "it is a damaged ELF file";
    // 64 bits, little-endian.
    if bytes.len() < HEADER || !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is no 64-bit ELF file");
    }
    if half(bytes, 18) != Some(EM_X86_64) {
        return Err("it is not for x86-64");
    }
    let offset = bytes[32..40].try_into().map(u64::from_le_bytes).ok().and_then(|offset| usize::try_from(offset).ok());
    let (size, count) = (half(bytes, 54).ok_or(DAMAGED)?, half(bytes, 56).ok_or(DAMAGED)?);
    for index in 0..usize::from(count) {
        let at = offset.and_then(|offset| offset.checked_add(index * usize::from(size))).ok_or(DAMAGED)?;
        let kind = bytes.get(at..).and_then(|header| header.first_chunk()).ok_or(DAMAGED)?;
        if u32::from_le_bytes(*kind) == PT_INTERP {
            return Err("it is not statically linked");
        }
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map(|&half| u16::from_le_bytes(half))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The headers of a program with segments of these types.
    pub(in crate::initramfs) fn executable(segments: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::try_from(segments.len()).unwrap();
        for segment in segments {
            bytes.extend(segment.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn invalid_elf_headers_are_refused() {
        assert!(check_static(&executable(&[1, 2])).is_ok());
        let mut outside = executable(&[1]);
        outside[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(check_static(&outside).is_err());
        assert!(check_static(&executable(&[1, 1])[..70]).is_err());
        assert!(check_static(b"").is_err());
    }
}
