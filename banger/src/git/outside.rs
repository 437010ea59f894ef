//! Places outside of a workspace that its repositories lead to, and which of them the user allows.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place that a repository leads to, and that is not its own: beyond the workspace's root, or
/// behind a symbolic link among git's own files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outside {
    /// The file or directory, absolute and canonical.
    pub target: PathBuf,
    /// What leads there, for people: a link, a file of git's, a setting.
    pub from: String,
}

impl Outside {
    /// What leads where, for people. `root` is the workspace's.
    pub fn describe(&self, root: &Path) -> String {
        let (from, target) = (&self.from, self.target.display());
        match self.target.starts_with(root) {
            // Only links among git's own files need trust for a place within the workspace.
            true => format!("{from} is a symbolic link to `{target}`, which git's files may not be without trust"),
            false => format!("{from} leads to `{target}`, outside of the repository"),
        }
    }

    /// Whether a file or link `.git` leads there.
    pub(crate) fn is_git_file(&self) -> bool {
        self.from == "`.git`" || self.from.ends_with("/.git`")
    }
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
