//! `banger config`: what holds, and changing it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::{ConfigCommand, Run};
use crate::config::edit::{self, Name, REPOSITORY_FILE};
use crate::config::{Answer, Limited, Owner, Settings, schema};
use crate::error::{CommandError, ErrorKind};
use crate::git::{GitError, Workspace};
use crate::machine::git_host;
use crate::paths::{Paths, user_config};
use crate::ui::Ui;

/// The answer of `banger config`, as `--json` has it.
#[derive(Debug, Serialize)]
struct Overview {
    /// The user's file; it need not exist.
    user: Option<String>,
    /// The repository's; none: this is no repository.
    repo: Option<String>,
    settings: Vec<Answer>,
}

/// The answer of `set` and `unset`.
#[derive(Debug, Serialize)]
struct Changed {
    key: String,
    file: String,
    /// Whether there was anything to change.
    changed: bool,
}

/// Does what `command` says; without one, shows all values and where they are from.
///
/// # Errors
/// If a file cannot be read or written, or says, or would say, what it may not.
pub fn config(command: Option<&ConfigCommand>, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    match command {
        None => overview(here, paths, ui),
        Some(ConfigCommand::Get { key }) => get(key, here, paths, ui),
        Some(ConfigCommand::Set { key, value, repo }) => {
            let (file, owner) = file(*repo, here, paths)?;
            let name = Name::parse(key)?;
            let value = name.value(value, owner)?;
            edit::set(&file, owner, &name, &value)?;
            if let Some(what) = name.key.awaits {
                ui.warning(&format!("`{key}` is set without effect, the feature being yet to come: {what}"));
            }
            changed(key, &file, true, ui)
        }
        Some(ConfigCommand::Unset { key, repo }) => {
            let (file, owner) = file(*repo, here, paths)?;
            let was_set = edit::unset(&file, owner, key)?;
            if !was_set {
                // A name that was mistyped is no success.
                Name::parse(key)?;
                ui.status(&format!("`{key}` is not set in `{}`", file.display()));
            }
            changed(key, &file, was_set, ui)
        }
        Some(ConfigCommand::Schema { repo }) => {
            let schema = schema::schema(if *repo { Owner::Repository } else { Owner::User });
            ui.answer(&schema, || schema::text(&schema))
        }
    }
}

fn changed(key: &str, file: &Path, changed: bool, ui: &Ui) -> Result<(), CommandError> {
    ui.answer(&Changed { key: key.to_owned(), file: lossy(file), changed }, String::new)
}

/// The root of the repository around `here`, if there is one.
fn root(here: &Path, paths: &Paths) -> Result<Option<PathBuf>, CommandError> {
    match Workspace::discover(here, git_host(paths)) {
        Ok(workspace) => Ok(Some(workspace.root)),
        Err(GitError::NotARepository { .. } | GitError::Bare { .. } | GitError::InsideGitDir { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The file to change.
fn file(repo: bool, here: &Path, paths: &Paths) -> Result<(PathBuf, Owner), CommandError> {
    if repo {
        let workspace = Workspace::discover(here, git_host(paths))?;
        return Ok((workspace.root.join(REPOSITORY_FILE), Owner::Repository));
    }
    let file = user_config().ok_or_else(|| {
        let error = CommandError::new("there is no home folder to keep a configuration in").kind(ErrorKind::NoHome);
        error.hint("set HOME or XDG_CONFIG_HOME")
    })?;
    Ok((file, Owner::User))
}

fn overview(here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let root = root(here, paths)?;
    let settings = Settings::of_process(paths, root.as_deref(), &Run::default())?;
    settings.warnings.iter().for_each(|warning| ui.warning(warning));
    let overview = Overview {
        user: user_config().as_deref().map(lossy),
        repo: root.map(|root| lossy(&root.join(REPOSITORY_FILE))),
        settings: settings.answers(),
    };
    ui.answer(&overview, || text(&overview))
}

fn get(key: &str, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let name = Name::parse(key)?;
    let settings = Settings::of_process(paths, root(here, paths)?.as_deref(), &Run::default())?;
    let value = settings.value(&name).map(|(value, _)| value);
    ui.answer(&value, || value.as_ref().map(|value| format!("{}\n", clean(&value.to_string()))).unwrap_or_default())
}

fn text(overview: &Overview) -> String {
    let shown = |answer: &Answer| match &answer.value {
        Some(value) => clean(&value.to_string()),
        None => "-".to_owned(),
    };
    let rows: Vec<_> = overview.settings.iter().map(|answer| (clean(&answer.key), shown(answer), answer)).collect();
    let width = |column: fn(&(String, String, &Answer)) -> usize| rows.iter().map(column).max().unwrap_or_default();
    let keys = width(|(key, ..)| key.chars().count());
    // A long value moves only its own origin.
    let values = width(|(_, value, _)| value.chars().count()).min(32);
    let line = |(key, value, answer): &(String, String, &Answer)| {
        let source = answer.source.as_ref().map(|source| format!(" ({})", clean(source))).unwrap_or_default();
        let limited = answer.limited.as_ref().map(|Limited { asked, by, .. }| {
            let asked = clean(&asked.to_string());
            format!("; limited by {}: `{REPOSITORY_FILE}` asks for {asked}, `banger trust` allows it", by.words())
        });
        format!("{key:<keys$}  {value:<values$}  {}{source}{}\n", answer.origin, limited.unwrap_or_default())
    };
    rows.iter().map(line).collect()
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn clean(text: &str) -> String {
    banger_vmm::printable(text.as_bytes())
}
