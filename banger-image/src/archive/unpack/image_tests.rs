//! From a tar stream to a file system, judged by e2fsprogs itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use tar::{Builder, EntryType, Header};

use super::unpack;
use crate::error::{Error, Result};
use crate::ext4::{self, Options, Writer};

/// `cap_net_raw+ep`, as setcap(8) stores it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const TIME: u64 = 1_000_000_000;

fn header(kind: EntryType, mode: u32, uid: u64, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(uid);
    header.set_mtime(TIME);
    header.set_size(size as u64);
    header
}

/// A tar stream under construction.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Tar {
        Tar(Builder::new(Vec::new()))
    }

    fn file(mut self, path: &str, mode: u32, uid: u64, content: &[u8]) -> Tar {
        let mut header = header(EntryType::Regular, mode, uid, content.len());
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    fn folder(mut self, path: &str, mode: u32) -> Tar {
        self.0.append_data(&mut header(EntryType::Directory, mode, 0, 0), path, &[][..]).unwrap();
        self
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str) -> Tar {
        self.0.append_link(&mut header(kind, 0o777, 0, 0), path, target).unwrap();
        self
    }

    fn device(mut self, kind: EntryType, path: &str, major: u32, minor: u32) -> Tar {
        let mut header = header(kind, 0o620, 5, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &[][..]).unwrap();
        self
    }

    fn xattr(mut self, name: &str, value: &[u8]) -> Tar {
        let key = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(key.as_str(), value)]).unwrap();
        self
    }

    /// An entry whose path is written as it is, however wrong.
    fn raw(mut self, path: &[u8]) -> Tar {
        let mut header = header(EntryType::Regular, 0o644, 0, 0);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    fn write(self, folder: &Path) -> Result<PathBuf> {
        let bytes = self.0.into_inner().unwrap();
        write(&bytes, folder)
    }
}

/// Makes a file system of a tar stream.
fn write(mut stream: &[u8], folder: &Path) -> Result<PathBuf> {
    let output = folder.join("out.ext4");
    let mut writer = Writer::new(fs::File::create(&output)?.into_file(), Options::image())?;
    unpack(&mut stream, &mut writer)?;
    writer.finish()?;
    Ok(output)
}

/// What a read-only debugfs says.
fn ask(disk: &Path, request: &str) -> String {
    let output = Command::new("/usr/sbin/debugfs").args(["-R", request]).arg(disk).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_clean(disk: &Path) {
    let output = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(disk).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Asserts that `stat` of `path` says all of `expected`.
fn assert_stat(disk: &Path, path: &str, expected: &[&str]) {
    let stat = ask(disk, &format!("stat \"{path}\""));
    let words = stat.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in expected {
        assert!(words.contains(expected), "{path}: no `{expected}` in: {words}");
    }
}

#[test]
fn every_tar_entry_type_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Tar::new()
        .device(EntryType::Char, "./dev/null", 1, 3)
        .folder("./", 0o755)
        .folder("./tmp/", 0o1777)
        .file("./bin/su", 0o4755, 0, b"setuid")
        .file("./home/it's \"a\" file", 0o640, 1000, b"mine")
        .file("./secret", 0o000, 70_000, b"closed")
        .file("./empty", 0o644, 0, b"")
        .file("./large", 0o644, 0, &vec![7; 3 << 20])
        .xattr("security.capability", &CAPABILITY)
        .file("./bin/ping", 0o755, 0, b"ping")
        .xattr("user.note", b"two \"words\"\0\xff")
        .folder("./noted", 0o2750)
        .link(EntryType::Link, "./bin/pong", "./bin/ping")
        .link(EntryType::Symlink, "./dangling", "/no/such/file")
        .link(EntryType::Symlink, "./long", &"x/".repeat(100))
        .device(EntryType::Block, "./dev/sda", 8, 300)
        .device(EntryType::Fifo, "./run/fifo", 0, 0)
        .write(dir.path())
        .unwrap();

    assert_clean(&disk);
    assert_stat(&disk, "/", &["Type: directory Mode: 0755", "User: 0 Group: 0"]);
    assert_stat(&disk, "/tmp", &["Mode: 01777", "mtime: 0x3b9aca00"]);
    assert_stat(&disk, "/bin/su", &["Type: regular Mode: 04755", "User: 0 Group: 0", "Size: 6", "mtime: 0x3b9aca00"]);
    assert_stat(&disk, "/home/it's \"\"a\"\" file", &["Mode: 0640", "User: 1000 Group: 1000", "Size: 4"]);
    assert_stat(&disk, "/secret", &["Mode: 0000", "User: 70000 Group: 70000"]);
    assert_stat(&disk, "/empty", &["Size: 0"]);
    assert_stat(&disk, "/large", &["Size: 3145728"]);
    assert_stat(&disk, "/bin/ping", &["Links: 2", "security.capability (20)"]);
    assert_stat(&disk, "/bin/pong", &["Links: 2"]);
    assert_stat(&disk, "/noted", &["Mode: 02750", "user.note (13)"]);
    assert_stat(
        &disk,
        "/dangling",
        &["Type: symlink Mode: 0777", "User: 0 Group: 0", "\"/no/such/file\"", "mtime: 0x3b9aca00"],
    );
    assert_stat(&disk, "/long", &["Type: symlink", "Size: 200"]);
    assert_stat(
        &disk,
        "/dev/null",
        &["Type: character special Mode: 0620", "User: 5 Group: 5", "01:03", "mtime: 0x3b9aca00"],
    );
    assert_stat(&disk, "/dev/sda", &["Type: block special", "major/minor number: 08:300"]);
    assert_stat(&disk, "/run/fifo", &["Type: FIFO Mode: 0620", "User: 5 Group: 5"]);
    assert_eq!(ask(&disk, "cat \"/home/it's \"\"a\"\" file\""), "mine");
    let dumped = dir.path().join("value");
    ask(&disk, &format!("ea_get -f {} /bin/ping security.capability", dumped.display()));
    assert_eq!(fs::read(dumped).unwrap(), CAPABILITY);
}

#[test]
fn many_small_files_and_a_large_directory_fit() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Tar::new();
    for i in 0..3000 {
        tar = tar.file(&format!("folder/{i:0>80}"), 0o644, 0, b"x");
    }
    assert_clean(&tar.write(dir.path()).unwrap());
}

