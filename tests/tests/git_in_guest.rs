//! Git in the guest says what it says on the host, whatever the host did.
//!
//! The guests are processes of this host, and so have its git; one test has a VM, and the image's.

use std::fs;
use std::path::Path;

use banger_tests::{Home, Repository};

/// Runs a script on the host, in the repository. It may fail: a rebase stops at a conflict.
fn host(repository: &Repository, script: &str) {
    let output = repository.home.command("sh").args(["-c", script]).current_dir(&repository.root).output();
    assert!(output.expect("sh runs").status.code().is_some());
}

/// What the host does one after the other, and after each the guest has the same state.
const STEPS: [&str; 25] = [
    "git add a; echo thr >a",
    "git commit -qm third",
    "git commit -qam fourth; git tag v2",
    "git checkout -qb feature; echo feature >a; echo new >b; git add .; git commit -qm feature",
    "git checkout -q main",
    "echo main >a; git commit -qam 'on main'; git merge -q feature",
    "git merge --abort; git rebase -q feature",
    "echo both >a; git add a",
    "GIT_EDITOR=true git rebase --continue",
    "git commit -q --amend -m amended",
    "git tag -d v1; git branch -D feature; git branch feature/below v2; git pack-refs --all",
    "git gc -q --prune=now",
    "echo stashed >>a; echo untracked >c; git stash push -qu; echo again >>README; git stash push -q",
    "git stash pop -q; git checkout -q -- README",
    "git stash drop -q; git bisect start -q HEAD HEAD~2",
    "git bisect reset -q; git checkout -q v2",
    "git cherry-pick main",
    "git cherry-pick --abort; git checkout -q --orphan fresh",
    "git rm -rqf .; echo only >only; git add only; git commit -qm root",
    "git checkout -q main; git sparse-checkout set --cone sub",
    "git sparse-checkout disable; git rm -rq sub; git update-index --assume-unchanged a",
    "rm .git/index",
    "git reset -q --hard HEAD~1; chmod +x README",
    "git config filter.x.clean 'tr a-z A-Z'; git config filter.x.smudge 'tr A-Z a-z'; echo '*.nb filter=x' \
     >.gitattributes; echo abc >a.nb; git add .; git commit -qm filtered",
    "touch a.nb; git status",
];

/// A repository with a commit, a tag, and an edit that is not committed.
fn edited(home: &Home) -> Repository<'_> {
    let repository = home.repository("repo");
    repository.write("a", "one\n");
    repository.commit("second");
    repository.git(["tag", "--annotate", "--message", "first release", "v1"]);
    // An edit in the second, and of the size, of what is staged.
    repository.write("a", "two\n");
    repository
}

#[test]
fn git_state_matches_after_each_git_operation() {
    let home = Home::with_any_guests();
    let repository = edited(&home);
    repository.assert_same_git();
    for step in STEPS {
        host(&repository, step);
        repository.assert_same_git();
    }
    repository.assert_same_files();
    assert_eq!(repository.guest_only(), (0, 0));
}

#[test]
fn git_of_the_image_reads_what_the_hosts_git_has_written() {
    let home = Home::new();
    let repository = edited(&home);
    repository.assert_same_git();
    // Each time as it is after a few steps: in a rebase, packed, with stashes and a bisect, sparse.
    let mut steps = STEPS.into_iter();
    for ends_with in ["git rebase -q feature", "git gc -q --prune=now", "git bisect start -q HEAD HEAD~2", "--cone sub"]
    {
        loop {
            let step = steps.next().expect("a step that ends so");
            host(&repository, step);
            if step.ends_with(ends_with) {
                break;
            }
        }
        repository.assert_same_git();
    }
    repository.assert_same_files();
    assert_eq!(repository.guest_only(), (0, 0));
}

