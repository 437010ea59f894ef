//! Fuzz targets for what this crate reads of images and of those who made them. `fuzz/` runs them
//! under libFuzzer, and the test `fuzzing` of `banger-tests` for a bounded number of inputs.
//! `docs/fuzzing.md` says how.
//!
//! A target takes any bytes and panics if a promise is broken. It never fails on bad input.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tar::{Builder, EntryType, Header};

use crate::archive::{Reader, Type};
use crate::ext4::{self, Metadata, Options, Writer};

pub use crate::oci::fuzzing::{layer, oci_config, oci_manifest};

/// A target: its name, its function, and inputs to start from.
pub type Target = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

/// All targets of this crate.
pub fn targets() -> Vec<Target> {
    use crate::oci::fuzzing::{config_seeds, manifest_seeds};
    vec![
        ("tar", tar, tar_seeds()),
        ("layer", layer, tar_seeds()),
        ("ext4_check", ext4_check, ext4_seeds()),
        ("oci_manifest", oci_manifest, manifest_seeds()),
        ("oci_config", oci_config, config_seeds()),
    ]
}

/// A file in memory.
pub(crate) fn scratch() -> File {
    memfd_create(c"fuzzing", MFdFlags::MFD_CLOEXEC).expect("memory for a file").into()
}

/// The stream as it is, and once more with the checksums that its headers should have: else hardly
/// any change of a header gets past its checksum.
pub(crate) fn with_checksums(data: &[u8]) -> [Vec<u8>; 2] {
    let mut whole = data.to_vec();
    for block in whole.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    [data.to_vec(), whole]
}

/// A tar stream, and the content of its files. A stream has at most an entry a block, and what is
/// stored of a file comes from it.
pub fn tar(data: &[u8]) {
    for stream in with_checksums(data) {
        let mut reader = Reader::new(&stream[..]);
        let (mut entries, mut read) = (0, 0);
        while let Ok(Some(entry)) = reader.next() {
            entries += 1;
            assert!(entry.kind == Type::File || entry.size == 0);
            let mut at = 0;
            while at < entry.size {
                if reader.is_at_hole() {
                    let hole = reader.skip_hole();
                    assert!(hole > 0);
                    at += hole;
                    continue;
                }
                let mut buffer = [0; 4096];
                match reader.read(&mut buffer) {
                    Ok(count @ 1..) => (at, read) = (at + count as u64, read + count),
                    _ => break,
                }
            }
            assert!(at <= entry.size);
        }
        assert!(entries <= stream.len() / 512 && read <= stream.len());
    }
}

fn tar_seeds() -> Vec<Vec<u8>> {
    let header = |kind: EntryType, size: usize| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_size(size as u64);
        header
    };
    let archive = |entries: &[(EntryType, &str, &[u8])]| {
        let mut builder = Builder::new(Vec::new());
        for (kind, path, content) in entries {
            let mut header = header(*kind, content.len());
            builder.append_data(&mut header, path, *content).expect("an entry");
        }
        builder.into_inner().expect("an archive")
    };
    let link = |kind: EntryType, path: &str, target: &str| {
        let mut builder = Builder::new(Vec::new());
        builder.append_link(&mut header(kind, 0), path, target).expect("a link");
        // Without the two empty blocks that end an archive: another may follow.
        let mut bytes = builder.into_inner().expect("an archive");
        bytes.truncate(512);
        bytes
    };
    let pax = |kind: EntryType, records: &[(&str, &[u8])]| {
        let mut content = Vec::new();
        for (key, value) in records {
            // The length counts itself; two digits do for these.
            let length = key.len() + value.len() + 5;
            content.extend([format!("{length} {key}=").as_bytes(), value, b"\n"].concat());
        }
        let mut builder = Builder::new(Vec::new());
        builder.append_data(&mut header(kind, content.len()), "pax", &content[..]).expect("an entry");
        let mut bytes = builder.into_inner().expect("an archive");
        bytes.truncate(1024);
        bytes
    };
    let plain: &[(EntryType, &str, &[u8])] = &[
        (EntryType::Directory, "etc/", b""),
        (EntryType::Regular, "etc/hostname", b"x\n"),
        (EntryType::Regular, "etc/.wh.gone", b""),
        (EntryType::Regular, "var/.wh..wh..opq", b""),
        (EntryType::Fifo, "run/fifo", b""),
    ];
    let (extended, global) = (EntryType::XHeader, EntryType::XGlobalHeader);
    let path = pax(extended, &[("path", b"long/name"), ("mtime", b"1.5"), ("uid", b"7")]);
    let xattr = pax(extended, &[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n")]);
    let sparse = pax(
        extended,
        &[("GNU.sparse.size", b"1048576"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"4096,512")],
    );
    let modern =
        pax(extended, &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1048576")]);
    let file = |content: &[u8]| archive(&[(EntryType::Regular, "f", content)]);
    let mut mapped = b"1\n4096\n512\n".to_vec();
    mapped.resize(1024, b'x');
    let mut zeroed = b"1\n4096\n512\n".to_vec();
    zeroed.resize(512, 0);
    vec![
        archive(plain),
        [link(EntryType::Symlink, "a", "/etc"), link(EntryType::Link, "b", "a"), archive(plain)].concat(),
        [pax(global, &[("mtime", b"7"), ("comment", b"x")]), path, file(b"x")].concat(),
        [xattr, file(b"x")].concat(),
        [sparse, file(&[b'x'; 512])].concat(),
        [modern, file(&[&zeroed[..], &[b'x'; 512]].concat())].concat(),
        file(&mapped),
    ]
}

/// A file that may be an ext4 file system: its length in KiB (two bytes), and what it begins with.
/// Looked at as it is, and with the checksum that its superblock should have.
pub fn ext4_check(data: &[u8]) {
    let Some((length, start)) = data.split_first_chunk::<2>() else { return };
    let length = u64::from(u16::from_le_bytes(*length)) << 10;
    let file = scratch();
    let start = &start[..start.len().min(length as usize)];
    file.set_len(length).and_then(|()| file.write_all_at(start, 0)).expect("memory for a file");
    let _ = ext4::check(&file);
    let mut superblock = [0; 1024];
    if file.read_exact_at(&mut superblock, 1024).is_ok() {
        let sum = ext4::checksum(&superblock[..1020]);
        file.write_all_at(&sum.to_le_bytes(), 1024 + 1020).expect("memory for a file");
        let _ = ext4::check(&file);
    }
}

fn ext4_seeds() -> Vec<Vec<u8>> {
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
