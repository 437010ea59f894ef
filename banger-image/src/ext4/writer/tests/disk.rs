//! Disks that are written to afterwards.

use super::*;
use crate::ext4::Error;

pub(super) const SIZE: u64 = 32 << 30;

/// Some folders with files and links in them.
pub(super) fn workspace(writer: &mut Writer) {
    writer.directory(b"", mode(0o755)).unwrap();
    for folder in 0..20 {
        let path = format!("repo/folder {folder}");
        writer.directory(path.as_bytes(), mode(0o750)).unwrap();
        for file in 0..50 {
            let content = noise(file * 997, file as u64);
            writer.file(format!("{path}/{file}").as_bytes(), mode(0o644), &mut &*content).unwrap();
        }
        writer.symlink(format!("{path}/link").as_bytes(), mode(0o777), b"../target").unwrap();
        writer.symlink(format!("{path}/long").as_bytes(), mode(0o777), "x/".repeat(500).as_bytes()).unwrap();
    }
}

#[test]
fn large_disk_is_valid_and_sparse() {
    let image = write(Options::disk(SIZE), workspace);
    assert_eq!(fs::metadata(&image.path).unwrap().len(), SIZE);
    let content: u64 = (0..50u64).map(|file| (file * 997).next_multiple_of(4096)).sum::<u64>() * 20;
    assert!(allocated(&image.path) < content + (2 << 20), "{} for {content}", allocated(&image.path));
    image.assert_stat("/repo/folder 3/7", &["Type: regular", "Mode: 0644", "Size: 6979", "mtime: 0x3b9aca00:1d6f3454"]);
    image.assert_stat("/repo/folder 3", &["Type: directory", "Mode: 0750", "Links: 2"]);
    image.assert_stat("/repo/folder 3/link", &["Type: symlink", "\"../target\""]);
    image.assert_stat("/repo/folder 3/long", &["Type: symlink", "Size: 1000"]);
    assert_eq!(image.content("/repo/folder 19/49"), noise(49 * 997, 49));
}

#[test]
fn disks_of_all_sizes_are_valid() {
    for size in [4 << 20, 5 << 20, 127 << 20, 128 << 20, 129 << 20, 1 << 30, (2 << 30) + (5 << 20), 100 << 30, 1 << 40]
    {
        let journal = if size < 64 << 20 { 0 } else { 4 << 20 };
        write(Options { journal, ..Options::disk(size) }, |writer| {
            for name in 0..200 {
                writer.file(format!("folder/{name:0>80}").as_bytes(), mode(0o644), &mut &b""[..]).unwrap();
            }
        });
    }
}

#[test]
fn existing_content_is_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, noise(40 << 20, 1)).unwrap();
    let file = File::options().write(true).read(true).open(&path).unwrap();
    Writer::new(file, Options { journal: 0, ..Options::disk(40 << 20) }).unwrap().finish().unwrap();
    let image = Image { folder, path };
    image.assert_clean();
    assert!(allocated(&image.path) < 1 << 20);
}

#[test]
fn full_disk_is_a_no_space_error() {
    let mut writer =
        Writer::new(tempfile::tempfile().unwrap(), Options { journal: 0, ..Options::disk(8 << 20) }).unwrap();
    let error = writer.file(b"file", mode(0o644), &mut &*noise(9 << 20, 1)).unwrap_err();
    assert!(matches!(error, Error::NoSpace { size: 0x80_0000, .. }), "{error}");
    // What did not fit left no trace.
    assert!(writer.entry(b"file").unwrap().is_none());
    writer.file(b"file", mode(0o644), &mut &*noise(6 << 20, 1)).unwrap();
}

#[test]
fn impossible_options_are_refused() {
    for options in [
        Options::disk(1 << 20),
        Options::disk(1 << 45),
        Options { journal: 1 << 20, ..Options::disk(SIZE) },
        Options { journal: 32 << 20, ..Options::image() },
        Options { label: "seventeen letters".to_owned(), ..Options::image() },
    ] {
        assert!(matches!(Writer::new(tempfile::tempfile().unwrap(), options), Err(Error::BadOptions(_))));
    }
}
