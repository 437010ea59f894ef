//! A VM that others stop or delete while a command runs in it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use banger_tests::{Home, Output, Repository};

/// A command that runs in the VM until somebody ends it, from its first line of output on.
struct Running(Child);

impl Running {
    fn start(repository: &Repository<'_>) -> Running {
        let mut command = repository.banger();
        command.args(["--", "sh", "-c", "echo ready; sleep 1000; echo more"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            panic!("{line:?}: {error}");
        }
        Running(child)
    }

    fn end(self) -> Output {
        self.0.wait_with_output().unwrap().into()
    }
}

#[test]
fn delete_without_force_refuses_vm_with_running_command() {
    let home = Home::with_any_guests();
    let repository = home.repository("r");
    let mut running = Running::start(&repository);
    let refused = repository.run(["delete"]);
    assert_eq!(refused.status, 125, "{}", refused.stderr);
    assert!(refused.stderr.contains("a command runs in it"), "{}", refused.stderr);
    assert!(refused.stderr.contains("banger delete --force"), "{}", refused.stderr);
    assert!(running.0.try_wait().unwrap().is_none(), "the command was ended");
    let named = repository.run(["--json", "delete", home.vms()[0].file_name().unwrap().to_str().unwrap()]);
    assert_eq!(named.document()["kind"], "vm_busy", "{}", named.text());

    repository.run(["delete", "--force"]).ok();
    let ended = running.end();
    assert_eq!(ended.status, 125, "{}", ended.stderr);
    // It may be told before the VM's disk is gone.
    let told = ["was deleted while the command ran", "was stopped while the command ran"];
    assert!(told.iter().any(|told| ended.stderr.contains(told)), "{}", ended.stderr);
    assert!(!ended.stderr.contains("is safe"), "{}", ended.stderr);
    assert!(home.vms().is_empty());
}

#[test]
fn command_reports_that_its_vm_was_stopped() {
    let home = Home::with_any_guests();
    let repository = home.repository("r");
    let running = Running::start(&repository);
    let stop = repository.banger().arg("stop").stderr(Stdio::piped()).spawn().unwrap();
    let ended = running.end();
    // By SIGTERM, or with the VM.
    assert!([143, 125].contains(&ended.status), "{}", ended.stderr);
    assert!(ended.stderr.contains("was stopped while the command ran"), "{}", ended.stderr);
    Output::from(stop.wait_with_output().unwrap()).ok();

    let running = Running::start(&repository);
    let forced = repository.run(["stop", "--force"]).ok();
    let ended = running.end();
    assert_eq!(ended.status, 125, "{}", ended.stderr);
    assert!(ended.stderr.contains("was stopped while the command ran"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("is safe"), "{} {}", ended.stderr, forced.stderr);
}

#[test]
fn commands_during_stop_wait_and_restart_vm() {
    let home = Home::with_any_guests();
    let repository = home.repository("r");
    repository.sh("true").ok();
    let name = home.vms()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let running = Running::start(&repository);
    let stop = repository.banger().arg("stop").stderr(Stdio::piped()).spawn().unwrap();
    let late = [
        &["--", "true"][..],
        &["vm", "exec", &name, "--", "true"],
        &["vm", "workspace", "prepare", &name, "."],
        &["cp", ":/etc/hosts", "out"],
        &["port", "add", "0:80"],
        &["start"],
        &["status"],
    ];
    let start = |arguments: &[&str]| {
        let mut command = repository.banger();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // The VM waits for the command that runs, and so it still goes down while the others come.
    let late = late.map(|arguments| (arguments, start(arguments)));
    for (arguments, command) in late {
        let output = Output::from(command.wait_with_output().unwrap());
        assert_eq!(output.status, 0, "{arguments:?}: {}", output.stderr);
    }
    Output::from(stop.wait_with_output().unwrap()).ok();
    assert_ne!(running.end().status, 0);
    repository.run(["stop"]).ok();
}
