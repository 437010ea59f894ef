//! Images that are only read: every kind of entry, at its limits.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::*;
use crate::ext4::{EntryKind, Error, Special};

/// `cap_net_raw+ep`, as setcap(8) stores it.
pub(super) const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `u::rw-,u:1000:r--,g::r--,m::r--,o::---` in the form of setxattr(2): tags, permissions, ids.
pub(super) const ACL: [u8; 44] = [
    2, 0, 0, 0, //
    1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
    2, 0, 4, 0, 0xe8, 3, 0, 0, //
    4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, //
];

fn owned(mode: u16, uid: u32, gid: u32) -> Metadata {
    Metadata { uid, gid, ..super::mode(mode) }
}

fn noted(xattrs: &[(&str, &[u8])]) -> Metadata {
    let xattrs = xattrs.iter().map(|&(name, value)| (name.into(), value.into())).collect();
    Metadata { xattrs, ..mode(0o644) }
}

/// One of every kind.
pub(super) fn everything(writer: &mut Writer) {
    let device = Special::CharacterDevice { major: 1, minor: 3 };
    writer.special(b"dev/null", owned(0o666, 0, 5), device).unwrap();
    writer.special(b"dev/sda", mode(0o660), Special::BlockDevice { major: 8, minor: 300 }).unwrap();
    writer.special(b"dev/odd", mode(0o660), Special::CharacterDevice { major: 4095, minor: 0xf_ffff }).unwrap();
    writer.special(b"run/fifo", mode(0o600), Special::Fifo).unwrap();
    writer.special(b"run/socket", mode(0o600), Special::Socket).unwrap();
    writer.directory(b"", mode(0o755)).unwrap();
    writer.directory(b"tmp", mode(0o1777)).unwrap();
    writer.file(b"bin/su", mode(0o4755), &mut &b"setuid"[..]).unwrap();
    writer.file(b"secret", owned(0, 70_000, u32::MAX - 1), &mut &b"closed"[..]).unwrap();
    writer.file(b"empty", mode(0o644), &mut &b""[..]).unwrap();
    writer.file(b"large", mode(0o644), &mut &*noise(3 << 20, 9)).unwrap();
    writer.file(b"bin/ping", noted(&[("security.capability", &CAPABILITY)]), &mut &b"ping"[..]).unwrap();
    writer.hard_link(b"bin/pong", b"bin/ping").unwrap();
    writer.symlink(b"short", mode(0o777), "s".repeat(59).as_bytes()).unwrap();
    writer.symlink(b"middling", mode(0o777), "m".repeat(60).as_bytes()).unwrap();
    writer.symlink(b"longest", mode(0o777), "l".repeat(4095).as_bytes()).unwrap();
    writer.file(b"listed", noted(&[("system.posix_acl_access", &ACL)]), &mut &b""[..]).unwrap();
    writer.file(&[0xff; 255], mode(0o644), &mut &b"bytes"[..]).unwrap();
    writer.file(b"line\nbreak", mode(0o644), &mut &b"break"[..]).unwrap();
    writer.directory(b"noted", noted(&[("user.note", b"two \"words\"\0\xff"), ("trusted.empty", b"")])).unwrap();
    writer
        .file(b"much", noted(&[("user.a", &[1; 3000]), ("user.b", &[2; 900]), ("user.c", b"c")]), &mut &b""[..])
        .unwrap();
}

fn assert_everything(image: &Image) {
    image.assert_clean();
    image.assert_stat("/", &["Type: directory", "Mode: 0755", "mtime: 0x3b9aca00:1d6f3454"]);
    image.assert_stat("/dev/null", &["Type: character special", "Mode: 0666", "Group: 5", "01:03"]);
    image.assert_stat("/dev/sda", &["Type: block special", "major/minor number: 08:300"]);
    image.assert_stat("/dev/odd", &["Type: character special", "number: 4095:1048575"]);
    image.assert_stat("/run/fifo", &["Type: FIFO"]);
    image.assert_stat("/run/socket", &["Type: socket"]);
    image.assert_stat("/tmp", &["Mode: 01777"]);
    image.assert_stat("/bin/su", &["Mode: 04755", "Size: 6"]);
    image.assert_stat("/secret", &["Mode: 0000", "User: 70000 Group: -2"]);
    image.assert_stat("/empty", &["Size: 0"]);
    image.assert_stat("/bin/ping", &["Links: 2", "security.capability (20)"]);
    image.assert_stat("/bin/pong", &["Links: 2"]);
    image.assert_stat("/short", &["Type: symlink", "Size: 59", "Blockcount: 0"]);
    image.assert_stat("/middling", &["Type: symlink", "Size: 60", "Blockcount: 8"]);
    image.assert_stat("/longest", &["Type: symlink", "Size: 4095", "Blockcount: 8"]);
    // A version, then tags and permissions, and one id.
    image.assert_stat(
        "/listed",
        &["posix_acl_access (28) = 01 00 00 00 01 00 06 00 02 00 04 00 e8 03 00 00 04 00 04 00 10 00 04 00 20 00 00 00"],
    );
    image.assert_stat("/noted", &["user.note (13)", "trusted.empty (0)"]);
    image.assert_stat("/much", &["user.a (3000)", "user.b (900)", "user.c (1)"]);
    assert_eq!(image.content("/large"), noise(3 << 20, 9));
    assert_eq!(image.xattr("/bin/ping", "security.capability"), CAPABILITY);
    assert_eq!(image.xattr("/much", "user.a"), [1; 3000]);
    assert_eq!(image.xattr("/noted", "user.note"), b"two \"words\"\0\xff");
}

