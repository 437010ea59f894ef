//! `banger vm workspace prepare`: more than one repository in a VM, each where it is wanted.

use std::process::Stdio;

use banger_tests::{Home, Output, Repository};
use serde_json::{Value, json};

/// `banger vm workspace prepare <arguments>` from the repository's root, to its end.
fn prepare(repository: &Repository<'_>, arguments: &[&str]) -> Output {
    repository.banger().args(["vm", "workspace", "prepare"]).args(arguments).output().expect("banger runs").into()
}

/// What it answers, which may be an error.
#[track_caller]
fn answer(repository: &Repository<'_>, arguments: &[&str]) -> Value {
    prepare(repository, &[arguments, &["--json"]].concat()).document()
}

/// What a script in `name`, which is started from the repository's `folder`, prints.
#[track_caller]
fn script(repository: &Repository<'_>, folder: &str, name: &str, script: &str) -> String {
    let mut command = repository.banger();
    command.args(["vm", "exec", name, "--", "sh", "-c", script]).current_dir(repository.root.join(folder));
    Output::from(command.output().unwrap()).ok().text()
}

#[test]
fn vm_holds_several_repositories() {
    let home = Home::new();
    let (first, second) = (home.repository("first"), home.repository("second"));
    first.write("of", "first\n");
    first.commit("of");
    second.write("of", "second, edited\n");
    second.write("banger.toml", "setup = [\"pwd >>/root/set-up\"]\nenv = { WHOSE = \"second's\" }\n");
    first.sh("echo own >/root/own").ok();
    let list = first.run(["list", "--json"]).ok().document();
    let name = list["vms"][0]["name"].as_str().unwrap();

    // Its own place is taken, and what cannot be a place is said before anything is sent.
    for (path, kind) in [
        ("/root/repo", "usage"),
        ("/root/repo/below", "usage"),
        ("/root", "usage"),
        ("relative", "usage"),
        ("/proc/x", "usage"),
        ("/a/../b", "usage"),
        ("/etc", "guest"),
    ] {
        let error = answer(&second, &[name, "--guest-path", path]);
        assert_eq!((&error["exit_code"], error["kind"] == kind), (&json!(125), true), "{path}: {error}");
    }
    // The guest has the first at the host's own path too.
    let within = first.root.join("sub/x");
    assert_eq!(answer(&second, &[name, "--guest-path", within.to_str().unwrap()])["kind"], "usage");
    assert_eq!(answer(&second, &["nobody"])["kind"], "vm_not_found");
    assert_eq!(answer(&second, &[name, "/", "--guest-path", "/srv/x"])["kind"], "no_workspace");

    let sent = answer(&second, &[name, ".", "--guest-path", "/srv//two/"]);
    assert_eq!((&sent["guest_path"], &sent["vm"]), (&json!("/srv/two"), &json!(name)), "{sent}");
    // The folder, the configuration and git are those of where one stands; from elsewhere, the VM's
    // own.
    let look = "pwd; cat $(git rev-parse --show-toplevel)/of; echo $WHOSE; git log --format=%s; git status --short";
    let there = script(&second, "sub", name, look);
    assert_eq!(there, "/srv/two/sub\nsecond, edited\nsecond's\nfirst\n?? ../banger.toml\n?? ../of\n");
    assert_eq!(script(&first, "sub", name, look), "/root/repo/sub\nfirst\n\nof\nfirst\n");
    assert_eq!(script(&home.at(home.path()), "", name, "pwd; cat /root/set-up"), "/root/repo\n/srv/two\n");
    let show = first.run(["vm", "show", name, "--json"]).ok().document();
    let root = second.root.to_str().unwrap();
    assert_eq!(show["vm"]["repositories"], json!([{"workspace": root, "guest_path": "/srv/two"}]));

    // Each is synced by itself, with what changed only; the set-up was done.
    second.write("new", "2\n");
    first.write("new", "1\n");
    let sent = answer(&second, &[name, "sub", "--guest-path", "/srv/two"]);
    assert_eq!((&sent["files_sent"], &sent["files_removed"]), (&json!(1), &json!(0)), "{sent}");
    first.run(["--", "cat", "new"]).ok();
    assert_eq!(script(&second, "", name, "cat new /root/repo/new /root/set-up"), "2\n1\n/srv/two\n");

    // What was done there counts, in all of them; and both sides' changes are a conflict in the one
    // that has them.
    script(&second, "", name, "echo guest >>of; echo only >only-there");
    let refused = first.run(["delete", "--json"]).document();
    let details = refused["details"].to_string();
    assert!(refused["kind"] == "guest_changes" && details.contains("/srv/two/only-there"), "{refused}");
    second.write("of", "host\n");
    let again = [name, "--guest-path", "/srv/two"];
    assert_eq!(answer(&second, &again)["kind"], "conflict");
    first.run(["--", "true"]).ok();

    // One within another is itself.
    let nested = home.repository("first/nested");
    prepare(&nested, &[name, "--guest-path", "/srv/nested"]).ok();
    assert_eq!(script(&nested, "sub", name, "pwd"), "/srv/nested/sub\n");
    // What was unmounted in the guest is shown again.
    script(&home.at(home.path()), "", name, "umount /srv/nested");
    prepare(&nested, &[name, "--guest-path", "/srv/nested"]).ok();
    assert_eq!(script(&nested, "", name, "ls"), "README\nsub\n");

    // It is there after a restart too, and knows what it had.
    first.run(["stop", name]).ok();
    home.assert_at_rest();
    let sent = answer(&second, &[&again[..], &["--guest-wins"]].concat());
    assert_eq!((&sent["files_sent"], &sent["files_kept"]), (&json!(0), &json!(1)), "{sent}");
    assert_eq!(script(&second, "", name, "cat of only-there"), "second, edited\nguest\nonly\n");
    assert_eq!(first.run(["--", "cat", "/root/own", "of"]).ok().text(), "own\nfirst\n");

    // Two at a time for one place: one repository has it, and the other is told.
    let (third, fourth) = (home.repository("third"), home.repository("fourth"));
    let begin = |repository: &Repository<'_>| {
        let mut command = repository.banger();
        command.args(["vm", "workspace", "prepare", name, "--guest-path", "/opt/x", "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ended = [begin(&third), begin(&fourth)].map(|child| Output::from(child.wait_with_output().unwrap()).document());
    let kinds = ended.each_ref().map(|answer| answer["kind"].as_str());
    assert!(kinds == [None, Some("usage")] || kinds == [Some("usage"), None], "{ended:?}");

    // A repository that was moved goes on where it was, be there another one in its former place.
    let moved = home.at(home.path().join("elsewhere"));
    std::fs::rename(&second.root, &moved.root).unwrap();
    home.repository("second");
    moved.write("moved", "");
    let sent = answer(&moved, &again);
    assert_eq!((&sent["files_sent"], &sent["files_kept"]), (&json!(1), &json!(0)), "{sent}");
    assert_eq!(script(&moved, "sub", name, "pwd; cat ../only-there"), "/srv/two/sub\nonly\n");
}

#[test]
fn repository_can_be_added_to_a_bare_vm() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["vm", "create", "--name", "box", "--memory", "512M", "--no-start"]).ok();
    // It is started for it.
    let output = prepare(&repository, &["box"]);
    assert!(output.stdout.is_empty() && output.stderr.contains("`/root/repo` in `box` is "), "{output:?}");
    assert_eq!(script(&repository, "sub", "box", "pwd; git status --short"), "/root/repo/sub\n");
    // From elsewhere it is a bare VM as before, and all of it is only there.
    assert_eq!(script(&home.at(home.path()), "", "box", "pwd"), "/root\n");
    let refused = repository.run(["delete", "box", "--json"]).document();
    assert_eq!(refused["kind"], "guest_changes", "{refused}");

    // Killed in the middle of it, it is done by the next.
    let large = home.repository("large");
    (0..8).for_each(|number| large.write(&format!("large/{number}"), vec![number; 8 << 20]));
    let mut killed = large.banger();
    killed.args(["vm", "workspace", "prepare", "box", "--guest-path", "/root/large"]).stderr(Stdio::null());
    let mut killed = killed.spawn().unwrap();
    let begun =
        || script(&repository, "", "box", "ls /run/banger/repositories/*/stage 2>/dev/null | wc -l").trim() != "0";
    banger_tests::eventually("a first sync that has begun", || begun() || killed.try_wait().unwrap().is_some());
    killed.kill().unwrap();
    killed.wait().unwrap();
    prepare(&large, &["box", "--guest-path", "/root/large"]).ok();
    assert_eq!(script(&large, "large", "box", "pwd; cat * | wc -c"), format!("/root/large/large\n{}\n", 64 << 20));

    // Killed before the VM has heard of it, it leaves the place to others.
    repository.run(["stop", "--force", "box"]).ok();
    let mut killed = large.banger();
    killed.args(["vm", "workspace", "prepare", "box", "--guest-path", "/opt/x"]).stderr(Stdio::null());
    let mut killed = killed.spawn().unwrap();
    let chosen = || {
        let kept = std::fs::read_dir(home.vm().join("repositories")).unwrap();
        kept.filter(|folder| folder.as_ref().unwrap().path().join("repository.json").exists()).count() == 3
    };
    banger_tests::eventually("that it has chosen a place", chosen);
    killed.kill().unwrap();
    killed.wait().unwrap();
    prepare(&repository, &["box", "--guest-path", "/opt/x"]).ok();
    assert_eq!(answer(&large, &["box", "--guest-path", "/opt/x"])["kind"], "usage");
    repository.run(["delete", "--force", "box"]).ok();
    assert!(home.vms().is_empty() && home.processes().is_empty());
}
