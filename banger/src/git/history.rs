//! How much of a repository's history is sent to the guest.

use serde::{Deserialize, Serialize};

/// How much of a repository's history is sent to the guest. Ordered from most to least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum History {
    /// The whole history.
    #[default]
    Full,
    /// The current commit with its tree, and the references to it.
    Shallow,
    /// No repository: only the files of the working tree.
    None,
}

impl History {
    /// Its value in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            History::Full => "full",
            History::Shallow => "shallow",
            History::None => "none",
        }
    }
}
