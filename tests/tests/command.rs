//! `banger -- command`: folders, streams, exit statuses, options.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use banger_tests::{Home, Output, Repository, eventually};

fn output(command: &mut Command) -> Output {
    command.output().expect("banger runs").into()
}

#[test]
fn command_runs_in_matching_guest_directory() {
    let home = Home::new();
    let repository = home.repository("my repo");
    repository.write("submodule-source/file", "of the submodule\n");
    repository.write(".gitignore", "ignored/\nsubmodule-source/\n");
    let source = Repository { home: &home, root: repository.root.join("submodule-source") };
    source.git(["init", "--quiet"]);
    source.commit("first");
    repository.git(["submodule", "--quiet", "add", "./submodule-source", "module"]);
    repository.commit("with a submodule");
    repository.git(["worktree", "add", "--quiet", "-b", "linked", "../linked tree"]);

    let first = repository.sh("pwd; cat README; echo problem >&2; exit 7");
    assert_eq!((first.status, first.text().as_str()), (7, "/root/repo\na repository\n"), "{}", first.stderr);
    assert!(first.stderr.contains("problem\n"), "{}", first.stderr);

    let from = |folder: &str, script: &str| {
        let folder = repository.root.join(folder);
        output(repository.banger().current_dir(folder).args(["-q", "--", "sh", "-c", script])).ok()
    };
    let below = from("sub/folder", "cat file");
    assert_eq!((below.text().as_str(), below.stderr.as_str()), ("below\n", ""));
    // A folder that does not travel is there all the same.
    fs::create_dir_all(repository.root.join("ignored/deep")).unwrap();
    repository.write("ignored/deep/only-here", "");
    assert_eq!(from("ignored/deep", "pwd; ls").text(), "/root/repo/ignored/deep\n");
    // A link is followed to where it leads, as `cd` and git do.
    std::os::unix::fs::symlink("sub/folder", repository.root.join("link")).unwrap();
    assert_eq!(from("link", "pwd").text(), "/root/repo/sub/folder\n");
    assert_eq!(home.vms().len(), 1);

    // A submodule and a linked worktree are workspaces of their own, each with an ordinary
    // repository and a VM.
    let module = from("module", "pwd; cat file; git status --short; git log --format=%s");
    assert_eq!(module.text(), "/root/repo\nof the submodule\nfirst\n");
    let tree = from("../linked tree/sub", "pwd; cat ../README; git status --short; git branch --show-current");
    assert_eq!(tree.text(), "/root/repo/sub\na repository\nlinked\n");
    assert_eq!(home.vms().len(), 3);
}

/// A command with pipes on all sides that runs.
fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("banger runs")
}

#[test]
fn stdio_streams_behave_as_without_a_vm() {
    let home = Home::new();
    let repository = home.repository("streams");
    // `$(…)` ends although the VM, started by it, goes on: nothing keeps the pipe open.
    assert_eq!(repository.run(["--", "echo", "cold"]).ok().text(), "cold\n");

    // A shell reads its commands from what it is given, and nothing is nothing.
    assert_eq!(repository.with_input(["-q"], b"echo hi; exit 3\n").status, 3);
    let nothing = output(repository.banger().arg("-q")).ok();
    assert_eq!((nothing.text().as_str(), nothing.stderr.as_str()), ("", ""));

    // Every byte, both ways, on each stream alone.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
    let mut child = piped(repository.banger().args(["-q", "--", "sh", "-c", "tee /dev/stderr"]));
    let mut stdin = child.stdin.take().unwrap();
    let input = bytes.clone();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let both = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(both.status.success() && both.stdout == bytes && both.stderr == bytes);

    // Input that nobody reads, or not to its end, harms nobody.
    assert_eq!(repository.with_input(["-q", "--", "true"], &bytes).status, 0);
    assert_eq!(repository.with_input(["-q", "--", "head", "-c", "3"], &bytes).ok().stdout, &bytes[..3]);
    assert_eq!(
        repository.with_input(["-q", "--", "sh", "-c", "exec <&-; sleep 1; echo end"], &bytes).ok().text(),
        "end\n"
    );

    // A reader that goes away ends it as SIGPIPE does, and the command too.
    let mut yes = piped(repository.banger().args(["-q", "--", "yes", "4711"]));
    let mut line = [0; 5];
    yes.stdout.take().unwrap().read_exact(&mut line).unwrap();
    let ended = Output::from(yes.wait_with_output().unwrap());
    assert_eq!((&line, ended.status, ended.stderr.as_str()), (b"4711\n", 128 + 13, ""));
    eventually("the guest's `yes` is gone", || repository.run(["-q", "--", "pgrep", "-x", "yes"]).status == 1);

    // Output that cannot be written for another reason is an error.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let full = output(repository.banger().args(["-q", "--", "yes"]).stdout(full));
    assert_eq!(full.status, 125);
    assert!(full.stderr.contains("cannot write the command's output: No space left"), "{}", full.stderr);

    // Descriptors in non-blocking mode, by another program's doing, only have to be waited for.
    let (stdin, mut feed) = std::io::pipe().unwrap();
    let (mut read, stderr) = std::io::pipe().unwrap();
    set_non_blocking(&stdin);
    set_non_blocking(&stderr);
    let mut child = {
        let mut command = repository.banger();
        command.args(["-q", "--", "sh", "-c", "cat >&2"]).stdin(stdin).stderr(stderr).spawn().unwrap()
    };
    feed.write_all(&bytes[..1000]).unwrap();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        read.read_to_end(&mut all).map(|_| all)
    });
    eventually("the guest's `cat` runs", || repository.run(["-q", "--", "pgrep", "-x", "cat"]).status == 0);
    feed.write_all(&bytes[1000..]).unwrap();
    drop(feed);
    assert!(child.wait().unwrap().success());
    assert!(reading.join().unwrap().unwrap() == bytes);

    // What a command leaves behind keeps its output open, and nobody waiting.
    let script = "sh -c 'echo $$ >/tmp/daemon; exec sleep 4712' & echo started";
    assert_eq!(repository.sh(script).ok().text(), "started\n");
    let end_daemon = "until [ -s /tmp/daemon ]; do sleep 0.1; done; kill $(cat /tmp/daemon)";
    repository.sh(end_daemon).ok();
}

