//! Judged by e2fsprogs, and by the kernel where it lets us mount.

mod disk;
mod image;
mod kernel;
mod property;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Metadata, Options, Timestamp, Writer};

const TIME: Timestamp = Timestamp { seconds: 1_000_000_000, nanoseconds: 123_456_789 };

/// A file system and the folder it is in.
struct Image {
    folder: tempfile::TempDir,
    path: PathBuf,
}

/// Writes a file system.
fn write(options: Options, entries: impl FnOnce(&mut Writer)) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut writer = Writer::new(File::create_new(&path).unwrap(), options).unwrap();
    entries(&mut writer);
    writer.finish().unwrap();
    let image = Image { folder, path };
    image.assert_clean();
    image
}

impl Image {
    fn assert_clean(&self) {
        let output = Command::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(&self.path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        // What -n does not repair, it may still mention.
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("Pass ")).collect();
        assert_eq!(lines.len(), 1, "{text}");
    }

    /// What a read-only debugfs says.
    fn ask(&self, request: &str) -> String {
        let output = Command::new("/usr/sbin/debugfs").args(["-R", request]).arg(&self.path).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asserts that `stat` of `path` says all of `expected`.
    fn assert_stat(&self, path: &str, expected: &[&str]) {
        let stat = self.ask(&format!("stat \"{path}\""));
        let words = stat.split_whitespace().collect::<Vec<_>>().join(" ");
        for expected in expected {
            assert!(words.contains(expected), "{path}: no `{expected}` in: {words}");
        }
    }

    /// A file's content.
    fn content(&self, path: &str) -> Vec<u8> {
        let target = self.folder.path().join("dumped");
        self.ask(&format!("dump \"{path}\" {}", target.display()));
        fs::read(&target).unwrap()
    }
}

fn mode(mode: u16) -> Metadata {
    Metadata { mode, mtime: TIME, ..Metadata::default() }
}

/// Bytes without a pattern, or a block of zeros, that are the same each time.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// How many bytes the host has allocated for a file.
fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().blocks() * 512
}
