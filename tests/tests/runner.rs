//! `scripts/test-runner` repeats a test for the one known fault of QEMU, and for nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use banger_tests::{Home, Output};

const CASE: &str = "BANGER_TEST_RUNNER_CASE";

/// A test that fails as another test has it do: it passes if nobody does.
#[test]
fn fails_on_request_in_inner_runner() {
    let Some(case) = std::env::var_os(CASE) else { return };
    let case = Path::new(&case);
    let mut runs = fs::read_to_string(case.join("runs")).unwrap_or_default();
    runs.push('x');
    fs::write(case.join("runs"), &runs).unwrap();
    let home = Home::new();
    let vm = home.data().join("vms/vm");
    fs::create_dir_all(&vm).unwrap();
    fs::copy(case.join("console"), vm.join("console.log")).unwrap();
    let fails: usize = fs::read_to_string(case.join("fails")).unwrap().parse().unwrap();
    assert!(runs.len() > fails, "it fails as it should");
}

/// How the runner leaves, and how often it ran that test: of a guest whose console says `console`,
/// under a QEMU of this version, failing so many times.
fn run(console: &str, version: &str, fails: usize) -> (bool, usize) {
    let case = tempfile::tempdir().unwrap();
    fs::write(case.path().join("console"), console).unwrap();
    fs::write(case.path().join("fails"), fails.to_string()).unwrap();
    let qemu = case.path().join("qemu-system-x86_64");
    fs::write(&qemu, format!("#!/bin/sh\necho 'QEMU emulator version {version} (Debian 1:x)'\n")).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test-runner");
    let output = Command::new(runner)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "fails_on_request_in_inner_runner"])
        .env(CASE, case.path())
        .env("TMPDIR", case.path())
        .env("PATH", format!("{}:{}", case.path().display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    let output = Output::from(output);
    let runs = fs::read_to_string(case.path().join("runs")).unwrap().len();
    assert_eq!(output.stderr.contains("once more"), runs > 1, "{output:?}");
    // The notes that the runner makes are gone.
    assert_eq!(fs::read_dir(case.path()).unwrap().count(), 4, "{output:?}");
    (output.status == 0, runs)
}

#[test]
fn runner_repeats_test_once_only_for_qemu_fault() {
    let fault = "[    1.0] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n";
    assert_eq!(run(fault, "7.2.22", 0), (true, 1));
    assert_eq!(run(fault, "7.2.22", 1), (true, 2));
    assert_eq!(run(fault, "8.0.5", 2), (false, 2));
    assert_eq!(run(fault, "8.1.0", 1), (false, 1));
    assert_eq!(run("Oops: general protection fault\n", "7.2.22", 1), (false, 1));
}
