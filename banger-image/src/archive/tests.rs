//! Every dialect, from GNU tar itself and by hand, and streams that lie.

use std::process::Command;

use super::*;

/// A header to be.
pub(crate) struct Raw {
    block: [u8; BLOCK],
}

pub(crate) fn entry(path: &str, kind: u8) -> Raw {
    let mut block = [0; BLOCK];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    Raw { block }.mode(0o644).owner(0, 0).octal(136, 12, 1_000_000_000)
}

impl Raw {
    fn octal(mut self, at: usize, length: usize, number: u64) -> Raw {
        let text = format!("{number:0width$o}\0", width = length - 1);
        self.block[at..at + length].copy_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn mode(self, mode: u64) -> Raw {
        self.octal(100, 8, mode)
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Raw {
        self.octal(108, 8, uid).octal(116, 8, gid)
    }

    pub(crate) fn device(self, major: u64, minor: u64) -> Raw {
        self.octal(329, 8, major).octal(337, 8, minor)
    }

    fn bytes(mut self, at: usize, bytes: &[u8]) -> Raw {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn done(mut self) -> [u8; BLOCK] {
        self.block[148..156].fill(b' ');
        let sum: u64 = self.block.iter().map(|&byte| u64::from(byte)).sum();
        self.octal(148, 7, sum).block
    }
}

/// A tar stream under construction, as no library would write it.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn add(&mut self, raw: Raw, content: &[u8]) -> &mut Tar {
        self.0.extend(raw.octal(124, 12, content.len() as u64).done());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> &mut Tar {
        self.add(entry(path, b'0'), content)
    }

    pub(crate) fn folder(&mut self, path: &str) -> &mut Tar {
        self.add(entry(path, b'5').mode(0o755), b"")
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> &mut Tar {
        self.add(entry(path, b'2').bytes(157, target.as_bytes()), b"")
    }

    pub(crate) fn hard_link(&mut self, path: &str, target: &str) -> &mut Tar {
        self.add(entry(path, b'1').bytes(157, target.as_bytes()), b"")
    }

    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Tar {
        self.add(entry("pax", b'x'), &pax(records))
    }

    /// With the two blocks of zeros.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        std::mem::take(&mut self.0)
    }
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        content.extend(format!("{length} {key}=").bytes().chain(value.iter().copied()).chain([b'\n']));
    }
    content
}

fn read(stream: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(stream);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        if entry.size < 64 << 20 {
            reader.read_to_end(&mut content)?;
            if content.len() as u64 != entry.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        entries.push((entry, content));
    }
    Ok(entries)
}

#[test]
fn all_gnu_tar_formats_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    std::fs::create_dir(path(&"d".repeat(120))).unwrap();
    std::fs::write(path(&long), "long").unwrap();
    std::os::unix::fs::symlink("t".repeat(150), path("link")).unwrap();
    let sparse = std::fs::File::create(path("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1 << 20).unwrap();
    for piece in 1..40 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", (piece << 18) + (2 << 20)).unwrap();
    }
    sparse.set_len(20 << 20).unwrap();
    let expected = std::fs::read(path("sparse")).unwrap();
    let forms: [&[&str]; 5] = [
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=pax"],
    ];
    for form in forms {
        let output =
            Command::new("tar").args(form).args(["-cC"]).arg(folder.path()).args([&long, "link", "sparse"]).output();
        let output = output.unwrap();
        assert!(output.status.success());
        let entries = read(&output.stdout).unwrap();
        let at = |name: &str| entries.iter().find(|(entry, _)| entry.path == name.as_bytes()).expect(name);
        assert_eq!(at(&long).1, b"long", "{form:?}");
        assert_eq!(at("link").0.link, "t".repeat(150).as_bytes());
        assert!(at("sparse").1 == expected, "{form:?}");
    }
}

#[test]
fn ustar_prefix_is_joined_and_trailing_slash_is_a_directory() {
    let mut tar = Tar::default();
    tar.add(entry("name", b'0').bytes(345, b"prefix/of"), b"1");
    tar.add(entry("old/", 0), b"");
    tar.add(entry("gnu", b'0').bytes(257, b"ustar  \0").bytes(345, b"atime"), b"");
    let entries = read(&tar.end()).unwrap();
    let paths: Vec<_> = entries.iter().map(|(entry, _)| String::from_utf8_lossy(&entry.path).into_owned()).collect();
    assert_eq!(paths, ["prefix/of/name", "old", "gnu"]);
    assert_eq!(entries[1].0.kind, Type::Directory);
}

#[test]
fn pax_size_overrides_header_size() {
    // The header's own size is another: whoever took that would read the next header from inside of
    // the content.
    let mut hidden = Tar::default();
    let hidden = hidden.file("hidden", b"").end();
    let mut tar = Tar::default();
    let size = hidden.len().to_string();
    tar.pax(&[("size", size.as_bytes())]);
    let at = tar.0.len();
    tar.file("outer", &hidden);
    let header = entry("outer", b'0').octal(124, 12, 0).done();
    tar.0[at..at + BLOCK].copy_from_slice(&header);
    tar.add(entry("link", b'2').bytes(157, b"x"), b"");
    let entries = read(&tar.end()).unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries[0].1 == hidden);
    // A link that claims content: other readers pass over none either.
    let mut tar = Tar::default();
    let mut stream = entry("link", b'2').bytes(157, b"x").octal(124, 12, 512).done().to_vec();
    stream.extend(tar.file("next", b"n").end());
    assert_eq!(read(&stream).unwrap().len(), 2);
}

