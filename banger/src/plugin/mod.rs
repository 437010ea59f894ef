//! Plugins: `banger foo` is the program `banger-foo`. The contract is `docs/plugins.md`.

mod describe;
mod environment;
mod exec;
mod known;
mod program;
mod propose;
mod question;
mod typed;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

pub use self::describe::{Description, describe};
pub use self::environment::{Environment, banger};
pub use self::exec::exec;
pub use self::known::KnownPlugins;
pub(crate) use self::program::with_values;
pub use self::program::{Program, Values, main};
pub use self::propose::{Proposal, propose};
pub(crate) use self::typed::fitted;

/// The version of the contract. A plugin that needs more than it offers says so in its description.
pub const API: u32 = 1;

/// What the names of plugins' programs start with.
const PREFIX: &str = "banger-";

/// banger's own helpers, which are no plugins wherever they lie: in a build folder they lie beside
/// `banger`.
const HELPERS: [&str; 2] = ["agent", "vmm"];

/// The folders in which plugins are looked for, in their order.
#[derive(Clone, Debug)]
pub struct Plugins {
    folders: Vec<PathBuf>,
}

/// The program of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPlugin {
    /// Its absolute path.
    pub path: PathBuf,
    /// Why it cannot be run.
    pub problem: Option<Problem>,
}

/// Why a program of a plugin's name cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A link that leads nowhere.
    Dangling,
    /// A folder, or something else that is no file.
    NoFile,
    /// A file that this user may not execute.
    NotExecutable,
}

impl Problem {
    /// The problem as a phrase of an error message.
    pub fn describe(self) -> &'static str {
        match self {
            Problem::Dangling => "a link that leads nowhere",
            Problem::NoFile => "no file",
            Problem::NotExecutable => "not executable",
        }
    }
}

impl Plugins {
    /// The folders of `path`, which is like `$PATH`, and then the one that `banger` itself is in. A
    /// relative or empty entry of `path` is left out: it would be a folder of whatever repository
    /// one stands in, and who wrote that must not add commands.
    pub fn new(path: &OsStr, beside: Option<&Path>) -> Plugins {
        let mut folders = Vec::new();
        let beside = beside.map(Path::to_owned);
        for folder in std::env::split_paths(path).filter(|folder| folder.is_absolute()).chain(beside) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        Plugins { folders }
    }

    /// The program of the plugin `name`: the first that can be run, else the first that is there.
    pub fn find(&self, name: &OsStr) -> Option<FoundPlugin> {
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty() || bytes.contains(&b'/') || HELPERS.iter().any(|helper| name == *helper) {
            return None;
        }
        let mut file = OsString::from(PREFIX);
        file.push(name);
        let mut unusable = None;
        for path in self.folders.iter().map(|folder| folder.join(&file)) {
            match problem(&path) {
                None => {}
                Some(None) => return Some(FoundPlugin { path, problem: None }),
                Some(problem) => {
                    unusable.get_or_insert(FoundPlugin { path, problem });
                }
            }
        }
        unusable
    }

    /// The names of plugins that somebody may want to type, and of those that are a part of another
    /// plugin. Nothing of them is run.
    ///
    /// A part is a link to the program of another plugin whose name begins its own, as
    /// `banger-ssh-proxy` is one to `banger-ssh`.
    pub fn to_type(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let runnable = |name: &String| self.find(name.as_ref()).is_some_and(|found| found.problem.is_none());
        self.names().into_iter().filter(runnable).partition(|name| !self.is_part(name))
    }

    fn is_part(&self, name: &str) -> bool {
        let Some(found) = self.find(name.as_ref()) else { return false };
        let target = fs::read_link(&found.path).ok();
        let whole = target.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
        let whole = whole.and_then(|file| file.strip_prefix(PREFIX));
        whole.is_some_and(|whole| name.strip_prefix(whole).is_some_and(|rest| rest.starts_with('-')))
    }

    /// The names of all plugins. Nothing of them is run.
    pub fn names(&self) -> BTreeSet<String> {
        let entries = self.folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_prefix(PREFIX)?.to_owned());
        let is_name = |name: &String| !name.is_empty() && !HELPERS.contains(&name.as_str());
        entries.filter_map(name).filter(is_name).collect()
    }
}

/// None: nothing is at `path`. Some(None): a program.
#[expect(clippy::option_option, reason = "nothing there, and nothing wrong with what is there, are different things")]
fn problem(path: &Path) -> Option<Option<Problem>> {
    fs::symlink_metadata(path).ok()?;
    Some(match fs::metadata(path) {
        Err(_) => Some(Problem::Dangling),
        Ok(metadata) if !metadata.is_file() => Some(Problem::NoFile),
        Ok(_) if access(path, AccessFlags::X_OK).is_err() => Some(Problem::NotExecutable),
        Ok(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt, symlink};

    use super::*;

    fn program(path: PathBuf, mode: u32) {
        fs::OpenOptions::new().write(true).create(true).mode(mode).open(path).unwrap();
    }

    #[test]
    fn first_executable_plugin_in_path_is_found() {
        let root = tempfile::tempdir().unwrap();
        let [a, b, beside] = ["a", "b", "beside"].map(|name| root.path().join(name));
        for folder in [&a, &b, &beside] {
            fs::create_dir(folder).unwrap();
        }
        program(a.join("banger-x"), 0o644);
        program(b.join("banger-x"), 0o755);
        fs::create_dir(a.join("banger-folder")).unwrap();
        symlink("nowhere", a.join("banger-link")).unwrap();
        program(beside.join("banger-near"), 0o755);
        program(beside.join("banger-vmm"), 0o755);
        program(beside.join("banger-"), 0o755);
        program(beside.join("other"), 0o755);
        let path = std::env::join_paths([&a, &b]).unwrap();
        let plugins = Plugins::new(&path, Some(&beside));
        let find = |name: &str| plugins.find(OsStr::new(name));
        let found = |path: PathBuf, problem| Some(FoundPlugin { path, problem });
        assert_eq!(find("x"), found(b.join("banger-x"), None));
        assert_eq!(find("near"), found(beside.join("banger-near"), None));
        assert_eq!(find("folder"), found(a.join("banger-folder"), Some(Problem::NoFile)));
        assert_eq!(find("link"), found(a.join("banger-link"), Some(Problem::Dangling)));
        for name in ["", "y", "vmm", "../a/banger-x", "other"] {
            assert_eq!(find(name), None, "{name}");
        }
        assert_eq!(plugins.names().into_iter().collect::<Vec<_>>(), ["folder", "link", "near", "x"]);
        let only = Plugins::new(a.as_os_str(), None);
        assert_eq!(only.find(OsStr::new("x")), found(a.join("banger-x"), Some(Problem::NotExecutable)));
    }

    #[test]
    fn relative_path_entries_are_ignored() {
        let plugins = Plugins::new(OsStr::new(":bin:./x:/usr/bin::/usr/bin"), Some(Path::new("/opt")));
        assert_eq!(plugins.folders, [Path::new("/usr/bin"), Path::new("/opt")]);
    }
}
