//! Why an entry was refused, or a file system could not be written.

use std::io;

/// A result of the writer.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// Why a [`Writer`](super::Writer) refuses an entry, or fails. Paths are shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path has an empty component, `.` or `..`, a NUL, or a name of more than 255 bytes.
    #[error("`{}` is no path in a file system: {reason}", path.escape_ascii())]
    BadPath {
        /// The path as it was given.
        path: Vec<u8>,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A path leads through something that is there and is no folder.
    #[error("`{}` is not a folder, so `{}` cannot be in it", component.escape_ascii(), path.escape_ascii())]
    NotADirectory {
        /// The path as it was given.
        path: Vec<u8>,
        /// The part of it that is no folder.
        component: Vec<u8>,
        /// Whether that is a symbolic link.
        symlink: bool,
    },

    /// A path leads through too many symbolic links, or through one that leads to itself.
    #[error("`{}` leads through more than 40 symbolic links", path.escape_ascii())]
    TooManySymlinks {
        /// The path as it was given.
        path: Vec<u8>,
    },

    /// A hard link names something that is not there, or a folder.
    #[error("`{}` is to be another name of `{}`, which {reason}", path.escape_ascii(), target.escape_ascii())]
    BadLink {
        /// The path of the link.
        path: Vec<u8>,
        /// What it names.
        target: Vec<u8>,
        /// Why that cannot be linked to.
        reason: &'static str,
    },

    /// A file would get more than ext4's 65000 names.
    #[error("`{}` would be the 65001st name of `{}`, and ext4 ends at 65000", path.escape_ascii(), target.escape_ascii())]
    TooManyLinks {
        /// The path of the link.
        path: Vec<u8>,
        /// What it names.
        target: Vec<u8>,
    },

    /// ext4 has no way to express what the entry asks for.
    #[error("`{}`: {reason}", path.escape_ascii())]
    Unsupported {
        /// The entry's path.
        path: Vec<u8>,
        /// What cannot be expressed.
        reason: String,
    },

    /// The file system is too small for what it is to hold.
    #[error("the file system of {size} bytes has no room left for {what}")]
    NoSpace {
        /// Its size in bytes.
        size: u64,
        /// What found no room.
        what: &'static str,
    },

    /// The options contradict each other or the format.
    #[error("an ext4 file system of this kind cannot be made: {0}")]
    BadOptions(&'static str),

    /// The content of a file could not be read. Nothing of the file is kept.
    #[error("cannot read the content of `{}`: {source}", path.escape_ascii())]
    Content {
        /// The entry's path.
        path: Vec<u8>,
        /// What reading reported.
        source: io::Error,
    },

    /// The image file could not be written.
    #[error("cannot write the image: {0}")]
    Image(#[from] io::Error),
}
