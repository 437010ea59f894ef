//! Signals to `banger`, and what becomes of the command when `banger` is gone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `banger` with a command that has started: it has printed `ready`.
struct Started {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Started {
    fn new(repository: &Repository<'_>, options: &[&str], script: &str) -> Started {
        Self::with_stdin(repository, options, script, Stdio::null())
    }

    fn with_stdin(repository: &Repository<'_>, options: &[&str], script: &str, stdin: Stdio) -> Started {
        let mut command = repository.banger();
        command.arg("-q").args(options).args(["--", "sh", "-c", script]).stdin(stdin);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("banger runs");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut started = Started { child, output };
        let line = started.line();
        if line != "ready" {
            // What the command says of a VM that is gone: an ephemeral one leaves nothing else.
            panic!("{line:?} instead of \"ready\": {:?}", started.wait());
        }
        started
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("output");
        line.trim_end().to_owned()
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("banger runs");
    }

    /// Whether all of its threads are stopped: proc_pid_stat(5).
    fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("banger lives").flatten();
        let mut states = threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
        states.all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    }

    fn wait(self) -> Output {
        self.child.wait_with_output().expect("banger ends").into()
    }
}

/// Waits until the guest has no process with this exact command line any more.
fn gone(repository: &Repository<'_>, command_line: &str) {
    eventually(command_line, || repository.run(["-q", "--", "pgrep", "-fx", command_line]).status == 1);
}

#[test]
fn signals_reach_the_whole_process_tree() {
    let home = Home::new();
    let repository = home.repository("signals");
    repository.run(["--", "true"]).ok();

    // The command's own answer counts; so does none. In its process group or out of it, nothing
    // stays.
    let family = "sleep 4701 & setsid sleep 4702 & sh -c 'sleep 4703; true' &";
    for (signal, name, number) in
        [(Signal::SIGINT, "INT", 2), (Signal::SIGTERM, "TERM", 15), (Signal::SIGHUP, "HUP", 1)]
    {
        let script = format!("{family} trap 'echo got {name}; exit 42' {name}; echo ready; sleep 4704 & wait $!");
        let mut started = Started::new(&repository, &[], &script);
        started.send(signal);
        assert_eq!(started.line(), format!("got {name}"));
        assert_eq!(started.wait().status, 42);
        let started = Started::new(&repository, &[], "echo ready; exec sleep 4704");
        started.send(signal);
        assert_eq!(started.wait().status, 128 + number);
    }
    for leftover in ["sleep 4701", "sleep 4702", "sleep 4703", "sleep 4704"] {
        gone(&repository, leftover);
    }

    // Each signal arrives, however many there are; and the last word is the guest's.
    let count =
        "n=0; trap 'n=$((n+1)); echo got $n; [ $n = 2 ] && exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut started = Started::new(&repository, &[], count);
    for n in 1..=2 {
        started.send(Signal::SIGINT);
        assert_eq!(started.line(), format!("got {n}"));
    }
    assert_eq!(started.wait().status, 3);

    // Who ignores it is killed in the end, with all it started.
    let cut = repository.run(["--timeout", "0.5", "--", "sleep", "4711"]);
    assert_eq!(cut.stderr.lines().last(), Some("banger: the command was ended after 0.5s, as `--timeout` says"));
    let cut = repository.run(["-q", "--timeout", "0.5", "--", "sleep", "4711"]);
    assert_eq!((cut.status, cut.stderr.as_str()), (124, ""));
    let deaf = "trap '' INT TERM HUP; sleep 4705 & echo ready; while :; do sleep 1; done";
    let started = Started::new(&repository, &[], deaf);
    started.send(Signal::SIGTERM);
    assert_eq!(started.wait().status, 137);
    gone(&repository, "sleep 4705");

    // Megabytes that wait to be read are not in a signal's way.
    let mut started = Started::with_stdin(&repository, &[], "echo ready; exec sleep 4706", Stdio::piped());
    let mut stdin = started.child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || while stdin.write_all(&[0; 1 << 16]).is_ok() {});
    eventually("the pipes are full", || repository.run(["-q", "--", "pgrep", "-fx", "sleep 4706"]).status == 0);
    started.send(Signal::SIGTERM);
    assert_eq!(started.wait().status, 143);
    feeding.join().unwrap();

    // When `banger` dies, the command is hung up, stopped or not.
    repository.run(["--", "rm", "-f", "/tmp/hung-up"]).ok();
    let hung_up = "trap 'echo yes >/tmp/hung-up; exit' HUP; echo ready; while :; do sleep 0.1; done";
    let started = Started::new(&repository, &[], hung_up);
    started.send(Signal::SIGKILL);
    assert_eq!(started.wait().status, 137);
    eventually("the command was hung up", || repository.run(["-q", "--", "test", "-s", "/tmp/hung-up"]).status == 0);
    let started = Started::new(&repository, &[], "echo ready; exec sleep 4707");
    let state = |state: &str| {
        let pid = repository.run(["-q", "--", "pgrep", "-fx", "sleep 4707"]).text();
        pid.lines().any(|pid| repository.run(["-q", "--", "ps", "-o", "stat=", "-p", pid]).text().starts_with(state))
    };
    eventually("the shell has become the command", || state("S"));
    started.send(Signal::SIGTSTP);
    eventually("the command is stopped", || state("T"));
    started.send(Signal::SIGCONT);
    eventually("the command is continued", || state("S"));
    started.send(Signal::SIGTSTP);
    eventually("the command is stopped again", || state("T"));
    started.send(Signal::SIGKILL);
    started.wait();
    gone(&repository, "sleep 4707");
}

