//! What the path of a copy asks for, before anybody has answered.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::CopyError;
use crate::protocol::WireBytes;
use crate::protocol::copy::{Announced, Source};

/// What the text of a path says about the copy of what is there, by docker-cp(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePath {
    /// The name that the copy gets: the last component. Empty if the contents of a directory are
    /// copied.
    pub name: WireBytes,
    /// Whether the contents of a directory are copied, and not the directory itself. The path ends
    /// with `.` or `..`, or is the root: it has no name of its own.
    pub contents: bool,
    /// Whether there must be a directory, so that a link is followed: `contents`, or the path ends
    /// with a slash.
    pub is_folder: bool,
}

impl SourcePath {
    /// What `path` asks for.
    pub fn new(path: &Path) -> SourcePath {
        let bytes = path.as_os_str().as_bytes();
        let last = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // A file name is never `.` or `..`, and has no slash.
        let name = path.file_name().filter(|_| last != b".");
        let contents = name.is_none();
        SourcePath { name: name.map(Into::into).unwrap_or_default(), contents, is_folder: contents || last.is_empty() }
    }

    /// Compares what the agent announces with what it was asked for. Only whether it is a directory
    /// is news of the guest's.
    ///
    /// # Errors
    /// [`CopyError::NotAsked`].
    pub fn confirm(&self, announced: &Announced) -> Result<Source, CopyError> {
        let Announced(announced) = announced;
        let is_as_asked = announced.name == self.name
            && announced.contents == self.contents
            && (announced.is_folder || !self.is_folder);
        if is_as_asked {
            return Ok(Source { name: self.name.clone(), is_folder: announced.is_folder, contents: self.contents });
        }
        let what = |name: &WireBytes, contents, is_folder| match (contents, is_folder) {
            (true, true) => "the contents of a directory".to_owned(),
            (true, false) => "the contents of a file".to_owned(),
            (false, true) => format!("the directory `{name}`"),
            (false, false) => format!("the file `{name}`"),
        };
        let asked = if self.is_folder { what(&self.name, self.contents, true) } else { format!("`{}`", self.name) };
        let offered = what(&announced.name, announced.contents, announced.is_folder);
        Err(CopyError::NotAsked { asked, offered })
    }
}
