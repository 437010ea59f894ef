//! Repositories made with real git, and what git itself says about them.

pub(crate) mod shallow;
pub(crate) mod twin;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;
use std::sync::Arc;

use banger::git::{Host, IncludePolicy, Listing, OutsidePolicy, Workspace, list, outside};
use tempfile::TempDir;

/// A temporary folder with a home of its own and a repository in `repo`.
pub(crate) struct Fixture {
    folder: Rc<TempDir>,
    pub(crate) root: PathBuf,
    /// Places outside that the user trusts it with.
    trusted: BTreeSet<PathBuf>,
}

impl Fixture {
    /// A fresh repository on branch `main`.
    pub(crate) fn new() -> Self {
        Self::init(&[])
    }

    /// A fresh repository, with more arguments for `git init`.
    pub(crate) fn init(arguments: &[&str]) -> Self {
        let fixture = Self::empty("repo");
        let mut all = vec!["init", "-q", "-b", "main"];
        all.extend(arguments);
        fixture.git(&all);
        fixture
    }

    /// A folder that is not (yet) a repository.
    pub(crate) fn empty(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap().join(name);
        fs::create_dir(&root).unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        let config = "[user]\nname = A U Thor\nemail = author@example.org\n\
                      [protocol \"file\"]\nallow = always\n[gc]\nauto = 0\n[advice]\ndetachedHead = false\n";
        fs::write(folder.path().join("home/.gitconfig"), config).unwrap();
        Self { folder: Rc::new(folder), root, trusted: BTreeSet::new() }
    }

    pub(crate) fn home(&self) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join("home")
    }

    /// This fixture's surroundings, with the repository at `root` in the middle.
    pub(crate) fn at(&self, root: &Path) -> Self {
        Self { folder: self.folder.clone(), root: root.to_owned(), trusted: self.trusted.clone() }
    }

    /// A folder beside the repository.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.home().with_file_name(name)
    }

    pub(crate) fn host(&self) -> Host {
        let trusted = self.trusted.clone();
        let outside = OutsidePolicy::Trusted(Arc::new(move |_| trusted.clone()));
        let (path, include) = (std::env::var_os("PATH"), IncludePolicy::Allow);
        Host { home: Some(self.home()), path, outside, include, ..Host::default() }
    }

    /// This fixture, trusted with the places outside that it leads to, as `banger trust` has it.
    pub(crate) fn trusting(&self) -> Self {
        let host = Host { outside: OutsidePolicy::Collect, ..self.host() };
        let workspace = Workspace::discover(&self.root, host).unwrap();
        let places = outside(&workspace, &list(&workspace).unwrap()).unwrap();
        Self { trusted: places.into_iter().map(|place| place.target).collect(), ..self.at(&self.root) }
    }

    pub(crate) fn workspace(&self) -> Workspace {
        Workspace::discover(&self.root, self.host()).unwrap()
    }

    /// Runs git in the repository; it must succeed.
    pub(crate) fn git(&self, arguments: &[&str]) -> Vec<u8> {
        self.git_in(&self.root, arguments)
    }

    pub(crate) fn git_in(&self, folder: &Path, arguments: &[&str]) -> Vec<u8> {
        let output = self.try_git_in(folder, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?} in {folder:?}: {errors}");
        output.stdout
    }

    pub(crate) fn try_git_in(&self, folder: &Path, arguments: &[&str]) -> Output {
        Command::new("git")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.home())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_EDITOR", "true")
            .args(["-c", "core.fsmonitor=false"])
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap()
    }

    /// Whether this git can do it (a newer one than Debian's may be needed); says so if not.
    pub(crate) fn supports(&self, arguments: &[&str]) -> bool {
        let supported = self.try_git_in(&self.root, arguments).status.success();
        if !supported {
            skipped(&format!("this git cannot `git {}`", arguments.join(" ")));
        }
        supported
    }

    pub(crate) fn write(&self, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        let path = self.root.join(path.as_ref());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn write_bytes(&self, path: &[u8], content: &str) {
        self.write(OsStr::from_bytes(path), content);
    }

    pub(crate) fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    pub(crate) fn listing(&self) -> Listing {
        list(&self.workspace()).unwrap()
    }

    /// Compares the listing with git's own; returns it.
    #[track_caller]
    pub(crate) fn assert_lists_as_git(&self) -> Listing {
        let listing = self.listing();
        let ours: Vec<String> = listing.entries.iter().map(|entry| entry.path.to_string()).collect();
        let mut sorted = listing.entries.clone();
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
        sorted.dedup_by(|a, b| a.path == b.path);
        assert_eq!(sorted, listing.entries, "sorted, each once");
        let mut theirs = BTreeSet::new();
        self.expect(&self.workspace().root, b"", &mut theirs);
        let theirs: Vec<String> =
            theirs.into_iter().map(|path| banger::git::RelPath::new(path).unwrap().to_string()).collect();
        assert_eq!(ours, theirs);
        listing
    }

    fn expect(&self, folder: &Path, prefix: &[u8], all: &mut BTreeSet<Vec<u8>>) {
        let output = self.git_in(folder, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        for path in output.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            let path = path.strip_suffix(b"/").unwrap_or(path);
            if beyond_a_link(folder, path) {
                continue;
            }
            let here = folder.join(OsStr::from_bytes(path));
            let Ok(metadata) = fs::symlink_metadata(&here) else { continue };
            let full = [prefix, path].concat();
            if metadata.is_dir() {
                let top = self.try_git_in(&here, &["rev-parse", "--show-toplevel"]);
                if top.status.success() && top.stdout.trim_ascii_end() == here.as_os_str().as_bytes() {
                    self.expect(&here, &[&full, &b"/"[..]].concat(), all);
                }
            } else if metadata.is_file() || metadata.is_symlink() {
                all.insert(full);
            }
        }
    }
}

/// Says so even where the test's own output is captured: what did not run is not "ok" unsaid.
pub(crate) fn skipped(reason: &str) {
    let test = std::thread::current();
    let name = test.name().unwrap_or("a test");
    let mut uncaptured = std::io::stderr();
    writeln!(uncaptured, "SKIPPED {name}: {reason}").unwrap();
}

fn beyond_a_link(folder: &Path, path: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path))
        .ancestors()
        .skip(1)
        .any(|parent| folder.join(parent).is_symlink() && !parent.as_os_str().is_empty())
}
