//! Bringing the guest's workspace to the host's state.
//!
//! 1. The host sends [`SyncRequest`]; the agent answers with `AgentReply<Begun>`.
//! 2. The host sends the plan, what it wants changed: data on [`PLAN`], each frame a postcard
//!    `Vec<Item>`, then [`ToSync::PlanEnds`]. A [`Mode::Initial`] sync has an empty plan: all that
//!    is sent is wanted.
//! 3. The agent compares it with what it finds and answers with [`FromSync::Compared`], the numbers
//!    of the items whose content it needs being data on [`NEEDED`] before it (32-bit little-endian,
//!    any number per frame). Conflicts end the sync here, unless the [`Policy`] settles them.
//! 4. The host sends the contents: data on [`CONTENT`], one stream of records without regard to
//!    frames (see [`Record`]), then [`ToSync::Commit`].
//! 5. The agent applies everything at once (or, if the stream ends before, nothing) and answers
//!    with [`FromSync::Applied`].
//!
//! Nothing of the workspace is touched before step 5.

use serde::{Deserialize, Serialize};

use super::WireBytes;
pub use crate::rooted_dir::MAX_PATH;

/// Data channel from the host: batches of the plan.
pub const PLAN: u8 = 1;
/// Data channel from the host: the stream of [`Record`]s.
pub const CONTENT: u8 = 2;
/// Data channel from the agent: numbers of plan items whose content is needed.
pub const NEEDED: u8 = 1;
/// The most items that a plan may have.
pub const MAX_ITEMS: usize = 8 << 20;
/// How many conflicts are named; the rest are counted.
pub const MAX_NAMED: usize = 100;

/// A content hash, of a file's bytes or of a link's target: see [`crate::sparse::ContentHasher`].
pub type Digest = [u8; 32];

/// The request for a sync.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SyncRequest {
    /// Where the workspace lives in the guest, absolute.
    pub root: WireBytes,
    /// A second absolute path at which it shall be visible, the host's own; none where that cannot
    /// be.
    pub alias: Option<WireBytes>,
    /// The generation that the host believes the guest to be at; none: the host has no record of a
    /// sync.
    pub base: Option<String>,
    /// The generation that this sync makes.
    pub generation: String,
    /// Patterns of the host's own excludes file, which the guest has no other way to know.
    pub excludes: WireBytes,
    /// The host's clock, in nanoseconds since 1970; 0: not told.
    #[serde(default)]
    pub clock_ns: i64,
}

/// The answer to [`SyncRequest`]: how the plan shall be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Begun {
    /// What the plan shall hold.
    pub mode: Mode,
    /// A fresh workspace comes on its own disk: the host writes that before it commits, and sends
    /// no contents ([`SeedEntry`]).
    #[serde(default)]
    pub seed: bool,
    /// Repositories, by the path of `.git`, that the guest was sent and does not have any more.
    /// Nothing of them is known to it now.
    #[serde(default)]
    pub lost: Vec<WireBytes>,
    /// What is known to have changed in the guest alone, from the last time it was counted; none:
    /// not counted since a command ran.
    pub guest_only: Option<Counts>,
    /// Whether the agent takes files with holes: [`RecordKind::Sparse`].
    #[serde(default)]
    pub holes: bool,
}

/// What a plan holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: the guest has no workspace yet. All content follows.
    #[serde(rename = "fresh")]
    Initial,
    /// The differences between the base and the host's state.
    Delta,
    /// Everything on the host: guest and host disagree about the base. What is not in it was
    /// deleted.
    Complete,
}

/// Who wins where both sides changed the same thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Nobody: the sync stops and names them.
    #[default]
    Stop,
    /// The host's state replaces the guest's. Files that the guest deleted come back. Where the
    /// index is the host's, the branch that is checked out is too.
    HostWins,
    /// The guest's state stays.
    GuestWins,
}

/// One thing that the host wants changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Relative to the root, `/`-separated. For a reference: the repository's `.git` folder.
    pub path: Vec<u8>,
    /// What shall be at the path.
    pub change: Change,
}

/// What an [`Item`] shall become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A file or link with this content, which was `base` at the last sync (none: was not there, or
    /// not known).
    Put {
        /// Digest of the new content.
        digest: Digest,
        /// File or link, and a file's permission bits.
        kind: Kind,
        /// Digest at the last sync.
        base: Option<Digest>,
        /// The host has compared by meaning, not by bytes, and knows the answer.
        verdict: Verdict,
    },
    /// Not there. Its content at the last sync was `base`.
    Delete {
        /// Digest at the last sync.
        base: Option<Digest>,
    },
    /// A file that never changes once it is there (git's packs and loose objects), of this many
    /// bytes.
    Object {
        /// Its length.
        size: u64,
    },
    /// A folder, which may be empty.
    Folder,
    /// No repository: the path is the `.git` folder of one that the host does not have any more.
    NoRepository,
    /// A git reference: `name` had the value `base` at the last sync and shall have `new`. Values
    /// are an object id in hexadecimal, or `ref: ` and a name; none: no such reference.
    Ref {
        /// The full name, such as `refs/heads/main`.
        name: String,
        /// Its value at the last sync.
        base: Option<String>,
        /// Its value now.
        new: Option<String>,
    },
}

