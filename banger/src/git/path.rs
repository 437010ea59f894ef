//! Paths as git has them: bytes, relative, separated by `/`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A path relative to the workspace root: bytes separated by `/`, no leading or trailing slash, no
/// empty, `.` or `..` component. Empty for the root itself. Ordered by its bytes, as git's index
/// is.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The root of the workspace.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks bytes that came from outside; `None` if they could name anything outside the root.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        let plain =
            bytes.is_empty() || bytes.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."));
        (plain && !bytes.contains(&0)).then_some(Self(bytes))
    }

    /// For bytes that a walk of the file system or a checked index has produced.
    pub(crate) fn from_trusted(bytes: Vec<u8>) -> Self {
        debug_assert!(Self::new(bytes.clone()).is_some(), "not a relative path");
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The raw bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path as a relative [`Path`] of the host.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// This path below the directory `root`.
    pub fn under(&self, root: &Path) -> PathBuf {
        if self.is_root() { root.to_owned() } else { root.join(self.as_path()) }
    }

    /// `other`, taken as relative to `self`.
    pub fn join(&self, other: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + other.len());
        bytes.extend_from_slice(&self.0);
        if !self.0.is_empty() && !other.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(other);
        Self::from_trusted(bytes)
    }

    /// `self` seen from `base`; `None` if it is not at or below it.
    pub fn strip_prefix(&self, base: &RelPath) -> Option<&[u8]> {
        let rest = self.0.strip_prefix(base.as_bytes())?;
        match rest {
            _ if base.is_root() => Some(rest),
            [] => Some(rest),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }
}

/// For people: what is not printable is escaped, so a file name cannot reach the terminal as more.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                if char.is_control() {
                    write!(f, "{}", char.escape_default())?;
                } else {
                    write!(f, "{char}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::RelPath;

    #[test]
    fn rel_path_refuses_escaping_paths() {
        for bad in ["/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b"] {
            assert!(RelPath::new(bad).is_none(), "{bad:?}");
        }
        for good in ["", "a", "a/b", "...", "a/.b", "\u{1b}[31m"] {
            assert!(RelPath::new(good).is_some(), "{good:?}");
        }
    }

    #[test]
    fn strip_prefix_matches_whole_components() {
        let path = RelPath::new("sub/file").unwrap();
        assert_eq!(path.strip_prefix(&RelPath::new("sub").unwrap()), Some(&b"file"[..]));
        assert_eq!(path.strip_prefix(&RelPath::new("su").unwrap()), None);
        assert_eq!(path.strip_prefix(&RelPath::root()), Some(&b"sub/file"[..]));
    }

    #[test]
    fn display_escapes_control_and_non_utf8_bytes() {
        let path = RelPath::new(&b"a\n\x1b\xff"[..]).unwrap();
        assert_eq!(path.to_string(), "a\\n\\u{1b}\\xff");
    }
}
