//! Guests that harm their host where they can. See `tests/guest/hostile.rs` for what they do.
//!
//! What they say is the same in a VM and in a process of this host, which starts at once: the tests
//! of most cases have that, and one has a VM.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::inspect::{peak_memory, send};
use banger_tests::{Home, Output, Repository, banger_binary, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Builds the hostile guest.
fn agent() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hostile");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-o"]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/hostile.rs");
    assert!(rustc.arg(&program).arg(source).status().unwrap().success());
    (folder, program)
}

/// Runs `command`, whose end is an error of banger's own, and nothing that could harm a terminal.
#[track_caller]
fn fails(repository: &Repository<'_>, command: &[&str]) -> Output {
    let output = repository.banger().arg("--").args(command).output().unwrap();
    let output = Output::from(output);
    assert_eq!(output.status, 125, "{command:?}: {output:?}");
    assert!(output.stderr.contains("banger: error: "), "{command:?}: {output:?}");
    assert!(!output.stderr.contains('\x1b'), "{command:?}: {output:?}");
    output
}

/// Runs a command in a VM for it alone, whose guest, called `name`, does not come up. The error says
/// the reason, and what the guest said.
#[track_caller]
fn fails_to_boot(home: &Home, name: &str, limit: &str, reason: &str, said: &str) -> Output {
    let repository = home.repository(name);
    let output = repository.banger().env("BANGER_BOOT_TIMEOUT", limit).args(["--rm", "--", "true"]).output().unwrap();
    let output = Output::from(output);
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{}", output.stderr);
    assert!(output.stderr.contains(reason), "{name}: {}", output.stderr);
    // This VM goes with its command, so that no hint leads to its console.
    assert!(!output.stderr.contains("banger logs"), "{name}: {}", output.stderr);
    // What it said last is shown, and does nothing to the terminal.
    assert!(output.stderr.contains(said), "{}", output.stderr);
    assert!(!output.stderr.contains('\x1b'), "{}", output.stderr);
    eventually("the end of the VM's processes", || home.processes().is_empty());
    assert!(home.vms().is_empty(), "{:?}", home.vms());
    output
}

/// Does `check` for each of the cases, in a thread of its own: a command whose guest makes no sense
/// waits a while for the VM's end.
fn all_at_once<T: Copy + Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            let check = &check;
            scope.spawn(move || check(case));
        }
    });
}

#[test]
fn guest_that_fails_to_boot_is_a_clear_error() {
    let (_folder, agent) = agent();
    let home = Home::with_agent(&agent);
    let panicked = fails_to_boot(&home, "panics", "120s", "panicked", "Kernel panic");
    let hangs = fails_to_boot(&home, "hangs", "20s", "did not answer within 20 s", "^[]0;a guest that hangs^G");
    let home = Home::with_process_agent(&agent);
    let drips = fails_to_boot(&home, "drips", "5s", "did not say what an agent says", "^[]0;a guest that drips^G");
    let floods =
        fails_to_boot(&home, "floods", "120s", "does not speak banger's protocol", "^[]0;a guest that floods^G");
    for (output, is_late) in [(panicked, false), (hangs, true), (drips, false), (floods, false)] {
        assert_eq!(output.stderr.contains("BANGER_BOOT_TIMEOUT="), is_late, "{}", output.stderr);
    }
}

/// How often a command with `--verbose` has started its VM.
fn starts(output: &Output) -> usize {
    output.stderr.matches("starting `").count()
}

#[test]
fn start_that_fails_is_not_repeated() {
    let (_folder, agent) = agent();
    let home = Home::with_process_agent(&agent);
    for (name, limit) in [("hangs", "1s"), ("panics", "120s")] {
        let repository = home.repository(name);
        // A new VM, and one that is there.
        for _ in 0..2 {
            let mut command = repository.banger();
            command.env("BANGER_BOOT_TIMEOUT", limit).args(["--verbose", "--", "true"]);
            let output = Output::from(command.output().unwrap());
            assert_eq!((output.status, starts(&output)), (125, 1), "{name}: {}", output.stderr);
            assert!(output.stderr.contains("did not start"), "{name}: {}", output.stderr);
        }
    }
}