/// Sets O_NONBLOCK, which belongs to one end of a pipe and to whoever shares that.
fn set_non_blocking(end: &impl AsFd) {
    nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
}

#[test]
fn long_streams_use_bounded_memory() {
    // Many times what may be kept: whether it is this or a gigabyte makes no difference but to the
    // test's time.
    const SIZE: usize = 256 << 20;
    let home = Home::new();
    let repository = home.repository("stream");
    repository.run(["--", "true"]).ok();
    let supervisor = repository.supervisor();
    let peak = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        kib.parse::<u64>().unwrap()
    };
    let script = format!("head -c {SIZE} /dev/zero; wc -c");
    let mut child = piped(repository.banger().args(["-q", "--", "sh", "-c", &script]));
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        stdout.read_exact(&mut chunk).unwrap();
    }
    for _ in 0..SIZE >> 20 {
        stdin.write_all(&chunk).unwrap();
    }
    let (banger, supervisor) = (peak(child.id() as i32), peak(supervisor));
    drop(stdin);
    let mut counted = String::new();
    stdout.read_to_string(&mut counted).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(counted.trim(), SIZE.to_string());
    assert!(banger <= 20 << 10, "banger took {banger} KiB");
    assert!(supervisor <= 10 << 10, "the supervisor took {supervisor} KiB");
}