#[test]
fn global_pax_headers_apply_until_overridden() {
    let mut tar = Tar::default();
    tar.add(entry("g", b'g'), &pax(&[("mtime", b"5"), ("comment", b"x")]));
    tar.file("a", b"").pax(&[("mtime", b"-1.5")]).file("b", b"").pax(&[("mtime", b"")]).file("c", b"");
    let times: Vec<_> = read(&tar.end()).unwrap().iter().map(|(entry, _)| entry.mtime.seconds).collect();
    assert_eq!(times, [5, -2, 1_000_000_000]);
}

#[test]
fn many_small_headers_are_accepted() {
    let mut tar = Tar::default();
    for number in 0..1000 {
        tar.add(entry("g", b'g'), &pax(&[("comment", format!("{number:040}").as_bytes()), ("uid", b"7")]));
    }
    tar.pax(&[("SCHILY.xattr.user.a", b"1")]).pax(&[("SCHILY.xattr.user.a", b"2"), ("SCHILY.xattr.user.b", b"3")]);
    tar.file("a", b"x").pax(&[("uid", b"8")]).file("b", b"y");
    let entries = read(&tar.end()).unwrap();
    let attributes = [(b"user.a".to_vec(), b"2".to_vec()), (b"user.b".to_vec(), b"3".to_vec())];
    assert_eq!((entries[0].0.uid, &entries[0].0.xattrs[..], &entries[0].1[..]), (7, &attributes[..], &b"x"[..]));
    assert_eq!((entries[1].0.uid, entries[1].0.xattrs.len()), (8, 0));
}

/// A stream that repeats itself, and counts what is read of it.
struct Endless {
    unit: Vec<u8>,
    read: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.unit[self.read % self.unit.len()..];
        let length = left.len().min(buffer.len());
        buffer[..length].copy_from_slice(&left[..length]);
        self.read += length;
        Ok(length)
    }
}

#[test]
fn endless_headers_are_refused_before_buffering() {
    let value = vec![b'a'; (1 << 20) - 100];
    let attributes: Vec<(String, &[u8])> =
        (0..10_000).map(|number| (format!("SCHILY.xattr.user.{number}"), &b""[..])).collect();
    let attributes: Vec<_> = attributes.iter().map(|(key, value)| (&key[..], *value)).collect();
    let mut global = Tar::default();
    global.add(entry("g", b'g'), &pax(&[("comment", &value)])).file("a", b"");
    let cases = [
        ("global headers", unit(b'g', &pax(&[("comment", &value)]))),
        ("global headers between entries", global.0),
        ("extended headers", unit(b'x', &pax(&[("path", &value)]))),
        ("attributes", unit(b'x', &pax(&attributes))),
        ("long names", unit(b'L', &value)),
        ("long targets", unit(b'K', &value)),
        ("empty headers", unit(b'x', b"")),
    ];
    for (name, unit) in cases {
        let mut stream = Endless { unit, read: 0 };
        let mut reader = Reader::new(&mut stream);
        let error = (0..1100).find_map(|_| reader.next().err()).expect(name);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        assert!(stream.read < 6 << 20, "{name}: {} bytes were read", stream.read);
    }
}

