//! A workspace put together elsewhere from what `banger::git` says, as the guest would have it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use banger::git::{EntryKind, GuestStat, Listing, OpenObjects, Repository, list};

use super::Fixture;

/// What a repository is asked, here and there.
const QUESTIONS: &[&[&str]] = &[
    &["status", "--porcelain=v2", "--branch"],
    &["log", "-1", "--decorate=full"],
    &["describe", "--tags"],
    &["diff"],
    &["diff", "--cached"],
    &["stash", "list"],
    &["submodule", "status"],
    &["ls-files", "-s", "-v"],
    &["for-each-ref"],
    &["rev-parse", "--symbolic-full-name", "HEAD"],
];

/// Builds the twin of the fixture's workspace and returns its root.
pub(crate) fn build(fixture: &Fixture) -> PathBuf {
    let workspace = fixture.workspace();
    let listing = list(&workspace).unwrap();
    let twin = fixture.beside("twin");
    fs::create_dir(&twin).unwrap();
    copy_files(&listing, &workspace.root, &twin);
    for repository in std::iter::once(&workspace.repository).chain(&listing.repositories) {
        copy_repository(repository, &listing, &twin);
    }
    twin
}

/// Builds the twin and compares what git says in both.
#[track_caller]
pub(crate) fn assert_same(fixture: &Fixture) -> PathBuf {
    let twin = build(fixture);
    for question in QUESTIONS {
        let [host, guest] = [&fixture.root, &twin].map(|root| {
            let output = fixture.try_git_in(root, question);
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        });
        assert_eq!(guest, host, "git {question:?}");
    }
    twin
}

fn copy_files(listing: &Listing, from: &Path, to: &Path) {
    for entry in &listing.entries {
        let (source, target) = (entry.path.under(from), entry.path.under(to));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        match entry.kind {
            EntryKind::Symlink => symlink(fs::read_link(source).unwrap(), target).unwrap(),
            EntryKind::File => {
                fs::copy(&source, &target).unwrap();
                fs::set_permissions(&target, fs::Permissions::from_mode(entry.mode)).unwrap();
                set_mtime(&target, entry.mtime_ns);
            }
        }
    }
    for folder in &listing.submodule_folders {
        fs::create_dir_all(folder.under(to)).unwrap();
    }
}

fn copy_repository(repository: &Repository, listing: &Listing, twin: &Path) {
    let git = repository.path.under(twin).join(".git");
    for folder in ["objects/pack", "refs"] {
        fs::create_dir_all(git.join(folder)).unwrap();
    }
    let put = |name: &[u8], bytes: &[u8]| {
        let path = git.join(std::str::from_utf8(name).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put(b"config", &repository.guest_config().unwrap());
    let state = repository.state().unwrap();
    put(b"HEAD", &state.head);
    for (name, value) in &state.refs {
        put(name, &[value, &b"\n"[..]].concat());
    }
    for file in &state.files {
        put(&file.path, &file.bytes);
    }
    for object in repository.object_files().unwrap() {
        let target = git.join("objects").join(&object.name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        assert_eq!(fs::copy(&object.path, target).unwrap(), object.size);
    }
    let stat_of = |entry: &banger::git::Entry| {
        let metadata = fs::symlink_metadata(entry.path.under(twin)).ok()?;
        Some(GuestStat { mtime_s: metadata.mtime(), mtime_ns: metadata.mtime_nsec() as u32, size: metadata.size() })
    };
    let filtered = repository.filtered_files(listing).unwrap().unwrap_or_default().into_iter();
    let mut objects = OpenObjects::default();
    let filtered =
        filtered.map(|file| (file.path.clone(), repository.is_as_staged(&file, false, &mut objects).unwrap()));
    let filtered: banger::git::FilteredFiles = filtered.collect();
    let index = repository.guest_index(listing, &filtered, &stat_of).unwrap();
    // As a sync does: no file with a filter is of the second in which the guest's git writes its
    // index.
    let has_filters = listing.entries.iter().any(|entry| filtered.contains_key(&entry.path));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64;
    if has_filters && (now..now + 1_000_000_000).contains(&index.mtime_ns) {
        std::thread::sleep(Duration::from_nanos((index.mtime_ns - now) as u64));
    }
    put(b"index", &index.bytes);
    set_mtime(&git.join("index"), index.mtime_ns);
    repository.index_digest(&index.bytes).unwrap();
}

fn set_mtime(path: &Path, ns: i64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(ns as u64);
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(time)).unwrap_or_else(|_| {
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    });
}
