//! Places outside of a workspace that its repositories lead to, and which of them the user allows.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place that a repository leads to, and that is not its own: beyond the workspace's root, or behind a
/// symbolic link among git's own files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outside {
    /// The file or directory, absolute and canonical.
    pub target: PathBuf,
    /// What leads there, for people: a link, a file of git's, a setting.
    pub from: String,
}

/// Answers for a workspace's root which places outside the user trusts it with.
type Trusted = dyn Fn(&Path) -> BTreeSet<PathBuf> + Send + Sync;

/// Which places outside may be read. Places that git's own back link proves need no permission.
#[derive(Clone, Default)]
pub enum OutsidePolicy {
    /// None.
    #[default]
    Refuse,
    /// Those that the user trusts a workspace with: exactly these, and what is below them.
    Trusted(Arc<Trusted>),
    /// All, to find out which there are: see [`super::outside`].
    Collect,
}

impl OutsidePolicy {
    /// The places that the workspace at `root` is trusted with.
    pub(crate) fn trusted(&self, root: &Path) -> BTreeSet<PathBuf> {
        match self {
            OutsidePolicy::Trusted(trusted) => trusted(root),
            OutsidePolicy::Refuse | OutsidePolicy::Collect => BTreeSet::new(),
        }
    }
}

impl fmt::Debug for OutsidePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OutsidePolicy::Refuse => "Refuse",
            OutsidePolicy::Trusted(_) => "Trusted",
            OutsidePolicy::Collect => "Collect",
        })
    }
}
