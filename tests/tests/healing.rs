//! Command, supervisor and VMM are killed at every step of what they do to a VM, and the next
//! command finds everything right.
//!
//! The guests are processes of this host. What a step is, `crash-at-syscall` says.
//! `BANGER_TEST_FIRST_STEP` may name another than 1.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banger_tests::crash_at_syscall::{CrashOutcome, Target};
use banger_tests::inspect::send;
use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// As many steps as nothing has.
const MANY: u64 = 1000;

/// Something that is done to a VM.
struct Operation {
    arguments: &'static [&'static str],
    /// There is a VM before, and it runs.
    before: Before,
    /// Nothing is there that can be made again.
    without_cache: bool,
    /// The host's repository gets a commit before each step. A deletion would take ever more steps.
    commits: bool,
    linger: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Stopped,
    Running,
}

impl Operation {
    fn new(arguments: &'static [&'static str], before: Before) -> Operation {
        Operation { arguments, before, without_cache: false, commits: false, linger: Duration::ZERO }
    }
}

/// Everything in the folder of a workspace, `.git` too: mode, and content or target.
fn contents(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            all.insert(path, (metadata.permissions().mode(), content));
        }
    }
    all
}

/// The host's state in this round: an edit, a new file for an old one, and perhaps a commit of all
/// but the edit.
fn edit(repository: &Repository<'_>, round: u64, commits: bool) {
    let old = fs::read_dir(&repository.root).unwrap().flatten().map(|entry| entry.path());
    let is_new = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"new-"));
    old.filter(is_new).for_each(|path| fs::remove_file(path).unwrap());
    repository.write(&format!("new-{round}"), format!("{round}\n"));
    repository.write("sub/folder/file", format!("written in {round}\n"));
    if commits {
        repository.commit(&format!("round {round}"));
    }
    repository.write("README", format!("edited in {round}\n"));
}

/// What the guest shows of the host's state, and of what was written in it.
const SHOW: &str =
    "cat README sub/folder/file; ls; git status --short -uall; git rev-parse HEAD; cat only-here /root/kept";

fn shown(repository: &Repository<'_>, round: u64, kept: Option<u64>) -> String {
    let (status, head) =
        (repository.git(["--no-optional-locks", "status", "--short", "-uall"]), repository.git(["rev-parse", "HEAD"]));
    let host = format!("edited in {round}\nwritten in {round}\nREADME\nnew-{round}\n");
    match kept {
        Some(kept) => {
            // Untracked ones come last, by name.
            let status = format!("{status}?? only-here\n");
            format!("{host}only-here\nsub\n{status}{head}guest {kept}\nkept {kept}\n")
        }
        None => format!("{host}sub\n{status}{head}"),
    }
}

/// Brings everything to where the operation begins. Returns what was written in the guest.
fn prepare(repository: &Repository<'_>, operation: &Operation, round: u64) -> Option<u64> {
    match operation.before {
        Before::Nothing => {
            repository.run(["delete", "--force"]).ok();
            if operation.without_cache {
                let _ = fs::remove_dir_all(repository.home.path().join(".cache/banger"));
            }
            edit(repository, round, operation.commits);
            return None;
        }
        Before::Running | Before::Stopped => {}
    }
    repository.sh(&format!("echo guest {round} >only-here; echo kept {round} >/root/kept")).ok();
    if operation.before == Before::Stopped {
        repository.run(["stop"]).ok();
    }
    edit(repository, round, operation.commits);
    Some(round)
}

