//! Commits and branches that were made in a VM come home: `banger fetch`, and git itself by
//! `banger://NAME`. The VM may be hostile.
//!
//! The guests are processes of this host, and so have its git; one test has a VM, and the image's.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_tests::{Home, Output, Repository, eventually, path_with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A repository whose VM has been synced, and the VM's name.
fn synced<'a>(home: &'a Home, name: &str) -> (Repository<'a>, String) {
    let repository = home.repository(name);
    repository.run(["--", "true"]).ok();
    let vm = vm_of(&repository);
    (repository, vm)
}

fn vm_of(repository: &Repository<'_>) -> String {
    repository.run(["status", "--json"]).ok().document()["vm"]["name"].as_str().unwrap().to_owned()
}

/// git on the host, as a user has it: banger is on the `PATH`.
fn git(repository: &Repository<'_>) -> Command {
    let banger = repository.banger();
    let mut command = repository.home.command("git");
    command.env("PATH", path_with(Path::new(banger.get_program()).parent().unwrap()));
    command
        .envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))).filter(|(name, _)| *name != "PATH"));
    command.current_dir(&repository.root);
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap().into()
}

/// All refs and their objects.
fn refs(repository: &Repository<'_>) -> String {
    repository.git(["for-each-ref", "--format=%(refname) %(objectname)"])
}

/// `banger fetch --json`: each ref without the VM's prefix, and what became of it.
fn fetched(repository: &Repository<'_>, vm: &str) -> Vec<(String, String)> {
    let answer = repository.run(["fetch", "--json"]).ok().document();
    changes(&answer, vm)
}

fn changes(answer: &Value, vm: &str) -> Vec<(String, String)> {
    let prefix = format!("refs/banger/{vm}/");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = answer["refs"].as_array().unwrap().iter();
    all.map(|change| {
        let name = text(&change["name"]);
        (name.strip_prefix(&prefix).unwrap_or_else(|| panic!("{name}")).to_owned(), text(&change["change"]))
    })
    .collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, change)| ((*name).to_owned(), (*change).to_owned())).collect()
}

