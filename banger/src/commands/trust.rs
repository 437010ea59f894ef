//! `banger trust`.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::config::edit::REPOSITORY_FILE;
use crate::config::{ConfigFile, Owner, TrustStore, needing_trust, raised_with_trust};
use crate::error::{CommandError, ErrorKind};
use crate::git::{self, Host, OutsidePolicy, Workspace};
use crate::machine::git_host;
use crate::paths::{Paths, user_config};
use crate::ui::Ui;

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

/// Trusts the workspace around `here` as it is now, or ends that: what its `banger.toml` names of this machine, and
/// the places outside that git's files lead to.
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
        let error =
            CommandError::new(format!("there is no `{file}` to trust, and no place outside that git's files lead to"));
        return Err(error.kind(ErrorKind::Config));
    }
    let user = user_config().map(|path| ConfigFile::read(&path, Owner::User)).transpose()?.flatten();
    let mut keys = Vec::new();
    if let Some(repo) = &repo {
        keys = needing_trust(repo, user.as_ref());
        keys.extend(raised_with_trust(repo, user.as_ref()));
    }
    let places: BTreeSet<_> = outside.iter().map(|place| place.target.clone()).collect();
    store.trust(root, repo.as_ref().map(|repo| repo.text.as_str()), &places)?;
    if let Some(repo) = &repo {
        let what: Vec<_> = keys.iter().map(|key| format!("`{key} = {}`", repo.values[key])).collect();
        let what = if what.is_empty() { "nothing in it needs that now".to_owned() } else { what.join(", ") };
        ui.status(&format!("`{file}` is trusted until it changes: {what}"));
    }
    for place in &outside {
        ui.status(&format!("trusted to read `{}`, to which {} leads", place.target.display(), place.from));
    }
    let outside = places.iter().map(|place| place.to_string_lossy().into_owned()).collect();
    ui.answer(&Trust { file, trusted: true, keys, outside }, String::new)
}