/// The next command, and what it has to find.
fn check(repository: &Repository<'_>, operation: &Operation, round: u64, kept: Option<u64>, outcome: &CrashOutcome) {
    let home = repository.home;
    let deletes = operation.arguments.first() == Some(&"delete");
    let context = || format!("killed at step {round}, {:?}; the command ended so: {:?}", outcome.at, outcome.output);
    let next: Output = repository.sh(SHOW);
    let (all, none) = (shown(repository, round, kept), shown(repository, round, None));
    // What `cat` does not find makes the status.
    let is_right = match (next.status, kept) {
        (0, Some(_)) => next.text() == all,
        (1, None) => next.text() == none,
        (1, Some(_)) => deletes && next.text() == none,
        _ => false,
    };
    let (status, text, stderr) = (next.status, next.text(), &next.stderr);
    assert!(is_right, "status {status}, {stderr}\n{text}\ninstead of:\n{all}\n{}", context());
    let left = home.leftovers();
    assert!(left.is_empty(), "left over: {left:?}\n{}", context());
    // One whose start failed may be on its way out.
    eventually("the end of all other supervisors", || home.processes_named(&["banger-vmm"]).len() == 1);
    assert_eq!(home.vms().len(), 1, "{}", context());
}

/// Kills `target` at one step of the operation, and sees what the next command finds.
fn at_step(repository: &Repository<'_>, operation: &Operation, target: Target, step: u64) -> CrashOutcome {
    let kept = prepare(repository, operation, step);
    let before = contents(&repository.root);
    let injector = OsStr::new(env!("CARGO_BIN_EXE_crash-at-syscall"));
    let outcome = repository.crash_at_syscall(injector, target, step, operation.linger, operation.arguments);
    check(repository, operation, step, kept, &outcome);
    assert!(contents(&repository.root) == before, "files of the host changed at step {step}: {outcome:?}");
    outcome
}

/// Deletes the VM: nothing is left.
fn assert_nothing_is_left(repository: &Repository<'_>) {
    let home = repository.home;
    repository.run(["delete", "--force"]).ok();
    assert!(home.leftovers().is_empty() && home.vms().is_empty());
    eventually("the end of all processes", || home.nothing_runs());
}

/// Kills `target` at each step of the operation.
fn at_every_step(operation: &Operation, target: Target) {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    edit(&repository, 0, true);
    repository.run(["--", "true"]).ok();
    let first = std::env::var("BANGER_TEST_FIRST_STEP").ok().map_or(1, |step| step.parse().expect("a number"));
    for step in first..MANY {
        let outcome = at_step(&repository, operation, target, step);
        if outcome.at.is_none() {
            // A guest that is killed with its VM may come to a step before, or not.
            let by_chance = target == Target::Vmm && operation.arguments.contains(&"--force");
            assert!(step > 1 || by_chance, "{target:?} takes no step: {outcome:?}");
            assert_eq!(outcome.status, 0, "{outcome:?}");
            return assert_nothing_is_left(&repository);
        }
    }
    panic!("there is no end of steps");
}

/// In a VM, at a step or two of each operation: below, with guests that are processes, at every one.
#[test]
fn vm_recovers_from_kill_at_sampled_steps() {
    let home = Home::new();
    let repository = home.repository("r");
    edit(&repository, 0, true);
    repository.run(["--", "true"]).ok();
    let operation = |arguments: &'static [&'static str], before| Operation::new(arguments, before);
    let sync = Operation { commits: true, ..operation(&["--", "true"], Before::Running) };
    let samples: [(Operation, Target, &[u64]); 11] = [
        (sync, Target::Command, &[5, 12]),
        (operation(&["--", "true"], Before::Running), Target::Supervisor, &[9]),
        (operation(&["--", "true"], Before::Running), Target::Vmm, &[1, 4]),
        (operation(&["stop"], Before::Running), Target::Command, &[4]),
        (operation(&["stop"], Before::Running), Target::Supervisor, &[2]),
        (operation(&["--", "true"], Before::Stopped), Target::Command, &[8]),
        (operation(&["--", "true"], Before::Stopped), Target::Supervisor, &[12]),
        (operation(&["delete", "--force"], Before::Running), Target::Command, &[8]),
        (operation(&["--", "true"], Before::Nothing), Target::Command, &[40]),
        (operation(&["--", "true"], Before::Nothing), Target::Supervisor, &[20]),
        (operation(&["--", "true"], Before::Nothing), Target::Vmm, &[3]),
    ];
    for (operation, target, steps) in samples {
        for step in steps {
            let outcome = at_step(&repository, &operation, target, *step);
            assert!(outcome.at.is_some(), "{target:?} takes no step {step} of {:?}: {outcome:?}", operation.arguments);
        }
    }
    assert_nothing_is_left(&repository);
}

