//! The guest's repository answers as the host's does.

use super::*;

fn with_history() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("a", "1\n2\n3\n");
    fixture.write("dir/b", "b\n");
    fixture.write("empty", "");
    fixture.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(fixture.root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("a", fixture.root.join("link")).unwrap();
    fixture.commit("first");
    fixture.git(&["tag", "-a", "v1", "-m", "v1"]);
    fixture.write("a", "1\n2\n3\n4\n");
    fixture.commit("second");
    fixture
}

#[test]
fn clean_and_dirty_working_trees_match() {
    let fixture = with_history();
    fixture.git(&["gc", "-q"]);
    fixture.write("loose", "loose");
    fixture.commit("third");
    fixture.git(&["tag", "light"]);
    fixture.write("dir/b", "changed\n");
    fixture.git(&["add", "dir/b"]);
    fixture.write("dir/b", "changed again\n");
    fixture.write("empty", "no more");
    fixture.write("untracked", "");
    fs::remove_file(fixture.root.join("loose")).unwrap();
    fs::set_permissions(fixture.root.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    let twin = twin::assert_same(&fixture);
    assert!(fixture.try_git_in(&twin, &["fsck", "--strict"]).status.success());
}

#[test]
fn racy_edit_of_the_same_size_is_seen() {
    let fixture = with_history();
    fixture.write("a", "one");
    fixture.git(&["add", "a"]);
    fixture.write("a", "two");
    let twin = twin::assert_same(&fixture);
    let status = fixture.git_in(&twin, &["status", "--porcelain"]);
    assert_eq!(status, b"MM a\n");
}

#[test]
fn unborn_and_empty_repositories_match() {
    let fixture = Fixture::new();
    twin::assert_same(&fixture);
    fs::remove_dir_all(fixture.beside("twin")).unwrap();
    fixture.write("a", "a");
    fixture.git(&["add", "a"]);
    fixture.git(&["symbolic-ref", "HEAD", "refs/heads/un/born"]);
    twin::assert_same(&fixture);
}

#[test]
fn detached_head_and_stashes_match() {
    let fixture = with_history();
    for content in ["stash one", "stash two"] {
        fixture.write("a", content);
        fixture.git(&["stash", "-q"]);
    }
    fixture.git(&["checkout", "-q", "HEAD~1"]);
    let twin = twin::assert_same(&fixture);
    assert_eq!(fixture.git_in(&twin, &["stash", "list"]).split(|byte| *byte == b'\n').count(), 3);
    fixture.git_in(&twin, &["stash", "show", "-p", "stash@{1}"]);
}

fn in_conflict() -> Fixture {
    let fixture = with_history();
    fixture.git(&["checkout", "-q", "-b", "side", "HEAD~1"]);
    fixture.write("a", "1\n2\nside\n");
    fixture.commit("side");
    fixture.git(&["checkout", "-q", "main"]);
    fixture
}

#[test]
fn merge_in_progress_matches() {
    let fixture = in_conflict();
    assert!(!fixture.try_git_in(&fixture.root, &["merge", "side"]).status.success());
    let twin = twin::assert_same(&fixture);
    fixture.git_in(&twin, &["merge", "--abort"]);
    assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b"");
}

#[test]
fn rebase_cherry_pick_and_revert_in_progress_match() {
    for arguments in
        [&["rebase", "side"][..], &["rebase", "--apply", "side"], &["cherry-pick", "side"], &["revert", "HEAD~1"]]
    {
        let fixture = in_conflict();
        assert!(!fixture.try_git_in(&fixture.root, arguments).status.success());
        let twin = twin::assert_same(&fixture);
        let [host, guest] = [&fixture.root, &twin].map(|root| fixture.git_in(root, &["status"]));
        assert_eq!(String::from_utf8(guest), String::from_utf8(host), "{arguments:?}");
        fixture.git_in(&twin, &[arguments[0], "--abort"]);
    }
}

