//! How much of a repository's history travels.

use serde::{Deserialize, Serialize};

/// How much of git's history the guest gets. A later one is less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum History {
    /// All that there is.
    #[default]
    Full,
    /// The current commit and its tree, and what names it.
    Shallow,
    /// No repository, only files.
    None,
}

impl History {
    /// The name that the configuration has for it.
    pub fn name(self) -> &'static str {
        match self {
            History::Full => "full",
            History::Shallow => "shallow",
            History::None => "none",
        }
    }
}