impl Image {
    fn xattr(&self, path: &str, name: &str) -> Vec<u8> {
        let target = self.folder.path().join("value");
        self.ask(&format!("ea_get -f {} {path} {name}", target.display()));
        fs::read(&target).unwrap()
    }
}

#[test]
fn every_entry_type_is_written() {
    let image = write(Options::image(), everything);
    assert_everything(&image);
    // 3 MiB of content, and no more than half of one about it.
    assert!(fs::metadata(&image.path).unwrap().len() < (3 << 20) + (512 << 10));
    assert_everything(&write(Options { metadata_checksums: false, ..Options::image() }, everything));
    assert_everything(&write(Options { metadata_checksums: true, ..Options::disk(1 << 30) }, everything));
}

#[test]
fn empty_image_is_a_valid_file_system() {
    let image = write(Options::image(), |_| {});
    image.assert_stat("/lost+found", &["Type: directory", "Mode: 0700"]);
    write(Options { metadata_checksums: false, ..Options::image() }, |_| {});
}

#[test]
fn same_entries_give_identical_bytes() {
    let options = Options { time: TIME, label: "a label".to_owned(), ..Options::image() }.derived_from(b"a seed");
    let images = [(); 2].map(|()| fs::read(write(options.clone(), everything).path).unwrap());
    assert!(images[0] == images[1]);
    let other = write(Options { uuid: [8; 16], ..options }, everything);
    assert!(fs::read(&other.path).unwrap() != images[0]);
    assert!(other.ask("stats").contains("a label"));
}

#[test]
fn directory_of_100_000_files_is_indexed() {
    let image = write(Options { hash_seed: [5; 16], ..Options::image() }, |writer| {
        for number in 0..100_000 {
            let name = format!("folder/{number}-{}", "é".repeat(number % 50));
            writer.file(name.as_bytes(), mode(0o644), &mut io::empty()).unwrap();
        }
    });
    let tree = image.ask("htree_dump /folder");
    assert!(tree.contains("Indirect levels: 1"), "{}", &tree[..1000]);
    image.assert_stat(&format!("/folder/99949-{}", "é".repeat(49)), &["Type: regular"]);
}

#[test]
fn sparse_file_beyond_4_gib_allocates_only_its_data() {
    const HOLE: u64 = 5 << 30;
    let image = write(Options::image(), |writer| {
        let mut content = (&b"start"[..]).chain(io::repeat(0).take(HOLE)).chain(&b"end"[..]);
        assert_eq!(writer.file(b"sparse", mode(0o644), &mut content).unwrap(), HOLE + 8);
        writer.file(b"hole", mode(0o644), &mut io::repeat(0).take(1 << 20)).unwrap();
    });
    image.assert_stat("/sparse", &[&format!("Size: {}", HOLE + 8), "Blockcount: 16"]);
    image.assert_stat("/hole", &["Size: 1048576", "Blockcount: 0"]);
    assert!(allocated(&image.path) < 256 << 10);
    // Blocks in the file, blocks in the image, and how many: the last line has the end.
    let extents = image.ask("dump_extents /sparse");
    let last: Vec<&str> = extents.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last[4], "1310720", "{extents}");
    let mut end = [0; 8];
    File::open(&image.path).unwrap().read_exact_at(&mut end, last[7].parse::<u64>().unwrap() * 4096).unwrap();
    assert_eq!(end, *b"\0\0\0\0\0end");
}

