//! Fuzz target for kernels: see [`crate::fuzzing`].

use std::os::unix::fs::FileExt;

use super::elf;
use super::format::BzImage;
use super::format::fixtures::bz_image_of;
use super::payload::fixtures::compressors;
use super::vmlinux::Payload;
use crate::ext4::fuzzing::scratch;

/// The longest kernel that is extracted here, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Target: checks a file that may be an ELF, and extracts the kernel of one that may be a bzImage.
pub fn kernel(data: &[u8]) {
    let source = scratch();
    source.write_all_at(data, 0).expect("memory for a file");
    let _ = elf::check(&source);
    let Ok(image) = BzImage::read(data, data.len() as u64) else { return };
    let Ok(payload) = Payload::read(&source, image.payload, MAX_BYTES) else { return };
    let (target, length) = (scratch(), payload.length());
    let extracted = payload.extract(&target);
    let written = target.metadata().expect("a file").len();
    assert!(written <= MAX_BYTES + 1, "{written} bytes were written");
    if extracted.is_ok() {
        assert_eq!(written, length);
        elf::check(&target).expect("a kernel");
    }
}

/// Inputs to start from: a bzImage by each compressor, and the ELF in it.
pub(crate) fn kernel_seeds() -> Vec<Vec<u8>> {
    let elf = elf::fixtures::elf(18, b"Linux version 6.12.1");
    let images = compressors(&elf).into_iter().map(|(_, payload)| bz_image_of("6.12.1", &payload));
    images.chain([elf.clone()]).collect()
}