#[test]
fn bisect_in_a_linked_worktree_matches() {
    let fixture = with_history();
    let linked = fixture.beside("linked");
    fixture.git(&["bisect", "start", "HEAD", "HEAD~1"]);
    fixture.git(&["worktree", "add", "-q", linked.to_str().unwrap(), "-b", "other"]);
    let linked = fixture.at(&linked);
    linked.commit("on the branch");
    linked.commit("again");
    linked.git(&["bisect", "start", "HEAD", "HEAD~2"]);
    let twin = twin::assert_same(&linked);
    let [host, guest] = [&linked.root, &twin].map(|root| linked.git_in(root, &["bisect", "log"]));
    assert_eq!(guest, host);
    linked.git_in(&twin, &["bisect", "good"]);
}

#[test]
fn submodules_match_whether_absorbed_or_not() {
    let fixture = with_submodules();
    fixture.write("middle/file", "dirty");
    twin::assert_same(&fixture);
    fs::remove_dir_all(fixture.beside("twin")).unwrap();
    fixture.write("middle/inner/new", "x");
    fixture.git_in(&fixture.root.join("middle/inner"), &["add", "new"]);
    fixture.git_in(&fixture.root.join("middle/inner"), &["commit", "-qm", "moved on"]);
    twin::assert_same(&fixture);
    // The submodule one stands in is a workspace of its own.
    fs::remove_dir_all(fixture.beside("twin")).unwrap();
    twin::assert_same(&fixture.at(&fixture.root.join("middle")));
}

#[test]
fn sha256_repository_matches() {
    let fixture = Fixture::init(&["--object-format=sha256"]);
    fixture.write("a", "a");
    fixture.commit("first");
    fixture.git(&["repack", "-qad"]);
    fixture.write("a", "b");
    fixture.commit("second");
    let twin = twin::assert_same(&fixture);
    assert!(fixture.try_git_in(&twin, &["fsck"]).status.success());
}

