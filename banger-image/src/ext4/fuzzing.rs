//! Fuzz target for ext4 file systems: see [`crate::fuzzing`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::check::{check, checksum};
use super::{Metadata, Options, Writer};

/// A file in memory.
pub(crate) fn scratch() -> File {
    memfd_create(c"fuzzing", MFdFlags::MFD_CLOEXEC).expect("memory for a file").into()
}

/// Target: checks a file that may be an ext4 file system. The input is the length of the file in
/// KiB (two bytes, little-endian) and the bytes that it begins with. The file is checked unchanged,
/// and with a correct checksum in its superblock.
pub fn ext4_check(data: &[u8]) {
    let Some((length, start)) = data.split_first_chunk::<2>() else { return };
    let length = u64::from(u16::from_le_bytes(*length)) << 10;
    let file = scratch();
    let start = &start[..start.len().min(length as usize)];
    file.set_len(length).and_then(|()| file.write_all_at(start, 0)).expect("memory for a file");
    let _ = check(&file);
    let mut superblock = [0; 1024];
    if file.read_exact_at(&mut superblock, 1024).is_ok() {
        let sum = checksum(&superblock[..1020]);
        file.write_all_at(&sum.to_le_bytes(), 1024 + 1020).expect("memory for a file");
        let _ = check(&file);
    }
}

/// Inputs to start from: small images with and without checksums of metadata.
pub(crate) fn ext4_seeds() -> Vec<Vec<u8>> {
    let image = |options: Options| -> io::Result<Vec<u8>> {
        let mut writer = Writer::new(scratch(), options).map_err(io::Error::other)?;
        writer.file(b"etc/hostname", Metadata::default(), &mut &b"x\n"[..]).map_err(io::Error::other)?;
        let file = writer.finish().map_err(io::Error::other)?;
        let length = file.metadata()?.len();
        let mut whole = vec![0; length as usize];
        file.read_exact_at(&mut whole, 0)?;
        // Zeros at the end come with the length.
        let used = whole.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Ok([&((length >> 10) as u16).to_le_bytes()[..], &whole[..used]].concat())
    };
    let plain = Options { metadata_checksums: false, ..Options::image() };
    vec![image(Options::image()).expect("an image"), image(plain).expect("an image")]
}
