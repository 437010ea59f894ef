//! Copying files out of the guest, and into it. No sync: what is copied is nobody's record
//! afterwards.
//!
//! Out: after [`CopyOut`] the agent answers with `AgentReply<Announced>`, sends data on
//! [`CONTENT`], and then [`FromCopy`].
//!
//! In: after [`CopyIn`] the agent answers with `AgentReply<()>`: there is a place for it. The host
//! sends data on [`CONTENT`] and then [`ToCopy::Commit`]; the agent answers with [`FromCopy`].
//!
//! The data are, in both directions, what [`crate::copy`] writes and reads, without regard to
//! frames.

use serde::{Deserialize, Serialize};

use super::WireBytes;

/// Data channel: the entries.
pub const CONTENT: u8 = 1;

/// Copies from the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CopyOut {
    /// The absolute path of what is copied. A link is copied as a link, unless a slash follows it.
    pub path: WireBytes,
}

/// Copies into the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CopyIn {
    /// Where to, absolute.
    pub path: WireBytes,
    /// What is copied.
    pub source: Source,
}

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name in its directory.
    pub name: WireBytes,
    /// Whether it is a directory.
    pub is_folder: bool,
    /// Whether the contents of the directory are copied, and not the directory itself: the path
    /// ends with `/.`.
    pub contents: bool,
}

/// A [`Source`] as the agent announces it, which may be a lie. No field of it can be read outside
/// of this crate, so that no host takes a name from a guest: [`crate::copy::SourcePath::confirm`]
/// compares it with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Announced(pub(crate) Source);

impl From<Source> for Announced {
    fn from(source: Source) -> Self {
        Announced(source)
    }
}

/// Control frames from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToCopy {
    /// All entries have been sent.
    Commit,
}

/// The last control frame from the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromCopy {
    /// Everything was copied.
    Done(Copied),
    /// Nothing was copied, or not everything.
    Failed(super::AgentFailure),
}

/// How much was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Regular files that were copied.
    pub files: u64,
    /// Directories.
    pub folders: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of content, holes apart.
    pub bytes: u64,
    /// Devices, FIFOs and sockets, which are left out.
    pub skipped: u64,
}
