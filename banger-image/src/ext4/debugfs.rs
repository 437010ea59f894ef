//! A script for `debugfs -w -f` (debugfs(8)): what mke2fs could not copy from the staged tree.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::error::Result;
use crate::ext4::tree::{Kind, Node, Special, refuse};

/// debugfs reads lines into a buffer of BUFSIZ bytes and takes what does not fit for another command.
const MAX_LINE: usize = 8000;

/// Collects the commands. Values of extended attributes are kept in files below `values`.
pub(crate) struct Script {
    text: Vec<u8>,
    values: PathBuf,
    values_written: usize,
    /// Who owns the staged files, as mke2fs copies them.
    uid: u32,
    gid: u32,
}

impl Script {
    pub(crate) fn new(values: PathBuf, uid: u32, gid: u32) -> Script {
        Script { text: Vec::new(), values, values_written: 0, uid, gid }
    }

    /// The script.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.text
    }

    /// Adds what is still wrong with the inode of `node` after mke2fs.
    pub(crate) fn add(&mut self, path: &Path, node: &Node) -> Result<()> {
        let absolute = Path::new("/").join(path);
        let kind_bits = match &node.kind {
            Kind::HardLink(_) => return Ok(()),
            Kind::Symlink(_) => None,
            Kind::Directory => Some(0o040_000),
            Kind::File(_) => Some(0o100_000),
            Kind::Special(special) => Some(self.make_special(&absolute, *special)?),
        };
        let special = matches!(node.kind, Kind::Special(_));
        if special {
            for field in ["atime", "ctime", "mtime"] {
                self.set(&absolute, field, &format!("@{}", node.mtime))?;
            }
        }
        if node.uid != if special { 0 } else { self.uid } {
            self.set(&absolute, "uid", &node.uid.to_string())?;
        }
        if node.gid != if special { 0 } else { self.gid } {
            self.set(&absolute, "gid", &node.gid.to_string())?;
        }
        if let Some(kind_bits) = kind_bits
            && (special || node.mode != node.staged_mode())
        {
            self.set(&absolute, "mode", &format!("0{:o}", kind_bits | node.mode))?;
        }
        for (name, value) in &node.xattrs {
            self.set_xattr(&absolute, name, value)?;
        }
        Ok(())
    }

    /// Makes the node and returns the bits of its type.
    fn make_special(&mut self, path: &Path, special: Special) -> Result<u32> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refuse(path, "the root is not a folder"));
        };
        // mknod takes a name in the current folder, not a path.
        self.line(&[b"cd", parent.as_os_str().as_bytes()])?;
        let (letter, bits, numbers) = match special {
            Special::Character { major, minor } => ("c", 0o020_000, Some((major, minor))),
            Special::Block { major, minor } => ("b", 0o060_000, Some((major, minor))),
            Special::Fifo => ("p", 0o010_000, None),
        };
        let mut arguments = String::from(letter);
        if let Some((major, minor)) = numbers {
            // Writing to a String cannot fail.
            let _ = write!(arguments, " {major} {minor}");
        }
        let mut words: Vec<&[u8]> = vec![b"mknod", name.as_bytes()];
        words.extend(arguments.split(' ').map(str::as_bytes));
        self.line(&words)?;
        Ok(bits)
    }

    fn set(&mut self, path: &Path, field: &str, value: &str) -> Result<()> {
        self.line(&[b"sif", path.as_os_str().as_bytes(), field.as_bytes(), value.as_bytes()])
    }

    fn set_xattr(&mut self, path: &Path, name: &str, value: &[u8]) -> Result<()> {
        let file = self.values.join(self.values_written.to_string());
        self.values_written += 1;
        fs::write(&file, value)?;
        let file = file.as_os_str().as_bytes();
        self.line(&[b"ea_set", b"-f", file, path.as_os_str().as_bytes(), name.as_bytes()])
    }

    /// Adds one command; each word is quoted.
    fn line(&mut self, words: &[&[u8]]) -> Result<()> {
        let start = self.text.len();
        for word in words {
            // The script is one of lines and C strings, and has no escape for what ends these.
            if word.iter().any(|byte| b"\n\r\0".contains(byte)) {
                let shown = String::from_utf8_lossy(word).into_owned();
                return Err(refuse(Path::new(&shown), "a name with a line break"));
            }
            if self.text.len() > start {
                self.text.push(b' ');
            }
            self.text.push(b'"');
            for &byte in *word {
                // libss takes a doubled quote inside quotes for one.
                self.text.extend_from_slice(if byte == b'"' { b"\"\"" } else { std::slice::from_ref(&byte) });
            }
            self.text.push(b'"');
        }
        if self.text.len() - start > MAX_LINE {
            return Err(refuse(Path::new("…"), "a path that is too long"));
        }
        self.text.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn script(path: &str, uid: u32) -> Result<String> {
        let mut script = Script::new(PathBuf::from("/nowhere"), 0, 0);
        let node = Node { kind: Kind::File(0), mode: 0o644, uid, gid: 0, mtime: 0, xattrs: Vec::new() };
        script.add(Path::new(path), &node)?;
        Ok(String::from_utf8(script.into_bytes()).unwrap())
    }

    #[test]
    fn words_are_quoted() {
        assert_eq!(script("a b", 7).unwrap(), "\"sif\" \"/a b\" \"uid\" \"7\"\n");
        assert_eq!(script("a\"b", 7).unwrap(), "\"sif\" \"/a\"\"b\" \"uid\" \"7\"\n");
    }

    #[test]
    fn what_mke2fs_has_copied_is_left_alone() {
        assert_eq!(script("plain", 0).unwrap(), "");
    }

    #[test]
    fn what_cannot_be_quoted_is_refused() {
        for path in ["a\nrm /b", "a\rb", &"x/".repeat(5000)] {
            assert!(matches!(script(path, 7), Err(Error::Archive { .. })), "{path}");
        }
    }
}
