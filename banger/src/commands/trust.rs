//! `banger trust`.

use std::path::Path;

use serde::Serialize;

use crate::config::edit::REPOSITORY_FILE;
use crate::config::{ConfigFile, Owner, TrustStore, needing_trust, raised_with_trust};
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
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
}

/// Trusts the `banger.toml` of the workspace around `here` as it is now, or ends that.
///
/// # Errors
/// If there is none, it says what it may not, or trust cannot be written down.
pub fn trust(revoke: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let root = Workspace::discover(here, git_host(paths))?.root;
    let path = root.join(REPOSITORY_FILE);
    let store = TrustStore::new(&paths.data);
    let file = path.to_string_lossy().into_owned();
    if revoke {
        let was_trusted = store.revoke(&root)?;
        let what = if was_trusted { "is not trusted any more" } else { "was not trusted" };
        ui.status(&format!("`{file}` {what}"));
        return ui.answer(&Trust { file, trusted: false, keys: Vec::new() }, String::new);
    }
    let repo = ConfigFile::read(&path, Owner::Repository)?
        .ok_or_else(|| CommandError::new(format!("there is no `{file}` to trust")).kind(ErrorKind::Config))?;
    let user = user_config().map(|path| ConfigFile::read(&path, Owner::User)).transpose()?.flatten();
    let mut keys = needing_trust(&repo, user.as_ref());
    keys.extend(raised_with_trust(&repo, user.as_ref()));
    store.trust(&root, &repo.text)?;
    let what: Vec<_> = keys.iter().map(|key| format!("`{key} = {}`", repo.values[key])).collect();
    let what = if what.is_empty() { "nothing in it needs that now".to_owned() } else { what.join(", ") };
    ui.status(&format!("`{file}` is trusted until it changes: {what}"));
    ui.answer(&Trust { file, trusted: true, keys }, String::new)
}