/// File or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file with these permission bits (of 0777).
    File(u32),
    /// A symbolic link; its content is the target.
    Link,
}

/// Whether the agent compares an item itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The agent compares it.
    Compare,
    /// The host has compared it, since the bytes say nothing (git's index): the guest has something
    /// of this digest, by meaning; none: the guest has nothing.
    Found(Option<Digest>),
}

/// The head of a record in the content stream: a 32-bit little-endian length, this in postcard, the
/// content's `size` bytes, and their 32-byte [`Digest`], which for git's index is one by meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where the content goes, as in [`Item::path`].
    pub path: Vec<u8>,
    /// What the content is.
    pub kind: RecordKind,
    /// The modification time that the file gets, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Length of the content in bytes.
    pub size: u64,
}

/// What a [`Record`] brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordKind {
    /// A file or link of the workspace.
    Content(Kind),
    /// An immutable file of git's object store.
    Object,
    /// A file in which git keeps references (`packed-refs`, `HEAD`, symbolic ones); only in an
    /// initial sync, `HEAD` being the last of a repository.
    References,
    /// A folder; only in an initial sync.
    Folder,
    /// A file of the workspace with these permission bits. Its content is sent as pieces, until
    /// they are as long as the file: the 64-bit length of a hole, the 32-bit length of the data
    /// behind it, both little-endian, and the data.
    Sparse(u32),
}

/// On a workspace's disk: the folder of the tree that the host has written.
pub const SEED_TREE: &str = "stage";
/// On a workspace's disk: the file that lists the tree, a postcard `Vec<SeedEntry>`.
pub const SEED_LIST: &str = "seed";

/// What the host has written on a workspace's disk: as sent in an initial sync, but for the
/// content. Change times are the modification times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedEntry {
    /// The head of the record in the content stream of a sync without a disk.
    pub record: Record,
    /// The content's digest.
    pub digest: Digest,
}

impl RecordKind {
    /// The permission bits that a file gets: of what the host does not say, an object's never
    /// change.
    pub fn permissions(self) -> u32 {
        match self {
            RecordKind::Content(Kind::File(permissions)) | RecordKind::Sparse(permissions) => permissions & 0o777,
            RecordKind::Object => 0o444,
            _ => 0o644,
        }
    }
}

/// Control frames from the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToSync {
    /// The plan is whole.
    PlanEnds {
        /// How to settle conflicts.
        policy: Policy,
    },
    /// The contents are whole: apply.
    Commit,
}

/// Control frames from the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromSync {
    /// The plan has been compared.
    Compared {
        /// What both sides changed: the first [`MAX_NAMED`].
        conflicts: Vec<Conflict>,
        /// How many conflicts there are.
        conflict_count: u64,
        /// The guest's clock, in nanoseconds since 1970: a file that replaces one may not be older,
        /// or `make` skips it.
        now_ns: i64,
    },
    /// The sync is done and on the disk.
    Applied(Applied),
    /// The sync was not done, and nothing was changed.
    Failed(super::AgentFailure),
}

/// One thing that both sides changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The path, or a reference's full name after its repository's path.
    pub path: WireBytes,
    /// What the guest did.
    pub guest: Side,
    /// What the host did.
    pub host: Side,
}

/// What a side did to a thing that is in conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Gave the thing other content.
    Changed,
    /// Made the thing.
    Added,
    /// Removed the thing.
    Deleted,
}

/// What a sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Files and links written, git's own apart.
    pub written: u64,
    /// Files and links removed.
    pub deleted: u64,
    /// References moved.
    pub references: u64,
    /// Items that stayed as the guest has them, by policy.
    pub kept: u64,
}

/// How much changed in the guest alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Files and links changed, added or removed, ignored ones apart.
    pub files: u64,
    /// References made, moved or removed.
    pub references: u64,
}

impl Counts {
    /// Whether nothing changed. The numbers come from a guest and may be anything.
    pub fn is_nothing(&self) -> bool {
        *self == Counts::default()
    }
}

/// The answer to [`super::AgentRequest::GuestOnly`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GuestOnly {
    /// How many changes there are.
    pub counts: Counts,
    /// The first [`MAX_NAMED`] of what changed: absolute paths, and of references their names
    /// behind the path of the repository's `.git`.
    pub named: Vec<WireBytes>,
}
