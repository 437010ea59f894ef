//! `banger trust`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::edit::REPOSITORY_FILE;
use crate::config::{ConfigFile, Owner, TrustStore, git_host, needing_trust, raised_with_trust};
use crate::error::{CommandError, ErrorKind};
use crate::git::{self, Host, OutsidePolicy, Workspace};
use crate::host::paths::{Paths, user_config};
use crate::output::command_output::{CommandOutput, Message};
use crate::output::ui::Ui;

/// Whether a repository is trusted now, and with what.
#[derive(Clone, Debug, Serialize)]
pub struct RepositoryTrust {
    /// The repository's `banger.toml`, which need not exist.
    pub file: String,
    /// Whether the repository is trusted as it is now.
    pub trusted: bool,
    /// The keys of `file` for which trust makes a difference.
    pub keys: Vec<&'static str>,
    /// Paths outside of the repository that may be read for it.
    pub outside: Vec<String>,
    /// How the trust came about.
    #[serde(skip)]
    pub decision: TrustDecision,
}

/// What `banger trust` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustDecision {
    /// The repository at `root` is not trusted any more.
    Revoked {
        /// The root of the repository's workspace.
        root: PathBuf,
        /// Whether it was trusted before.
        was_trusted: bool,
    },
    /// There is nothing that needs trust.
    NothingToTrust,
    /// The user at the terminal said no.
    Declined,
    /// The repository is trusted.
    Trusted {
        /// Keys and values, such as `memory = 8G`, that trust makes a difference for; none: there
        /// is no `banger.toml`.
        values: Option<Vec<String>>,
    },
}

/// Trusts the repository around `here` as it is now, or with `revoke` ends that. Trust is for what
/// its `banger.toml` names of this machine, and for the places outside that git's files lead to,
/// which the user at the terminal is asked about.
///
/// # Errors
/// If `here` is in no repository, the file says what it may not, or trust cannot be written down.
pub fn trust(revoke: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<RepositoryTrust, CommandError> {
    let host = Host { outside: OutsidePolicy::Collect, ..git_host(paths) };
    let workspace = Workspace::discover(here, host)?;
    let root = &workspace.root;
    let path = root.join(REPOSITORY_FILE);
    let store = TrustStore::new(&paths.data);
    let file = path.to_string_lossy().into_owned();
    let untrusted = |file, decision| {
        let (keys, outside) = (Vec::new(), Vec::new());
        Ok(RepositoryTrust { file, trusted: false, keys, outside, decision })
    };
    if revoke {
        let was_trusted = store.revoke(root)?;
        return untrusted(file, TrustDecision::Revoked { root: root.clone(), was_trusted });
    }
    let repo = ConfigFile::read(&path, Owner::Repository)?;
    let outside = git::outside(&workspace)?;
    if repo.is_none() && outside.is_empty() {
        return untrusted(file, TrustDecision::NothingToTrust);
    }
    let user = user_config().map(|path| ConfigFile::read(&path, Owner::User)).transpose()?.flatten();
    let mut keys = Vec::new();
    if let Some(repo) = &repo {
        keys = needing_trust(repo, user.as_ref());
        keys.extend(raised_with_trust(repo, user.as_ref()));
    }
    // A place is named before it is allowed: a command names only the first of several.
    for place in &outside {
        ui.status(&place.describe(root));
    }
    if !outside.is_empty() && !ui.confirm("Allow banger to read these places into the VM?").or_else(nobody_to_ask)? {
        return Ok(RepositoryTrust {
            file,
            trusted: false,
            keys,
            outside: Vec::new(),
            decision: TrustDecision::Declined,
        });
    }
    let places: BTreeSet<_> = outside.iter().map(|place| place.target.clone()).collect();
    store.trust(root, repo.as_ref().map(|repo| repo.text.as_str()), &places)?;
    let value = |repo: &ConfigFile| keys.iter().map(|key| format!("{key} = {}", repo.values[key])).collect();
    let decision = TrustDecision::Trusted { values: repo.as_ref().map(value) };
    let outside = places.iter().map(|place| place.to_string_lossy().into_owned()).collect();
    Ok(RepositoryTrust { file, trusted: true, keys, outside, decision })
}

impl CommandOutput for RepositoryTrust {
    fn messages(&self) -> Vec<Message> {
        let file = &self.file;
        let mut messages = Vec::new();
        match &self.decision {
            TrustDecision::Revoked { root, was_trusted } => {
                let what = if *was_trusted { "is not trusted any more" } else { "was not trusted" };
                messages.push(Message::status(format!("`{}` {what}", root.display())));
            }
            TrustDecision::NothingToTrust => messages.push(Message::status(format!(
                "nothing to trust: there is no `{file}`, and git's files lead to no place outside"
            ))),
            TrustDecision::Declined => messages.push(Message::status("nothing is trusted that was not before")),
            TrustDecision::Trusted { values } => {
                if let Some(values) = values {
                    let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                    let what = match &values[..] {
                        [] => "nothing in it needs that now".to_owned(),
                        values => values.join(", "),
                    };
                    messages.push(Message::status(format!("`{file}` is trusted until it changes: {what}")));
                }
                let place = |place: &String| Message::status(format!("`{place}` may be read from now on"));
                messages.extend(self.outside.iter().map(place));
            }
        }
        messages
    }
}

/// A script that trusts a repository has decided: only a person is asked.
fn nobody_to_ask(error: CommandError) -> Result<bool, CommandError> {
    if error.kind == ErrorKind::InputNeeded { Ok(true) } else { Err(error) }
}
