//! What the user, the repository and the command line want of banger: read, checked and merged,
//! once per command.
//!
//! [`KEYS`] is the table of all keys, of which everything here is made: a [`ConfigFile`] is read by
//! it, and says where it is wrong; [`Settings`] are the values that hold, each with its [`Origin`];
//! [`edit`] changes a file; [`schema`] describes it to editors. What a repository's file may hand
//! to the guest only after the user's word is in a [`TrustStore`].

mod defaults;
pub mod edit;
mod file;
mod git_host;
mod key;
mod limits;
pub mod schema;
mod settings;
mod trust;
mod value;

pub use self::defaults::{DEFAULT_IMAGE, DEFAULT_KERNEL};
pub(crate) use self::defaults::{default_cpus, default_memory};
pub use self::file::{ConfigFile, Owner};
pub use self::git_host::{git_host, helper_environment};
pub use self::key::{KEYS, Key, Stands};
pub use self::limits::{Limited, LimitedBy};
pub(crate) use self::limits::{most_of_repository, raised_with_trust};
pub(crate) use self::settings::needing_trust;
pub use self::settings::{ImageAccess, Origin, Overrides, Setting, Settings, Sources, expanded};
pub use self::trust::TrustStore;
pub use self::value::{Kind, Shape, Value};
