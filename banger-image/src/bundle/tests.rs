//! Bundles as they are made, as others make them, and as they must not be.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::ext4::{Metadata, Options, Writer};
use crate::fetch::http::server::{Server, cut, response};
use crate::fetch::pinned::PinnedReader;
use crate::progress::Silent;
use crate::store::Store;

/// A small root file system whose `/etc/hostname` is `name`, in a file of `folder`.
pub(crate) fn rootfs(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("{name}.ext4"));
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut writer = Writer::new(file, Options::image()).unwrap();
    writer.file(b"etc/hostname", Metadata::default(), &mut name.as_bytes()).unwrap();
    // Not to be compressed.
    let noise: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    writer.file(b"noise", Metadata::default(), &mut &noise[..]).unwrap();
    writer.finish().unwrap();
    path
}

/// The bundle of an image with this root file system.
pub(crate) fn bundle_of(rootfs: &Path) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    store.register("made", rootfs, "generic-6.12", &Silent).unwrap();
    let mut bytes = Vec::new();
    let exported = store.export("made", &mut bytes, &Silent).unwrap();
    assert_eq!((exported.sha256, exported.size), (Digest::of(&bytes), bytes.len() as u64));
    bytes
}

fn named(location: &str, bytes: &[u8]) -> Pinned {
    Pinned { location: location.parse().unwrap(), sha256: Digest::of(bytes), size: bytes.len() as u64 }
}

/// What comes of unpacking a bundle of these bytes that is in a file.
fn unpack(bytes: &[u8], max_bytes: u64) -> Result<(BundleManifest, tempfile::TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.tar.zst");
    fs::write(&path, bytes).unwrap();
    let manifest = super::unpack(&named(path.to_str().unwrap(), bytes), folder.path(), max_bytes, &Silent)?;
    Ok((manifest, folder))
}

/// What comes of a bundle on a server.
fn get(server: &Server, bytes: &[u8]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let bundle = named(&format!("http://{}/b.tar.zst", server.address), bytes);
    super::unpack(&bundle, folder.path(), 1 << 30, &Silent)?;
    Ok(fs::read(folder.path().join(ROOTFS)).unwrap())
}

/// A bundle of these members, as a script would make it.
fn packed(members: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::new(*kind));
        if matches!(kind, b'1' | b'2') {
            header.set_link_name("/etc/passwd").unwrap();
        }
        // As it is written, `..` included.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap()
}

fn manifest(rootfs_bytes: usize) -> Vec<u8> {
    let platform = Platform::host();
    format!(
        r#"{{"format_version": 1, "description": "", "kernel": "k", "ready": "agent", "platform": "{platform}", "rootfs_bytes": {rootfs_bytes}, "new": 1}}"#
    )
    .into_bytes()
}

#[test]
fn bundle_is_reproducible_and_keeps_holes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sh = |script: &str| {
        let ran = Command::new("sh").args(["-euc", script]).current_dir(folder.path()).status().unwrap();
        assert!(ran.success(), "{script}");
    };
    sh(&format!("/usr/sbin/mke2fs -q -F -t ext4 -d {}/src sparse 200M", env!("CARGO_MANIFEST_DIR")));
    sh("cp --sparse=never sparse full");
    let (bytes, of_full) = (bundle_of(&at("sparse")), bundle_of(&at("full")));
    assert!(bytes == of_full && bytes.len() < 1 << 20, "{} {}", bytes.len(), of_full.len());

    let (says, unpacked) = unpack(&bytes, 1 << 30).unwrap();
    assert_eq!((says.rootfs_bytes, says.kernel.as_str(), says.oci.is_none()), (200 << 20, "generic-6.12", true));
    let there = fs::File::open(unpacked.path().join(ROOTFS)).unwrap();
    let original = fs::File::open(at("sparse")).unwrap();
    let blocks = |file: &fs::File| file.metadata().unwrap().blocks();
    assert!(blocks(&there) <= blocks(&original), "{} {}", blocks(&there), blocks(&original));
    let pieces = |file: &fs::File| sparse::pieces(file.file(), 1).unwrap();
    assert_eq!(pieces(&there), pieces(&original));

    // Other programs can read it, and what they make is taken.
    fs::write(at("b.tar.zst"), &bytes).unwrap();
    sh("mkdir x; tar -C x --zstd -xf b.tar.zst; cmp x/rootfs.ext4 full; test $(stat -c %b x/rootfs.ext4) -lt 20000");
    sh("tar -C x --zstd --sparse -cf again.tar.zst .; tar -C x --zstd -cf plain.tar.zst rootfs.ext4 manifest.json");
    for name in ["again.tar.zst", "plain.tar.zst"] {
        let (_, unpacked) = unpack(&fs::read(at(name)).unwrap(), 1 << 30).unwrap();
        let file = fs::File::open(unpacked.path().join(ROOTFS)).unwrap();
        assert_eq!((file.metadata().unwrap().len(), pieces(&file)), (200 << 20, pieces(&original)), "{name}");
        assert!(blocks(&file) <= blocks(&original), "{name}");
    }
}

