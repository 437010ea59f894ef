//! The values that hold for one command, and where each is from.

mod listing;
mod overrides;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::listing::Setting;
pub use self::overrides::Overrides;
pub use self::values::{ImageAccess, expanded};
use crate::config::edit::REPOSITORY_FILE;
use crate::config::file::{ConfigFile, Owner};
use crate::config::key::{KEYS, Key, Stands};
use crate::config::limits::{HostCapacity, Limited, LimitedBy, limits};
use crate::config::trust::TrustStore;
use crate::config::value::{Value, short};
use crate::error::{CommandError, ErrorKind};
use crate::host::paths::{Paths, user_config};

/// Where a value is from. A later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The user's configuration file.
    User,
    /// The repository's.
    Repo,
    /// A variable `BANGER_…`.
    Environment,
    /// An option.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Default => "default",
            Origin::User => "user",
            Origin::Repo => "repo",
            Origin::Environment => "environment",
            Origin::Flag => "flag",
        })
    }
}

/// Where values come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The user's file, which need not exist.
    pub user: Option<&'a Path>,
    /// The canonical root of the repository.
    pub root: Option<&'a Path>,
    /// banger's data folder, where trust is written down.
    pub data: &'a Path,
    /// The environment.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

/// The values that hold.
#[derive(Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
    env: BTreeMap<String, (String, Origin)>,
    user: Option<PathBuf>,
    repo: Option<PathBuf>,
    /// Whether the repository's file is trusted, or there is none.
    is_trusted: bool,
    limited: BTreeMap<&'static str, Limited>,
    /// What the user should know: what is not heeded, and why.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads and merges. `overrides` are the command line's.
    ///
    /// # Errors
    /// If a file or variable says what it may not.
    pub fn load(sources: &Sources<'_>, overrides: &Overrides) -> Result<Settings, CommandError> {
        let user = sources.user.map(|path| ConfigFile::read(path, Owner::User)).transpose()?.flatten();
        let path = sources.root.map(|root| root.join(REPOSITORY_FILE));
        let repo = path.as_deref().map(|path| ConfigFile::read(path, Owner::Repository)).transpose()?.flatten();
        let mut settings = Settings {
            values: BTreeMap::new(),
            env: BTreeMap::new(),
            user: sources.user.map(Path::to_owned),
            repo: path,
            is_trusted: true,
            limited: BTreeMap::new(),
            warnings: Vec::new(),
        };
        if let (Some(root), Some(repo)) = (sources.root, &repo) {
            settings.is_trusted = TrustStore::new(sources.data).trusts(root, &repo.text);
        }
        for (key, default) in KEYS.iter().filter_map(|key| Some((key, key.default?))) {
            let value = Value::from_text(&key.shape, default).expect("a default is as its key wants it");
            settings.set(key.name, value, Origin::Default);
        }
        let ignored = settings.untrusted(user.as_ref(), repo.as_ref());
        if let Some(repo) = &repo {
            settings.limited = limits(repo, user.as_ref(), HostCapacity::here(), settings.is_trusted).collect();
        }
        for (file, origin) in [(user, Origin::User), (repo, Origin::Repo)] {
            let values = file.map(|file| file.values).unwrap_or_default();
            let heeded = |name: &&str| origin != Origin::Repo || !ignored.contains(name);
            values
                .into_iter()
                .filter(|(name, _)| heeded(name))
                .for_each(|(name, value)| settings.set_within_limits(name, value, origin));
        }
        for key in KEYS {
            let Some(variable) = key.variable() else { continue };
            let Some(text) = (sources.variable)(&variable).filter(|text| !text.is_empty()) else { continue };
            let shown = text.to_string_lossy();
            let value =
                text.to_str().ok_or("a text in UTF-8".to_owned()).and_then(|text| Value::from_text(&key.shape, text));
            let value = value.map_err(|may_be| {
                let message = format!("the variable {variable} is `{}`", short(&shown));
                CommandError::new(message).kind(ErrorKind::Usage).hint(format!("it may be {may_be}"))
            })?;
            settings.set(key.name, value, Origin::Environment);
        }
        settings.set_overrides(overrides);
        Ok(settings)
    }

    /// Loads the settings with this process's environment and the user's configuration file. `root`
    /// is the workspace's.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn of_process(paths: &Paths, root: Option<&Path>, overrides: &Overrides) -> Result<Settings, CommandError> {
        let user = user_config();
        let sources =
            Sources { user: user.as_deref(), root, data: &paths.data, variable: &|name| std::env::var_os(name) };
        Settings::load(&sources, overrides)
    }

    /// Sets what a file says, or what holds in its place.
    fn set_within_limits(&mut self, name: &'static str, value: Value, origin: Origin) {
        let Some(limited) = self.limited.get(name).filter(|_| origin == Origin::Repo) else {
            return self.set(name, value, origin);
        };
        // The user's own word stands.
        if limited.by != LimitedBy::User {
            let limit = limited.limit.clone();
            self.set(name, limit, origin);
        }
    }

    fn set(&mut self, name: &'static str, value: Value, origin: Origin) {
        match value {
            Value::Variables(all) => self.env.extend(all.into_iter().map(|(name, value)| (name, (value, origin)))),
            value => drop(self.values.insert(name, (value, origin))),
        }
    }

    /// The keys of the repository's file that hand something of this machine to the guest, if it is
    /// not trusted.
    fn untrusted(&mut self, user: Option<&ConfigFile>, repo: Option<&ConfigFile>) -> Vec<&'static str> {
        let Some(repo) = repo.filter(|_| !self.is_trusted) else { return Vec::new() };
        let keys = needing_trust(repo, user);
        if keys.is_empty() {
            return Vec::new();
        }
        let named: Vec<_> = keys.iter().map(|key| format!("`{key} = {}`", repo.values[key])).collect();
        let verb = if keys.len() == 1 { "is" } else { "are" };
        self.warnings.push(format!(
            "{} of `{}` {verb} ignored, as it hands something of this machine to the VM; if you trust it: banger trust",
            named.join(" and "),
            repo.path.display()
        ));
        keys
    }
}

/// The keys of a repository's file that are heeded only with trust. What the user has forbidden, it
/// may not allow.
pub(crate) fn needing_trust(repo: &ConfigFile, user: Option<&ConfigFile>) -> Vec<&'static str> {
    let forbids = |file: &ConfigFile| file.values.get("net") == Some(&Value::Text("none".to_owned()));
    let needs = |name: &&str| match *name {
        "net" => user.is_some_and(forbids) && !forbids(repo),
        // To have none is to hand nothing over.
        "ports" => repo.values.get("ports") != Some(&Value::Text("none".to_owned())),
        name => Key::named(name).is_some_and(|key| key.stands == Stands::Trusted),
    };
    repo.values.keys().copied().filter(needs).collect()
}
