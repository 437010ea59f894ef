//! A VM that nobody uses stops by itself, and that is no news to the next command.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use banger_tests::inspect::send;
use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::Signal;

fn with_idle_timeout(repository: &Repository<'_>, time: &str, script: &str) -> Command {
    let mut command = repository.banger();
    command.env("BANGER_IDLE_TIMEOUT", time).args(["--", "sh", "-c", script]);
    command
}

#[track_caller]
fn run(repository: &Repository<'_>, time: &str, script: &str) -> Output {
    Output::from(with_idle_timeout(repository, time, script).output().unwrap()).ok()
}

#[test]
fn idle_vm_stops_and_next_command_starts_it() {
    let home = Home::new();
    let repository = home.repository("r");

    // A command that runs is use, for however long; what one has left running is none.
    run(&repository, "2s", "(sleep 1000 &) >/dev/null 2>&1; echo kept >/root/kept; sleep 7");
    eventually("the idle VM's end", || home.processes().is_empty());
    home.assert_at_rest();
    assert!(repository.run(["status"]).ok().text().contains("stopped"));

    let output = run(&repository, "1h", "cat /root/kept");
    assert_eq!(output.text(), "kept\n");
    assert!(output.stderr.contains("boot ") && !output.stderr.contains("again"), "{}", output.stderr);

    // What is set now is what counts: for the supervisor that runs, and for the record.
    sleep(Duration::from_secs(3));
    assert_eq!(home.processes().len(), 2);
    run(&repository, "2s", "true");
    let record = fs::read_to_string(home.vm().join("vm.json")).unwrap();
    assert!(record.contains("\"idle_timeout_ms\": 2000"), "{record}");

    // A supervisor that did not run for a while counts none of that.
    let (supervisor, _) = home.supervisor_and_vmm();
    send(supervisor, Signal::SIGSTOP);
    sleep(Duration::from_secs(9));
    let continued = Instant::now();
    send(supervisor, Signal::SIGCONT);
    eventually("the idle VM's end", || home.processes().is_empty());
    assert!(continued.elapsed() > Duration::from_secs(1), "it went after {:?}", continued.elapsed());
    home.assert_at_rest();

    let output: Output = with_idle_timeout(&repository, "soon", "true").output().unwrap().into();
    assert_eq!(output.status, 125);
    assert!(output.stderr.contains("BANGER_IDLE_TIMEOUT is `soon`"), "{}", output.stderr);
}

#[test]
fn command_during_idle_stop_waits_and_restarts_vm() {
    let home = Home::new();
    let repository = home.repository("r");
    run(&repository, "1s", "echo 0 >/root/count");
    let mut boots = 0;
    // How long it takes to go down depends on the machine: the last ones are late on any.
    for (number, pause) in [900, 1050, 1300, 3000, 9000].into_iter().enumerate() {
        if number >= 3 && boots > 0 {
            break;
        }
        sleep(Duration::from_millis(pause));
        // Two at a time.
        let other = with_idle_timeout(&repository, "1s", "true").stderr(Stdio::piped()).spawn().unwrap();
        let output = run(&repository, "1s", "read n </root/count; echo $n; echo $((n + 1)) >/root/count");
        assert_eq!(output.text(), format!("{number}\n"), "{}", output.stderr);
        boots += usize::from(output.stderr.contains("boot "));
        Output::from(other.wait_with_output().unwrap()).ok();
    }
    assert!(boots > 0, "no command came late");

    // A command that comes while somebody stops the VM starts it again.
    for _ in 0..2 {
        let stop = repository.banger().arg("stop").stderr(Stdio::piped()).spawn().unwrap();
        sleep(Duration::from_millis(300));
        run(&repository, "1h", "true");
        Output::from(stop.wait_with_output().unwrap()).ok();
    }
    // One that was at the point of stopping it may have stopped the new one.
    repository.run(["stop"]).ok();
    home.assert_at_rest();
}
