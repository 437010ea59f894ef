//! The guest's serial console: kept bounded, shown harmless.

mod follow;
mod harmless;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_util::text::printable;

pub use self::follow::{ConsoleLines, Followed};
use self::harmless::Harmless;
use crate::error::{IoContext, Result};

/// The console's file in the VM's folder.
const LOG: &str = "console.log";
/// What the file held before: of this boot if its output is long, else of the one before.
const OLDER: &str = "console.log.1";
/// Neither file grows over this, in bytes: a guest that floods its console must not fill the host's
/// disk.
const LIMIT: u64 = 512 << 10;
/// Bytes of the end that are looked at for the last lines.
const TAIL: usize = 16 << 10;
/// Lines that an error shows.
const TAIL_LINES: usize = 40;
/// The longest line shown, in bytes.
const MAX_LINE: usize = 240;

/// Whether a VM has ever had a console: it has from its first start on.
pub(crate) fn is_there(vm: &Path) -> bool {
    vm.join(LOG).exists()
}

/// Writes the console's log: two files in turn, each bounded.
pub(crate) struct ConsoleLog {
    path: PathBuf,
    older: PathBuf,
    file: File,
    written: u64,
    tail: VecDeque<u8>,
    harmless: Harmless,
}

impl ConsoleLog {
    /// Starts the log of a new boot in the VM's folder.
    pub(crate) fn start(vm: &Path) -> Result<Self> {
        let (path, older) = (vm.join(LOG), vm.join(OLDER));
        let file = begin(&path, &older).at("write", &path)?;
        Ok(ConsoleLog { path, older, file, written: 0, tail: VecDeque::new(), harmless: Harmless::default() })
    }

    /// Adds what the guest wrote. Errors are the host's disk being full, say: the console is not
    /// worth stopping for.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let bytes = &*self.harmless.without(bytes);
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
        if self.written + bytes.len() as u64 > LIMIT {
            if let Ok(file) = begin(&self.path, &self.older) {
                self.file = file;
                self.written = 0;
            } else {
                return;
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.written += bytes.len() as u64;
        }
    }

    /// The last lines of this boot.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let (front, back) = self.tail.as_slices();
        last_lines(&[front, back].concat(), TAIL_LINES)
    }
}

fn begin(path: &Path, older: &Path) -> io::Result<File> {
    match fs::rename(path, older) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The last `lines` lines on a VM's console, made printable.
pub(crate) fn tail(vm: &Path, lines: usize) -> Result<Vec<String>> {
    tail_of(vm, &[OLDER, LOG], lines)
}

/// The last `lines` lines of the last boot on a VM's console, made printable. Of a boot with much
/// output the beginning may be missing.
pub(crate) fn tail_of_boot(vm: &Path, lines: usize) -> Result<Vec<String>> {
    tail_of(vm, &[LOG], lines)
}

fn tail_of(vm: &Path, names: &[&str], lines: usize) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    for name in names {
        let path = vm.join(name);
        match File::open(&path) {
            Ok(mut file) => {
                let length = file.metadata().at("read", &path)?.len();
                file.seek(SeekFrom::Start(length.saturating_sub(LIMIT))).at("read", &path)?;
                file.take(LIMIT).read_to_end(&mut bytes).at("read", &path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("read", &path),
        }
    }
    Ok(last_lines(&bytes, lines))
}

/// The last lines of `bytes` that are not blank.
pub(crate) fn last_lines(bytes: &[u8], count: usize) -> Vec<String> {
    let lines = bytes.split(|&byte| byte == b'\n').map(|line| line.trim_ascii_end()).filter(|line| !line.is_empty());
    let mut last: Vec<String> =
        lines.rev().take(count).map(|line| printable(&line[..line.len().min(MAX_LINE)])).collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_found_and_truncated() {
        let text = [b"one\r\n\n".as_slice(), &[b'x'; 5000], b"\nthree"].concat();
        let lines = last_lines(&text, 2);
        assert_eq!((lines[0].len(), lines[1].as_str()), (MAX_LINE, "three"));
        assert_eq!(last_lines(&text, 9)[0], "one");
        assert!(last_lines(b"", 3).is_empty());
    }

    #[test]
    fn console_log_is_bounded_and_keeps_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = ConsoleLog::start(folder.path()).unwrap();
        for number in 0..40_000 {
            log.write(format!("line {number:06} {}\n", "x".repeat(80)).as_bytes());
        }
        let size = |name| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size(LOG) <= LIMIT && size(OLDER) <= LIMIT && size(OLDER) > LIMIT / 2);
        assert!(log.last_lines().last().unwrap().starts_with("line 039999"));
        assert_eq!(log.last_lines().len(), TAIL_LINES);
        assert!(tail(folder.path(), 5000).unwrap()[0].starts_with("line 035"));

        let _next_boot = ConsoleLog::start(folder.path()).unwrap();
        assert_eq!(size(LOG), 0);
        assert!(tail(folder.path(), 1).unwrap()[0].starts_with("line 039999"));
        assert!(tail_of_boot(folder.path(), 1).unwrap().is_empty());
    }
}
