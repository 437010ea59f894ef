//! All VMs of a user: listed, measured, deleted and pruned by what is known of them, and each with
//! its own repository.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use banger_tests::inspect::{allocated, send};
use banger_tests::{Home, Repository, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The answer of `banger <arguments> --json`, which must succeed.
#[track_caller]
fn answer(repository: &Repository<'_>, arguments: &[&str]) -> Value {
    let output = repository.banger().args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `banger list` says of the VM of the repository at `root`.
#[track_caller]
fn listed(repository: &Repository<'_>, root: &Path) -> Value {
    let list = answer(repository, &["list"]);
    let vms = list["vms"].as_array().unwrap().iter();
    let mut found = vms.filter(|vm| vm["workspace"] == root.to_str().unwrap());
    let vm = found.next().unwrap_or_else(|| panic!("{list}")).clone();
    assert!(found.next().is_none(), "{list}");
    vm
}

#[test]
fn list_reports_last_recorded_unsynced_changes() {
    let home = Home::new();
    let repository = home.repository("r");
    let counts = || listed(&repository, &repository.root)["guest_only"].clone();
    repository.run(["--", "true"]).ok();
    eventually("the count after a command", || counts() == json!({"files": 0, "references": 0}));
    repository
        .sh("echo work >made-there; git branch made-there; printf '\\033]0;evil\\007console\\n' >/dev/console")
        .ok();
    let changes = json!({"files": 1, "references": 1});
    eventually("the count after another", || counts() == changes);
    // While a command runs, what was counted before it is not to be believed: the VM is asked.
    let mut running = repository
        .banger()
        .args(["--", "sh", "-c", "echo begun; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(BufReader::new(running.stdout.take().unwrap()).lines().map_while(Result::ok).any(|line| line == "begun"));
    assert_eq!(counts(), changes);
    assert!(!repository.run(["ls"]).ok().text().contains("unknown"));
    drop(running.stdin.take());
    running.wait().unwrap();
    eventually("the count after one more", || counts() == changes);
    let vm = listed(&repository, &repository.root);
    assert_eq!((&vm["state"], &vm["repository"]), (&json!("running"), &json!("present")));

    // The console, as it grows, until somebody has read enough.
    let mut follow = repository.banger().args(["logs", "-f", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    repository.sh("echo more >/dev/console").ok();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line == "more"));
    drop(lines);
    assert!(follow.wait().unwrap().success());

    repository.run(["stop"]).ok();
    let vm = listed(&repository, &repository.root);
    assert_eq!((&vm["state"], &vm["guest_only"]), (&json!("stopped"), &changes));
    let disks = || allocated(&home.vm().join("disk.ext4")) + allocated(&home.vm().join("workspace.ext4"));
    assert_eq!(vm["disk_bytes"], disks());
    let text = repository.run(["ls"]).ok().text();
    assert!(text.contains("1 file, 1 ref") && text.contains("just now"), "{text}");
    assert_eq!(repository.run(["-q", "list"]).ok().text().lines().count(), 1);

    let log = repository.run(["logs"]).ok().text();
    assert!(log.contains("^[]0;evil^Gconsole\n") && !log.contains('\x1b'), "{log}");
    assert_eq!(repository.run(["logs", "-n", "2"]).ok().text().lines().count(), 2);

    let usage = answer(&repository, &["du"]);
    let sum =
        |kind: &str| usage[kind].as_array().unwrap().iter().map(|item| item["bytes"].as_u64().unwrap()).sum::<u64>();
    assert!(sum("vms") >= disks() && sum("images") > 100 << 20 && sum("kernels") > 1 << 20, "{usage}");
    let total = sum("vms") + sum("images") + sum("kernels") + sum("caches");
    assert_eq!(usage["total_bytes"], total);
    assert!(repository.run(["du"]).ok().text().contains("total"));

    let refused = |why: &str| {
        let output = repository.run(["delete", "--json"]);
        assert_eq!(output.status, 125);
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["kind"], "guest_changes");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
        assert!(error["hints"].to_string().contains("banger delete --force"), "{error}");
        error
    };
    assert!(refused("1 file, 1 branch or tag")["details"].to_string().contains("made-there"));
    // It runs again, and what was seen is not to be believed after its end.
    let restarted = answer(&repository, &["restart"]);
    assert!(restarted["boot_ms"].as_u64().unwrap() > 0, "{restarted}");
    refused("1 file, 1 branch or tag");
    send(home.supervisor_and_vmm().0, Signal::SIGKILL);
    eventually("QEMU's end", || home.processes().is_empty());
    assert_eq!(counts(), Value::Null);
    refused("ended before it could be asked");

    // Without work of its own it goes without a question, though it is stopped.
    repository.sh("rm made-there; git branch -D made-there").ok();
    repository.run(["stop"]).ok();
    repository.run(["delete"]).ok();
    assert!(home.vms().is_empty());
}

#[test]
fn vm_follows_moved_repository() {
    let home = Home::new();
    let repository = home.repository("before");
    repository.sh("echo kept >/root/kept; echo only >only-there").ok();
    let moved = home.at(home.path().join("after"));
    fs::rename(&repository.root, &moved.root).unwrap();
    let script = "cat /root/kept only-there; ls -d \"$1\" \"$2\" 2>/dev/null; pwd";
    let (before, after) = (repository.root.to_str().unwrap(), moved.root.to_str().unwrap());
    let output =
        moved.run(["--", "sh", "-c", script, "sh", &format!("{before}/README"), &format!("{after}/README")]).ok();
    // It is visible at its path of now, and no more at the one before.
    assert_eq!(output.text(), format!("kept\nonly\n{after}/README\n/root/repo\n"));
    assert!(output.stderr.contains(&format!("this repository was at {before}: its VM")), "{}", output.stderr);
    assert!(!moved.run(["--", "true"]).ok().stderr.contains("was at"));
    assert_eq!(listed(&moved, &moved.root)["state"], "running");

    // A copy has a VM of its own, be it at the first one's former place.
    let copied = home.command("cp").args(["-a", after, before]).status().unwrap();
    assert!(copied.success());
    assert!(repository.run(["status"]).ok().text().contains("none yet"));
    let output = repository.sh("cat /root/kept only-there").status;
    assert_ne!(output, 0);
    assert_eq!(home.vms().len(), 2);
    assert_eq!(moved.sh("cat /root/kept").ok().text(), "kept\n");
    repository.run(["delete", "--force"]).ok();

    // Another repository in the place is not mixed with what was there.
    fs::remove_dir_all(&moved.root).unwrap();
    assert_eq!(listed(&repository, &moved.root)["repository"], "gone");
    home.repository("after");
    assert_eq!(listed(&repository, &moved.root)["repository"], "replaced");
    assert!(moved.run(["status"]).ok().text().contains("another repository, which was here before"));
    let output = moved.run(["--", "true", "--json"]);
    assert_eq!(output.status, 125);
    for said in ["belongs to another repository", "banger delete", "banger cp"] {
        assert!(output.stderr.contains(said), "{}", output.stderr);
    }
    moved.run(["cp", ":only-there", "rescued"]).ok();
    assert_eq!(fs::read(moved.root.join("rescued")).unwrap(), b"only\n");
    assert_eq!(moved.run(["delete"]).status, 125);
    moved.run(["delete", "--force"]).ok();
    assert_eq!(moved.sh("ls /root/kept 2>/dev/null; cat rescued").ok().text(), "only\n");
}

#[test]
fn prune_removes_only_unneeded_vms_and_leftovers() {
    let home = Home::new();
    let repository = home.repository("r");
    let absent = home.path().join("absent");
    home.fake_vm("gone", &absent, Some(0));
    home.fake_vm("gone-with-work", &absent, Some(3));
    home.fake_vm("gone-unknown", &absent, None);
    home.fake_vm("replaced", &repository.root, Some(0));
    home.fake_vm("damaged", &absent, Some(0));
    fs::write(home.data().join("vms/damaged/vm.json"), "{").unwrap();
    for (leftover, content) in [(".tmp-x-0123", "half"), (".del-y-4567", "half")] {
        fs::create_dir(home.data().join("vms").join(leftover)).unwrap();
        fs::write(home.data().join("vms").join(leftover).join("disk.ext4"), content).unwrap();
    }
    let list = answer(&repository, &["list"]);
    let state = |name: &str| {
        let vms = list["vms"].as_array().unwrap();
        vms.iter().find(|vm| vm["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!((state("damaged"), state("gone")), (json!("damaged"), json!("stopped")));

    let names = |pruned: &Value, key: &str| -> Vec<String> {
        let all = pruned[key].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned());
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    };
    let vms = || {
        let mut names: Vec<_> =
            home.vms().iter().map(|vm| vm.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    // Another command that starts one of them holds its lock, and then it runs: it is nobody's to
    // remove.
    let before = vms();
    let dry = answer(&repository, &["prune", "--dry-run"]);
    assert_eq!(vms(), before);
    let done = answer(&repository, &["prune"]);
    for pruned in [&dry, &done] {
        assert_eq!(names(pruned, "removed"), [".del-y-4567", ".tmp-x-0123", "gone", "replaced"], "{pruned}");
        assert_eq!(names(pruned, "kept"), ["gone-unknown", "gone-with-work"], "{pruned}");
        assert!(pruned["freed_bytes"].as_u64().unwrap() >= 128 << 10, "{pruned}");
    }
    assert_eq!((&dry["dry_run"], &done["dry_run"]), (&json!(true), &json!(false)));
    assert_eq!(vms(), ["damaged", "gone-unknown", "gone-with-work"]);
    let output = repository.run(["prune"]).ok();
    assert!(output.stderr.contains("`gone-with-work` stays: it has 3 changes"), "{}", output.stderr);
    answer(&repository, &["prune", "--force"]);
    assert_eq!(vms(), ["damaged"]);
    assert_eq!(repository.run(["prune", "--filter", "since=1h"]).status, 125);
}

#[test]
fn prune_until_removes_long_unused_vms() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    let removed = |arguments: &[&str]| answer(&repository, arguments)["removed"].as_array().unwrap().len();
    // It runs.
    assert_eq!(removed(&["prune", "--filter", "until=1s"]), 0);
    repository.run(["stop"]).ok();
    assert_eq!(removed(&["prune"]), 0);
    assert_eq!(removed(&["prune", "--filter", "until=1h"]), 0);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(removed(&["prune", "--filter", "until=2s"]), 1);
    assert!(home.vms().is_empty());
}

#[test]
fn list_shows_two_hundred_vms() {
    let home = Home::new();
    let repository = home.repository("r");
    for number in 0..200 {
        home.fake_vm(&format!("vm-{number}"), &home.path().join("absent"), Some(number));
    }
    assert_eq!(repository.run(["list"]).ok().text().lines().count(), 201);
}