#[test]
fn empty_archive_makes_a_valid_file_system() {
    let dir = tempfile::tempdir().unwrap();
    assert_clean(&Tar::new().write(dir.path()).unwrap());
}

#[test]
fn later_entry_replaces_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Tar::new()
        .file("a", 0o644, 0, b"first")
        .file("a", 0o600, 7, b"second")
        .folder("b", 0o755)
        .file("b", 0o644, 0, b"file")
        .write(dir.path())
        .unwrap();
    assert_clean(&disk);
    assert_eq!(ask(&disk, "cat /a"), "second");
    assert_stat(&disk, "/a", &["Mode: 0600", "User: 7"]);
    assert_stat(&disk, "/b", &["Type: regular"]);
}

#[test]
fn pax_mtime_keeps_nanoseconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Tar::new();
    tar.0.append_pax_extensions([("mtime", &b"1000000001.25"[..])]).unwrap();
    let disk = tar.file("a", 0o644, 0, b"").write(dir.path()).unwrap();
    assert_stat(&disk, "/a", &["mtime: 0x3b9aca01:3b9aca00"]);
}

#[test]
fn paths_outside_the_root_are_refused() {
    type Case = fn(Tar) -> Tar;
    let cases: [(&str, Case); 6] = [
        ("up", |tar| tar.raw(b"../evil")),
        ("up from within", |tar| tar.raw(b"a/../../evil")),
        ("absolute", |tar| tar.raw(b"/evil")),
        ("below a symlink", |tar| tar.link(EntryType::Symlink, "way", "/etc").file("way/evil", 0o644, 0, b"")),
        ("hard link up", |tar| tar.link(EntryType::Link, "link", "../outside/victim")),
        ("hard link below a symlink", |tar| {
            tar.link(EntryType::Symlink, "way", "/etc").link(EntryType::Link, "link", "way/passwd")
        }),
    ];
    for (name, case) in cases {
        let dir = tempfile::tempdir().unwrap();
        let written = case(Tar::new()).write(dir.path());
        assert!(
            matches!(written, Err(Error::Archive { .. } | Error::FileSystem(ext4::Error::NotADirectory { .. }))),
            "{name}: {written:?}"
        );
    }
}

#[test]
fn contradictory_entries_are_refused() {
    let cases: [fn(Tar) -> Tar; 4] = [
        |tar| tar.file("a", 0o644, 0, b"1").file("a/b", 0o644, 0, b"2"),
        |tar| tar.link(EntryType::Link, "a", "later").file("later", 0o644, 0, b""),
        |tar| tar.file("a", 0o644, 1 << 33, b""),
        |tar| tar.xattr("nameless", b"value").file("a", 0o644, 0, b""),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let written = case(Tar::new()).write(dir.path());
        assert!(matches!(written, Err(Error::Archive { .. } | Error::FileSystem(_))), "{number}: {written:?}");
    }
}

#[test]
fn truncated_archive_is_an_error() {
    let bytes = Tar::new().file("a", 0o644, 0, &[1; 5000]).0.into_inner().unwrap();
    for length in [100, 512, 1000, 5000] {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(&bytes[..length], dir.path()).is_err(), "{length}");
    }
}