#[test]
fn start_that_somebody_stops_is_repeated() {
    let (_folder, agent) = agent();
    let home = Home::with_process_agent(&agent);
    let repository = home.repository("hangs");
    let mut command = repository.banger();
    command.env("BANGER_BOOT_TIMEOUT", "120s").args(["--verbose", "--", "true"]).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let guests = || home.own_processes("lib/banger/banger-agent");
    eventually("the guest", || !guests().is_empty());
    let first = guests();
    repository.run(["stop"]).ok();
    let second = || guests().into_iter().find(|guest| !first.contains(guest));
    eventually("another guest", || second().is_some());
    kill(second().unwrap(), Signal::SIGKILL).unwrap();
    let output = Output::from(child.wait_with_output().unwrap());
    assert_eq!((output.status, starts(&output)), (125, 2), "{}", output.stderr);
}

#[test]
fn invalid_boot_timeout_is_an_error() {
    let home = Home::new();
    let repository = home.repository("r");
    let output: Output =
        repository.banger().env("BANGER_BOOT_TIMEOUT", "soon").args(["--", "true"]).output().unwrap().into();
    assert_eq!(output.status, 125);
    assert!(output.stderr.contains("BANGER_BOOT_TIMEOUT is `soon`"), "{}", output.stderr);
}

#[test]
fn invalid_frames_end_only_the_command() {
    let (_folder, agent) = agent();
    let home = Home::with_process_agent(&agent);
    let repository = home.repository("lies");
    repository.run(["--", "true"]).ok();
    // The first of the cases, and in a VM of its own the first of those of a sync: they take as long
    // as all the others.
    let silent = repository.banger().args(["--", "silence"]).stderr(Stdio::piped()).spawn().unwrap();
    let silent_home = Home::with_process_agent(&agent);
    let silent_repository = silent_home.repository("silent");
    silent_repository.run(["--", "next-sync", "silence"]).ok();
    silent_repository.write("changed", "silence");
    let silent_sync = silent_repository.banger().args(["--", "true"]).stderr(Stdio::piped()).spawn().unwrap();
    // All at once: each ends its own command, and none of the others.
    let cases = [
        ("length-max", "4294967295 bytes"),
        ("length-over", "1048577 bytes"),
        ("truncated", "ended in the middle"),
        ("unknown-type", "unknown variant `^[[31mteleport`"),
        ("incoming", "missing field `type`"),
        ("not-utf8", "is not understood"),
        ("deep-json", "is not understood"),
        ("status-300", "300"),
        ("data-first", "data where a control frame belongs"),
    ];
    all_at_once(cases, |(command, reason)| {
        let output = fails(&repository, &[command]);
        assert!(output.stderr.contains(reason), "{command}: {}", output.stderr);
        assert_eq!(output.text(), "", "{command}");
    });
    // What comes after the end is nobody's output, and neither is what comes on a channel that is
    // none.
    let output = repository.run(["--", "exits-twice"]);
    assert_eq!((output.status, output.text().as_str()), (5, "before\n"), "{}", output.stderr);

    for (order, reason) in [("deep-json", "is not understood"), ("asks-for-more", "not offered")] {
        repository.run(["--", "next-sync", order]).ok();
        repository.write("changed", order);
        let output = fails(&repository, &["true"]);
        assert!(output.stderr.contains(reason), "{order}: {}", output.stderr);
    }
    // With a disk that is full the command runs all the same.
    repository.run(["--", "next-sync", "no-space"]).ok();
    repository.write("changed", "no-space");
    let output = repository.run(["--", "true"]).ok();
    assert!(output.stderr.contains("full ^[[2J of it"), "{}", output.stderr);
    lost_repositories_and_disks(&repository);
    listeners_without_end(&repository);
    connections_without_end(&repository);
    for silent in [silent, silent_sync] {
        let silent = Output::from(silent.wait_with_output().unwrap());
        assert_eq!(silent.status, 125, "{silent:?}");
        assert!(silent.stderr.contains("banger: error: ") && silent.stderr.contains("does not answer"), "{silent:?}");
    }
    let supervisor = Pid::from_raw(repository.supervisor());
    assert!(peak_memory(supervisor) < 10 << 20, "{} bytes", peak_memory(supervisor));
    repository.run(["stop"]).ok();
    home.assert_at_rest();
}

