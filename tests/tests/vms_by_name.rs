//! `banger vm`: VMs by name, from their making to their end, and what becomes of wrong names,
//! races, and records of others.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use banger_tests::registry::Layout;
use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// `banger vm <arguments>`, to its end.
fn vm(repository: &Repository<'_>, arguments: &[&str]) -> Output {
    repository.banger().arg("vm").args(arguments).output().expect("banger runs").into()
}

/// The answer of `banger vm <arguments> --json`, which may be an error.
#[track_caller]
fn answer(repository: &Repository<'_>, arguments: &[&str]) -> Value {
    let output: Output = repository.banger().arg("vm").args(arguments).arg("--json").output().unwrap().into();
    output.document()
}

/// What `banger list` says, by name.
fn listed(repository: &Repository<'_>) -> BTreeMap<String, Value> {
    let list = repository.run(["list", "--json"]).ok().document();
    let vms = list["vms"].as_array().unwrap().iter();
    vms.map(|vm| (vm["name"].as_str().unwrap().to_owned(), vm.clone())).collect()
}

#[test]
fn named_vm_persists_until_deleted() {
    let home = Home::new();
    // No repository is needed.
    let nowhere = home.at(home.path());
    let created = answer(&nowhere, &["create", "--name", "box", "--memory", "512M", "--cpus", "1"]);
    assert_eq!((&created["vm"], &created["started"]), (&json!("box"), &json!(true)), "{created}");
    let show = answer(&nowhere, &["show", "box"]);
    assert_eq!(
        (&show["workspace"], &show["vm"]["memory_mib"], &show["vm"]["cpus"]),
        (&json!(null), &json!(512), &json!(1))
    );
    let list = listed(&nowhere);
    assert_eq!((&list["box"]["bare"], &list["box"]["state"]), (&json!(true), &json!("running")), "{list:?}");
    assert_eq!(answer(&nowhere, &["create", "--name", "box"])["kind"], "vm_exists");

    let exec = |arguments: &[&str]| vm(&nowhere, &[&["exec", "box"], arguments].concat());
    let script = "pwd; id -un; hostname; echo $GIVEN; echo kept >kept; echo told >&2; exit 7";
    let output = exec(&["-e", "GIVEN=it", "--", "sh", "-c", script]);
    assert_eq!((output.status, output.text().as_str()), (7, "/root\nroot\nbox\nit\n"), "{}", output.stderr);
    assert_eq!(output.stderr, "told\n");
    assert_eq!(exec(&["-w", "/tmp", "-u", "nobody", "--", "sh", "-c", "pwd; id -un"]).ok().text(), "/tmp\nnobody\n");
    assert_eq!(exec(&["--timeout", "1", "--", "sleep", "100"]).status, 124);
    assert_eq!(exec(&["--", "no-such-command"]).status, 127);
    assert_eq!(exec(&["--", "sh", "-c", "kill -9 $$"]).status, 137);
    // Without a command, a shell.
    assert_eq!(nowhere.with_input(["vm", "exec", "box"], b"echo in $PWD; exit 3").text(), "in /root\n");

    fs::write(home.path().join("a:b"), "colon\n").unwrap();
    vm(&nowhere, &["cp", "./a:b", "box:from-here"]).ok();
    nowhere.run(["cp", "box:/root/from-here", "back"]).ok();
    assert_eq!(fs::read(home.path().join("back")).unwrap(), b"colon\n");
    let tar = vm(&nowhere, &["cp", "box:from-here", "-"]).ok().stdout;
    nowhere.with_input(["vm", "cp", "-", "box:/srv"], &tar).ok();
    assert_eq!(exec(&["--", "cat", "/srv/from-here"]).ok().text(), "colon\n");
    assert_eq!(answer(&nowhere, &["cp", "a:b", "box:x"])["kind"], "usage");

    let stats = answer(&nowhere, &["stats"]);
    let (stats, guest) = (&stats["vms"][0], &stats["vms"][0]["guest"]);
    assert_eq!((&stats["name"], &guest["commands"]), (&json!("box"), &json!(0)), "{stats}");
    assert!(stats["cpu_percent"].is_number() && stats["memory_bytes"].as_u64().unwrap() > 50 << 20, "{stats}");
    assert!(guest["memory_total"].as_u64().unwrap() < 512 << 20 && guest["disk_used"] != 0, "{stats}");
    exec(&["--", "sh", "-c", r"printf 'one\n\033]0;evil\007two\n' >/dev/console"]).ok();
    let log = || vm(&nowhere, &["logs", "-n", "2", "box"]).ok().text();
    eventually("what is said on the console is logged", || log() == "one\n^[]0;evil^Gtwo\n");

    // It runs, and all of it is only there.
    assert_eq!(answer(&nowhere, &["rename", "box", "crate"])["kind"], "vm_running");
    let refused = answer(&nowhere, &["delete", "box"]);
    assert_eq!(refused["kind"], "guest_changes", "{refused}");
    assert!(refused["hints"].to_string().contains("banger delete --force box"), "{refused}");
    let pruned = answer(&nowhere, &["prune", "--filter", "until=1s"]);
    assert_eq!((&pruned["removed"], &pruned["kept"]), (&json!([]), &json!([])), "{pruned}");

    assert_eq!(answer(&nowhere, &["stop", "box"]), json!({"vm": "box", "stopped": true}));
    assert_eq!(answer(&nowhere, &["stop", "box"]), json!({"vm": "box", "stopped": false}));
    home.assert_at_rest();
    assert_eq!(answer(&nowhere, &["stats", "box"])["kind"], "vm_not_running");
    assert_eq!(answer(&nowhere, &["rename", "box", "../x"])["kind"], "usage");
    let same = answer(&nowhere, &["rename", "box", "box"]);
    assert_eq!(same["message"], "`box` is what it is called already");
    assert_eq!(answer(&nowhere, &["rename", "box", "crate"]), json!({"vm": "crate", "former": "box"}));
    assert_eq!(answer(&nowhere, &["start", "box"])["kind"], "vm_not_found");
    // As if who gave it the name had been killed before it was written down.
    let path = home.vm().join("vm.json");
    let record = fs::read_to_string(&path).unwrap();
    assert!(record.contains(r#""hostname": "crate""#), "{record}");
    fs::write(&path, record.replace(r#""crate""#, r#""box""#)).unwrap();
    // A command starts it, and it goes by its name.
    let output =
        vm(&nowhere, &["exec", "crate", "--", "sh", "-c", "hostname; cat kept; cat /proc/sys/kernel/hostname"]);
    assert_eq!(output.ok().text(), "crate\nkept\ncrate\n");
    assert_eq!(answer(&nowhere, &["start", "crate"]), json!({"vm": "crate", "started": false, "boot_ms": null}));
    assert!(nowhere.run(["restart", "crate", "--json"]).ok().document()["boot_ms"].as_u64().unwrap() > 0);

    assert_eq!(answer(&nowhere, &["rm", "--force", "crate"]), json!({"vm": "crate", "deleted": true}));
    assert!(home.vms().is_empty() && home.processes().is_empty());
}

#[test]
fn bare_vm_runs_given_command_or_image_entrypoint() {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    layout.busybox("box", home.path());
    let script =
        r#"echo "$0 $*" in $PWD as $(stat -L -c %u /proc/self) with $OF_IMAGE; test "$0" != stay || cat; exit 5"#;
    let options = ["--config.entrypoint", "/bin/sh", "--config.entrypoint", "-c", "--config.entrypoint", script];
    layout.configure("box", &options);
    let rest =
        ["--config.cmd", "served", "--config.cmd", "well", "--config.user", "7", "--config.workingdir", "/made/for it"];
    layout.configure("box", &rest);
    layout.configure("box", &["--config.env", "OF_IMAGE=its own"]);
    let image = layout.source("box");
    let nowhere = home.at(home.path());

    let run = |arguments: &[&str]| vm(&nowhere, &[&["run", "--image", &image], arguments].concat());
    let output = run(&["--name", "server", "--memory", "256M"]);
    assert_eq!((output.status, output.text().as_str()), (5, "served well in /made/for it as 7 with its own\n"));
    // What is given stands for the arguments, and not for the entrypoint.
    let output = run(&["--rm", "-u", "0", "-w", "/", "--", "given"]);
    assert_eq!((output.status, output.text().as_str()), (5, "given  in / as 0 with its own\n"), "{}", output.stderr);
    assert_eq!(listed(&nowhere).keys().collect::<Vec<_>>(), ["server"]);
    // One for a command goes with it, whatever ends that.
    let mut stays = nowhere.banger();
    stays.args(["vm", "run", "--rm", "--image", &image, "--memory", "256M", "--", "stay"]);
    let mut stays = stays.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(stays.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "stay  in /made/for it as 7 with its own");
    assert_eq!(listed(&nowhere).len(), 2);
    stays.kill().unwrap();
    stays.wait().unwrap();
    eventually("the end of its VM", || listed(&nowhere).len() == 1);
    // A command beside it is itself, where and as whom the image says.
    let output = vm(&nowhere, &["exec", "server", "--", "sh", "-c", "pwd; stat -L -c %u /proc/self"]);
    assert_eq!(output.ok().text(), "/made/for it\n7\n");

    // An image does not choose what a copy of that directory is called here.
    let output = vm(&nowhere, &["cp", "server:", "."]);
    assert_eq!(output.status, 125, "{output:?}");
    assert!(output.stderr.contains("no name of its own") && !home.path().join("for it").exists(), "{}", output.stderr);
    vm(&nowhere, &["cp", "server:", "named here"]).ok();
    assert!(home.path().join("named here").is_dir());

    // One whose image was deleted by hand cannot start, and can be deleted.
    vm(&nowhere, &["stop", "--force", "server"]).ok();
    fs::remove_dir_all(home.data().join("images")).unwrap();
    let error = answer(&nowhere, &["start", "server"]);
    assert_eq!(error["kind"], "unknown_image", "{error}");
    assert!(error["hints"].to_string().contains("banger delete --force server"), "{error}");
    assert_eq!(answer(&nowhere, &["show", "server"])["vm"]["state"], "stopped");
    vm(&nowhere, &["delete", "--force", "server"]).ok();
    assert!(home.vms().is_empty() && home.processes().is_empty());
}

#[test]
fn named_vm_of_repository_is_separate_from_its_default_vm() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.write("second", "2\n");
    repository.commit("second");
    repository.write("README", "edited\n");
    let run = ["run", ".", "--name", "try", "--branch", "topic/x", "--from", "HEAD~1", "--memory", "512M", "--"];
    let script = "pwd; hostname; git branch --show-current; git log --format=%s; git status --short; ls; exit 6";
    let output = vm(&repository, &[&run[..], &["sh", "-c", script]].concat());
    let expected = "/root/repo\ntry\ntopic/x\nfirst\n M README\nREADME\nsub\n";
    assert_eq!((output.status, output.text().as_str()), (6, expected), "{}", output.stderr);
    assert_eq!(repository.git(["branch", "--format=%(refname:short)"]), "main\n");

    // The repository's own VM is another one, and has a name like all others.
    repository.sh("git branch --show-current; echo own >/root/own").ok();
    let list = listed(&repository);
    assert_eq!(list.len(), 2, "{list:?}");
    assert!(list.values().all(|vm| vm["workspace"] == repository.root.to_str().unwrap() && vm["bare"] == false));
    let own = list.keys().find(|name| *name != "try").unwrap().as_str();
    repository.write("sub/new", "not synced\n");
    let mut below = repository.banger();
    below
        .args(["vm", "exec", own, "--", "sh", "-c", "pwd; ls; cat /root/own"])
        .current_dir(repository.root.join("sub"));
    assert_eq!(Output::from(below.output().unwrap()).ok().text(), "/root/repo/sub\nfolder\nown\n");
    vm(&repository, &["exec", own, "--", "sh", "-c", "echo there >only-there"]).ok();
    let refused = answer(&repository, &["delete", own]);
    assert!(refused["details"] == serde_json::json!(["/root/repo/only-there"]), "{refused}");

    // Under another name it is found by what it is for; and so is nobody's the name that it would
    // have.
    vm(&repository, &["stop", "--force", own]).ok();
    answer(&repository, &["rename", own, "mine"]);
    vm(&repository, &["create", "--no-start", "--name", own]).ok();
    assert_eq!(
        repository.run(["--", "cat", "only-there", "/root/own", "sub/new"]).ok().text(),
        "there\nown\nnot synced\n"
    );
    assert_eq!(repository.run(["status", "--json"]).ok().document()["vm"]["name"], "mine");
    // One that was never started has nothing, and goes without a question.
    vm(&repository, &["delete", own]).ok();
    assert_eq!(answer(&repository, &["delete", "try"])["kind"], "guest_changes");

    // Where the branch cannot be checked out, no VM is left.
    repository.write("second", "edited\n");
    let failed = vm(&repository, &["run", ".", "--name", "no", "--branch", "b", "--from", "HEAD~1", "--", "true"]);
    assert_eq!(failed.status, 125, "{}", failed.stderr);
    assert!(
        failed.stderr.contains("`b` cannot be made in the VM") && failed.stderr.contains("second"),
        "{}",
        failed.stderr
    );
    assert_eq!(listed(&repository).keys().collect::<Vec<_>>(), ["mine", "try"]);
}

#[test]
fn invalid_vm_arguments_are_errors_and_create_nothing() {
    let home = Home::new();
    let repository = home.repository("r");
    let long = "a".repeat(300);
    for name in ["", ".", "../x", "a/b", "A", "\u{fc}n\u{ef}", "a b", "-x", "\u{1b}[2J", &long] {
        let name = format!("--name={name}");
        assert_eq!(answer(&repository, &["create", &name])["kind"], "usage", "{name}");
        assert_eq!(answer(&repository, &["create", "--no-start", &name])["kind"], "usage", "{name}");
        let output = vm(&repository, &["run", &name, "--", "true"]);
        assert!(output.status == 125 && !output.stderr.contains('\u{1b}'), "{}", output.stderr);
    }
    for options in [
        ["create", "--cpus=0"],
        ["create", "--cpus=-1"],
        ["create", "--cpus=256"],
        ["create", "--memory=0"],
        ["create", "--memory=-1G"],
        ["create", "--memory=100T"],
        ["create", "--disk=0"],
        ["create", "--disk=-1G"],
        ["create", "--disk=16T"],
        ["create", "--image=../x"],
        ["exec", "a b"],
        ["run", "--from=HEAD"],
        ["run", "--branch=x"],
        ["run", "--rm"],
    ] {
        let error = answer(&repository, &options);
        assert_eq!((&error["kind"], &error["exit_code"]), (&json!("usage"), &json!(125)), "{options:?}: {error}");
    }
    for (branch, from, said) in [
        ("a..b", "HEAD", "cannot name a branch"),
        ("@{-1}", "HEAD", "cannot name a branch"),
        ("main", "HEAD", "already"),
        ("x", "no-such", "leads to no commit"),
        ("x", "--all", "leads to no commit"),
    ] {
        let (branch, from) = (format!("--branch={branch}"), format!("--from={from}"));
        let output = vm(&repository, &["run", ".", &branch, &from, "--", "true"]);
        assert!(output.status == 125 && output.stderr.contains(said), "{branch} {from}: {}", output.stderr);
    }
    let output = vm(&repository, &["run", "no-such", "--", "true"]);
    assert!(
        output.stderr.contains("there is no folder") && output.stderr.contains("banger vm exec"),
        "{}",
        output.stderr
    );
    assert_eq!(answer(&repository, &["create", "--image", "no-such"])["kind"], "unknown_image");
    for command in ["start", "stop", "restart", "delete", "show", "stats", "logs"] {
        assert_eq!(answer(&repository, &[command, "nobody"])["kind"], "vm_not_found", "{command}");
    }
    assert_eq!(answer(&repository, &["rename", "nobody", "x"])["kind"], "vm_not_found");
    assert_eq!(answer(&repository, &["cp", "nobody:x", "."])["kind"], "vm_not_found");
    assert!(home.vms().is_empty());

    // Records of others: a later version's, half of one, and one of before VMs had names.
    home.fake_vm("later", &repository.root, None);
    home.fake_vm("half", &repository.root, None);
    home.fake_vm("bare", &repository.root, Some(0));
    let record = |name: &str| home.data().join("vms").join(name).join("vm.json");
    fs::write(record("later"), r#"{"format_version": 9, "of": "another shape"}"#).unwrap();
    fs::write(record("half"), r#"{"format_version": 1, "#).unwrap();
    let bare = fs::read_to_string(record("bare")).unwrap();
    let mut bare: Value = serde_json::from_str(&bare).unwrap();
    bare["workspace"] = Value::Null;
    fs::write(record("bare"), bare.to_string()).unwrap();
    fs::remove_dir_all(home.data().join("vms/bare/sync")).unwrap();
    for (name, kind) in [("later", "state_newer"), ("half", "state_damaged"), ("bare", "unknown_image")] {
        assert_eq!(answer(&repository, &["start", name])["kind"], kind);
    }
    for name in ["later", "half"] {
        assert_eq!(answer(&repository, &["rename", name, "x"])["kind"].as_str().unwrap()[..6], *"state_");
        assert_eq!(listed(&repository)[name]["state"], "damaged");
    }
    // What was never started has nothing; what was, has all there is.
    let pruned = |options: &[&str]| answer(&repository, &[&["prune"], options].concat());
    assert_eq!(pruned(&[])["removed"], json!([]));
    fs::write(home.data().join("vms/bare/console.log"), "").unwrap();
    let kept = pruned(&["--filter", "until=1h"]);
    assert_eq!((&kept["removed"], &kept["kept"][0]["name"]), (&json!([]), &json!("bare")), "{kept}");
    let gone = pruned(&["--filter", "until=1h", "--force"]);
    assert_eq!((&gone["removed"][0]["name"], &gone["removed"][0]["why"]), (&json!("bare"), &json!("unused")), "{gone}");
    for name in ["later", "half"] {
        vm(&repository, &["delete", "--force", name]).ok();
    }
    assert!(home.vms().is_empty());
}

#[test]
fn interrupted_creation_leaves_no_vm() {
    let home = Home::new();
    let repository = home.repository("r");
    let vms = || home.vms().len();
    for (signal, options) in [(Signal::SIGINT, &["run", "--name", "try"][..]), (Signal::SIGTERM, &["run", "."])] {
        let mut command = repository.banger();
        command.arg("vm").args(options).args(["--", "echo", "run"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = command.spawn().unwrap();
        eventually("a VM that starts", || vms() == 1 && !home.processes().is_empty());
        kill(Pid::from_raw(running.id() as i32), signal).unwrap();
        let output = Output::from(running.wait_with_output().unwrap());
        assert_eq!((output.status, output.text().as_str()), (128 + signal as i32, ""), "{}", output.stderr);
        assert_eq!(vms(), 0, "{}", output.stderr);
        eventually("the end of its processes", || home.processes().is_empty());
    }
    // Who wants to be deaf to a signal is.
    let mut command = home.command("sh");
    let program = repository.banger().get_program().to_owned();
    command
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(program)
        .args(["vm", "run", "--rm", "--", "echo", "run"]);
    let running = command.stdout(Stdio::piped()).spawn().unwrap();
    eventually("a VM that starts", || vms() == 1 && !home.processes().is_empty());
    kill(Pid::from_raw(running.id() as i32), Signal::SIGHUP).unwrap();
    assert_eq!(Output::from(running.wait_with_output().unwrap()).ok().text(), "run\n");
}

#[test]
fn racing_commands_leave_vm_whole_or_deleted() {
    let home = Home::new();
    let nowhere = home.at(home.path());
    let begin = |arguments: &[&str]| -> Child {
        let mut command = nowhere.banger();
        command.arg("vm").args(arguments).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let end = |commands: Vec<Child>| -> Vec<Output> {
        commands.into_iter().map(|command| command.wait_with_output().unwrap().into()).collect()
    };
    // One makes it, the others are told.
    let made = end((0..5).map(|_| begin(&["create", "--name", "s", "--memory", "256M"])).collect());
    let kinds: Vec<_> = made.iter().map(|output| output.document()["kind"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| kind.is_null()).count(), 1, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "vm_exists").count(), 4, "{kinds:?}");
    assert_eq!(home.vms().len(), 1);

    // Whatever is done at a time, each ends well or says why; no name gets lost.
    let storm = ["stop", "start", "restart", "stop", "start", "show", "stop"];
    let mut running: Vec<_> = storm.iter().map(|command| begin(&[command, "s"])).collect();
    running.push(begin(&["rename", "s", "t"]));
    running.push(begin(&["rename", "s", "u"]));
    let known = [Value::Null, json!("vm_not_found"), json!("vm_running"), json!("vm_failed"), json!("vm_busy")];
    for output in end(running) {
        assert!(known.contains(&output.document()["kind"]), "{output:?}");
    }
    let [name] = &listed(&nowhere).into_keys().collect::<Vec<_>>()[..] else { panic!("{:?}", home.vms()) };
    assert_eq!(
        vm(&nowhere, &["exec", name, "--", "cat", "/proc/sys/kernel/hostname"]).ok().text(),
        format!("{name}\n")
    );

    let commands = ["delete", "start", "delete", "stop", "delete", "restart", "delete"];
    let running = commands.iter().map(|command| match *command {
        "delete" => begin(&["delete", "--force", name]),
        command => begin(&[command, name]),
    });
    let ended = end(running.collect());
    for output in &ended {
        assert!(known.contains(&output.document()["kind"]), "{output:?}");
    }
    assert_eq!(ended.iter().filter(|output| output.document()["deleted"] == true).count(), 1, "{ended:?}");
    assert!(home.vms().is_empty() && home.processes().is_empty());
    assert_eq!(fs::read_dir(home.data().join("vms")).unwrap().count(), 1, "something is left beside the lock");
}