#[test]
fn exit_statuses_and_run_options_are_passed_through() {
    let home = Home::new();
    let repository = home.repository("options");
    repository.write("text", "no program\n");
    repository.write("script", "#!/no/such/interpreter\n");
    repository.write("plain-script", "exit 5\n");
    repository.git(["add", "--all"]);
    for file in ["script", "plain-script"] {
        fs::set_permissions(repository.root.join(file), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for status in [0, 1, 2, 124, 125, 126, 127, 128, 255] {
        assert_eq!(repository.sh(&format!("exit {status}")).status, status);
    }
    assert_eq!(repository.sh("kill -9 $$").status, 137);
    assert_eq!(repository.sh("kill -SEGV $$").status, 139);
    for (command, status, words) in [
        ("./text", 126, "not executable"),
        ("./script", 126, "interpreter"),
        ("./plain-script", 5, ""),
        ("./sub", 126, "not executable"),
        ("/tmp", 126, "not executable"),
        ("no-such-command", 127, "`no-such-command`: command not found"),
        ("./no-such-file", 127, "no such file"),
        ("text/below", 127, "no such file"),
        ("", 127, "not found"),
    ] {
        let output = repository.run(["--", command]);
        assert_eq!(output.status, status, "`{command}`: {}", output.stderr);
        assert!(output.stderr.contains(words), "`{command}`: {}", output.stderr);
    }

    // Variables: options over files, later over earlier, the host's only where they are asked for.
    fs::write(home.path().join("variables"), "# a comment\nA=file\nB=two words\nFROM_HOST\n").unwrap();
    let script = "echo \"$A|$B|$FROM_HOST|$OTHER|${UNSET-unset}|$HOME|$USER|$PWD\"";
    let variables = home.path().join("variables");
    let mut command = repository.banger();
    command.env("FROM_HOST", "hôst").env("OTHER", "o").env("NOT_PASSED", "secret").arg("--env-file").arg(variables);
    let shown = output(command.args(["-e", "A=1", "-eA=2", "--env", "OTHER", "-e", "UNSET", "--", "sh", "-c", script]));
    assert_eq!(shown.ok().text(), "2|two words|hôst|o|unset|/root|root|/root/repo\n");
    let mut command = repository.banger();
    let env = output(command.env("NOT_PASSED", "secret").args(["--", "env"])).ok().text();
    assert!(!env.contains("secret") && !env.contains("TERM="), "{env}");
    let missing = repository.run(["--env-file", "nowhere", "--", "true"]);
    assert!(missing.status == 125 && missing.stderr.contains("`nowhere`"), "{}", missing.stderr);
    assert_eq!(repository.run(["-e", "=x", "--", "true"]).status, 125);

    // Folders.
    assert_eq!(repository.run(["-w", "sub/folder", "--", "cat", "file"]).ok().text(), "below\n");
    assert_eq!(repository.run(["-w", "/etc", "--", "pwd"]).ok().text(), "/etc\n");
    std::fs::create_dir(repository.root.join("empty")).unwrap();
    assert_eq!(repository.run(["-w", "empty", "--", "pwd"]).ok().text(), "/root/repo/empty\n");
    let missing = repository.run(["-w", "nowhere", "--", "true"]);
    assert_eq!(missing.status, 125);
    assert!(missing.stderr.contains("folder `/root/repo/nowhere` does not exist"), "{}", missing.stderr);
    assert_eq!(repository.run(["-w", "README", "--", "true"]).status, 125);

    // Users.
    let nobody = repository.run(["-u", "nobody", "--", "sh", "-c", "id -un; cat README /root/repo/sub/folder/file"]);
    assert_eq!(nobody.ok().text(), "nobody\na repository\nbelow\n");
    assert_eq!(repository.run(["-u", "1000:1000", "--", "id", "-G"]).ok().text(), "1000\n");
    assert_eq!(repository.run(["-u", "daemon:nogroup", "--", "id", "-gn"]).ok().text(), "nogroup\n");
    for unknown in ["no-such-user", "root:no-such-group", "-1", "4294967295", "99999999999"] {
        let output = repository.run(["-u", unknown, "--", "true"]);
        assert_eq!(output.status, 125, "{unknown}: {}", output.stderr);
    }

    // What is printed, and how.
    let quiet = repository.run(["-q", "--", "true"]).ok();
    assert_eq!((quiet.text().as_str(), quiet.stderr.as_str()), ("", ""));
    let plain = repository.run(["--", "true"]).ok().stderr;
    assert!(plain.starts_with("banger: ") && plain.lines().count() == 1 && !plain.contains('\x1b'), "{plain}");
    assert!(repository.run(["--color", "always", "--", "true"]).ok().stderr.contains('\x1b'));
    for (arguments, words) in [
        (vec!["make", "test"], "banger -- make test"),
        (vec!["-q", "-w", "sub", "make", "-j2"], "banger -q -w sub -- make -j2"),
        (vec!["du", "extra"], "unexpected argument 'extra'"),
        (vec!["--no-such-option"], "--no-such-option"),
        (vec!["--timeout", "never", "--", "true"], "never"),
    ] {
        let output = output(repository.banger().args(&arguments));
        assert_eq!(output.status, 125, "{arguments:?}");
        assert!(output.stderr.contains(words), "{arguments:?}: {}", output.stderr);
    }
    assert_eq!(repository.run(["--ready", "system", "--", "systemctl", "is-system-running"]).ok().text(), "running\n");
    assert_eq!(home.vms().len(), 1);
}

#[test]
fn vm_is_created_used_changed_and_deleted() {
    let home = Home::new();
    let repository = home.repository("life");
    let none: serde_json::Value = serde_json::from_slice(&repository.run(["status", "--json"]).ok().stdout).unwrap();
    assert!(none["vm"].is_null(), "{none}");
    assert!(repository.run(["status"]).ok().text().contains("none yet"));
    for command in ["stop", "delete"] {
        assert!(repository.run([command]).ok().stderr.contains("has no VM"));
    }

    // Two at once, before there is a VM: one makes it, both use it.
    let options = ["--cpus", "1", "--memory", "512M", "--net", "none", "--", "sh", "-c"];
    let run = &|n: usize| output(repository.banger().args(options).arg(format!("cat README; echo {n}")));
    let both: Vec<Output> = std::thread::scope(|scope| {
        let runs = [0, 1].map(|n| scope.spawn(move || run(n)));
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for (n, run) in both.into_iter().enumerate() {
        assert_eq!(run.ok().text(), format!("a repository\n{n}\n"));
    }
    assert_eq!(home.vms().len(), 1);

    // The kernel ends what wants more memory than there is; a shell would say no more than
    // "Killed".
    let hog = repository.sh("tail /dev/zero");
    assert_ne!(hog.status, 0);
    assert!(
        hog.stderr.contains("the VM ran out of memory") && hog.stderr.contains("config set memory"),
        "{}",
        hog.stderr
    );
    let mut setup = repository.banger();
    setup.env("BANGER_SETUP", "tail /dev/zero").args(["--", "true"]);
    let setup = Output::from(setup.output().unwrap());
    assert!(setup.status == 125 && setup.stderr.contains(": the VM ran out of memory"), "{}", setup.stderr);
    let log = repository.run(["logs"]).ok().text();
    assert!(log.contains("Out of memory: Killed process") && !log.contains("PCI: Fatal"), "{log}");

    let links = repository.sh("ls /sys/class/net; nproc; getent hosts localhost | wc -l").ok().text();
    assert_eq!(links, "lo\n1\n1\n");
    let status: serde_json::Value = serde_json::from_slice(&repository.run(["status", "--json"]).ok().stdout).unwrap();
    let vm = &status["vm"];
    assert_eq!(
        (vm["state"].as_str(), vm["cpus"].as_i64(), vm["memory_mib"].as_i64()),
        (Some("running"), Some(1), Some(512))
    );
    assert_eq!((vm["net"].as_str(), status["workspace"].as_str()), (Some("none"), repository.root.to_str()));
    assert!(repository.run(["status"]).ok().text().contains("running"));

    // What cannot be changed while it runs, or at all, says so, and the command runs all the same.
    let mut change = repository.banger();
    change.args(["--cpus", "2", "--memory", "640M", "--net", "user", "--", "nproc"]).env("BANGER_IMAGE", "other");
    let change = output(&mut change).ok();
    assert_eq!(change.text(), "1\n");
    for words in ["after `banger stop`", "image `other` takes effect in a new VM", "network `user` takes effect"] {
        assert!(change.stderr.contains(words), "{words}: {}", change.stderr);
    }
    repository.sh("touch /root/kept").ok();
    repository.run(["stop"]).ok();
    assert!(repository.run(["status"]).ok().text().contains("stopped"));
    assert!(repository.run(["stop"]).ok().stderr.contains("does not run"));
    // A backend that cannot run it is an error, and not what the next command gets too.
    let mut elsewhere = repository.banger();
    elsewhere.args(["--backend", "firecracker", "--", "true"]).env("BANGER_ACCELERATOR", "tcg");
    let elsewhere = output(&mut elsewhere);
    assert!(elsewhere.status == 125 && elsewhere.stderr.contains("Firecracker needs KVM"), "{}", elsewhere.stderr);
    let again = repository.sh("nproc; ls /root/kept").ok();
    assert_eq!(again.text(), "2\n/root/kept\n");

    repository.sh("echo here only > made-in-the-vm").ok();
    let refused = repository.run(["delete"]);
    assert_eq!(refused.status, 125);
    assert!(refused.stderr.contains("made-in-the-vm") && refused.stderr.contains("--force"), "{}", refused.stderr);
    repository.sh("rm made-in-the-vm").ok();
    repository.run(["rm"]).ok();
    assert_eq!(home.vms().len(), 0);
}

#[test]
fn repository_names_are_escaped_on_the_terminal() {
    let home = Home::new();
    let repository = home.repository("plain\x1b]0;owned\x07");
    repository.write("file\x1b[31m\u{9b}", "here\n");
    repository.commit("first");
    repository.sh("for f in file*; do echo there > \"$f\"; done").ok();
    repository.write("file\x1b[31m\u{9b}", "here, again\n");
    let conflict = repository.run(["--", "true"]);
    assert_eq!(conflict.status, 125, "{}", conflict.stderr);
    assert!(conflict.stderr.contains("file^[[31m"), "{}", conflict.stderr);
    let mut said = conflict.stderr;
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["--env-file", "no\x1bfile", "--", "true"],
        &["--host-wins", "-w", "no\x1bfolder", "--", "true"],
        &["--host-wins", "-u", "no\x1buser", "--", "true"],
        &["--image", "no\x1bimage", "--host-wins", "--", "true"],
        &["--host-wins", "--", "no\x1bcommand"],
        &["no\x1bcommand"],
        &["--host-wins", "-v", "--", "true"],
        &["delete", "--force"],
    ] {
        let output = output(repository.banger().args(arguments));
        said.push_str(&output.text());
        said.push_str(&output.stderr);
    }
    let controls: Vec<_> = said.lines().filter(|line| line.chars().any(char::is_control)).collect();
    assert!(controls.is_empty(), "{controls:?}");
}
