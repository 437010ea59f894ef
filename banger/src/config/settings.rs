//! The values that hold for one command, and where each is from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_image::Location;
use banger_vmm::{NetMode, Ready};
use serde::Serialize;

use super::defaults::{DEFAULT_IMAGE, default_cpus, default_memory};
use super::edit::{Name, REPOSITORY_FILE};
use super::file::{ConfigFile, Owner};
use super::key::{KEYS, Key, Stands};
use super::limits::{HostCapacity, Limited, LimitedBy, limits};
use super::trust::TrustStore;
use super::value::{Shape, Value};
use crate::error::{CommandError, ErrorKind};
use crate::git::History;
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

/// What a command line says. None: nothing, so that variables and files count.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Image of a new VM.
    pub image: Option<String>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Size of a new VM's disk in MiB.
    pub disk_mib: Option<u64>,
    /// Network of a new VM.
    pub net: Option<NetMode>,
    /// Whether the tools that the repository names for mise are installed.
    pub mise: Option<bool>,
    /// Whether ports that something begins to listen at in the VM are forwarded.
    pub ports_by_themselves: Option<bool>,
    /// When a VM counts as started.
    pub ready: Option<Ready>,
}

/// As whom an image is had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageAccess {
    /// As the user: with the user's logins at registries, and whatever images are here.
    #[default]
    User,
    /// As anybody: what a registry gives without a login, and the names of catalogs.
    Anonymous,
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