#[test]
fn timeout_kills_the_whole_process_tree() {
    let home = Home::new();
    let repository = home.repository("timeouts");
    repository.run(["--", "true"]).ok();
    assert_eq!(repository.run(["--timeout", "5m", "--", "sh", "-c", "exit 9"]).status, 9);
    let many = "sleep 4711 & setsid sleep 4712 & sleep 4713";
    assert_eq!(repository.run(["--timeout", "0.5", "--", "sh", "-c", many]).status, 124);
    let cut = repository.run(["--timeout", "0.5", "--", "sleep", "4711"]);
    assert_eq!(cut.stderr.lines().last(), Some("banger: the command was ended after 0.5s, as `--timeout` says"));
    let cut = repository.run(["-q", "--timeout", "0.5", "--", "sleep", "4711"]);
    assert_eq!((cut.status, cut.stderr.as_str()), (124, ""));
    let deaf = "trap '' TERM; sleep 4714 & while :; do sleep 1; done";
    assert_eq!(repository.run(["--timeout", "1s", "--", "sh", "-c", deaf]).status, 124);
    // Its own status says nothing once the time was up.
    assert_eq!(
        repository.run(["--timeout", "1s", "--", "sh", "-c", "trap 'exit 0' TERM; sleep 4715 & wait"]).status,
        124
    );
    for leftover in 4711..=4715 {
        gone(&repository, &format!("sleep {leftover}"));
    }
}

#[test]
fn ephemeral_vm_is_deleted_however_its_command_ends() {
    let home = Home::new();
    let repository = home.repository("throwaway");
    assert_eq!(repository.run(["--rm", "--", "sh", "-c", "cat README; exit 3"]).status, 3);
    assert_eq!(home.vms().len(), 0);
    assert_eq!(repository.run(["--rm", "--", "no-such-command"]).status, 127);
    assert_eq!(home.vms().len(), 0);

    let started = Started::new(&repository, &["--rm"], "echo ready; exec sleep 1000");
    started.send(Signal::SIGINT);
    assert_eq!(started.wait().status, 130);
    assert_eq!(home.vms().len(), 0);

    // While it boots, and when nothing of `banger` is left to delete it.
    let mut command = repository.banger();
    let booting = command.args(["--rm", "--", "true"]).stderr(Stdio::null()).spawn().unwrap();
    eventually("the VM boots", || home.vms().iter().any(|vm| vm.join("run.json").exists()));
    kill(Pid::from_raw(booting.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(Output::from(booting.wait_with_output().unwrap()).status, 130);
    eventually("the VM that booted is gone", || home.vms().is_empty());
    let started = Started::new(&repository, &["--rm"], "echo ready; exec sleep 1000");
    started.send(Signal::SIGKILL);
    started.wait();
    eventually("the VM whose command was killed is gone", || home.vms().is_empty());
}

#[test]
fn ephemeral_vm_killed_with_its_command_is_swept() {
    let home = Home::new();
    let repository = home.repository("swept");
    let started = Started::new(&repository, &["--rm"], "echo ready; exec sleep 1000");
    // The supervisor first, and before it is seen to be dead the command: nobody is left.
    started.send(Signal::SIGSTOP);
    // A signal is sent, and has not arrived: a thread that still runs would see to its VM.
    eventually("the command is stopped", || started.is_stopped());
    kill(Pid::from_raw(repository.supervisor()), Signal::SIGKILL).unwrap();
    started.send(Signal::SIGKILL);
    let killed = started.wait();
    assert_eq!((killed.status, home.vms().len()), (137, 1), "{killed:?}");
    let next = repository.run(["--rm", "--", "echo", "next"]).ok();
    assert_eq!(next.text(), "next\n");
    assert!(next.stderr.contains("removing the ephemeral VM"), "{}", next.stderr);
    assert_eq!(home.vms().len(), 0, "{:?}: {}", home.vms(), next.stderr);
}
