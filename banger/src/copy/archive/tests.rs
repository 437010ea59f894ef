//! Archives as GNU tar makes and reads them, and hostile ones.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use banger_agent::copy::{AsSent, CopyError, Entry, EntryKind, Opened, Target, receive, send, write_piece};
use banger_agent::protocol::WireBytes;
use banger_agent::protocol::copy::{Copied, Source};
use tar::{Builder, EntryType, Header};

use super::read::plain;
use super::{read, write};

/// GNU tar, fed with `input`.
fn tar(folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    output.stdout
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("src/a/b")).unwrap();
    fs::write(root.join("src/a/b/file"), vec![3; 150_000]).unwrap();
    fs::write(root.join("src").join("n".repeat(200)), "long name").unwrap();
    std::os::unix::fs::symlink("a/b/file", root.join("src/link")).unwrap();
    let sparse = fs::File::create(root.join("src/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 300_000).unwrap();
    sparse.set_len(500_000).unwrap();
}

fn archived(path: &Path) -> Vec<u8> {
    let opened = Opened::new(path).unwrap();
    let source = opened.source.clone();
    let (mut wire, mut archive) = (Vec::new(), Vec::new());
    send(opened, &mut wire).unwrap();
    write(&source, &mut &wire[..], &mut archive).unwrap();
    archive
}

fn assert_same(one: &Path, other: &Path) {
    let output = Command::new("diff").arg("-r").arg("--no-dereference").args([one, other]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn archives_are_exchanged_with_tar_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    tree(root);
    fs::create_dir(root.join("unpacked")).unwrap();
    tar(&root.join("unpacked"), &["-x"], &archived(&root.join("src")));
    assert_same(&root.join("src"), &root.join("unpacked/src"));
    assert!(tar(root, &["-t"], &archived(&root.join("src/."))).starts_with(b"link\n"));
    assert_eq!(tar(root, &["-t"], &archived(&root.join("src/link"))), b"link\n");

    for options in [&["-c", "src"][..], &["-c", "--format=pax", "./src"], &["-c", "-S", "src"], &["-c", "src/a/b/file"]]
    {
        let archive = tar(root, options, b"");
        let source = Source { name: WireBytes::default(), is_folder: true, contents: true };
        let into = tempfile::tempdir().unwrap();
        let mut wire = Vec::new();
        let sent = read(&archive[..], &mut wire).unwrap();
        let received = receive(Target::find(into.path(), &source).unwrap(), &mut &wire[..], &mut AsSent).unwrap();
        assert_eq!((sent.files, sent.bytes), (received.files, received.bytes));
        if options.contains(&"src/a/b/file") {
            assert_eq!(fs::read(into.path().join("src/a/b/file")).unwrap().len(), 150_000);
        } else {
            assert_same(&root.join("src"), &into.path().join("src"));
        }
    }
}

#[test]
fn file_changed_while_read_keeps_its_header_size() {
    for pieces in [&[(0, 100)][..], &[(0, 1000), (2000, 1000)], &[]] {
        let mut wire = Vec::new();
        let kind = EntryKind::File { mode: 0o7777, size: 4000 };
        Entry { path: Vec::new(), kind, mtime_ns: 0 }.write(&mut wire).unwrap();
        for (offset, length) in pieces {
            write_piece(&mut wire, *offset, &vec![1; *length]).unwrap();
        }
        write_piece(&mut wire, 3500, &[]).unwrap();
        let source = Source { name: "f".into(), is_folder: false, contents: false };
        let mut archive = Vec::new();
        write(&source, &mut &wire[..], &mut archive).unwrap();
        let mut archive = tar::Archive::new(&archive[..]);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let entries: Vec<_> = entries.map(|entry| (entry.size(), entry.header().mode().unwrap())).collect();
        assert_eq!(entries, [(4000, 0o755)]);
    }
}

#[test]
fn inconsistent_stream_is_refused() {
    let head = |kind: &EntryKind, path: &str| {
        let mut wire = Vec::new();
        Entry { path: path.into(), kind: kind.clone(), mtime_ns: 0 }.write(&mut wire).unwrap();
        wire
    };
    let (folder, file) = (EntryKind::Folder { mode: 0o755 }, EntryKind::File { mode: 0o644, size: 1 });
    let mut long = Vec::new();
    write_piece(&mut long, 0, b"xx").unwrap();
    let mut hole = Vec::new();
    write_piece(&mut hole, 1 << 40, b"").unwrap();
    for (wire, is_folder) in [
        (head(&folder, ""), false),
        (head(&file, ""), true),
        (head(&folder, "x"), true),
        ([head(&folder, ""), head(&folder, "")].concat(), true),
        ([head(&file, ""), long].concat(), false),
        ([head(&file, ""), hole].concat(), false),
        (Vec::new(), true),
    ] {
        let source = Source { name: "f".into(), is_folder, contents: false };
        write(&source, &mut &wire[..], &mut Vec::new()).unwrap_err();
    }
    for name in ["", "..", "a/b"] {
        let source = Source { name: name.into(), is_folder: true, contents: false };
        write(&source, &mut &head(&folder, "")[..], &mut Vec::new()).unwrap_err();
    }
}

/// What an archive makes of an empty directory.
fn unpacked(archive: &[u8]) -> Result<(tempfile::TempDir, Copied), CopyError> {
    let into = tempfile::tempdir().unwrap();
    let source = Source { name: WireBytes::default(), is_folder: true, contents: true };
    let mut wire = Vec::new();
    read(archive, &mut wire)?;
    let copied = receive(Target::find(into.path(), &source).unwrap(), &mut &wire[..], &mut AsSent)?;
    Ok((into, copied))
}

/// What a program makes of `input`.
fn filter(program: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program}");
    output.stdout
}

#[test]
fn compressed_archives_are_verified_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let plain = tar(folder.path(), &["-c", "src"], b"");
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let packed = filter(program, &plain);
        let (into, _) = unpacked(&packed).unwrap_or_else(|error| panic!("{program}: {error}"));
        assert_same(&folder.path().join("src"), &into.path().join("src"));
        for cut in [packed.len() / 2, packed.len() - 2] {
            assert!(unpacked(&packed[..cut]).is_err(), "{program} cut at {cut}");
        }
    }
    for nothing in [Vec::new(), filter("gzip", b"")] {
        let error = unpacked(&nothing).err().unwrap().to_string();
        assert!(error.contains("there is nothing in the stream"), "{error}");
    }
    // An archive without entries is one.
    assert_eq!(unpacked(&tar(folder.path(), &["-c", "-T", "/dev/null"], b"")).unwrap().1, Copied::default());
    let error = unpacked(&filter("gzip", b"no archive")).err().unwrap().to_string();
    assert!(error.contains("no tar archive"), "{error}");
    let error = unpacked(&plain[..plain.len() / 2]).err().unwrap().to_string();
    assert!(error.contains("in the middle of a file"), "{error}");
}

