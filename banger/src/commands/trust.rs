//! `banger trust`.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::config::edit::REPOSITORY_FILE;
use crate::config::{ConfigFile, Owner, TrustStore, git_host, needing_trust, raised_with_trust};
use crate::error::{CommandError, ErrorKind};
use crate::git::{self, Host, OutsidePolicy, Workspace};
use crate::host::paths::{Paths, user_config};
use crate::output::ui::Ui;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Trust {
    file: String,
    trusted: bool,
    /// What is trusted with something of this machine, by key.
    keys: Vec<&'static str>,
    /// Places outside of the repository that it leads to.
    outside: Vec<String>,
}

/// Trusts the workspace around `here` as it is now, or ends that: what its `banger.toml` names of
/// this machine, and the places outside that git's files lead to.
///
/// # Errors
/// If there is neither, the file says what it may not, or trust cannot be written down.
pub fn trust(revoke: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let host = Host { outside: OutsidePolicy::Collect, ..git_host(paths) };
    let workspace = Workspace::discover(here, host)?;
    let root = &workspace.root;
    let path = root.join(REPOSITORY_FILE);
    let store = TrustStore::new(&paths.data);
    let file = path.to_string_lossy().into_owned();
    if revoke {
        let was_trusted = store.revoke(root)?;
        let what = if was_trusted { "is not trusted any more" } else { "was not trusted" };
        ui.status(&format!("`{}` {what}", root.display()));
        return ui.answer(&Trust { file, trusted: false, keys: Vec::new(), outside: Vec::new() }, String::new);
    }
    let repo = ConfigFile::read(&path, Owner::Repository)?;
    let outside = git::outside(&workspace)?;
    if repo.is_none() && outside.is_empty() {
        ui.status(&format!("nothing to trust: there is no `{file}`, and git's files lead to no place outside"));
        return ui.answer(&Trust { file, trusted: false, keys: Vec::new(), outside: Vec::new() }, String::new);
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
        ui.status("nothing is trusted that was not before");
        let outside = Vec::new();
        return ui.answer(&Trust { file, trusted: false, keys, outside }, String::new);
    }
    let places: BTreeSet<_> = outside.iter().map(|place| place.target.clone()).collect();
    store.trust(root, repo.as_ref().map(|repo| repo.text.as_str()), &places)?;
    if let Some(repo) = &repo {
        let what: Vec<_> = keys.iter().map(|key| format!("`{key} = {}`", repo.values[key])).collect();
        let what = if what.is_empty() { "nothing in it needs that now".to_owned() } else { what.join(", ") };
        ui.status(&format!("`{file}` is trusted until it changes: {what}"));
    }
    for place in &places {
        ui.status(&format!("`{}` may be read from now on", place.display()));
    }
    let outside = places.iter().map(|place| place.to_string_lossy().into_owned()).collect();
    ui.answer(&Trust { file, trusted: true, keys, outside }, String::new)
}

/// A script that trusts a repository has decided: only a person is asked.
fn nobody_to_ask(error: CommandError) -> Result<bool, CommandError> {
    if error.kind == ErrorKind::InputNeeded { Ok(true) } else { Err(error) }
}
