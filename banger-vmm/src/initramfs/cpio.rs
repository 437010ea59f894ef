//! Writing cpio archives of the "newc" kind: cpio(5), and
//! Documentation/driver-api/early-userspace/buffer-format.rst of Linux.

const FOLDER: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const FILE: u32 = 0o100_000;

/// An archive that is being written. Owners are root, times are 1970: the same input gives the same
/// bytes.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    inode: u32,
}

impl Writer {
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, (0, 0), &[]);
    }

    pub(super) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// `permissions` are the lower 12 bits of the mode. A file has less than 4 GiB.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("files of an initramfs are small");
        let name_size = u32::try_from(path.len() + 1).expect("paths are short");
        self.bytes.extend(b"070701");
        // Inode, mode, uid, gid, links, mtime, size, device, represented device, name's size, check
        // sum.
        for field in [self.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0] {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_lists_the_written_archive() {
        let mut archive = Writer::default();
        archive.folder("dev");
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, b"12345");
        archive.file("empty", 0o644, b"");
        let bytes = archive.finish();

        let mut cpio = Command::new("cpio");
        cpio.args(["-t", "-v", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut cpio = cpio.spawn().unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("trailing"));
        let seen: Vec<(&str, &str)> =
            listing.lines().map(|line| (line.split(' ').next().unwrap(), line.rsplit(' ').next().unwrap())).collect();
        let expected =
            [("drwxr-xr-x", "dev"), ("crw-------", "dev/console"), ("-rwxr-xr-x", "init"), ("-rw-r--r--", "empty")];
        assert_eq!(seen, expected);
        assert!(listing.contains("5,   1"));
    }
}