#[test]
fn decompression_bomb_uses_bounded_memory() {
    // A name of 4 GiB of zeros, and a hole of as many.
    let mut header = Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(4 << 30);
    header.set_cksum();
    let bomb = [header.as_bytes(), &[0; 100_000][..]].concat();
    let error = unpacked(&filter("gzip", &bomb)).err().unwrap().to_string();
    assert!(error.contains("more than 1 MiB"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("hole")).unwrap().set_len(4 << 30).unwrap();
    let (into, copied) = unpacked(&tar(folder.path(), &["-c", "-S", "hole"], b"")).unwrap();
    assert_eq!((copied.bytes, fs::metadata(into.path().join("hole")).unwrap().len()), (0, 4 << 30));
}

#[test]
fn hard_links_stay_within_the_archive() {
    use std::os::unix::fs::MetadataExt;

    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    tree(root);
    fs::hard_link(root.join("src/a/b/file"), root.join("src/a/other")).unwrap();
    fs::hard_link(root.join("src/link"), root.join("src/other-link")).unwrap();
    let (into, copied) = unpacked(&tar(root, &["-c", "src"], b"")).unwrap();
    assert_same(&root.join("src"), &into.path().join("src"));
    let inode = |path: &str| fs::symlink_metadata(into.path().join(path)).unwrap().ino();
    assert_eq!(inode("src/a/b/file"), inode("src/a/other"));
    assert_eq!(inode("src/link"), inode("src/other-link"));
    assert_eq!((copied.files, copied.links), (5, 1));
    // Again, over what is there.
    let source = Source { name: WireBytes::default(), is_folder: true, contents: true };
    let mut wire = Vec::new();
    read(&tar(root, &["-c", "src"], b"")[..], &mut wire).unwrap();
    receive(Target::find(into.path(), &source).unwrap(), &mut &wire[..], &mut AsSent).unwrap();
    assert_eq!(inode("src/a/b/file"), inode("src/a/other"));
    assert_same(&root.join("src"), &into.path().join("src"));

    for target in ["/etc/passwd", "../victim", "absent", "later", "d", "d/../../victim", ""] {
        let mut archive = Builder::new(Vec::new());
        let mut add = |name: &str, kind: EntryType, link: Option<&str>| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(0);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            let link = link.unwrap_or_default().as_bytes();
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        };
        add("d", EntryType::Directory, None);
        add("hard", EntryType::Link, Some(target));
        add("later", EntryType::Regular, None);
        let error = unpacked(&archive.into_inner().unwrap()).err();
        assert!(error.is_some(), "{target}");
    }
}

#[test]
fn paths_outside_the_target_are_refused() {
    for (path, plain_path) in [("/etc/x", "etc/x"), ("./a//b/", "a/b"), (".", ""), ("a/./b", "a/b")] {
        assert_eq!(plain(path.as_bytes()).unwrap(), plain_path.as_bytes());
    }
    for path in ["../x", "a/../../x", "a/.."] {
        assert!(plain(path.as_bytes()).is_err(), "{path}");
    }
    let nothing = read(&b"this is no archive"[..], &mut Vec::new());
    assert!(nothing.unwrap_err().to_string().contains("the archive"));
}