/// The guest says that it lost what it never had, and offers a disk for what comes without one.
fn lost_repositories_and_disks(repository: &Repository<'_>) {
    repository.run(["--", "next-sync", "lost"]).ok();
    repository.write("changed", "lost");
    let output = repository.run(["--", "true"]).ok();
    assert!(!output.stderr.contains("gone in the VM"), "{:.2000}", output.stderr);

    let disk = || fs::read(repository.home.vm().join("workspace.ext4")).map(|bytes| bytes.len());
    let before = disk().ok();
    let further = repository.home.repository("further");
    let name = repository.run(["list", "--quiet"]).ok().text();
    let output = further.run(["vm", "workspace", "prepare", name.trim(), "--guest-path", "/srv/further"]);
    assert_eq!(output.status, 125, "{output:?}");
    assert!(output.stderr.contains("a disk for a repository"), "{}", output.stderr);
    assert_eq!(disk().ok(), before);
}

/// The guest says that more listens than may be, and always something else.
fn listeners_without_end(repository: &Repository<'_>) {
    let mut child = repository.banger();
    child.args(["--ports", "auto", "--", "listens"]).stderr(Stdio::piped());
    let output = Output::from(child.spawn().unwrap().wait_with_output().unwrap());
    assert_eq!(output.status, 0, "{output:?}");
    let forwarded = output.stderr.matches(" → port ").count();
    // 32 at a time, and no more than ten changes in the time that the command takes.
    assert!((1..=320).contains(&forwarded), "{forwarded} ports: {}", output.stderr);
    assert_eq!(output.stderr.matches("no more of them are forwarded").count(), 1, "{}", output.stderr);
}

/// With `ssh -R`, the guest listens elsewhere than asked and says that hundreds connect: a few lead
/// to what the user named, and nowhere else.
fn connections_without_end(repository: &Repository<'_>) {
    let installed = Path::new(repository.banger().get_program()).parent().unwrap().to_owned();
    let program = banger_binary().with_file_name("banger-ssh");
    for name in ["banger-ssh", "banger-ssh-config", "banger-ssh-proxy"] {
        std::os::unix::fs::symlink(&program, installed.join(name)).unwrap();
    }
    let config = repository.home.path().join("ssh.config");
    fs::write(&config, repository.run(["ssh-config"]).ok().stdout).unwrap();
    let name = repository.run(["list", "--quiet"]).ok().text();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let remote = format!("0:{}", target.local_addr().unwrap());

    let mut ssh = repository.home.command("ssh");
    ssh.arg("-F").arg(&config).args(["-o", "BatchMode=yes", "-R", &remote]);
    let mut ssh = ssh.arg(format!("{}.banger", name.trim())).arg("listens").spawn().unwrap();
    let mut open = Vec::new();
    eventually("the connections", || {
        open.extend(target.accept());
        open.len() == 16
    });
    // The guest does one thing after the other: this comes when all of that is over.
    repository.run(["-q", "--", "true"]).ok();
    assert!(target.accept().is_err(), "more than 16 connections at a time");
    ssh.kill().unwrap();
    ssh.wait().unwrap();
}

/// What is in a folder, to any depth: paths, kinds, and what files say and links lead to.
fn tree(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let content = match (kind.is_file(), kind.is_symlink()) {
            (true, _) => fs::read(&path).unwrap(),
            (_, true) => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        all.push(format!("{} {kind:?} {}", path.display(), String::from_utf8_lossy(&content)));
        if kind.is_dir() {
            all.extend(tree(&path));
        }
    }
    all.sort();
    all
}

