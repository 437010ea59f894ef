//! The values one by one, as `banger config` lists them.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Origin, Settings};
use crate::config::defaults::{default_cpus, default_memory};
use crate::config::edit::{Name, REPOSITORY_FILE};
use crate::config::key::{KEYS, Key};
use crate::config::limits::Limited;
use crate::config::value::{Shape, Value};

/// One value, as `banger config` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key; of a variable `env.NAME`, of an alias `alias.NAME`.
    pub key: String,
    /// What holds; none: nothing was said, and there is no fixed default.
    pub value: Option<Value>,
    /// Where it is from.
    pub origin: Origin,
    /// The file or variable or option that it is from.
    pub source: Option<String>,
    /// That the repository's file asks for more: for what it needs trust, or than this machine has.
    pub limited: Option<Limited>,
}

impl Settings {
    /// All values, in the order of the documentation; variables and aliases one by one.
    pub fn all(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for key in KEYS {
            match key.shape {
                Shape::Variables => settings.extend(self.env.iter().map(|(name, (value, origin))| {
                    let value = Some(Value::Text(value.clone()));
                    self.setting(key, format!("{}.{name}", key.name), value, *origin)
                })),
                Shape::Aliases => {
                    let Some((Value::Aliases(all), origin)) = self.values.get(key.name) else { continue };
                    settings.extend(all.iter().map(|(name, words)| {
                        let value = Some(Value::List(words.clone()));
                        self.setting(key, format!("{}.{name}", key.name), value, *origin)
                    }));
                }
                Shape::One(_) | Shape::List(_) => {
                    let (value, origin) = match self.values.get(key.name) {
                        Some((value, origin)) => (Some(value.clone()), *origin),
                        None => (self.implied(key), Origin::Default),
                    };
                    settings.push(self.setting(key, key.name.to_owned(), value, origin));
                }
            }
        }
        settings
    }

    /// The value of one key, or of one variable or alias, and where it is from.
    pub fn value(&self, name: &Name) -> Option<(Value, Origin)> {
        match (name.key.shape, &name.entry) {
            (Shape::Variables, Some(entry)) => {
                self.env.get(entry).map(|(value, origin)| (Value::Text(value.clone()), *origin))
            }
            (Shape::Variables, None) => {
                let origin = self.env.values().map(|(_, origin)| *origin).max()?;
                let all = self.env.iter().map(|(name, (value, _))| (name.clone(), value.clone()));
                Some((Value::Variables(all.collect()), origin))
            }
            (Shape::Aliases, Some(entry)) => match self.values.get(name.key.name) {
                Some((Value::Aliases(all), origin)) => Some((Value::List(all.get(entry)?.clone()), *origin)),
                _ => None,
            },
            _ => {
                let implied = || Some((self.implied(name.key)?, Origin::Default));
                self.values.get(name.key.name).cloned().or_else(implied)
            }
        }
    }

    fn setting(&self, key: &Key, name: String, value: Option<Value>, origin: Origin) -> Setting {
        let file = |path: &Option<PathBuf>| Some(path.as_ref()?.display().to_string());
        let source = match origin {
            Origin::Default => None,
            Origin::User => file(&self.user),
            Origin::Repo => file(&self.repo),
            Origin::Environment => key.variable(),
            Origin::Flag => key.flag.map(str::to_owned),
        };
        let limited = self.limit(key.name, origin).cloned();
        Setting { key: name, value, origin, source, limited }
    }

    /// How the repository's word on a key is limited, unless a variable or an option has the last
    /// one.
    fn limit(&self, key: &str, origin: Origin) -> Option<&Limited> {
        self.limited.get(key).filter(|_| origin <= Origin::Repo)
    }

    /// A line about each value that is less than the repository asks for.
    pub(crate) fn limit_notes(&self) -> Vec<String> {
        let file = self.repo.as_deref().unwrap_or(Path::new(REPOSITORY_FILE)).display();
        let of = |key: &&'static str| {
            let (_, origin) = self.values.get(*key)?;
            let limited = self.limit(key, *origin)?;
            Some(format!("`{key}` is {}, {}", limited.limit, limited.describe(&file)))
        };
        self.limited.keys().filter_map(of).collect()
    }

    /// What holds for a key without a fixed default, where it is known before there is a VM.
    fn implied(&self, key: &Key) -> Option<Value> {
        match key.name {
            "image" => Some(Value::Text(self.image().to_owned())),
            "cpus" => Some(Value::Number(default_cpus().into())),
            "memory" => Some(Value::Size(default_memory())),
            _ => None,
        }
    }
}
