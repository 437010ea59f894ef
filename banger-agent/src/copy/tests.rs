use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::protocol::copy::{Announced, Copied, Source};

fn opened(path: &Path) -> Opened {
    Opened::new(path).unwrap()
}

fn copy(from: &str, to: &str) -> Result<Copied, CopyError> {
    let opened = Opened::new(Path::new(from))?;
    let target = Target::find(Path::new(to), &opened.source)?;
    let mut wire = Vec::new();
    let sent = send(opened, &mut wire)?;
    let received = receive(target, &mut &wire[..], &mut AsSent)?;
    assert_eq!((sent.files, sent.links, sent.bytes), (received.files, received.links, received.bytes));
    Ok(received)
}

/// A folder with `src/` (`file`, `empty/`, `sub/link`, `sub/run`), and its path.
fn source() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("src/sub")).unwrap();
    fs::create_dir(root.join("src/empty")).unwrap();
    fs::write(root.join("src/file"), "content").unwrap();
    fs::write(root.join("src/sub/run"), vec![7; 200_000]).unwrap();
    fs::set_permissions(root.join("src/sub/run"), PermissionsExt::from_mode(0o6755)).unwrap();
    symlink("../file", root.join("src/sub/link")).unwrap();
    let path = root.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn copied_directory_keeps_contents_times_and_owner_modes() {
    let (folder, root) = source();
    let copied = copy(&format!("{root}/src"), &format!("{root}/new")).unwrap();
    assert_eq!((copied.files, copied.folders, copied.links, copied.bytes), (2, 3, 1, 200_007));
    let new = folder.path().join("new");
    assert_eq!(fs::read(new.join("sub/run")).unwrap(), vec![7; 200_000]);
    assert_eq!(fs::metadata(new.join("sub/run")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(new.join("sub/link")).unwrap(), Path::new("../file"));
    let mtime = |path: &str| fs::metadata(folder.path().join(path)).unwrap().modified().unwrap();
    assert_eq!(mtime("new/file"), mtime("src/file"));
    assert!(new.join("empty").is_dir());
    let left = fs::read_dir(new.join("sub")).unwrap().count();
    assert_eq!(left, 2);
}

#[test]
fn target_paths_resolve_as_in_docker_cp() {
    let (folder, root) = source();
    let to = |path: &str| format!("{root}/{path}");
    let is_file = |path: &str| folder.path().join(path).is_file();
    for made in ["dir", "dir2"] {
        fs::create_dir(to(made)).unwrap();
    }
    copy(&to("src/file"), &to("dir")).unwrap();
    copy(&to("src/file"), &to("dir/other")).unwrap();
    copy(&to("src/file"), &to("dir2/")).unwrap();
    copy(&to("src"), &to("dir")).unwrap();
    copy(&to("src/."), &to("dir2")).unwrap();
    copy(&to("src/"), &to("made")).unwrap();
    for path in ["dir/file", "dir/other", "dir2/file", "dir/src/file", "dir2/sub/run", "made/file"] {
        assert!(is_file(path), "{path}");
    }
    // Into what is there already: merged, and replaced.
    fs::write(to("made/file"), "changed").unwrap();
    fs::write(to("made/own"), "own").unwrap();
    copy(&to("src/."), &to("made")).unwrap();
    assert_eq!((fs::read(to("made/file")).unwrap(), is_file("made/own")), (b"content".to_vec(), true));

    symlink("dir", to("to-dir")).unwrap();
    copy(&to("src/sub/run"), &to("to-dir")).unwrap();
    assert!(is_file("dir/run"));
    // A link is copied as one, unless a slash follows.
    copy(&to("to-dir"), &to("link")).unwrap();
    assert_eq!(fs::read_link(to("link")).unwrap(), Path::new("dir"));
    copy(&to("to-dir/"), &to("followed")).unwrap();
    assert!(is_file("followed/other"));

    for (from, target, why) in [
        ("src/file", "absent/", "no such folder"),
        ("src/file", "absent/x", "does not exist"),
        ("src/file", "dir/file/", "no folder"),
        ("src", "dir/file", "no folder"),
        ("src/file", "dir/file/x", "no folder"),
        ("src/nothing", "dir", "No such file"),
        ("src/file/", "dir", "Not a directory"),
    ] {
        let error = copy(&to(from), &to(target)).unwrap_err().to_string();
        assert!(error.contains(why), "{from} {target}: {error}");
    }
    // A folder does not make way for a file, nor a file for a folder.
    fs::create_dir_all(to("way/file")).unwrap();
    assert!(copy(&to("src/file"), &to("way")).is_err());
    fs::write(to("way/sub"), "").unwrap();
    assert!(copy(&to("src/."), &to("way")).is_err());
    assert!(folder.path().join("way/file").is_dir() && is_file("way/sub"));
}

#[test]
fn holes_are_preserved_and_procfs_files_have_content() {
    let (folder, root) = source();
    let sparse = folder.path().join("sparse");
    let file = fs::File::create(&sparse).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 1 << 30).unwrap();
    file.set_len(1 << 40).unwrap();
    let copied = copy(&format!("{root}/sparse"), &format!("{root}/copy")).unwrap();
    assert!(copied.bytes < 1 << 20, "{copied:?}");
    let metadata = fs::metadata(folder.path().join("copy")).unwrap();
    assert!(metadata.len() == 1 << 40 && metadata.blocks() < 1000);
    let mut data = [0; 4];
    let copy_of = fs::File::open(folder.path().join("copy")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&copy_of, &mut data, 1 << 30).unwrap();
    assert_eq!(&data, b"data");

    // Their length is announced all the same.
    copy("/proc/self/status", &format!("{root}/status")).unwrap();
    assert!(fs::read_to_string(folder.path().join("status")).unwrap().contains("Name:"));
    let copied = copy("/proc/self/mem", &format!("{root}/mem"));
    assert!(copied.unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn names_may_be_any_bytes_and_special_files_are_skipped() {
    use std::os::unix::ffi::OsStrExt;
    let (folder, root) = source();
    let names: [&[u8]; 5] = [b"new\nline", b"\x1b[2J", b"-rf", b"\xff\xfe", &[b'x'; 255]];
    let name = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    for bytes in names {
        fs::write(folder.path().join("src").join(name(bytes)), "x").unwrap();
    }
    nix::unistd::mkfifo(&folder.path().join("src/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let mut wire = Vec::new();
    let sent = send(opened(&folder.path().join("src")), &mut wire).unwrap();
    assert_eq!((sent.files, sent.skipped), (7, 1));
    copy(&format!("{root}/src"), &format!("{root}/new")).unwrap();
    assert!(names.iter().all(|bytes| folder.path().join("new").join(name(bytes)).is_file()));
    let error = Opened::new(&folder.path().join("src/fifo")).err().unwrap();
    assert!(error.to_string().contains("FIFO"), "{error}");
}

fn entry(path: &str, kind: EntryKind) -> Vec<u8> {
    let mut bytes = Vec::new();
    Entry { path: path.into(), kind: kind.clone(), mtime_ns: i64::MIN }.write(&mut bytes).unwrap();
    if let EntryKind::File { .. } = kind {
        write_piece(&mut bytes, 0, b"evil").unwrap();
        write_piece(&mut bytes, 4, b"").unwrap();
    }
    bytes
}

fn dir(path: &str) -> Vec<u8> {
    entry(path, EntryKind::Folder { mode: 0o7777 })
}

fn file(path: &str) -> Vec<u8> {
    entry(path, EntryKind::File { mode: 0o7777, size: 4 })
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(path, EntryKind::Link { target: target.into() })
}

fn hard_link(path: &str, target: &str) -> Vec<u8> {
    entry(path, EntryKind::HardLink { target: target.into() })
}

/// What is in a folder, to any depth: paths, modes and contents.
fn snapshot(folder: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let content = if metadata.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        all.push((entry.path().to_str().unwrap().to_owned(), metadata.mode(), content));
        if metadata.is_dir() {
            all.extend(snapshot(&entry.path()));
        }
    }
    all.sort();
    all
}

#[test]
fn hostile_entries_cannot_escape_the_target() {
    let host = tempfile::tempdir().unwrap();
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "precious").unwrap();
    let victim = outside.join("victim").to_str().unwrap().to_owned();
    let away = outside.to_str().unwrap();
    let before = snapshot(&outside);
    let mut cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("parent", vec![dir(""), file("../x")]),
        ("absolute", vec![dir(""), file(&victim)]),
        ("dots", vec![dir(""), file("a/../../x")]),
        ("folder is a link", vec![dir(""), link("d", away), file("d/victim")]),
        ("folder becomes a link", vec![dir(""), dir("d"), file("d/x"), link("d", away), file("d/victim")]),
        ("folder over a link", vec![dir(""), link("d", away), dir("d"), file("d/victim")]),
        ("root is a link", vec![link("", away), file("victim")]),
        ("second root", vec![dir(""), link("", away), file("victim")]),
        ("no root", vec![file("x/../../outside/victim")]),
        ("no folder", vec![dir(""), file("absent/x")]),
        ("hard link alone", vec![hard_link("", "x")]),
        ("hard link to a parent", vec![dir(""), hard_link("x", "../outside/victim")]),
        ("hard link to a path", vec![dir(""), hard_link("x", &victim)]),
        ("hard link through a link", vec![dir(""), link("d", away), hard_link("x", "d/victim")]),
        ("hard link to a folder", vec![dir(""), dir("d"), hard_link("x", "d")]),
    ];
    let mut nul = dir("");
    Entry { path: b"a\0b".to_vec(), kind: EntryKind::Folder { mode: 0 }, mtime_ns: 0 }.write(&mut nul).unwrap();
    cases.push(("nul", vec![nul]));
    cases.push(("long", vec![dir(""), file(&"x".repeat(300))]));
    cases.push(("head", vec![vec![0xff; 4]]));
    let mut piece = entry("", EntryKind::Folder { mode: 0 });
    Entry { path: b"f".to_vec(), kind: EntryKind::File { mode: 0o4755, size: 0 }, mtime_ns: 0 }
        .write(&mut piece)
        .unwrap();
    let bytes_at = |offset: u64, length: u32| [&offset.to_le_bytes()[..], &length.to_le_bytes(), b"x"].concat();
    // Not one byte belongs to this file: neither one that is written, nor a hole.
    let pieces = [bytes_at(u64::MAX, 1), bytes_at(0, u32::MAX), bytes_at(0, 1), bytes_at(1, 0), Vec::new()];
    for bytes in pieces {
        cases.push(("piece", vec![piece.clone(), bytes]));
    }
    for (case, entries) in cases {
        let target = host.path().join("target");
        fs::create_dir(&target).unwrap();
        let source = Source { name: "copy".into(), is_folder: true, contents: false };
        let target_of = Target::find(&target, &source).unwrap();
        let error = receive(target_of, &mut &entries.concat()[..], &mut AsSent).unwrap_err();
        assert!(snapshot(&outside) == before, "{case}: {error}");
        let names: Vec<_> = fs::read_dir(host.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names.len(), 2, "{case}: {names:?}");
        let beside = snapshot(&target).into_iter().find(|(path, ..)| path.contains(".banger-copy"));
        assert_eq!(beside, None, "{case}");
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn symlink_at_target_is_replaced_not_followed() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("victim"), "precious").unwrap();
    symlink("victim", host.path().join("name")).unwrap();
    let source = Source { name: "evil".into(), is_folder: false, contents: false };
    let target = Target::find(&host.path().join("name"), &source).unwrap();
    receive(target, &mut &file("")[..], &mut AsSent).unwrap();
    assert_eq!(fs::read(host.path().join("victim")).unwrap(), b"precious");
    let metadata = fs::symlink_metadata(host.path().join("name")).unwrap();
    assert!(metadata.is_file() && metadata.mode() & 0o7777 == 0o777);

    // What was announced as one file is one file.
    for entries in [vec![dir("")], vec![file(""), file("x")], vec![file("x")], vec![]] {
        let target = Target::find(&host.path().join("name"), &source).unwrap();
        assert!(receive(target, &mut &entries.concat()[..], &mut AsSent).is_err());
    }
    // No name at all is for a place that has one.
    for name in ["", ".", "..", "a/b", "../x"] {
        let source = Source { name: name.into(), is_folder: false, contents: false };
        assert!(Target::find(host.path(), &source).is_err(), "{name:?}");
    }
}

#[test]
fn symlinks_swapped_during_copy_are_not_followed() {
    let host = tempfile::tempdir().unwrap();
    let (outside, target) = (host.path().join("outside"), host.path().join("target"));
    for folder in [&outside, &target, &target.join("copy"), &target.join("copy/d")] {
        fs::create_dir(folder).unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (place, aside) = (target.join("copy/d"), target.join("copy/aside"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::rename(&place, &aside);
                let _ = symlink(&outside, &place);
                let _ = fs::remove_file(&place);
                let _ = fs::rename(&aside, &place);
            }
        });
        for number in 0..500 {
            let source = Source { name: "copy".into(), is_folder: true, contents: false };
            let target = Target::find(&target, &source).unwrap();
            let entries = [dir(""), file("other"), file(&format!("d/{number}"))].concat();
            // It may fail, while a link is there or nothing.
            let _ = receive(target, &mut &entries[..], &mut AsSent);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn truncated_stream_leaves_no_partial_file() {
    let (folder, _) = source();
    let mut wire = Vec::new();
    send(opened(&folder.path().join("src")), &mut wire).unwrap();
    for cut in [1, 3, 5, 40, 100, 1000, 100_000, wire.len() - 1] {
        let into = tempfile::tempdir().unwrap();
        let source = Source { name: "copy".into(), is_folder: true, contents: false };
        let target = Target::find(into.path(), &source).unwrap();
        receive(target, &mut &wire[..cut], &mut AsSent).unwrap_err();
        for (path, _, content) in snapshot(into.path()) {
            assert!(!path.contains(".banger-copy"), "{cut}: {path}");
            let whole = [7, 200_000 * usize::from(path.ends_with("run"))].contains(&content.len());
            assert!(whole || Path::new(&path).is_dir() || content.is_empty(), "{cut}: {path}");
        }
    }
}

#[test]
fn file_longer_than_announced_is_an_error() {
    let host = tempfile::tempdir().unwrap();
    let received = |size: u64, pieces: &[(u64, &[u8])]| {
        let mut bytes = Vec::new();
        Entry { path: Vec::new(), kind: EntryKind::File { mode: 0o644, size }, mtime_ns: 0 }.write(&mut bytes).unwrap();
        for (offset, piece) in pieces {
            write_piece(&mut bytes, *offset, piece).unwrap();
        }
        let source = Source { name: "file".into(), is_folder: false, contents: false };
        let target = Target::find(host.path(), &source).unwrap();
        receive(target, &mut &bytes[..], &mut AsSent).map_err(|error| error.to_string())
    };
    let names = || fs::read_dir(host.path()).unwrap().count();
    for (size, pieces, why) in [
        (0, &[(0, &b"x"[..])][..], "longer than was announced"),
        (0, &[(1, b"")], "longer than was announced"),
        (4, &[(0, b"four"), (4, b"x")], "longer than was announced"),
        (4, &[(3, b"xx")], "longer than was announced"),
        (4, &[(0, b"four"), (1 << 40, b"")], "longer than was announced"),
        (4, &[(0, b"four"), (2, b"x")], "not where it can be"),
        (1 << 63, &[(0, b"x"), (1, b"")], "longer than a file can be"),
        // One that becomes shorter, and ends before it ends.
        (4, &[(0, b"two")], "broke"),
    ] {
        let error = received(size, pieces).unwrap_err();
        assert!(error.contains(why) && names() == 0, "{size} {pieces:?}: {error}");
    }
    for (size, pieces, content) in [
        (4, &[(0, &b"four"[..]), (4, b"")][..], &b"four"[..]),
        (9, &[(0, b"four"), (4, b"")], b"four"),
        (4, &[(4, b"")], b"\0\0\0\0"),
        (0, &[(0, b"")], b""),
    ] {
        received(size, pieces).unwrap();
        assert_eq!(fs::read(host.path().join("file")).unwrap(), content);
    }
}

/// Rules that refuse one path, keep two bits of a mode, and have room for so many bytes.
struct Narrow(u64);

impl Rules for Narrow {
    fn mode(&self, mode: u32) -> u32 {
        mode & 0o500
    }

    fn admit(&mut self, _: std::os::fd::BorrowedFd<'_>, path: &[u8], _: &EntryKind) -> Result<(), &'static str> {
        if path == b"d/no" { Err("no") } else { Ok(()) }
    }

    fn make_room(&mut self, _: std::os::fd::BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
        self.0 = self.0.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }
}

#[test]
fn receive_rules_apply_to_every_entry() {
    let host = tempfile::tempdir().unwrap();
    let received = |entries: &[Vec<u8>], room| {
        let source = Source { name: "copy".into(), is_folder: true, contents: false };
        let target = Target::find(host.path(), &source).unwrap();
        receive(target, &mut &entries.concat()[..], &mut Narrow(room)).map_err(|error| error.to_string())
    };
    let modes = || snapshot(host.path()).into_iter().map(|(_, mode, _)| mode & 0o7777).collect::<Vec<_>>();
    received(&[dir(""), dir("d"), file("d/f")], 4).unwrap();
    // A folder can always be filled.
    assert_eq!(modes(), [0o700, 0o700, 0o500]);
    for refused in [file("d/no"), dir("d/no"), link("d/no", "x")] {
        let error = received(&[dir(""), dir("d"), refused], 4).unwrap_err();
        assert_eq!(error, "`copy/d/no` is not copied: no");
        assert!(!host.path().join("copy/d/no").exists());
    }
    let error = received(&[dir(""), file("one"), file("two")], 7).unwrap_err();
    assert!(error.contains("cannot write `copy/two`"), "{error}");
    assert!(host.path().join("copy/one").exists() && !host.path().join("copy/two").exists());
}

#[test]
fn reply_for_another_name_than_requested_is_refused() {
    let asked = |path: &str| {
        let SourcePath { name, contents, is_folder } = SourcePath::new(Path::new(path));
        (name.to_string(), contents, is_folder)
    };
    for (path, name, contents, is_folder) in [
        ("/target/app", "app", false, false),
        ("app", "app", false, false),
        ("/target/app/", "app", false, true),
        ("/target/app//", "app", false, true),
        ("/target/./app", "app", false, false),
        ("/target/app/.", "", true, true),
        ("/target/app/./", "app", false, true),
        ("/target/app/..", "", true, true),
        ("/target/app/../", "", true, true),
        (".", "", true, true),
        ("..", "", true, true),
        ("/", "", true, true),
        ("//", "", true, true),
        ("/.", "", true, true),
        ("/..", "", true, true),
        ("/a/.git", ".git", false, false),
        ("/a/...", "...", false, false),
    ] {
        assert_eq!(asked(path), (name.to_owned(), contents, is_folder), "{path}");
    }
    let names =
        [("app", false), ("", true), (".git", false), ("App", false), ("../app", false), ("app", true), ("", false)];
    for path in ["/target/app", "/target/app/", "/target/app/.", "/"] {
        let asked = SourcePath::new(Path::new(path));
        for (name, contents) in names {
            for is_folder in [false, true] {
                let source = Source { name: name.into(), is_folder, contents };
                let confirmed = asked.confirm(&Announced::from(source.clone()));
                let is_as_asked = match path {
                    "/target/app" => (name, contents) == ("app", false),
                    "/target/app/" => (name, contents, is_folder) == ("app", false, true),
                    _ => (name, contents, is_folder) == ("", true, true),
                };
                match confirmed {
                    Ok(confirmed) => assert!(is_as_asked && confirmed == source, "{path}: {source:?}"),
                    Err(error) => {
                        assert!(!is_as_asked, "{path}: {source:?}");
                        assert!(error.to_string().contains("the VM's agent was asked for"), "{error}");
                    }
                }
            }
        }
    }
}
