//! `history`: a guest with the current commit alone, or with no repository at all, and how it gets
//! more.

use banger_tests::{Home, Output, Repository};

fn run(repository: &Repository<'_>, history: &str, script: &str) -> Output {
    let mut command = repository.banger();
    command.env("BANGER_HISTORY", history).args(["--", "sh", "-c", script]);
    command.output().expect("banger runs").into()
}

/// What git says of the current commit and the files, on either side.
const ASK: &str = "git status --porcelain=v2 --branch; git log -1 --format='%H %s %an'; git diff; \
    git diff --cached; git ls-files -s; git submodule status; git rev-parse --symbolic-full-name HEAD";

#[track_caller]
fn assert_same(repository: &Repository<'_>, history: &str) {
    let host = repository.home.command("sh").args(["-c", ASK]).current_dir(&repository.root).output();
    let host = Output::from(host.expect("sh runs")).ok().text();
    let script = format!("{ASK}; git fsck --no-progress --no-dangling --connectivity-only || echo unsound");
    assert_eq!(run(repository, history, &script).ok().text(), host);
}

#[test]
fn shallow_history_starts_at_head_and_grows_with_host() {
    let home = Home::with_any_guests();
    let library = home.repository("library");
    library.write("lib.c", "int x;\n");
    library.commit("library");
    let repository = home.repository("r");
    repository.write("old", "to be gone\n");
    repository.commit("with a file that goes");
    repository.git(["branch", "older"]);
    repository.git(["rm", "--quiet", "old"]);
    repository.git(["submodule", "--quiet", "add", library.root.to_str().expect("a text"), "lib"]);
    repository.commit("current");
    repository.git(["tag", "--annotate", "--message", "a release", "v1"]);
    repository.write("README", "edited\n");
    repository.write("staged", "only in the index\n");
    repository.git(["add", "staged"]);
    repository.write("staged", "and edited again\n");
    assert_same(&repository, "shallow");
    let seen = "git log --format=%s; git -C lib log --format=%s; git branch --format='%(refname:short)'; git tag; git describe; \
        ls .git/objects/pack | wc -l";
    assert_eq!(run(&repository, "shallow", seen).ok().text(), "current\nlibrary\nmain\nv1\nv1\n2\n");

    // What the host adds is added, and joined to what is there; nothing is sent twice.
    repository.git(["commit", "--quiet", "--all", "--message", "next"]);
    repository.write("more", "more\n");
    repository.commit("next but one");
    assert_same(&repository, "shallow");
    repository.git(["commit", "--quiet", "--allow-empty", "--message", "last"]);
    assert_same(&repository, "shallow");
    let seen = "git log --format=%s; cat .git/objects/pack/*.pack | wc -c";
    let answer = run(&repository, "shallow", seen).ok().text();
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines[..2], ["last", "next but one"], "{answer}");
    assert!(lines.last().unwrap().parse::<u32>().unwrap() < 4000, "{answer}");

    // A merge that waits to be committed can be, in the guest.
    let merge = "git checkout -q -b side older; echo side >more; git add more; git commit -qm side; git checkout -q main; git merge -q side";
    let _ = home.command("sh").args(["-c", merge]).current_dir(&repository.root).output().expect("sh runs");
    assert!(repository.git(["status"]).contains("You have unmerged paths"));
    let commit = "git status | grep -c 'unmerged paths'; git checkout -q --ours . && git add . && git commit -qm merged && \
        git log -1 --format='%s %p' | wc -w; git fsck --no-progress --no-dangling || echo unsound";
    assert_eq!(run(&repository, "shallow", commit).ok().text(), "1\n3\n");
}

#[test]
fn shallow_history_can_be_deepened_keeping_guest_commits() {
    let home = Home::with_any_guests();
    let repository = home.repository("r");
    repository.commit("second");
    repository.git(["tag", "old", "HEAD~1"]);
    run(
        &repository,
        "shallow",
        "git checkout -q -b guest && echo x >x && git add x && git commit -qm guest && git log --format=%s",
    )
    .ok();
    let less = run(&repository, "none", "git log --format=%s guest").ok();
    assert_eq!(less.text(), "guest\nsecond\n");
    assert!(less.stderr.contains("history `none`") && less.stderr.contains("keeps `shallow`"), "{}", less.stderr);
    let whole = "git log --format=%s guest; git tag; test -e .git/shallow || echo whole; git fsck --no-progress --no-dangling || echo unsound";
    assert_eq!(run(&repository, "full", whole).ok().text(), "guest\nsecond\nfirst\nold\nwhole\n");
    repository.commit("third");
    assert_eq!(run(&repository, "", "git log --format=%s main").ok().text(), "third\nsecond\nfirst\n");
}

#[test]
fn history_none_syncs_files_without_a_repository() {
    let home = Home::with_any_guests();
    let repository = home.repository("r");
    repository.write(".gitignore", "ignored\n");
    repository.write("ignored", "x\n");
    let seen = "git rev-parse 2>&1 | grep -c 'not a git repository'; find . -type f | sort";
    let first = run(&repository, "none", seen).ok();
    assert_eq!(first.text(), "1\n./.gitignore\n./README\n./sub/folder/file\n");
    repository.write("new", "new\n");
    repository.commit("more");
    run(&repository, "none", "echo guest >guest").ok();
    let next = run(&repository, "", "find . -type f | sort").ok();
    assert_eq!(next.text(), "./.gitignore\n./README\n./guest\n./new\n./sub/folder/file\n");
    let all = run(&repository, "full", "git log --format=%s; git status --porcelain").ok();
    assert_eq!(all.text(), "more\nfirst\n?? guest\n");
}