#[test]
fn invalid_bundles_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let rootfs = fs::read(rootfs(folder.path(), "a")).unwrap();
    let says = manifest(rootfs.len());
    let good: [(&str, u8, &[u8]); 2] = [(MANIFEST, b'0', &says), (ROOTFS, b'0', &rootfs)];
    let whole = packed(&good);
    unpack(&whole, 1 << 30).unwrap();
    unpack(&packed(&[("./", b'5', b""), (ROOTFS, b'0', &rootfs), ("./manifest.json", b'0', &says)]), 1 << 30).unwrap();

    let with =
        |path: &'static str, kind: u8, content: &'static [u8]| packed(&[good[0], good[1], (path, kind, content)]);
    let of = |manifest: &[u8]| packed(&[(MANIFEST, b'0', manifest), good[1]]);
    let mut damaged = rootfs.clone();
    damaged[1024 + 0x78] ^= 1;
    let text = |from: &str, to: &str| String::from_utf8(says.clone()).unwrap().replace(from, to).into_bytes();
    let cases: [(&str, Vec<u8>, &str); 18] = [
        ("another file", with("run.sh", b'0', b"x"), "run.sh"),
        ("a path upwards", with("../x", b'0', b"x"), "../x"),
        ("an absolute path", with("/etc/passwd", b'0', b"x"), "nothing else"),
        ("a second manifest", with(MANIFEST, b'0', b"{}"), "nothing else"),
        ("a second file system", with(ROOTFS, b'0', b"x"), "nothing else"),
        ("a link", packed(&[good[0], (ROOTFS, b'2', b"")]), "nothing else"),
        ("a hard link", packed(&[good[0], (ROOTFS, b'1', b"")]), "nothing else"),
        ("a device", with("sda", b'4', b""), "nothing else"),
        ("no manifest", packed(&good[1..]), "does not have it"),
        ("no file system", packed(&good[..1]), "does not have it"),
        ("nothing", packed(&[]), "does not have it"),
        ("another length", of(&manifest(1)), "says 1"),
        ("no JSON", of(b"{"), "malformed"),
        ("a newer format", of(&text("\"format_version\": 1", "\"format_version\": 2")), "format version 2"),
        ("another platform", of(&text("linux/", "linux/mips-not-")), "it is for"),
        ("a manifest without end", of(&vec![b' '; 5 << 20]), "4 MiB"),
        ("a damaged file system", packed(&[good[0], (ROOTFS, b'0', &damaged)]), "superblock is damaged"),
        ("no file system in the file", packed(&[good[0], (ROOTFS, b'0', &vec![0; rootfs.len()])]), "no ext4"),
    ];
    for (name, bytes, reason) in cases {
        let error = unpack(&bytes, 1 << 30).map(drop).expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    // A stream that ends early, or is none at all; each of the digest and size that are expected.
    for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 5], &b"<html>it works</html>"[..], b""] {
        let error = unpack(bytes, 1 << 30).map(drop).unwrap_err();
        assert!(matches!(error, Error::Image { .. } | Error::Archive { .. }), "{error}");
    }
    let behind = [&whole[..], b"and more"].concat();
    assert!(matches!(unpack(&behind, 1 << 30), Err(Error::Image { .. })));
}

#[test]
fn bundle_bomb_stops_at_the_size_limit() {
    // One that unpacks to more than it may, and one whose file system is a hole of a terabyte.
    let zeros = packed(&[(MANIFEST, b'0', &manifest(1 << 20)), (ROOTFS, b'0', &vec![0; 100 << 20])]);
    assert!(zeros.len() < 100 << 10);
    assert!(matches!(unpack(&zeros, 16 << 20), Err(Error::ImageTooLarge { limit: 16_777_216 })));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(MANIFEST), manifest(1 << 40)).unwrap();
    let file = fs::File::create(folder.path().join(ROOTFS)).unwrap();
    file.set_len(1 << 40).unwrap();
    let tar = "tar --sparse --format=posix --zstd -cf b.tar.zst manifest.json rootfs.ext4";
    assert!(Command::new("sh").args(["-c", tar]).current_dir(folder.path()).status().unwrap().success());
    let hole = fs::read(folder.path().join("b.tar.zst")).unwrap();
    assert!(matches!(unpack(&hole, 1 << 36), Err(Error::ImageTooLarge { .. })));
    // Where it may be so large, it is a hole here too.
    let begin = std::time::Instant::now();
    assert!(unpack(&hole, 1 << 41).map(drop).unwrap_err().to_string().contains("no ext4"));
    assert!(begin.elapsed().as_secs() < 10);
}