/// A directory to copy into, and in it one that is not to be touched.
struct Place(PathBuf);

impl Place {
    fn new(home: &Home) -> Place {
        let place = Place(tempfile::tempdir_in(home.path()).unwrap().keep());
        fs::create_dir(place.outside()).unwrap();
        fs::write(place.outside().join("victim"), "precious").unwrap();
        place
    }

    fn outside(&self) -> PathBuf {
        self.0.join("outside")
    }
}

#[test]
fn hostile_guest_cannot_escape_cp_target_or_log_output() {
    let (_folder, agent) = agent();
    let home = Home::with_process_agent(&agent);
    let repository = home.repository("r");
    repository.run(["vm", "create", "--name", "box"]).ok();
    let copy = |place: &Place, case: &str, end: &str, to: &str| {
        let from = format!("box:/{case}{}{end}", place.outside().display());
        let mut command = home.command("sh");
        command.args(["-c", "umask 027; exec \"$@\"", "sh"]);
        command.arg(repository.banger().get_program()).args(["vm", "cp", &from, to]);
        Output::from(command.current_dir(&place.0).output().unwrap())
    };
    let refused = |place: &Place, case: &str, end: &str, to: &str, reason: &str| {
        let output = copy(place, case, end, to);
        let is_error = output.status == 125 && output.stderr.contains("banger: error: ");
        assert!(is_error && output.stderr.contains(reason), "{case}{end} {to}: {output:?}");
        assert!(!output.stderr.contains('\x1b'), "{case}: {}", output.stderr);
        output
    };
    let cases = [
        ("parent", "leads elsewhere"),
        ("absolute", "leads elsewhere"),
        ("dots", "leads elsewhere"),
        ("link", "links are not followed"),
        ("becomes-link", "cannot make the link"),
        ("root-link", "not what was announced"),
        ("kind", "not understood"),
        ("announced", "not what was announced"),
        ("head", "too long"),
        ("size", "longer than was announced"),
        ("hole", "longer than was announced"),
        ("endless", "longer than was announced"),
        ("repository,.git,", "`outside/.git` is not copied"),
        ("repository,.GIT,", "`outside/.GIT` is not copied"),
        ("repository,git~1,", "`outside/git~1` is not copied"),
        ("git-file,.git,", "`outside/.git` is not copied"),
        ("git-link", "a link into a git repository"),
    ];
    all_at_once(cases, |(case, reason)| {
        let place = Place::new(&home);
        let (before, target) = (tree(&place.0), place.0.join("target"));
        fs::create_dir(&target).unwrap();
        assert_eq!(refused(&place, case, "", "target", reason).text(), "");
        // There may be folders and links of the copy itself, and no file, neither whole nor half.
        let made = tree(&target);
        assert!(
            !made.iter().any(|entry| entry.contains("is_file: true") || entry.contains(".banger-copy")),
            "{case}: {made:?}"
        );
        fs::remove_dir_all(&target).unwrap();
        assert_eq!(tree(&place.0), before, "{case}");
    });
    let place = Place::new(&home);
    all_at_once(["parent", "absolute", "dots", "kind", "head", "announced"], |case| {
        let output = refused(&place, case, "", "-", "");
        assert!(!output.text().contains("evil"), "{case}: {}", output.stderr);
    });
    all_at_once(["size", "hole", "endless"], |case| {
        refused(&place, case, "", "-", "longer than was announced");
    });

    // In a repository of the host's, git runs what no repository but that one says, whatever the
    // guest calls what it sends.
    let git = |place: &Place, folder: &Path| {
        let output = home.command("git").args(["status"]).current_dir(folder).output().unwrap();
        assert!(!place.outside().join("run-by-git").exists(), "{output:?}");
    };
    let init = |place: &Place| {
        assert!(home.command("git").args(["init", "-q"]).current_dir(&place.0).status().unwrap().success());
        tree(&place.0)
    };
    let lies = [
        ("lie,.git,directory,", ""),
        ("lie,outside,directory,contents", ""),
        ("lie,,directory,contents", ""),
        ("lie,..!evil,directory,", ""),
        ("lie,.git,file,", ""),
        ("lie,.git,directory,", "/."),
        ("lie,outside,directory,", "/."),
        ("lie,,file,contents", "/."),
    ];
    all_at_once(lies.iter().flat_map(|lie| [(lie, "."), (lie, "new"), (lie, "-")]), |((lie, end), to)| {
        let place = Place::new(&home);
        let with_git = init(&place);
        let output = refused(&place, lie, end, to, "the VM's agent was asked for");
        assert_eq!((output.text().as_str(), tree(&place.0)), ("", with_git), "{lie}{end} {to}");
        git(&place, &place.0);
    });
    let with_git = init(&place);
    // Below what was asked for, too.
    for (case, end) in [("repository,.git,", "/."), ("repository,.Git,", "/."), ("bare", ""), ("repository,.git,", "")]
    {
        let output = refused(&place, case, end, "new", "is not copied: git would take");
        assert!(output.stderr.contains("banger cp :PATH - >FILE.tar"), "{}", output.stderr);
        let made = tree(&place.0.join("new"));
        assert!(!made.iter().any(|entry| entry.contains("HEAD") || entry.contains(".git")), "{made:?}");
        git(&place, &place.0.join("new"));
        fs::remove_dir_all(place.0.join("new")).unwrap();
    }
    refused(&place, "repository,.git,", "/.", ".", "`.git` is not copied");
    assert_eq!(tree(&place.0), with_git);
    git(&place, &place.0);
    fs::remove_dir_all(place.0.join(".git")).unwrap();
    // An archive holds it, under the name that was asked for: nothing of it is a repository before
    // somebody unpacks it.
    let archive = copy(&place, "repository,.git,", "", "-").ok();
    assert!(archive.text().contains("outside/.git/config"), "{}", archive.stderr);

    // Permissions are the user's to give.
    let mode = |path: &str| fs::metadata(place.0.join(path)).unwrap().mode() & 0o7777;
    copy(&place, "modes,directory", "", "new").ok();
    copy(&place, "modes,directory", "/.", "contents").ok();
    copy(&place, "modes,file", "", "file").ok();
    for (path, is) in [("new", 0o750), ("new/d", 0o750), ("new/d/f", 0o750), ("contents/d/f", 0o750), ("file", 0o750)] {
        assert_eq!(mode(path), is, "{path}");
    }

    // The console: each line is one, and nothing in it acts.
    let said = || repository.run(["vm", "logs", "box"]).ok().text();
    eventually("the console", || said().matches('z').count() >= 40 << 10);
    let said = said();
    assert!(
        said.contains("^[[2J") && said.contains("a line^Mbanger: error: forged\n") && said.contains("\\xff\\xfe\n"),
        "{said}"
    );
    assert!(!said.contains(['\x1b', '\r', '\u{9b}', '\u{202e}']), "{said:?}");
    assert!(said.lines().all(|line| line.len() <= 16 << 10));
    let answer = repository.run(["vm", "logs", "-n", "1", "box", "--json"]).ok().document();
    assert_eq!(answer["lines"].as_array().map(Vec::len), Some(1), "{answer}");
    repository.run(["vm", "delete", "--force", "box"]).ok();
    assert!(home.processes().is_empty() && home.vms().is_empty());
}