#[test]
fn endless_headers_are_refused_under_a_memory_limit() {
    let test = "archive::tests::endless_headers_are_refused_before_buffering";
    let mut limited = Command::new("sh");
    // In KiB, of addresses: what a test's threads reserve is a part of it.
    limited.args(["-c", "ulimit -v 1000000; exec \"$0\" --exact \"$1\""]);
    let output = limited.arg(std::env::current_exe().unwrap()).arg(test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

/// One header with its content.
fn unit(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut tar = Tar::default();
    tar.add(entry("header", kind), content);
    tar.0
}

#[test]
fn binary_numbers_are_read_within_limits() {
    let uid = |bytes: &[u8; 8]| read(&Tar::default().add(entry("a", b'0').bytes(108, bytes), b"").end());
    assert_eq!(uid(b"\x80\0\0\0\x12\x34\x56\x78").unwrap()[0].0.uid, 0x1234_5678);
    assert_eq!(uid(b"\0\0\0\0\0\0\0\0").unwrap()[0].0.uid, 0);
    for bad in [b"\x80\0\0\x01\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"9999999\0", b"-000001\0"] {
        uid(bad).unwrap_err();
    }
    for bad in ["-1", "4294967296", "99999999999999999999999", "x"] {
        assert!(read(&Tar::default().pax(&[("uid", bad.as_bytes())]).file("a", b"").end()).is_err(), "{bad}");
    }
    let past = entry("a", b'0').bytes(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe");
    assert_eq!(read(&Tar::default().add(past, b"").end()).unwrap()[0].0.mtime.seconds, -2);
}

#[test]
fn wrong_lengths_and_offsets_are_refused() {
    let header = |raw: Raw| raw.done().to_vec();
    let sparse = |map: &[u8], size: &[u8]| {
        Tar::default().pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]).file("s", b"abc").end()
    };
    let mut wrong_sum = header(entry("a", b'0'));
    wrong_sum[0] = b'b';
    let one_dot_zero = |content: &[u8]| {
        let records: [(&str, &[u8]); 3] =
            [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")];
        Tar::default().pax(&records).file("s", content).end()
    };
    let cases: [(&str, Vec<u8>); 17] = [
        ("a header that is cut off", vec![1; 100]),
        ("a wrong checksum", wrong_sum),
        ("an unknown type", header(entry("a", b'V').octal(124, 12, 0))),
        ("a size beyond all", header(entry("a", b'0').bytes(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"))),
        ("a negative size", header(entry("a", b'0').bytes(124, &[0xff; 12]))),
        ("content that is cut off", header(entry("a", b'0').octal(124, 12, 10))),
        ("a long name of 4 GiB", header(entry("a", b'L').octal(124, 12, 4 << 30))),
        ("a long name at the end", Tar::default().add(entry("a", b'L'), b"name").end()),
        ("a pax header of 4 GiB", header(entry("a", b'x').octal(124, 12, 4 << 30))),
        ("a record longer than its header", Tar::default().add(entry("a", b'x'), b"99 path=b\n").end()),
        ("a record without an end", Tar::default().add(entry("a", b'x'), b"9 path=bc").end()),
        ("pieces that overlap", sparse(b"0,2,1,1", b"9")),
        ("pieces outside", sparse(b"7,3", b"9")),
        ("pieces of another sum", sparse(b"0,2", b"9")),
        ("pieces beyond numbers", sparse(b"18446744073709551615,3", b"9")),
        ("a map of too many pieces", one_dot_zero(&[b"9999999\n".to_vec(), vec![b'0'; 1024]].concat())),
        ("a map of no numbers", one_dot_zero(&[b'x'; 600])),
    ];
    for (name, stream) in cases {
        assert!(read(&stream).is_err(), "{name}");
    }
    // What umoci 0.4 leaves out at the end is missed by nobody.
    assert_eq!(read(&Tar::default().file("a", b"abc").0[..BLOCK + 3]).unwrap()[0].1, b"abc");
    // Only zeros, or nothing at all, is an archive without entries.
    assert!(read(&[0; 1024]).unwrap().is_empty() && read(b"").unwrap().is_empty());
}

#[test]
fn changed_or_truncated_archive_never_panics() {
    let mut good = Tar::default();
    good.pax(&[("path", b"p"), ("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,3")])
        .file("s", b"abc")
        .symlink("l", "x");
    let good = good.end();
    // Every byte of a stream changed, and every length of it: an answer, and no panic or endless
    // work.
    for at in 0..good.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = good.clone();
            changed[at] ^= change;
            let _ = read(&changed);
        }
        let _ = read(&good[..at]);
    }
}