#[test]
fn fragmented_file_has_a_deep_extent_tree() {
    let mut content = vec![0; 40_000 * 4096];
    for (index, block) in content.chunks_exact_mut(8192).enumerate() {
        block[..4].copy_from_slice(&(index as u32 + 1).to_le_bytes());
    }
    for options in [Options::image(), Options { journal: 0, ..Options::disk(1 << 30) }] {
        let image = write(options, |writer| _ = writer.file(b"comb", mode(0o644), &mut &*content).unwrap());
        assert!(image.ask("dump_extents /comb").contains(" 2/ 2"));
        assert!(image.content("/comb") == content);
    }
}

#[test]
fn hard_links_are_limited_to_65_000() {
    write(Options::image(), |writer| {
        writer.file(b"file", mode(0o644), &mut &b"content"[..]).unwrap();
        for number in 1..65_000 {
            writer.hard_link(format!("links/{number}").as_bytes(), b"file").unwrap();
        }
        let error = writer.hard_link(b"one more", b"file").unwrap_err();
        assert!(matches!(error, Error::TooManyLinks { .. }), "{error}");
        // To replace one of them by itself is no new name.
        writer.hard_link(b"links/7", b"file").unwrap();
        writer.remove(b"links/8").unwrap();
        writer.hard_link(b"one more", b"file").unwrap();
    });
}

#[test]
fn directory_link_count_saturates_beyond_65_000() {
    let image = write(Options::image(), |writer| {
        for number in 0..65_100 {
            writer.directory(format!("many/{number}").as_bytes(), mode(0o755)).unwrap();
        }
    });
    image.assert_stat("/many", &["Links: 1 "]);
}

#[test]
fn out_of_range_times_are_clamped() {
    let at = |seconds| Metadata { mtime: Timestamp { seconds, nanoseconds: 5 }, ..mode(0o644) };
    let image = write(Options::image(), |writer| {
        for seconds in [i64::MIN, -1, 0, 1 << 31, 1 << 33, i64::MAX] {
            writer.file(seconds.to_string().as_bytes(), at(seconds), &mut io::empty()).unwrap();
        }
    });
    for (seconds, shown) in [
        (i64::MIN, "mtime: 0x80000000:00000000"),
        (-1, "mtime: 0xffffffff:00000014"),
        (0, "mtime: 0x00000000:00000014"),
        (1 << 31, "mtime: 0x80000000:00000015"),
        (1 << 33, "mtime: 0x00000000:00000016"),
        (i64::MAX, "mtime: 0x7fffffff:00000003"),
    ] {
        image.assert_stat(&format!("/{seconds}"), &[shown]);
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let image = write(Options::image(), |writer| {
        writer.file(b"a/file", mode(0o600), &mut &*noise(1 << 20, 1)).unwrap();
        writer.file(b"a/file", mode(0o644), &mut &*noise(1 << 20, 2)).unwrap();
        writer.file(b"b/below/deep", mode(0o644), &mut &*noise(1 << 20, 3)).unwrap();
        writer.directory(b"b", mode(0o700)).unwrap();
        writer.hard_link(b"kept", b"b/below/deep").unwrap();
        // The folder that holds the target makes place for the link to it.
        writer.hard_link(b"b", b"b/below/deep").unwrap();
        writer.file(b"c/gone", mode(0o644), &mut &*noise(2 << 20, 4)).unwrap();
        writer.symlink(b"c", mode(0o777), b"a").unwrap();
        writer.file(b"d/removed", mode(0o644), &mut &*noise(1 << 20, 5)).unwrap();
        assert!(writer.remove(b"d").unwrap());
        assert!(!writer.remove(b"d/removed").unwrap());
        writer.file(b"reuses", mode(0o644), &mut &*noise(3 << 20, 6)).unwrap();
        let names: Vec<&[u8]> = writer.children(b"").unwrap().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"a"[..], b"b", b"c", b"kept", b"reuses"]);
        assert_eq!(writer.entry(b"c").unwrap().unwrap().kind, EntryKind::Symlink(b"a"));
        assert_eq!(writer.entry(b"b").unwrap().unwrap().kind, EntryKind::File(1 << 20));
    });
    assert_eq!(image.content("/a/file"), noise(1 << 20, 2));
    assert_eq!(image.content("/kept"), noise(1 << 20, 3));
    assert_eq!(image.content("/reuses"), noise(3 << 20, 6));
    image.assert_stat("/b", &["Links: 2", "Mode: 0644"]);
    // 5 MiB are left, in the 6 that were in use at once; the seventh is a hole.
    assert!(allocated(&image.path) < (5 << 20) + (512 << 10), "{}", allocated(&image.path));
}