#[test]
fn link_protocol_violation_affects_only_its_guest() {
    let (_folder, agent) = agent();
    let home = Home::with_agent(&agent);
    let repository = home.repository("breaks");
    let status = || repository.run(["-q", "--", "true"]).status;
    assert_eq!(status(), 0);

    // Nobody reads what it prints, so there is no room for the megabytes that come all the same.
    let mut child = repository.banger().args(["--", "breaks-the-window"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 1000]).unwrap();
    // The guest answers in turn: by now all has been sent.
    assert_eq!(status(), 0);
    let (supervisor, _) = home.supervisor_and_vmm();
    assert!(peak_memory(supervisor) < 10 << 20, "{} bytes", peak_memory(supervisor));
    let own = Pid::from_raw(child.id() as i32);
    assert!(peak_memory(own) < 32 << 20, "{} bytes", peak_memory(own));
    child.kill().unwrap();
    child.wait().unwrap();

    // Only the host opens streams: this one ends the link, and the next command starts the VM anew.
    fails(&repository, &["opens-a-stream"]);
    let failed = || repository.run(["status"]).text().contains("failed");
    eventually("the failure", failed);
    let output = repository.run(["--", "true"]).ok();
    assert!(output.stderr.contains("the guest opened a stream): starting it again"), "{}", output.stderr);
    repository.run(["stop"]).ok();
    home.assert_at_rest();
}