/// One value, as `banger config` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
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
                let message = format!("the variable {variable} is `{}`", super::value::short(&shown));
                CommandError::new(message).kind(ErrorKind::Usage).hint(format!("it may be {may_be}"))
            })?;
            settings.set(key.name, value, Origin::Environment);
        }
        settings.set_overrides(overrides);
        Ok(settings)
    }

    /// The same with this process's own environment and the user's own file. `root` is the
    /// workspace's.
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

    fn set_overrides(&mut self, overrides: &Overrides) {
        let name = |name: &str| Value::Text(name.to_owned());
        let given = [
            ("image", overrides.image.clone().map(Value::Text)),
            ("cpus", overrides.cpus.map(|cpus| Value::Number(cpus.into()))),
            ("memory", overrides.memory_mib.map(Value::Size)),
            ("disk", overrides.disk_mib.map(Value::Size)),
            ("net", overrides.net.map(|net| name(net.name()))),
            ("mise", overrides.mise.map(Value::Flag)),
            ("ports", overrides.ports_by_themselves.map(|auto| name(if auto { "auto" } else { "none" }))),
            ("ready", overrides.ready.map(|ready| name(if ready == Ready::System { "system" } else { "agent" }))),
        ];
        for (key, value) in given {
            if let Some(value) = value {
                self.set(key, value, Origin::Flag);
            }
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

    /// All values, in the order of the documentation; variables and aliases one by one.
    pub fn answers(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for key in KEYS {
            match key.shape {
                Shape::Variables => answers.extend(self.env.iter().map(|(name, (value, origin))| {
                    let value = Some(Value::Text(value.clone()));
                    self.answer(key, format!("{}.{name}", key.name), value, *origin)
                })),
                Shape::Aliases => {
                    let Some((Value::Aliases(all), origin)) = self.values.get(key.name) else { continue };
                    answers.extend(all.iter().map(|(name, words)| {
                        let value = Some(Value::List(words.clone()));
                        self.answer(key, format!("{}.{name}", key.name), value, *origin)
                    }));
                }
                Shape::One(_) | Shape::List(_) => {
                    let (value, origin) = match self.values.get(key.name) {
                        Some((value, origin)) => (Some(value.clone()), *origin),
                        None => (self.implied(key), Origin::Default),
                    };
                    answers.push(self.answer(key, key.name.to_owned(), value, origin));
                }
            }
        }
        answers
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

    fn answer(&self, key: &Key, name: String, value: Option<Value>, origin: Origin) -> Answer {
        let file = |path: &Option<PathBuf>| Some(path.as_ref()?.display().to_string());
        let source = match origin {
            Origin::Default => None,
            Origin::User => file(&self.user),
            Origin::Repo => file(&self.repo),
            Origin::Environment => key.variable(),
            Origin::Flag => key.flag.map(str::to_owned),
        };
        let limited = self.limit(key.name, origin).cloned();
        Answer { key: name, value, origin, source, limited }
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

    fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some((Value::Text(text), _)) => Some(text),
            _ => None,
        }
    }

    /// The same if somebody said it.
    fn said(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|(_, origin)| *origin != Origin::Default).map(|(value, _)| value)
    }

    fn list(&self, key: &str) -> &[String] {
        match self.values.get(key) {
            Some((Value::List(items), _)) => items,
            _ => &[],
        }
    }

    /// The image of a new VM.
    pub fn image(&self) -> &str {
        self.text("image").or_else(|| self.text("default_image_name")).unwrap_or(DEFAULT_IMAGE)
    }

    /// The images that new VMs are made from if nobody says otherwise: here, and elsewhere.
    pub fn default_images(&self) -> [&str; 2] {
        [self.image(), self.text("default_image_name").unwrap_or(DEFAULT_IMAGE)]
    }

    /// The image that a VM of this workspace shall have, if somebody said which.
    pub fn wanted_image(&self) -> Option<&str> {
        self.said("image").and(self.text("image"))
    }

    /// As whom that image is had: what a repository's file names that is not trusted is had as
    /// anybody has it.
    pub fn image_access(&self) -> ImageAccess {
        match self.values.get("image") {
            Some((_, Origin::Repo)) if !self.is_trusted => ImageAccess::Anonymous,
            _ => ImageAccess::User,
        }
    }

    /// Processors, if somebody said how many.
    pub fn cpus(&self) -> Option<u32> {
        match self.said("cpus") {
            Some(Value::Number(number)) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Memory in MiB, if somebody said how much.
    pub fn memory_mib(&self) -> Option<u64> {
        match self.said("memory") {
            Some(Value::Size(mib)) => Some(*mib),
            _ => None,
        }
    }

    /// The size of a new VM's disk in bytes, if somebody said it.
    pub fn disk_bytes(&self) -> Option<u64> {
        match self.said("disk") {
            Some(Value::Size(mib)) => Some(mib << 20),
            _ => None,
        }
    }

    /// The network of a new VM, if somebody said which.
    pub fn net(&self) -> Option<NetMode> {
        self.said("net")?;
        Some(self.text("net").and_then(NetMode::from_name).unwrap_or_default())
    }

    /// When a VM counts as started, if somebody said it; else that is the image's affair.
    pub fn ready(&self) -> Option<Ready> {
        self.text("ready").map(|ready| if ready == "system" { Ready::System } else { Ready::Agent })
    }

    /// Whom the working tree in the VM belongs to, if not root.
    pub fn owner(&self) -> Option<&str> {
        self.text("owner")
    }

    /// Whether ports that something begins to listen at lead into the VM.
    pub fn ports_by_themselves(&self) -> bool {
        self.text("ports") == Some("auto")
    }

    /// How much of git's history a new VM gets, if somebody said it; else that depends on how much
    /// there is.
    pub fn history(&self) -> Option<History> {
        let name = self.text("history")?;
        [History::Full, History::Shallow, History::None].into_iter().find(|history| history.name() == name)
    }

    /// After how long without a command the VM stops; zero: never.
    pub fn idle_timeout(&self) -> Duration {
        match self.values.get("idle_timeout") {
            Some((Value::Time(time), _)) => *time,
            _ => Duration::ZERO,
        }
    }

    /// Variables for commands in the VM.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, (value, _))| (name.as_str(), value.as_str()))
    }

    /// The names of variables that commands in the VM get from here.
    pub fn env_from_host(&self) -> &[String] {
        self.list("env_from_host")
    }

    /// Commands that prepare the VM.
    pub fn setup(&self) -> &[String] {
        self.list("setup")
    }

    /// Files of the repository, relative to its root, with whose change `setup` is done again.
    pub fn setup_inputs(&self) -> &[String] {
        self.list("setup_inputs")
    }

    /// Whether the tools that the repository names for mise are installed.
    pub fn mise(&self) -> bool {
        matches!(self.values.get("mise"), Some((Value::Flag(true), _)))
    }

    /// Whether VMs get an SSH server.
    pub fn first_boot_sshd(&self) -> bool {
        matches!(self.values.get("first_boot_sshd"), Some((Value::Flag(true), _)))
    }

    /// PEM files of certificate authorities. `home` is what `~` stands for.
    pub fn ca_certificates(&self, home: Option<&Path>) -> Vec<PathBuf> {
        self.list("ca_certificates").iter().map(|text| expanded(text, home)).collect()
    }

    /// The user's own key for ssh. `home` is what `~` stands for.
    pub fn ssh_key_path(&self, home: Option<&Path>) -> Option<PathBuf> {
        Some(expanded(self.text("ssh_key_path")?, home))
    }

    /// Where a team's own catalog is. `home` is what `~` stands for.
    pub fn catalog_url(&self, home: Option<&Path>) -> Option<Location> {
        let text = self.text("catalog_url")?;
        // What is no path was read as a URL when it was set.
        expanded(text, home).to_str().and_then(|text| text.parse().ok())
    }
}

/// A path of the configuration.
fn expanded(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(text),
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The settings of who has these files, variables and options.
    struct Given {
        folder: tempfile::TempDir,
        variables: BTreeMap<&'static str, &'static str>,
        overrides: Overrides,
    }

    impl Given {
        fn new(user: &str, repo: &str) -> Given {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("repo")).unwrap();
            fs::write(folder.path().join("config.toml"), user).unwrap();
            fs::write(folder.path().join("repo/banger.toml"), repo).unwrap();
            Given { folder, variables: BTreeMap::new(), overrides: Overrides::default() }
        }

        fn root(&self) -> PathBuf {
            self.folder.path().join("repo")
        }

        fn load(&self) -> Result<Settings, CommandError> {
            let (user, root) = (self.folder.path().join("config.toml"), self.root());
            let variable = |name: &str| self.variables.get(name).map(OsString::from);
            let sources =
                Sources { user: Some(&user), root: Some(&root), data: self.folder.path(), variable: &variable };
            Settings::load(&sources, &self.overrides)
        }

        fn trust(&self) {
            let text = fs::read_to_string(self.root().join("banger.toml")).unwrap();
            TrustStore::new(self.folder.path()).trust(&self.root(), Some(&text), &Default::default()).unwrap();
        }
    }

    fn answer(settings: &Settings, key: &str) -> (String, Origin) {
        let answer = settings.answers().into_iter().find(|answer| answer.key == key).unwrap();
        (answer.value.map(|value| value.to_string()).unwrap_or_default(), answer.origin)
    }

    #[test]
    fn a_nearer_word_wins() {
        let mut given = Given::new("cpus = 2\n", "cpus = 1\n");
        assert_eq!(answer(&given.load().unwrap(), "cpus"), ("1".into(), Origin::Repo));
        given.variables.insert("BANGER_CPUS", "3");
        assert_eq!(answer(&given.load().unwrap(), "cpus"), ("3".into(), Origin::Environment));
        given.overrides.cpus = Some(4);
        let settings = given.load().unwrap();
        assert_eq!((answer(&settings, "cpus"), settings.cpus()), (("4".into(), Origin::Flag), Some(4)));
        let settings = Given::new("cpus = 1\nmemory = \"2G\"\n", "").load().unwrap();
        assert_eq!((settings.cpus(), settings.memory_mib(), settings.disk_bytes()), (Some(1), Some(2048), None));
        assert_eq!(answer(&settings, "disk"), ("32G".into(), Origin::Default));
        assert_eq!((settings.net(), settings.ready(), settings.history()), (None, None, None));
        assert_eq!(settings.idle_timeout(), Duration::from_secs(1800));
    }

    #[test]
    fn an_image_is_the_default_one_unless_another_is_wanted() {
        let settings = Given::new("default_image_name = \"mine\"\n", "").load().unwrap();
        assert_eq!((settings.image(), settings.wanted_image()), ("mine", None));
        let settings = Given::new("default_image_name = \"mine\"\n", "image = \"ours\"\n").load().unwrap();
        assert_eq!((settings.image(), settings.wanted_image()), ("ours", Some("ours")));
    }

    #[test]
    fn variables_of_both_files_are_taken() {
        let settings = Given::new("env = { A = \"1\", B = \"1\" }\n", "[env]\nB = \"$HOME\"\n").load().unwrap();
        assert_eq!(settings.env().collect::<Vec<_>>(), [("A", "1"), ("B", "$HOME")]);
        assert_eq!(answer(&settings, "env.A"), ("1".into(), Origin::User));
        assert_eq!(answer(&settings, "env.B"), ("$HOME".into(), Origin::Repo));
    }

    #[test]
    fn what_hands_over_something_of_this_machine_needs_trust_in_this_very_file() {
        let given = Given::new("net = \"none\"\n", "net = \"user\"\nenv_from_host = [\"TOKEN\"]\ncpus = 1\n");
        let settings = given.load().unwrap();
        assert_eq!(
            (settings.net(), settings.env_from_host().len(), settings.cpus()),
            (Some(NetMode::None), 0, Some(1))
        );
        let [warning] = &settings.warnings[..] else { panic!("{:?}", settings.warnings) };
        for part in ["`env_from_host = [\"TOKEN\"]`", "`net = user`", "banger trust"] {
            assert!(warning.contains(part), "{warning}");
        }
        given.trust();
        let settings = given.load().unwrap();
        assert_eq!((settings.net(), settings.env_from_host()), (Some(NetMode::User), &["TOKEN".to_owned()][..]));
        assert!(settings.warnings.is_empty());
        fs::write(given.root().join("banger.toml"), "env_from_host = [\"TOKEN\", \"OTHER\"]\n").unwrap();
        assert!(given.load().unwrap().env_from_host().is_empty());
        let ports = |text: &str| Given::new("", text).load().unwrap();
        assert!(!ports("ports = \"auto\"\n").ports_by_themselves() && ports("ports = \"none\"\n").warnings.is_empty());
        assert!(Given::new("ports = \"auto\"\n", "").load().unwrap().ports_by_themselves());
        // Whoever has no word on it has nothing against it; and the user's own file needs no trust.
        let settings = Given::new("env_from_host = [\"X\"]\n", "net = \"user\"\n").load().unwrap();
        assert_eq!((settings.warnings.len(), settings.env_from_host().len()), (0, 1));
    }

    #[test]
    fn a_repository_raises_the_users_limits_only_with_trust() {
        let user = "cpus = 1\nmemory = \"1G\"\nidle_timeout = \"10m\"\n";
        let repo = "cpus = 200\nmemory = \"512M\"\ndisk = \"64G\"\nidle_timeout = 0\n";
        let has = default_cpus();
        let mut given = Given::new(user, repo);
        let settings = given.load().unwrap();
        assert_eq!((answer(&settings, "cpus"), settings.cpus()), (("1".into(), Origin::User), Some(1)));
        assert_eq!(answer(&settings, "memory"), ("512M".into(), Origin::Repo));
        assert_eq!(answer(&settings, "disk"), ("64G".into(), Origin::Repo));
        assert_eq!(settings.idle_timeout(), Duration::from_secs(600));
        let limited = |settings: &Settings| {
            let answers = settings.answers().into_iter();
            answers.filter_map(|answer| Some((answer.key, answer.limited?.asked.to_string()))).collect::<Vec<_>>()
        };
        assert_eq!(limited(&settings), [("cpus".into(), "200".into()), ("idle_timeout".into(), "0".into())]);
        let notes = settings.limit_notes();
        for part in ["`cpus` is 1", "your own configuration", "asks for 200"] {
            assert!(notes[0].contains(part), "{notes:?}");
        }
        assert!(notes[1].contains("which needs `banger trust`"), "{notes:?}");
        // Nothing of it is said with each command.
        assert_eq!((notes.len(), settings.warnings.len()), (2, 0));
        // An option is the user's word.
        given.overrides.cpus = Some(3);
        let settings = given.load().unwrap();
        assert_eq!((settings.cpus(), limited(&settings).len(), settings.limit_notes().len()), (Some(3), 1, 1));
        given.overrides.cpus = None;
        given.trust();
        let settings = given.load().unwrap();
        // No file asks for more than the machine has.
        assert_eq!((settings.cpus(), settings.idle_timeout()), (Some(has), Duration::ZERO));
        assert_eq!(limited(&settings), [("cpus".into(), "200".into())]);
        assert!(!settings.limit_notes()[0].contains("trust"), "{:?}", settings.limit_notes());
        // Without a word of the user's own.
        let settings = Given::new("", "idle_timeout = 0\ncpus = 255\n").load().unwrap();
        assert_eq!(settings.idle_timeout(), Duration::from_secs(24 * 3600));
        assert_eq!(settings.cpus(), Some(default_cpus()));
    }

    #[test]
    fn an_image_that_an_untrusted_file_names_is_had_as_anybody_has_it() {
        let mut given = Given::new("", "image = \"x.example/team/app:1\"\n");
        assert_eq!(given.load().unwrap().image_access(), ImageAccess::Anonymous);
        given.variables.insert("BANGER_IMAGE", "x.example/team/app:1");
        assert_eq!(given.load().unwrap().image_access(), ImageAccess::User);
        given.variables.clear();
        given.trust();
        assert_eq!(given.load().unwrap().image_access(), ImageAccess::User);
        assert_eq!(Given::new("image = \"a\"\n", "").load().unwrap().image_access(), ImageAccess::User);
        assert_eq!(Given::new("", "cpus = 1\n").load().unwrap().image_access(), ImageAccess::User);
    }

    #[test]
    fn key_of_an_earlier_version_is_unknown_in_a_file_and_ignored_as_a_variable() {
        let error = Given::new("bridge_name = \"br0\"\n", "").load().unwrap_err();
        assert!(error.kind == ErrorKind::Config && error.message.contains("bridge_name"), "{error:?}");
        let mut given = Given::new("", "");
        given.variables.insert("BANGER_BRIDGE_NAME", "br0");
        assert!(given.load().unwrap().warnings.is_empty());
    }

    #[test]
    fn a_teams_catalog_is_a_url_or_a_path_and_the_users_affair() {
        let location = |text: &str| {
            let settings = Given::new(&format!("catalog_url = \"{text}\"\n"), "").load().unwrap();
            settings.catalog_url(Some(Path::new("/home/me"))).map(|location| location.to_string())
        };
        assert_eq!(location("https://x.example/c.toml").unwrap(), "https://x.example/c.toml");
        assert_eq!(location("~/c.toml").unwrap(), "/home/me/c.toml");
        assert_eq!(location("file:///srv/c.toml").unwrap(), "/srv/c.toml");
        assert!(Given::new("", "").load().unwrap().catalog_url(None).is_none());
        for (user, repo) in [("catalog_url = \"c.toml\"\n", ""), ("", "catalog_url = \"https://x.example\"\n")] {
            assert_eq!(Given::new(user, repo).load().unwrap_err().kind, ErrorKind::Config);
        }
    }

    #[test]
    fn a_variable_that_is_no_value_is_named() {
        let mut given = Given::new("", "");
        given.variables.insert("BANGER_MEMORY", "lots");
        let error = given.load().unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Usage, "the variable BANGER_MEMORY is `lots`"));
        given.variables = [("BANGER_MEMORY", ""), ("BANGER_SETUP", "[\"a\", \"b c\"]"), ("BANGER_MISE", "0")].into();
        let settings = given.load().unwrap();
        assert_eq!(
            (settings.memory_mib(), settings.setup(), settings.mise()),
            (None, &["a".to_owned(), "b c".to_owned()][..], false)
        );
    }
}
