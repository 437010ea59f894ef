//! Fuzz target for tar streams: see [`crate::fuzzing`].

use std::io::Read;

use tar::{Builder, EntryType, Header};

use super::{Reader, Type};

/// A tar stream unchanged, and with correct checksums in its headers: without that, hardly any
/// changed header gets past its checksum.
pub(crate) fn with_checksums(data: &[u8]) -> [Vec<u8>; 2] {
    let mut whole = data.to_vec();
    for block in whole.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    [data.to_vec(), whole]
}

/// Target: reads a tar stream and the content of its files. A stream has at most an entry a block,
/// and what is stored of a file comes from it.
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

/// Inputs to start from: tar streams of all dialects that [`Reader`] knows.
pub(crate) fn tar_seeds() -> Vec<Vec<u8>> {
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
