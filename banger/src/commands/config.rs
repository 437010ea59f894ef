//! `banger config`: what holds, and changing it.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde::Serialize;

use crate::cli::{Cli, ConfigCommand};
use crate::config::edit::{self, Name, REPOSITORY_FILE};
use crate::config::{Overrides, Owner, Setting, Settings, Shape, Value, git_host, most_of_repository, schema};
use crate::dispatch::is_built_in;
use crate::error::{CommandError, ErrorKind};
use crate::git::{GitError, Workspace};
use crate::host::paths::{Paths, user_config};
use crate::output::command_output::{CommandOutput, Message, Verbosity};
use crate::vm::machine::{self, VmSpec, check_fits};

/// What a `banger config` command returns. JSON has the value of the variant alone.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum ConfigOutput {
    /// All values: of `config` without a subcommand.
    Overview(ConfigOverview),
    /// A value: of `get`.
    Value(Value),
    /// A change: of `set` and `unset`.
    Change(ConfigChange),
    /// A JSON schema: of `schema`.
    Schema(serde_json::Value),
}

/// All values that hold, and where each is from.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigOverview {
    /// The user's file, which need not exist; none: there is no home directory.
    pub user: Option<String>,
    /// The repository's file, which need not exist; none: outside of a repository.
    pub repo: Option<String>,
    /// The values.
    pub settings: Vec<Setting>,
    /// What is not heeded, and why.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// A change of a configuration file.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigChange {
    /// The key that was set or unset.
    pub key: String,
    /// The file.
    pub file: String,
    /// Whether the file was changed; false: the key to unset was not set.
    pub changed: bool,
    /// Why the value that was set has no effect, or not everywhere.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// Runs a `banger config` command; without one, all values are returned.
///
/// # Errors
/// If a file cannot be read or written, or it says, or would say, what it may not.
pub fn config(command: Option<&ConfigCommand>, here: &Path, paths: &Paths) -> Result<ConfigOutput, CommandError> {
    Ok(match command {
        None => ConfigOutput::Overview(overview(here, paths)?),
        Some(ConfigCommand::Get { key }) => ConfigOutput::Value(get(key, here, paths)?),
        Some(ConfigCommand::Set { key, value, repo }) => ConfigOutput::Change(set(key, value, *repo, here, paths)?),
        Some(ConfigCommand::Unset { key, repo }) => ConfigOutput::Change(unset(key, *repo, here, paths)?),
        Some(ConfigCommand::Schema { repo }) => {
            ConfigOutput::Schema(schema::schema(if *repo { Owner::Repository } else { Owner::User }))
        }
    })
}

impl CommandOutput for ConfigOutput {
    fn messages(&self) -> Vec<Message> {
        match self {
            ConfigOutput::Overview(overview) => overview.warnings.iter().map(Message::warning).collect(),
            ConfigOutput::Change(change) => {
                let mut messages: Vec<_> = change.warnings.iter().map(Message::warning).collect();
                if !change.changed {
                    messages.push(Message::status(format!("`{}` is not set in `{}`", change.key, change.file)));
                }
                messages
            }
            ConfigOutput::Value(_) | ConfigOutput::Schema(_) => Vec::new(),
        }
    }

    fn text(&self, _verbosity: Verbosity) -> String {
        match self {
            ConfigOutput::Overview(overview) => text(overview),
            ConfigOutput::Value(value) => format!("{}\n", clean(&value.to_string())),
            ConfigOutput::Change(_) => String::new(),
            ConfigOutput::Schema(schema) => schema::text(schema),
        }
    }
}

fn overview(here: &Path, paths: &Paths) -> Result<ConfigOverview, CommandError> {
    let root = root(here, paths)?;
    let settings = Settings::of_process(paths, root.as_deref(), &Overrides::default())?;
    Ok(ConfigOverview {
        user: user_config().as_deref().map(lossy),
        repo: root.map(|root| lossy(&root.join(REPOSITORY_FILE))),
        settings: settings.all(),
        warnings: settings.warnings,
    })
}

fn get(key: &str, here: &Path, paths: &Paths) -> Result<Value, CommandError> {
    let name = Name::parse(key)?;
    let settings = Settings::of_process(paths, root(here, paths)?.as_deref(), &Overrides::default())?;
    let Some((value, _)) = settings.value(&name) else {
        let error = CommandError::new(format!("`{key}` is not set")).kind(ErrorKind::NotSet);
        return Err(match (name.entry, name.key.without) {
            (Some(_), _) => error.hint(format!("to list all: banger config get {}", name.key.name)),
            (None, "none") => error,
            (None, without) => error.hint(format!("default: {without}")),
        });
    };
    Ok(value)
}