#[test]
fn shallow_shared_and_partial_clones_match() {
    let origin = with_history();
    origin.git(&["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", origin.root.display());
    for arguments in [&["--depth=1"][..], &["--shared"], &["--filter=blob:none"], &["--reference"]] {
        let clone = origin.beside("clone");
        let path = origin.root.to_str().unwrap();
        let source = if arguments == ["--shared"] { path } else { &url };
        let arguments = if arguments == ["--reference"] { &["--reference", path][..] } else { arguments };
        origin.git_in(origin.root.parent().unwrap(), &[&["clone", "-q"], arguments, &[source, "clone"]].concat());
        let twin = twin::assert_same(&origin.at(&clone).trusting());
        assert!(!twin.join(".git/objects/info/alternates").exists());
        fs::remove_dir_all(clone).unwrap();
        fs::remove_dir_all(twin).unwrap();
    }
}

#[test]
fn partial_clone_lacks_the_same_objects_as_the_host() {
    let origin = with_history();
    origin.git(&["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", origin.root.display());
    let parent = origin.root.parent().unwrap();
    let filters = ["blob:none", "blob:limit=1", "tree:0"];
    for filter in filters {
        let name = filter.replace([':', '='], "-");
        origin.git_in(parent, &["clone", "-q", &format!("--filter={filter}"), &url, &name]);
    }
    // From here on there is no such remote.
    fs::rename(&origin.root, origin.beside("moved")).unwrap();
    for filter in filters {
        let clone = origin.at(&origin.beside(&filter.replace([':', '='], "-")));
        let partial = clone.workspace().repository.partial().unwrap().unwrap();
        assert_eq!((partial.remote.as_str(), partial.filter.as_str()), ("origin", filter));
        let twin = twin::assert_same(&clone);
        for question in [
            &["config", "core.repositoryformatversion"][..],
            &["rev-list", "--objects", "--all", "--missing=print"],
            &["fsck", "--no-progress"],
            &["show", "v1:a"],
            &["log", "-p", "--all"],
            &["checkout", "-q", "v1"],
            &["status", "--porcelain"],
            &["diff", "HEAD~1"],
            &["ls-files", "-s"],
            &["stash", "list"],
        ] {
            let [host, guest] = [&clone.root, &twin].map(|root| {
                let output = clone.try_git_in(root, question);
                (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
            });
            assert_eq!(guest, host, "git {question:?} with {filter}");
        }
        assert_eq!(fs::read_to_string(twin.join("a")).unwrap(), "1\n2\n3\n4\n", "{filter}");
        fs::remove_dir_all(twin).unwrap();
    }
    assert_eq!(origin.at(&origin.beside("moved")).workspace().repository.partial().unwrap(), None);
}

#[test]
fn reftable_repository_matches() {
    let fixture = Fixture::empty("repo");
    if !fixture.supports(&["init", "-q", "-b", "main", "--ref-format=reftable"]) {
        return;
    }
    twin::assert_same(&fixture);
    fs::remove_dir_all(fixture.beside("twin")).unwrap();
    fixture.write("a", "a");
    fixture.commit("first");
    fixture.git(&["branch", "other"]);
    fixture.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/heads/main"]);
    twin::assert_same(&fixture);
    fs::remove_dir_all(fixture.beside("twin")).unwrap();
    fixture.git(&["checkout", "-q", "--detach"]);
    twin::assert_same(&fixture);
    fs::remove_dir_all(fixture.beside("twin")).unwrap();
    // What the configuration says of a log does not get into the list of stashes.
    for (key, value) in [("log.showSignature", "true"), ("gpg.program", "false"), ("log.date", "iso-strict")] {
        fixture.git(&["config", key, value]);
    }
    for content in ["one", "two", "three \u{e9}"] {
        fixture.write("a", content);
        fixture.git(&["stash", "push", "-q", "-m", content]);
    }
    fixture.git(&["stash", "drop", "-q", "stash@{1}"]);
    let twin = twin::assert_same(&fixture);
    let log = ["log", "-g", "--format=%H %gn %ge %gd %gs", "--date=raw", "--no-show-signature", "refs/stash"];
    assert_eq!(fixture.git_in(&twin, &log), fixture.git(&log));
    assert_eq!(fixture.git_in(&twin, &["stash", "list"]).split(|byte| *byte == b'\n').count(), 3);
    fixture.git_in(&twin, &["stash", "pop", "-q", "stash@{1}"]);
    assert_eq!(fs::read_to_string(twin.join("a")).unwrap(), "one");
    fixture.git_in(&twin, &["stash", "drop", "-q"]);
}

#[test]
fn refs_of_every_form_match() {
    let fixture = with_history();
    fixture.git(&["pack-refs", "--all"]);
    fixture.git(&["branch", "-f", "moved", "HEAD~1"]);
    fixture.git(&["pack-refs", "--all"]);
    fixture.git(&["branch", "-f", "moved", "HEAD"]);
    fixture.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/heads/main"]);
    fixture.git(&["notes", "add", "-m", "note"]);
    fixture.write(".git/refs/heads/locked.lock", "");
    fixture.write(".git/refs/heads/crashed", "");
    fixture.write(".git/MERGE_MSG.lock", "");
    let state = fixture.workspace().repository.state().unwrap();
    assert!(!state.refs.keys().any(|name| name.ends_with(b".lock") || name.ends_with(b"crashed")));
    assert!(!state.files.iter().any(|file| file.path.ends_with(b".lock")));
    fs::remove_file(fixture.root.join(".git/refs/heads/crashed")).unwrap();
    twin::assert_same(&fixture);
}

#[test]
fn status_after_edit_in_twin_shows_only_that_edit() {
    let fixture = with_history();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fixture.git(&["status"]);
    let twin = twin::assert_same(&fixture);
    fs::write(twin.join("dir/b"), "B\n").unwrap();
    assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b" M dir/b\n");
}