#[test]
fn slow_or_flooding_guest_is_bounded() {
    let (_folder, agent) = agent();
    let home = Home::with_process_agent(&agent);
    let repository = home.repository("bounds");
    repository.run(["--", "true"]).ok();
    // These take their time, and it is the same.
    let spawn = |command: &str| {
        let mut banger = repository.banger();
        banger.args(["--", command]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let slow = ["drips", "drips-data"].map(spawn);
    let mut deaf = repository.banger();
    deaf.args(["--timeout", "1s", "--", "deaf"]).stdin(File::open("/dev/zero").unwrap());
    let deaf = deaf.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    // Frames of one byte, for commands whose output nobody reads, as with a pager.
    let paused: Vec<_> = (0..3)
        .map(|_| {
            let mut child = spawn("crumbs");
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 1000]).unwrap();
            // The guest answers in turn: by now it has sent what there is room for.
            repository.run(["-q", "--", "true"]).ok();
            child
        })
        .collect();
    let supervisor = Pid::from_raw(repository.supervisor());
    assert!(peak_memory(supervisor) < 12 << 20, "{} bytes", peak_memory(supervisor));
    for mut child in paused {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    // How the VM is can be seen within seconds, whatever it does.
    let status = || {
        let start = Instant::now();
        let status = repository.run(["status", "--json"]).ok().document();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        status["vm"].clone()
    };
    assert_eq!((&status()["responds"], &status()["guest_only"]["files"]), (&true.into(), &u64::MAX.into()));
    for order in ["drips", "silence"] {
        repository.run(["--", "next-look", order]).ok();
        let status = status();
        assert_eq!((&status["responds"], &status["state"]), (&false.into(), &"running".into()), "{order}: {status}");
    }
    send(supervisor, Signal::SIGSTOP);
    let stopped = status();
    let listed = repository.run(["list", "--json"]);
    send(supervisor, Signal::SIGCONT);
    assert_eq!(stopped["responds"], false, "{stopped}");
    assert_eq!(listed.ok().document()["vms"][0]["state"], "running");

    // More than there is room for in a number is not nothing.
    repository.run(["--", "next-look", "numbers"]).ok();
    let deleted = repository.run(["delete", "--json"]);
    assert_eq!((deleted.status, &deleted.document()["kind"]), (125, &"guest_changes".into()), "{deleted:?}");

    for (order, reason) in [("compares", "compares again and again"), ("numbers", "")] {
        repository.run(["--", "next-sync", order]).ok();
        repository.write("changed", order);
        let output = repository.run(["--", "true"]);
        assert_eq!(
            (output.status, output.stderr.contains(reason)),
            (if reason.is_empty() { 0 } else { 125 }, true),
            "{output:?}"
        );
        assert!(!output.stderr.contains("lost-"), "{output:?}");
    }

    let output = Output::from(deaf.wait_with_output().unwrap());
    assert!(output.status == 125 && output.stderr.contains("does not end"), "{output:?}");
    for child in slow {
        let output = Output::from(child.wait_with_output().unwrap());
        assert_eq!(output.status, 125, "{output:?}");
        assert!(output.stderr.contains("does not answer"), "{output:?}");
    }
    assert!(peak_memory(supervisor) < 12 << 20, "{} bytes", peak_memory(supervisor));
    repository.run(["stop", "--force"]).ok();
    home.assert_at_rest();
}
