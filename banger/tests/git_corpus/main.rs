//! Nasty repositories, each compared with git's own answer.

mod change;
mod configuration;
mod configuration_levels;
mod discovery;
mod explained;
mod filters;
mod generated;
mod hostile;
mod included;
mod listing;
mod outside;
mod support;
mod twins;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use banger::git::{EntryKind, GitError, Host, Workspace, list};
use support::shallow::ShallowTwin;
use support::{Fixture, skipped, twin};

fn paths(listing: &banger::git::Listing) -> Vec<String> {
    listing.entries.iter().map(|entry| entry.path.to_string()).collect()
}

/// `middle` (which has `inner`) is populated, `absent` is not.
fn with_submodules() -> Fixture {
    let fixture = Fixture::new();
    for name in ["inner", "middle"] {
        let folder = fixture.beside(name);
        fs::create_dir(&folder).unwrap();
        fixture.git_in(&folder, &["init", "-q", "-b", "main"]);
        fs::write(folder.join("file"), name).unwrap();
        fs::write(folder.join(".gitignore"), "*.o\n").unwrap();
        fixture.git_in(&folder, &["add", "."]);
        fixture.git_in(&folder, &["commit", "-qm", name]);
    }
    let inner = fixture.beside("inner");
    fixture.git_in(&fixture.beside("middle"), &["submodule", "-q", "add", inner.to_str().unwrap(), "inner"]);
    fixture.git_in(&fixture.beside("middle"), &["commit", "-qm", "sub"]);
    for (from, to) in [("middle", "middle"), ("inner", "absent")] {
        fixture.git(&["submodule", "-q", "add", fixture.beside(from).to_str().unwrap(), to]);
    }
    fixture.commit("subs");
    fixture.git(&["submodule", "-q", "update", "--init", "--recursive", "middle"]);
    fixture.git(&["submodule", "-q", "deinit", "-f", "absent"]);
    fixture.write("middle/inner/untracked", "");
    fixture.write("middle/ignored.o", "");
    fixture.write("outer.o", "");
    fixture
}

#[test]
fn shallow_history_is_valid_and_follows_new_commits() {
    for arguments in [&[][..], &["--object-format=sha256"]] {
        let fixture = Fixture::init(arguments);
        let mut twin = ShallowTwin::new(&fixture);
        // A branch without a commit, and an index with something in it.
        assert_eq!(twin.update(), 0);
        for number in 0..5 {
            fixture.write("sub/file", format!("{number}\n"));
            fixture.write(format!("old{number}"), format!("of {number}\n"));
            fixture.commit(&format!("commit {number}"));
        }
        fixture.git(&["tag", "-a", "-m", "a tag", "v1"]);
        fixture.git(&["tag", "-a", "-m", "a tag of a tag", "v1-again", "v1"]);
        fixture.git(&["tag", "old", "HEAD~2"]);
        fixture.git(&["branch", "other", "HEAD~1"]);
        fixture.write("staged", "staged\n");
        fixture.git(&["add", "staged"]);
        fixture.write("intended", "later\n");
        fixture.git(&["add", "-N", "intended"]);
        assert_eq!(twin.update(), 2);
        twin.assert_same();
        assert_eq!(twin.says(&["log", "--format=%s", "--all"]), "commit 4\n");
        assert_eq!(twin.says(&["tag"]), "v1\nv1-again\n");
        assert!(twin.says(&["describe"]).starts_with("v1"));
        assert_eq!(twin.update(), 0, "nothing is sent twice");

        fixture.write("empty", "");
        fixture.commit("next");
        twin.update();
        twin.assert_same();
        assert_eq!(twin.says(&["log", "--format=%s"]), "next\ncommit 4\n");
        // Two steps at once: the one between is not sent, so the history is cut again. What was
        // there stays whole.
        fixture.git(&["branch", "before"]);
        fixture.git(&["commit", "-q", "--allow-empty", "-m", "between"]);
        fixture.git(&["commit", "-q", "--allow-empty", "-m", "tip"]);
        twin.update();
        twin.assert_same();
        assert_eq!(twin.says(&["log", "--format=%s"]), "tip\n");
        assert_eq!(twin.says(&["log", "--format=%s", "before"]), "next\ncommit 4\n");
        // A branch that one has been on stays where it was seen last.
        fixture.git(&["checkout", "-q", "other"]);
        twin.update();
        twin.assert_same();
        assert_eq!(twin.says(&["branch", "--format=%(refname:short)"]), "before\nmain\nother\n");
        fixture.git(&["branch", "-f", "before", "old"]);
        fixture.git(&["branch", "-D", "main"]);
        assert_eq!(twin.update(), 0);
        assert_eq!(twin.says(&["log", "-1", "--format=%s", "before"]), "next\n");
        assert_eq!(twin.says(&["branch", "--format=%(refname:short)"]), "before\nother\n");

        // In the middle of a merge both commits are needed.
        fixture.write("sub/file", "other\n");
        fixture.commit("on other");
        fixture.try_git_in(&fixture.root, &["merge", "v1"]);
        twin.update();
        assert!(twin.says(&["status"]).contains("both modified"), "{}", twin.says(&["status"]));
        assert_eq!(twin.says(&["log", "-1", "--format=%s", "MERGE_HEAD"]), "commit 4\n");
        let written = fixture.git(&["rev-parse", "--git-path", "objects/pack"]);
        let packs = fixture.root.join(String::from_utf8(written).unwrap().trim());
        assert_eq!(fs::read_dir(packs).unwrap().count(), 0, "nothing is written into the host's own repository");
    }
}