/// Nothing of a fetch is left in the cache, and git finds the repository whole.
fn assert_clean(repository: &Repository<'_>) {
    let left: Vec<_> = fs::read_dir(repository.home.path().join(".cache/banger/fetch"))
        .map(|all| all.map(|entry| entry.unwrap().file_name()).filter(|name| name != ".lock").collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
    repository.git(["fsck", "--full", "--strict"]);
}

#[test]
fn commits_branches_and_tags_of_a_vm_come_home() {
    let home = Home::with_process_guests();
    let (repository, vm) = synced(&home, "repo");
    repository.git(["tag", "v1"]);
    let before = repository.git(["rev-parse", "HEAD"]);
    repository.sh("set -e; echo one >a; git add a; git commit -qm one; git branch other; git tag -m two v2").ok();
    let tip = repository.sh("git rev-parse HEAD").ok().text();

    // A dry run changes nothing, and says the same.
    let unchanged = refs(&repository);
    let dry = repository.run(["fetch", "--dry-run", "--json"]).ok().document();
    let expected = pairs(&[("heads/main", "new"), ("heads/other", "new"), ("tags/v2", "new")]);
    assert_eq!((changes(&dry, &vm), &dry["dry_run"]), (expected.clone(), &Value::Bool(true)));
    assert_eq!(refs(&repository), unchanged);
    assert_eq!(fetched(&repository, &vm), expected);
    assert_eq!(repository.git(["rev-parse", &format!("refs/banger/{vm}/heads/main")]), tip);
    // The user's own things are as they were.
    assert_eq!(repository.git(["rev-parse", "HEAD"]), before);
    assert_eq!(repository.git(["status", "--porcelain"]), "");
    assert!(!repository.root.join(".git/FETCH_HEAD").exists());
    assert_eq!(fetched(&repository, &vm), []);

    // Forward, rewound, gone, and a commit on no branch; a branch where another had a directory.
    repository
        .sh("set -e; git commit -q --allow-empty -m more; git branch -f other HEAD~2; git tag -d v2; \
             git checkout -q --detach; git commit -q --allow-empty -m detached")
        .ok();
    let expected = [("HEAD", "new"), ("heads/main", "updated"), ("heads/other", "forced"), ("tags/v2", "deleted")];
    assert_eq!(fetched(&repository, &vm), pairs(&expected));
    repository.sh("set -e; git checkout -q main; git branch -m other other/below").ok();
    let expected = [("heads/other/below", "new"), ("HEAD", "deleted"), ("heads/other", "deleted")];
    assert_eq!(fetched(&repository, &vm), pairs(&expected));
    let text = repository.run(["fetch"]).ok();
    assert_eq!((text.text().as_str(), text.stderr.contains("nothing new")), ("", true), "{text:?}");

    // It merges, and is not for other VMs: the next sync has nothing to say of it.
    repository.git(["merge", "--quiet", &format!("refs/banger/{vm}/heads/main")]);
    let script = "git for-each-ref refs/banger; git status --porcelain; git log -1 --format=%s";
    assert_eq!(repository.sh(script).ok().text(), "more\n");
    assert_clean(&repository);
}

#[test]
fn git_fetches_from_the_url_of_a_vm_and_does_not_push() {
    let home = Home::with_process_guests();
    let (repository, vm) = synced(&home, "repo");
    repository.sh("git commit -q --allow-empty -m theirs; git branch topic").ok();
    // A VM that is stopped is started.
    repository.run(["stop"]).ok();
    let url = format!("banger://{vm}");
    output(git(&repository).args(["remote", "add", "vm", &url])).ok();
    output(git(&repository).args(["fetch", "vm"])).ok();
    assert_eq!(repository.git(["log", "-1", "--format=%s", "vm/topic"]), "theirs\n");
    output(git(&repository).args(["fetch", &url, "topic"])).ok();
    assert_eq!(repository.git(["log", "-1", "--format=%s", "FETCH_HEAD"]), "theirs\n");
    let clone = home.path().join("clone");
    output(git(&repository).args(["clone", "--quiet", &url]).arg(&clone)).ok();
    assert_eq!(home.at(&clone).git(["log", "-1", "--format=%s"]), "theirs\n");

    let before = repository.sh("git for-each-ref").ok().text();
    let pushed = output(git(&repository).args(["push", &url, "main:pushed"]));
    assert_ne!(pushed.status, 0);
    assert!(pushed.stderr.contains("cannot push") && pushed.stderr.contains("hint: "), "{}", pushed.stderr);
    assert_eq!(repository.sh("git for-each-ref").ok().text(), before);
    for (url, why) in [
        ("banger://nobody", "there is no VM named `nobody`"),
        ("banger://root@nobody", "it has a user"),
        ("banger://nobody/x", "it has a path"),
        ("banger::nobody", "does not begin with"),
    ] {
        let failed = output(git(&repository).args(["fetch", url]));
        assert!(failed.status != 0 && failed.stderr.contains(why), "{url}: {}", failed.stderr);
    }
    let archive = output(git(&repository).args(["archive", &format!("--remote={url}"), "main"]));
    assert!(archive.status != 0 && archive.stderr.contains("`connect git-upload-archive`"), "{}", archive.stderr);
    // A repository cannot make git start a VM: of a submodule, git allows no unknown scheme.
    repository.write(".gitmodules", format!("[submodule \"s\"]\n\tpath = s\n\turl = {url}\n"));
    let head = repository.git(["rev-parse", "HEAD"]);
    repository.git(["update-index", "--add", "--cacheinfo", &format!("160000,{},s", head.trim())]);
    let submodule = output(git(&repository).args(["submodule", "update", "--init"]));
    assert!(submodule.stderr.contains("transport 'banger' not allowed"), "{}", submodule.stderr);
}

#[test]
fn repositories_of_every_form_fetch() {
    let home = Home::with_process_guests();
    let work = "set -e; echo new >new; git add new; git commit -qm theirs";
    // SHA-256.
    let root = home.path().join("sha256");
    fs::create_dir(&root).unwrap();
    let sha256 = home.at(&root);
    sha256.git(["init", "--quiet", "--object-format=sha256"]);
    // A linked worktree.
    let main = home.repository("main");
    main.git(["worktree", "add", "--quiet", "-b", "linked", "../linked"]);
    let linked = home.at(home.path().join("linked"));
    // A shallow clone, and a clone that has its objects elsewhere.
    main.commit("second");
    let from = format!("file://{}", main.root.display());
    let (shallow, shared) = (home.path().join("shallow"), home.path().join("sha\"red #"));
    main.git(["clone", "--quiet", "--depth=1", &from, shallow.to_str().unwrap()]);
    main.git(["clone", "--quiet", "--shared", ".", shared.to_str().unwrap()]);
    for repository in [sha256, linked, home.at(shallow), home.at(shared)] {
        if repository.root.ends_with("sha256") {
            repository.commit("first");
        }
        if repository.root.ends_with("sha\"red #") {
            repository.run(["trust"]).ok();
        }
        repository.sh(work).ok();
        let vm = vm_of(&repository);
        let branch = repository.git(["branch", "--show-current"]).trim().to_owned();
        let found = fetched(&repository, &vm);
        assert!(found.contains(&(format!("heads/{branch}"), "new".into())), "{:?}: {found:?}", repository.root);
        let subject = repository.git(["log", "-1", "--format=%s", &format!("refs/banger/{vm}/heads/{branch}")]);
        assert_eq!(subject, "theirs\n", "{:?}", repository.root);
        assert_clean(&repository);
    }
    let bare = home.at(home.path().join("bare"));
    main.git(["clone", "--quiet", "--bare", ".", bare.root.to_str().unwrap()]);
    let refused = bare.run(["fetch"]);
    assert!(refused.status == 125 && refused.stderr.contains("bare repository"), "{refused:?}");
}

#[test]
fn guest_with_a_shallow_history_is_fetched_from() {
    let home = Home::with_process_guests();
    let repository = home.repository("repo");
    repository.commit("second");
    home.configure("history = \"shallow\"\n");
    repository.sh("set -e; test -e .git/shallow; git commit -q --allow-empty -m theirs").ok();
    let vm = vm_of(&repository);
    assert_eq!(fetched(&repository, &vm), pairs(&[("heads/main", "new")]));
    let count = repository.git(["rev-list", "--count", &format!("refs/banger/{vm}/heads/main")]);
    assert_eq!((count.as_str(), repository.root.join(".git/shallow").exists()), ("3\n", false));
    assert_clean(&repository);
}

#[test]
fn fetch_without_a_vm_or_a_repository_in_it_is_an_error() {
    let home = Home::with_process_guests();
    let repository = home.repository("repo");
    let failed = repository.run(["fetch"]);
    assert!(failed.status == 125 && failed.stderr.contains("this repository has no VM"), "{failed:?}");
    repository.sh("mv .git away").ok();
    let failed = repository.run(["fetch", "--json"]);
    let error = failed.document();
    assert_eq!((failed.status, &error["kind"]), (125, &Value::from("guest")), "{error}");
    assert!(error["details"].to_string().contains("does not appear to be a git repository"), "{error}");
    assert_clean(&repository);
}

/// Makes a program in the VM.
fn put(repository: &Repository<'_>, path: &str, script: &str) {
    let made = format!("cat >{path}; chmod +x {path}");
    repository.with_input(["--", "sh", "-c", &made], format!("#!/bin/sh\n{script}\n").as_bytes()).ok();
}

/// Has the VM run `script` in the place of `git`.
fn replace_git(repository: &Repository<'_>, script: &str) {
    put(repository, "/root/fake-git", script);
    repository.sh("git=$(command -v git); mountpoint -q $git || mount --bind /root/fake-git $git").ok();
}

/// Has git in the VM run `script` for the packs that it sends.
fn replace_pack(repository: &Repository<'_>, script: &str) {
    put(repository, "/root/hook", script);
    repository.sh("git config --global uploadpack.packObjectsHook /root/hook").ok();
}

/// A `banger fetch` that fails with these words, in whatever environment. Nothing changes in the
/// repository, not even an object, and nothing is left.
#[track_caller]
fn fails(repository: &Repository<'_>, environment: &[(&str, &str)], why: &str) {
    let state = || (refs(repository), files(&repository.root.join(".git")));
    let before = state();
    let mut command = repository.banger();
    let failed = output(command.arg("fetch").envs(environment.iter().copied()));
    assert!(failed.status == 125 && failed.stderr.contains(why), "{why}: {failed:?}");
    assert!(!failed.stderr.contains('\x1b') && failed.stderr.len() < 4096, "{failed:?}");
    assert_eq!(state(), before, "{why}");
    assert_clean(repository);
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<String> {
    let found = Command::new("find").arg(directory).args(["-type", "f", "-printf", "%P %s\n"]).output().unwrap();
    let mut all: Vec<_> = String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// A shell function that writes a packet of git's protocol.
const PACKET: &str = r#"p() { printf '%04x' $((${#1} + 5)); printf '%s\n' "$1"; }"#;

#[test]
fn odd_names_of_branches_stay_in_the_vm() {
    let home = Home::with_process_guests();
    let (repository, vm) = synced(&home, "repo");
    let id = repository.git(["rev-parse", "HEAD"]).trim().to_owned();
    let names = [
        "refs/heads/-x",
        "refs/heads/--upload-pack=x",
        "refs/heads/a",
        "refs/heads/a/b",
        "refs/heads/A",
        "refs/heads/x/../../../heads/main",
        "refs/heads/../../main",
        "refs/heads/x\x1b]0;title\x07",
        "refs/heads/x.lock",
        "refs/heads/x:y",
        "refs/banger/other/heads/main",
        "refs/remotes/origin/main",
        "refs/notes/commits",
        "refs/replace/x",
        "config",
    ];
    let packets: String = names.iter().map(|name| format!("p '{id} {name}'\n")).collect();
    replace_git(&repository, &format!("{PACKET}\n{packets}printf 0000; cat >/dev/null"));
    let before = repository.git(["rev-parse", "refs/heads/main"]);
    let fetched = repository.run(["fetch"]);
    let refs = repository.git(["for-each-ref", "--format=%(refname)", "refs"]);
    let expected: String = ["--upload-pack=x", "-x", "A", "a"]
        .iter()
        .map(|name| format!("refs/banger/{vm}/heads/{name}\n"))
        .chain(["refs/heads/main\n".to_owned()])
        .collect();
    assert!(fetched.status == 0 && !fetched.stderr.contains('\x1b'), "{fetched:?}");
    assert!(fetched.stderr.contains("stayed in the VM, for their names"), "{}", fetched.stderr);
    assert_eq!((refs, repository.git(["rev-parse", "refs/heads/main"])), (expected, before), "{fetched:?}");
    assert_clean(&repository);
}

#[test]
fn refs_and_packs_without_end_are_bounded() {
    let home = Home::with_process_guests();
    let (repository, _) = synced(&home, "many");
    repository
        .sh("id=$(git rev-parse HEAD); for n in $(seq 100000); do echo $id refs/heads/n$n; done >>.git/packed-refs")
        .ok();
    fails(&repository, &[], "branches and tags, more than the 10001 that are fetched");
    let id = repository.git(["rev-parse", "HEAD"]);
    replace_git(&repository, &format!("exec yes '003a{} refs/heads/x'", id.trim()));
    fails(&repository, &[], "its list of branches and tags does not end");
    replace_git(&repository, "printf 'yes x' | tr -d '\\n'; yes fff0");
    fails(&repository, &[], "cannot fetch from `banger://");
    replace_git(&repository, "printf '000eversion 2\\n'; yes 0009line | tr -d '\\n'");
    fails(&repository, &[], "does not speak the version of git's protocol");
    replace_git(&repository, "yes y >&2");
    fails(&repository, &[("BANGER_FETCH_LIMIT", "8M")], "the VM sends more than 8M");
    replace_git(&repository, "sleep 600");
    fails(&repository, &[("BANGER_FETCH_TIMEOUT", "1s")], "did not send everything within 1s");

    let (repository, _) = synced(&home, "pack");
    repository.sh("git commit -q --allow-empty -m theirs").ok();
    // A file of a terabyte that no zlib makes smaller.
    let endless = "exec python3 -c '
import os, sys, zlib
size, header = 1 << 40, bytes([0xb0])
size >>= 4
while size:
    header += bytes([size & 0x7f | (0x80 if size > 0x7f else 0)])
    size >>= 7
out, z = sys.stdout.buffer, zlib.compressobj(0)
out.write(b\"PACK\" + (2).to_bytes(4, \"big\") + (1).to_bytes(4, \"big\") + header)
while True:
    out.write(z.compress(os.urandom(1 << 16)))
'";
    replace_pack(&repository, endless);
    fails(&repository, &[("BANGER_FETCH_LIMIT", "8M")], "the VM sends more than 8M");
    replace_pack(&repository, "printf 'PACK\\0\\0\\0\\2\\377\\377\\377\\377'; exec cat /dev/zero");
    fails(&repository, &[], "cannot fetch from `banger://");
    replace_pack(&repository, "printf 'PACK\\0\\0\\0\\2\\177\\377\\377\\376'; exec cat /dev/zero");
    fails(&repository, &[], "over limit");
    replace_pack(&repository, "exec sleep 600");
    fails(&repository, &[("BANGER_FETCH_TIMEOUT", "2s")], "did not send everything within 2s");
}

#[test]
fn objects_that_git_refuses_do_not_come() {
    let home = Home::with_process_guests();
    let (repository, _) = synced(&home, "repo");
    let tree = "set -e; commit() { git update-ref refs/heads/bad $(git commit-tree -m bad $1); }; ";
    for (script, why) in [
        (
            "commit $(printf '40000 .git\\0' | cat - empty | git hash-object -t tree -w --stdin --literally)",
            "hasDotgit",
        ),
        (
            "commit $(printf '40000 .GIT\\0' | cat - empty | git hash-object -t tree -w --stdin --literally)",
            "hasDotgit",
        ),
        ("commit $(printf '40000 ..\\0' | cat - empty | git hash-object -t tree -w --stdin --literally)", "hasDotdot"),
        (
            "blob=$(printf '[submodule \"x\"]\\n\\tpath = x\\n\\turl = --upload-pack=touch pwned\\n' | git hash-object -w --stdin); \
             commit $(printf \"100644 blob $blob\\t.gitmodules\\n\" | git mktree)",
            "gitmodulesUrl",
        ),
        (
            "blob=$(printf /etc/passwd | git hash-object -w --stdin); \
             commit $(printf \"120000 blob $blob\\t.gitmodules\\n\" | git mktree)",
            "gitmodulesSymlink",
        ),
    ] {
        // The name of the empty tree, in binary.
        let empty = "git mktree </dev/null | xxd -r -p >empty; ";
        repository.sh(&format!("{tree}{empty}{script}; rm empty")).ok();
        fails(&repository, &[], why);
    }
    // A part of a commit is missing.
    repository
        .sh("set -e; echo gone >gone; git add gone; git commit -qm gone; git branch -f bad; git reset -q --hard HEAD~1; \
             id=$(git rev-parse bad:gone); rm .git/objects/$(echo $id | cut -c1-2)/$(echo $id | cut -c3-)")
        .ok();
    fails(&repository, &[], "cannot fetch from `banger://");
}

#[test]
fn configuration_of_the_host_repository_runs_nothing_in_a_fetch() {
    let home = Home::with_process_guests();
    let (repository, vm) = synced(&home, "repo");
    repository.sh("git commit -q --allow-empty -m theirs").ok();
    let head = repository.git(["rev-parse", "HEAD"]);
    let run = format!("touch {}", home.path().join("pwned").display());
    for (key, value) in [
        ("core.alternateRefsCommand", &run[..]),
        ("core.sshCommand", &run),
        ("core.fsmonitor", &run),
        ("url.ext::sh -c touch% pwned .insteadOf", "/"),
        ("fetch.recurseSubmodules", "true"),
        ("fetch.prune", "true"),
        ("remote.banger.url", "ext::sh -c touch% pwned"),
    ] {
        repository.git(["config", key, value]);
    }
    repository.git(["config", "--unset", "url.ext::sh -c touch% pwned .insteadOf"]);
    let hook = repository.root.join(".git/hooks/reference-transaction");
    fs::write(&hook, format!("#!/bin/sh\n{run}\n")).unwrap();
    Command::new("chmod").arg("+x").arg(&hook).status().unwrap();
    // A reference of the repository that leads to the user's branch.
    repository.write(&format!(".git/refs/banger/{vm}/heads/main"), "ref: refs/heads/main\n");
    assert_eq!(fetched(&repository, &vm), pairs(&[("heads/main", "forced")]));
    assert_eq!(repository.git(["rev-parse", "HEAD"]), head);
    assert_ne!(repository.git(["rev-parse", &format!("refs/banger/{vm}/heads/main")]), head);
    // To rewrite the path of what git fetches from is refused.
    repository.sh("git commit -q --allow-empty -m more").ok();
    repository.git(["config", "url.ext::sh -c touch% pwned .insteadOf", "/"]);
    let failed = repository.run(["fetch"]);
    assert!(failed.status == 125 && failed.stderr.contains("transport 'ext' not allowed"), "{failed:?}");
    assert!(!home.path().join("pwned").exists() && !repository.root.join("pwned").exists());
}

#[test]
fn fetch_that_is_killed_leaves_the_repository_as_it_was() {
    let home = Home::with_process_guests();
    let (repository, vm) = synced(&home, "repo");
    repository.sh("git commit -q --allow-empty -m theirs").ok();
    replace_pack(&repository, "touch /root/begun; exec sleep 600");
    let before = (refs(&repository), files(&repository.root.join(".git")));
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        repository.sh("rm -f /root/begun").ok();
        let mut command = repository.banger();
        command.arg("fetch").process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let pid = child.id() as i32;
        eventually("a fetch that is under way", || repository.sh("test -e /root/begun").status == 0);
        // As a terminal does it; a kill is for banger alone.
        let whom = if signal == Signal::SIGINT { -pid } else { pid };
        kill(Pid::from_raw(whom), signal).unwrap();
        assert!(!child.wait().unwrap().success());
        let is_over = || Command::new("pgrep").args(["-g", &pid.to_string()]).output().unwrap().stdout.is_empty();
        eventually("the end of what it has started", is_over);
        assert_eq!((refs(&repository), files(&repository.root.join(".git"))), before);
    }
    assert!(fs::read_dir(home.path().join(".cache/banger/fetch")).unwrap().count() > 1, "leftovers");
    repository.sh("git config --global --unset uploadpack.packObjectsHook").ok();
    assert_eq!(fetched(&repository, &vm), pairs(&[("heads/main", "new")]));
    assert_clean(&repository);
}

#[test]
fn commits_of_a_real_vm_are_fetched_and_merged() {
    let home = Home::new();
    let (repository, vm) = synced(&home, "repo");
    repository.sh("set -e; for n in 1 2 3; do echo $n >>work; git add work; git commit -qm theirs-$n; done").ok();
    assert_eq!(fetched(&repository, &vm), pairs(&[("heads/main", "new")]));
    let theirs = format!("refs/banger/{vm}/heads/main");
    let log = repository.git(["log", "--format=%s", &format!("main..{theirs}")]);
    assert_eq!(log, "theirs-3\ntheirs-2\ntheirs-1\n");
    repository.write("ours", "ours\n");
    repository.commit("ours");
    output(git(&repository).args(["fetch", "--quiet", &format!("banger://{vm}"), "main:refs/heads/theirs"])).ok();
    repository.git(["merge", "--quiet", "--no-edit", "theirs"]);
    assert_eq!(fs::read_to_string(repository.root.join("work")).unwrap(), "1\n2\n3\n");
    repository.git(["cherry-pick", "--allow-empty", "--keep-redundant-commits", &theirs]);
    assert_clean(&repository);
}
