//! Everything banger knows about git repositories on the host.
//!
//! A [`Workspace`] is found from a folder ([`Workspace::discover`]) and listed ([`list`]): the
//! files that travel to the guest, and the nested repositories among them. [`Explainer`] says of one
//! path whether it is among them, and why. Each [`Repository`] (the workspace's own and every
//! nested one) then answers what its guest twin needs:
//!
//! | question | answer |
//! |---|---|
//! | `HEAD`, refs, in-progress state | [`Repository::state`] |
//! | packs and loose objects | [`Repository::object_files`] |
//! | the current commit alone | [`Repository::shallow`] |
//! | the guest's `.git/config` | [`Repository::guest_config`] |
//! | the guest's `.git/index` | [`Repository::guest_index`] |
//! | files that git stores in another form | [`Repository::filtered_files`] |
//! | has any of this changed? | [`Repository::fingerprint`] |
//! | where to watch for that | [`Repository::own_directories`] |
//!
//! Repositories are read, never written, and nothing they configure is executed. All gix types
//! stay inside this module; what gix cannot do is asked of the `git` binary in `command`.

mod adopt;
mod boundary;
mod branch;
mod command;
mod config;
mod discover;
mod dot_git;
mod environment;
mod error;
mod excludes;
mod explain;
mod filters;
mod fingerprint;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guest_config;
mod guest_index;
mod history;
mod host;
mod includes;
mod index;
mod index_caches;
mod list;
mod names;
mod objects;
mod outside;
mod own_directories;
mod ownership;
mod partial;
mod path;
mod pattern;
mod quarantine;
mod refs;
mod relist;
mod repository;
mod shallow;
mod state;
mod walk;
mod wildmatch;
mod worktree_include;

pub use adopt::{RefChange, RefChangeKind};
pub use boundary::Boundary;
pub use discover::{Identity, Workspace};
pub use error::GitError;
pub use excludes::IgnoreRule;
pub use explain::{Explainer, Explanation, Reason};
pub use filters::{Evidence, FilteredFile, FilteredFiles, OpenObjects};
pub use fingerprint::Fingerprint;
pub use guest_index::{GuestIndex, GuestStat};
pub use history::History;
pub use host::Host;
pub use list::{Entry, EntryKind, Listing, Warning, check, list, outside};
pub use names::{is_git_dir_name, names_git_dir};
pub use objects::ObjectFile;
pub use outside::{Outside, OutsidePolicy};
pub use partial::Partial;
pub use path::RelPath;
pub use quarantine::{Quarantine, Remote};
pub use relist::{Relisted, relist};
pub use repository::Repository;
pub use shallow::{Sent, Shallow};
pub use state::{RepositoryState, StateFile};
pub use worktree_include::{INCLUDE_FILE, IncludeFile, IncludePolicy};

/// What every fallible function of this module returns.
pub type Result<T, E = GitError> = std::result::Result<T, E>;