fn set(key: &str, value: &str, repo: bool, here: &Path, paths: &Paths) -> Result<ConfigChange, CommandError> {
    let (file, owner) = file(repo, here, paths)?;
    let name = Name::parse(key)?;
    let value = name.value(value, owner)?;
    let mut warnings = Vec::new();
    check_alias(&name, &value)?;
    match does_not_fit(&name, &value) {
        // Others who share the file may have a larger machine.
        Some(error) if owner == Owner::Repository => {
            let most = most_of_repository(name.key.name);
            let most = most.map(|most| format!("; here, a VM gets at most {most}")).unwrap_or_default();
            warnings.push(format!("{}{most}", error.message));
        }
        Some(error) => {
            let most = machine::most(name.key.name).map(|most| format!("the most here is {most}"));
            return Err(CommandError { hints: most.into_iter().collect(), ..error });
        }
        None => {}
    }
    edit::set(&file, owner, &name, &value)?;
    Ok(ConfigChange { key: key.to_owned(), file: lossy(&file), changed: true, warnings })
}

fn unset(key: &str, repo: bool, here: &Path, paths: &Paths) -> Result<ConfigChange, CommandError> {
    let (file, owner) = file(repo, here, paths)?;
    let changed = edit::unset(&file, owner, key)?;
    if !changed {
        // A name that was mistyped is no success.
        Name::parse(key)?;
    }
    Ok(ConfigChange { key: key.to_owned(), file: lossy(&file), changed, warnings: Vec::new() })
}

/// An alias that could never be run is refused: banger's own commands come first, and an option is
/// no command.
fn check_alias(name: &Name, value: &Value) -> Result<(), CommandError> {
    let wrong = |message: String, hint: &str| Err(CommandError::new(message).kind(ErrorKind::Usage).hint(hint));
    let names: Vec<&String> = match (name.key.shape, &name.entry, value) {
        (Shape::Aliases, Some(entry), value) => {
            let is_empty = match value {
                Value::Text(text) => text.trim().is_empty(),
                Value::List(words) => words.is_empty(),
                _ => false,
            };
            if is_empty {
                return wrong(
                    format!("the alias `{entry}` would stand for nothing"),
                    "give it words: '[\"--\", \"make\"]'",
                );
            }
            vec![entry]
        }
        (Shape::Aliases, None, Value::Aliases(all)) => all.keys().collect(),
        _ => return Ok(()),
    };
    let cli = Cli::command();
    for name in names {
        if is_built_in(&cli, name.as_ref()) {
            let message = format!("`{name}` is a command of banger's own, which comes before an alias");
            return wrong(message, "choose another name for the alias");
        }
        if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
            return wrong(format!("`{name}` cannot name an alias"), "a name is a word that does not begin with `-`");
        }
    }
    Ok(())
}

/// Why no VM of this machine can have this value.
fn does_not_fit(name: &Name, value: &Value) -> Option<CommandError> {
    let spec = match (name.key.name, value) {
        ("cpus", Value::Number(cpus)) => VmSpec { cpus: u32::try_from(*cpus).ok(), ..VmSpec::default() },
        ("memory", Value::Size(mib)) => VmSpec { memory_mib: Some(*mib), ..VmSpec::default() },
        _ => return None,
    };
    check_fits(&spec).err()
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

fn text(overview: &ConfigOverview) -> String {
    let shown = |answer: &Setting| match &answer.value {
        Some(value) => clean(&value.to_string()),
        None => "-".to_owned(),
    };
    let rows: Vec<_> = overview.settings.iter().map(|answer| (clean(&answer.key), shown(answer), answer)).collect();
    let width = |column: fn(&(String, String, &Setting)) -> usize| rows.iter().map(column).max().unwrap_or_default();
    let keys = width(|(key, ..)| key.chars().count());
    // A long value moves only its own origin.
    let values = width(|(_, value, _)| value.chars().count()).min(32);
    let line = |(key, value, answer): &(String, String, &Setting)| {
        let source = answer.source.as_ref().map(|source| format!(" ({})", clean(source))).unwrap_or_default();
        let limited = answer.limited.as_ref().map(|limited| format!("; {}", clean(&limited.describe(REPOSITORY_FILE))));
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