#[test]
fn download_resumes_after_interruption() {
    let folder = tempfile::tempdir().unwrap();
    let expected = fs::read(rootfs(folder.path(), "a")).unwrap();
    let bytes = bundle_of(&folder.path().join("a.ext4"));
    let (whole, half) = (bytes.clone(), bytes.len() / 2);
    let server = Server::new(move |request, number| match (number, request.header("range")) {
        (1, None) => cut("", whole.len(), &whole[..half]),
        (2, Some(range)) if range == format!("bytes={half}-") => {
            response("500 Internal Server Error", "retry-after: 0\r\n", b"")
        }
        (3, Some(range)) if range == format!("bytes={half}-") => {
            let header = format!("content-range: bytes {half}-{}/{}\r\n", whole.len() - 1, whole.len());
            response("206 Partial Content", &header, &whole[half..])
        }
        other => panic!("{other:?}"),
    });
    assert!(get(&server, &bytes).unwrap() == expected);
    assert_eq!(server.requests().len(), 3);
    // A server that does not know ranges sends all again.
    let whole = bytes.clone();
    let server = Server::new(move |_, number| match number {
        1 => cut("", whole.len(), &whole[..half]),
        _ => response("200 OK", "", &whole),
    });
    assert!(get(&server, &bytes).unwrap() == expected);
    // And another then, which has something else now.
    let (whole, mut other) = (bytes.clone(), bytes.clone());
    other[half + 9] ^= 1;
    let server = Server::new(move |_, number| match number {
        1 => cut("", whole.len(), &whole[..half]),
        _ => response("200 OK", "", &other),
    });
    get(&server, &bytes).unwrap_err();
}

#[test]
fn redirects_are_followed_up_to_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bundle_of(&rootfs(folder.path(), "a"));
    let whole = bytes.clone();
    let other = Server::new(move |_, _| response("200 OK", "", &whole));
    let location = format!("location: http://{}/there?signed=1\r\n", other.address);
    let server = Server::new(move |request, _| match request.path.as_str() {
        "/b.tar.zst" => response("302 Found", "location: /once/more\r\n", b""),
        _ => response("307 Temporary Redirect", &location, b""),
    });
    get(&server, &bytes).unwrap();
    assert_eq!(other.requests()[0].path, "/there?signed=1");
    let circle = Server::new(|request, _| response("302 Found", &format!("location: {}\r\n", request.path), b""));
    assert!(get(&circle, &bytes).unwrap_err().to_string().contains("more than 10 times"));
    let out = Server::new(|_, _| response("302 Found", "location: file:///etc/passwd\r\n", b""));
    assert!(get(&out, &bytes).unwrap_err().to_string().contains("redirects to"));
}

#[test]
fn content_that_differs_from_the_catalog_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bundle_of(&rootfs(folder.path(), "a"));
    let another = bundle_of(&rootfs(folder.path(), "b"));
    assert_eq!(another.len(), bytes.len(), "of the same length");
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    let longer = [&bytes[..], b"!"].concat();
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("another bundle", response("200 OK", "", &another), "its content is sha256:"),
        ("a damaged one", response("200 OK", "", &damaged), ""),
        ("a longer one", response("200 OK", "", &longer), "and should have"),
        ("a shorter one", response("200 OK", "", &bytes[1..]), "and should have"),
        (
            "a longer one of no length",
            [&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], &longer].concat(),
            "more came",
        ),
        ("none", response("404 Not Found", "", b"<html>"), "404"),
    ];
    for (name, answer, reason) in cases {
        let server = Server::new(move |_, _| answer.clone());
        let error = get(&server, &bytes).expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
        assert_eq!(server.requests().len(), 1, "{name}");
    }
    let wait = Server::new(|_, _| response("503 Service Unavailable", "retry-after: 3600\r\n", b""));
    assert!(get(&wait, &bytes).unwrap_err().hint().unwrap().contains("3600 s"));
    // Files are checked in the same way.
    let path = folder.path().join("b.tar.zst");
    fs::write(&path, &another).unwrap();
    let error = super::unpack(&named(path.to_str().unwrap(), &bytes), folder.path(), 1 << 30, &Silent).unwrap_err();
    assert!(error.to_string().contains("its content is"), "{error}");
    fs::write(&path, &longer).unwrap();
    let error = super::unpack(&named(path.to_str().unwrap(), &bytes), folder.path(), 1 << 30, &Silent).unwrap_err();
    assert!(error.to_string().contains("should have"), "{error}");
    let error = super::unpack(&named("/dev/zero", &bytes), folder.path(), 1 << 30, &Silent).unwrap_err();
    assert!(error.to_string().contains("no file"), "{error}");
}

#[test]
fn file_growing_while_read_is_truncated_to_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bundle_of(&rootfs(folder.path(), "a"));
    let path = folder.path().join("b.tar.zst");
    fs::write(&path, &bytes).unwrap();
    let bundle = named(path.to_str().unwrap(), &bytes);
    let transport = bundle.open("it", &Silent).unwrap();
    let mut packed = PinnedReader::new(&bundle, &transport, &Silent).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"more", bytes.len() as u64).unwrap();
    let mut all = Vec::new();
    packed.read_to_end(&mut all).unwrap();
    assert!(all == bytes && packed.is_whole());
}