#[test]
fn git_only_state_and_config_are_synced() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.run(["--", "true"]).ok();
    // In a hook of `git commit --all` the index is the one of the commit to be.
    let hook = format!(
        "#!/bin/sh\n{} -q -- git diff --cached --name-only >hook-said\n",
        banger_tests::banger_binary().display()
    );
    fs::write(repository.root.join(".git/hooks/pre-commit"), hook).unwrap();
    host(
        &repository,
        "chmod +x .git/hooks/pre-commit; echo edited >README; git commit -qam edited; rm .git/hooks/pre-commit",
    );
    assert_eq!(fs::read_to_string(repository.root.join("hook-said")).unwrap(), "README\n");
    fs::remove_file(repository.root.join("hook-said")).unwrap();
    repository.assert_same_git();
    // The user's excludes file and name, made after the first sync.
    home_config(&repository, "core.excludesFile", "~/excludes");
    fs::write(home.path().join("excludes"), "*.mine\n").unwrap();
    home_config(&repository, "user.name", "Another Name");
    let script = "touch x.mine y; git status --porcelain; git config user.name; git check-ignore x.mine";
    assert_eq!(repository.sh(script).ok().text(), "?? y\nAnother Name\nx.mine\n");
    assert_eq!(repository.guest_only(), (1, 0));
    fs::write(home.path().join("excludes"), "y\n").unwrap();
    assert_eq!(repository.sh("git status --porcelain").ok().text(), "?? x.mine\n");
    // Their attributes file.
    fs::create_dir_all(home.path().join(".config/git")).unwrap();
    fs::write(home.path().join(".config/git/attributes"), "*.mine -diff\n").unwrap();
    assert_eq!(repository.sh("git check-attr diff x.mine").ok().text(), "x.mine: diff: unset\n");
    // What variables say, in the process of the command: a name, and files to ignore.
    fs::write(repository.root.join("z.secret"), "").unwrap();
    fs::write(home.path().join("of-variables"), "*.secret\n").unwrap();
    let variables = [
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "user.name"),
        ("GIT_CONFIG_VALUE_0", "Of Variables"),
        ("GIT_CONFIG_PARAMETERS", "'core.excludesFile'='~/of-variables'"),
    ];
    let script = "git config user.name; test ! -e z.secret; git check-ignore z.secret";
    let output = repository.banger().envs(variables).args(["-q", "--", "sh", "-ec", script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Of Variables\nz.secret\n", "{output:?}");
    fs::remove_file(repository.root.join("z.secret")).unwrap();
    // Hooks, helpers and the like stay behind.
    repository.git(["config", "alias.pwn", "!touch /tmp/pwned"]);
    repository.git(["config", "core.hooksPath", "/tmp/elsewhere"]);
    repository.git(["remote", "add", "origin", "https://user:secret@example.com/x.git"]);
    fs::write(repository.root.join(".git/hooks/pre-commit"), "#!/bin/sh\nexit 1\n").unwrap();
    let text = repository.sh("cat .git/config; ls .git/hooks 2>/dev/null || true").ok().text();
    assert!(text.contains("https://example.com/x.git"), "{text}");
    for absent in ["secret", "pwn", "elsewhere", "pre-commit"] {
        assert!(!text.contains(absent), "{text}");
    }
    // A lock of the host's git is none of the guest's.
    fs::write(repository.root.join(".git/index.lock"), "").unwrap();
    repository.sh("git add --all").ok();
    fs::remove_file(repository.root.join(".git/index.lock")).unwrap();
    // Another user of the guest may look.
    assert!(repository.run(["-u", "nobody", "--", "git", "log", "-1", "--format=%s"]).ok().text().contains("edited"));
    // What git remembers of its last command only is nobody's work, and no conflict.
    repository.sh("git update-ref ORIG_HEAD HEAD").ok();
    repository.git(["commit", "--quiet", "--allow-empty", "--message", "second"]);
    repository.git(["update-ref", "ORIG_HEAD", "HEAD"]);
    let head = repository.git(["rev-parse", "HEAD"]);
    assert_eq!(repository.sh("git rev-parse ORIG_HEAD").ok().text(), head);
}

fn home_config(repository: &Repository, key: &str, value: &str) {
    repository.git(["config", "--global", key, value]);
}

#[test]
fn empty_sha256_repository_is_synced_from_the_start() {
    let home = Home::with_any_guests();
    let repository = home.at(home.path().join("repo"));
    fs::create_dir(&repository.root).unwrap();
    repository.git(["init", "--quiet", "--object-format=sha256"]);
    repository.assert_same_git();
    repository.assert_same_files();
    repository.write("a", "one\n");
    repository.git(["add", "a"]);
    repository.assert_same_git();
    repository.commit("first");
    repository.write("a", "two\n");
    repository.assert_same_git();
    repository.commit("second");
    repository.git(["gc", "--quiet"]);
    repository.assert_same_git();
    repository.assert_same_files();
    repository.sh("git commit -qam guest --allow-empty && git fsck --no-progress").ok();
}

#[test]
fn linked_worktree_is_synced_as_a_workspace() {
    let home = Home::with_any_guests();
    let main = home.repository("main");
    main.git(["worktree", "add", "--quiet", "../linked", "-b", "linked"]);
    let linked = home.at(home.path().join("linked"));
    linked.write("a", "here\n");
    linked.assert_same_git();
    linked.assert_same_files();
    linked.commit("linked");
    main.commit("moves a branch that is checked out elsewhere");
    main.git(["tag", "shared"]);
    linked.write("a", "edited\n");
    linked.git(["stash", "--quiet"]);
    linked.assert_same_git();
    let below = linked.banger().current_dir(linked.root.join("sub")).args(["-q", "--", "pwd"]).output().unwrap();
    assert_eq!(below.stdout, b"/root/repo/sub\n");
}

#[test]
fn submodules_follow_host_and_are_workspaces() {
    let home = Home::with_any_guests();
    let upstream = home.repository("upstream");
    let repository = home.repository("repo");
    repository.git(["submodule", "--quiet", "add", "../upstream", "lib/up"]);
    repository.commit("with a submodule");
    repository.assert_same_git();
    // A commit in the submodule, then in the outer repository.
    let inner = home.at(repository.root.join("lib/up"));
    inner.write("README", "newer\n");
    repository.assert_same_git();
    inner.commit("inner");
    repository.assert_same_git();
    repository.commit("moves the submodule");
    repository.assert_same_git();
    // Gone and back again.
    repository.git(["submodule", "--quiet", "deinit", "--force", "lib/up"]);
    repository.assert_same_git();
    assert_eq!(repository.guest_only(), (0, 0));
    repository.git(["submodule", "--quiet", "update", "--init"]);
    repository.assert_same_git();
    repository.assert_same_files();
    repository.git(["rm", "--quiet", "-f", "lib/up"]);
    repository.write("lib/up", "a file where it was");
    repository.assert_same_git();
    repository.assert_same_files();
    repository.git(["reset", "--quiet"]);
    fs::remove_file(repository.root.join("lib/up")).unwrap();
    repository.git(["checkout", "--quiet", "--", "."]);
    repository.git(["submodule", "--quiet", "update", "--init"]);
    repository.assert_same_git();
    // An embedded repository appears, with a commit of the guest's it stays, and so it does when it
    // leaves the host.
    let embedded = home.at(repository.root.join("embedded"));
    fs::create_dir(&embedded.root).unwrap();
    embedded.git(["init", "--quiet"]);
    embedded.write("file", "1");
    embedded.commit("embedded");
    repository.assert_same_git();
    repository.sh("cd embedded && git commit -q --allow-empty -m guest").ok();
    fs::remove_dir_all(&embedded.root).unwrap();
    assert_eq!(repository.sh("git -C embedded log -1 --format=%s").ok().text(), "guest\n");
    let status = repository.run(["stop"]);
    assert_eq!(status.status, 0, "{}", status.stderr);

    // The submodule by itself.
    assert!(Path::new(&upstream.root).is_dir());
    inner.assert_same_git();
    inner.assert_same_files();
}