/// A command with an ephemeral VM, which runs until its input ends.
fn until_its_input_ends(repository: &Repository<'_>) -> Child {
    let mut command = repository.banger();
    command.args(["--rm", "-q", "--", "sh", "-c", "echo up; cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    assert_eq!(&up, b"up\n");
    child
}

#[test]
fn ephemeral_vm_lives_as_long_as_command_in_any_pid_namespace() {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    // As in a container that shares the home folder.
    let elsewhere = |arguments: &[&str]| -> Output {
        let banger = repository.banger();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(banger.get_program()).args(arguments);
        command.current_dir(&repository.root).env_clear();
        command.envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Output::from(command.stdin(Stdio::null()).output().unwrap()).ok()
    };
    let mut command = until_its_input_ends(&repository);
    let sweeping: [&[&str]; 3] = [&["--rm", "--", "true"], &["prune", "--force"], &["doctor", "--fix", "--json"]];
    for arguments in sweeping {
        elsewhere(arguments);
        assert_eq!(home.vms().len(), 1, "{arguments:?}");
    }
    command.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    let output = Output::from(command.wait_with_output().unwrap()).ok();
    assert_eq!(output.text(), "still here\n");
    assert!(home.vms().is_empty());

    // One whose supervisor cannot see to it goes with the next command, wherever that is.
    let mut command = until_its_input_ends(&repository);
    let pid = Pid::from_raw(command.id().cast_signed());
    send(pid, Signal::SIGSTOP);
    send(Pid::from_raw(repository.supervisor()), Signal::SIGKILL);
    command.kill().unwrap();
    command.wait().unwrap();
    assert_eq!(home.vms().len(), 1);
    let next = elsewhere(&["--rm", "--", "true"]);
    assert!(next.stderr.contains("whose command was killed"), "{}", next.stderr);
    assert!(home.vms().is_empty() && home.leftovers().is_empty());
    eventually("the end of all processes", || home.nothing_runs());
}

#[test]
fn creation_recovers_from_command_killed_at_each_step() {
    let operation = Operation { without_cache: true, ..Operation::new(&["--", "true"], Before::Nothing) };
    at_every_step(&operation, Target::Command);
}

#[test]
fn creation_recovers_from_supervisor_killed_at_each_step() {
    at_every_step(&Operation::new(&["--", "true"], Before::Nothing), Target::Supervisor);
}

#[test]
fn creation_recovers_from_vmm_killed_at_each_step() {
    at_every_step(&Operation::new(&["--", "true"], Before::Nothing), Target::Vmm);
}

#[test]
fn start_recovers_from_kill_at_each_step() {
    let operation = Operation::new(&["--", "true"], Before::Stopped);
    Target::ALL.into_iter().for_each(|target| at_every_step(&operation, target));
}

#[test]
fn sync_recovers_from_kill_at_each_step() {
    let operation = Operation { commits: true, ..Operation::new(&["--", "true"], Before::Running) };
    at_every_step(&operation, Target::Command);
    at_every_step(&operation, Target::Vmm);
}

#[test]
fn change_count_recovers_from_supervisor_killed_at_each_step() {
    // In that time the guest's changes are counted, and the count is written down.
    let linger = Duration::from_millis(1300);
    let operation = Operation { linger, ..Operation::new(&["--", "true"], Before::Running) };
    at_every_step(&operation, Target::Supervisor);
}

#[test]
fn stop_recovers_from_kill_at_each_step() {
    let operation = Operation::new(&["stop"], Before::Running);
    Target::ALL.into_iter().for_each(|target| at_every_step(&operation, target));
}

#[test]
fn delete_recovers_from_kill_at_each_step() {
    let operation = Operation::new(&["delete", "--force"], Before::Running);
    Target::ALL.into_iter().for_each(|target| at_every_step(&operation, target));
}
