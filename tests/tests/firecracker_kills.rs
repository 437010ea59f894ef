//! Supervisor, launcher or Firecracker is killed while a VM starts on real Firecracker, and the next
//! command finds nothing in its way. `crash-at-syscall` says what a step is.

use std::ffi::OsStr;
use std::time::Duration;

use banger_tests::crash_at_syscall::Target;
use banger_tests::{Home, eventually};

/// Of as many steps, one is tried. `BANGER_TEST_EVERY_STEP=1` tries all.
const SAMPLED: usize = 4;

#[test]
fn start_recovers_from_kill_at_sampled_steps() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    let injector = OsStr::new(env!("CARGO_BIN_EXE_crash-at-syscall"));
    let every = if std::env::var_os("BANGER_TEST_EVERY_STEP").is_some() { 1 } else { SAMPLED };
    for target in [Target::Supervisor, Target::Vmm] {
        for step in (1..).step_by(every) {
            repository.run(["stop"]).ok();
            let arguments = ["--", "sh", "-c", "echo served"];
            let killed = repository.crash_at_syscall(injector, target, step, Duration::ZERO, &arguments);
            let next = repository.run(arguments).ok();
            assert_eq!(next.text(), "served\n", "killed at step {step}: {killed:?}");
            eventually("the end of what was killed", || home.processes_named(&["firecracker"]).len() == 1);
            assert!(home.leftovers().is_empty(), "{:?}: killed at step {step}: {killed:?}", home.leftovers());
            if killed.at.is_none() {
                assert!(step > 1 && killed.status == 0, "{target:?} takes no step: {killed:?}");
                break;
            }
        }
    }
    repository.run(["delete", "--force"]).ok();
    eventually("the end of all processes", || home.nothing_runs());
}