#[test]
fn content_can_be_read_back_before_finish() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(folder.path().join("image")).unwrap();
    let mut writer = Writer::new(file, Options::image()).unwrap();
    let content = [noise(20_000, 1), vec![0; 50_000], noise(30_000, 2), vec![0; 20_000]].concat();
    writer.file(b"file", mode(0o644), &mut &*content).unwrap();
    writer.file(b"hole", mode(0o644), &mut &[0; 5000][..]).unwrap();
    for (path, content) in [(b"file", &*content), (b"hole", &[0; 5000])] {
        let mut read = Vec::new();
        writer.content(path).unwrap().unwrap().read_to_end(&mut read).unwrap();
        assert!(read == content);
    }
    assert!(writer.content(b"").unwrap().is_none());
    assert!(writer.content(b"nothing").unwrap().is_none());
}

#[test]
fn invalid_paths_are_refused() {
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), Options::image()).unwrap();
    for path in [&b"/a"[..], b"a/", b"a//b", b".", b"..", b"a/../b", b"./a", b"a\0b", &[b'n'; 256]] {
        let refused = [
            writer.file(path, mode(0o644), &mut io::empty()).unwrap_err(),
            writer.directory(path, mode(0o755)).unwrap_err(),
            writer.hard_link(path, b"x").map_or_else(|error| error, |()| panic!()),
            writer.remove(path).unwrap_err(),
        ];
        let named = |error: &Error| matches!(error, Error::BadPath { .. } | Error::BadLink { .. });
        assert!(refused.iter().all(named), "{refused:?}");
    }
    for refused in [writer.file(b"", mode(0o644), &mut io::empty()).map(drop), writer.remove(b"").map(drop)] {
        assert!(matches!(refused, Err(Error::BadPath { .. })));
    }
    assert_eq!(writer.children(b"").unwrap().count(), 0);
}

#[test]
fn path_through_non_directory_is_its_own_error() {
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), Options::image()).unwrap();
    writer.symlink(b"a/link", mode(0o777), b"/etc").unwrap();
    writer.file(b"a/file", mode(0o644), &mut io::empty()).unwrap();
    for (path, through, is_link) in
        [("a/link/x", "a/link", true), ("a/link/x/y", "a/link", true), ("a/file/x", "a/file", false)]
    {
        match writer.directory(path.as_bytes(), mode(0o755)).unwrap_err() {
            Error::NotADirectory { component, symlink, .. } => {
                assert_eq!((component, symlink), (through.as_bytes().to_vec(), is_link));
            }
            error => panic!("{error}"),
        }
        assert!(matches!(writer.entry(path.as_bytes()), Err(Error::NotADirectory { .. })));
    }
}

#[test]
fn unsupported_metadata_is_refused() {
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), Options::image()).unwrap();
    let large = [0; 4097];
    let xattrs: [(&str, &[u8]); 7] = [
        ("user.large", &large),
        ("user.", b""),
        ("nothing", b""),
        ("system.other", b""),
        ("system.posix_acl_access", b"\x02\0\0\0odd"),
        ("system.posix_acl_access", b"\x01\0\0\0"),
        ("system.posix_acl_default", b""),
    ];
    for xattr in xattrs {
        let refused = writer.file(b"file", noted(&[xattr]), &mut io::empty()).map(drop);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{xattr:?}");
    }
    for target in [&b""[..], &[b't'; 4096], b"t\0"] {
        assert!(matches!(writer.symlink(b"link", mode(0o777), target), Err(Error::Unsupported { .. })));
    }
    let device = Special::BlockDevice { major: 4096, minor: 0 };
    assert!(matches!(writer.special(b"device", mode(0o600), device), Err(Error::Unsupported { .. })));
    for (target, reason) in [(&b"nothing"[..], "is not there"), (b"", "is a folder")] {
        let error = writer.hard_link(b"link", target).unwrap_err();
        assert!(matches!(error, Error::BadLink { reason: given, .. } if given == reason), "{error}");
    }
    assert!(writer.entry(b"link").unwrap().is_none());
}

#[test]
fn failed_content_read_keeps_the_previous_file() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let image = write(Options::image(), |writer| {
        writer.file(b"file", mode(0o644), &mut &b"old"[..]).unwrap();
        let content = noise(3 << 20, 1);
        let error = writer.file(b"file", mode(0o644), &mut content.chain(Broken)).unwrap_err();
        assert!(matches!(error, Error::Content { .. }), "{error}");
    });
    assert_eq!(image.content("/file"), b"old");
    assert!(allocated(&image.path) < 256 << 10);
}
