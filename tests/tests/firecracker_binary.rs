//! Programs that are called Firecracker and cannot run a VM.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use banger_tests::firecracker_guests::{AtBoot, firecracker_binary};
use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::{Signal, kill};

/// A program in this home.
fn program(home: &Home, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
    let path = home.path().join("their-firecracker");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn with_program(repository: &Repository<'_>, program: &PathBuf) -> Output {
    repository.banger().env("BANGER_FIRECRACKER_BIN", program).args(["--", "true"]).output().unwrap().into()
}

/// An ELF header that says so of the machine: elf(5), `EM_AARCH64`.
fn for_another_machine() -> Vec<u8> {
    let mut bytes = fs::read(firecracker_binary()).unwrap()[..4096].to_vec();
    bytes[18..20].copy_from_slice(&183_u16.to_le_bytes());
    bytes
}

#[test]
fn firecracker_that_cannot_be_used_is_a_clear_error() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let script = |body: &str| format!("#!/bin/sh\n{body}\n").into_bytes();
    for (content, mode, reason) in [
        (script("echo 'Firecracker v1.7.0'"), 0o755, "1.7.0, which is too old"),
        (script("echo 'something else'"), 0o755, "is not Firecracker"),
        (script("exit 1"), 0o755, "is not Firecracker"),
        (script("head -c 1000000 /dev/urandom"), 0o755, "is not Firecracker"),
        (b"\x7fgarbage".to_vec(), 0o755, "is not a program for this machine"),
        (for_another_machine(), 0o755, "is not a program for this machine"),
        (fs::read(firecracker_binary()).unwrap(), 0o644, "is not executable"),
    ] {
        let program = program(&home, content, mode);
        let output = with_program(&repository, &program);
        assert_eq!((output.status, output.text().as_str()), (125, ""), "{reason}: {}", output.stderr);
        assert!(output.stderr.contains(reason) && output.stderr.contains("hint: "), "{reason}: {}", output.stderr);
        assert!(!output.stderr.contains('\x1b'), "{}", output.stderr);
        fs::remove_file(program).unwrap();
    }
    for (path, reason) in
        [(home.path(), "is a directory, not a program"), (Path::new("/dev/null"), "is not a regular file")]
    {
        let output = with_program(&repository, &path.to_owned());
        assert!(output.status == 125 && output.stderr.contains(reason), "{}", output.stderr);
        assert!(output.stderr.contains("hint: install Firecracker"), "{}", output.stderr);
    }
    let output = with_program(&repository, &home.path().join("nowhere"));
    assert!(output.status == 125 && output.stderr.contains("nowhere"), "{}", output.stderr);
    eventually("the end of all processes", || home.nothing_runs());
    // The right one makes up for all of them.
    assert_eq!(repository.run(["--", "true"]).ok().status, 0);
}

/// A program that says it is Firecracker, and then does what `WAY` is. No script: it is confined to
/// the VM's files, which no interpreter is among.
const NO_FIRECRACKER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void no_http(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "api.sock"};
    static const char answer[] = "\x1b[2Jno HTTP\n";
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), log = open("log", O_WRONLY);
    bind(listener, (struct sockaddr *)&address, sizeof address);
    listen(listener, 9);
    if (write(log, "up\n", 3) != 3)
        return;
    for (int client; (client = accept(listener, NULL, NULL)) >= 0; close(client)) {
        char request[9999];
        if (read(client, request, sizeof request) <= 0)
            continue;
        for (int i = 0; i < 100000 && send(client, answer, sizeof answer - 1, MSG_NOSIGNAL) > 0; i++)
            ;
    }
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "--version")) {
        puts("Firecracker v1.12.1");
        return 0;
    }
    if (WAY == 1) {
        no_http();
        return 1;
    }
    fputs("cannot start\n", stderr);
    return 3;
}
"#;

fn no_firecracker(home: &Home, way: u8) -> PathBuf {
    let program = home.path().join("their-firecracker");
    let mut cc = Command::new("cc");
    cc.args(["-x", "c", "-o"]).arg(&program).arg(format!("-DWAY={way}")).arg("-").stdin(Stdio::piped());
    let mut cc = cc.spawn().expect("cc runs");
    cc.stdin.take().unwrap().write_all(NO_FIRECRACKER.as_bytes()).unwrap();
    assert!(cc.wait().unwrap().success());
    program
}

#[test]
fn firecracker_that_fails_while_it_boots_is_a_clear_error() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    for (way, reasons) in [(0, ["exit status: 3", "cannot start"]), (1, ["HTTP", "HTTP"])] {
        let output = with_program(&repository, &no_firecracker(&home, way));
        assert_eq!((output.status, output.text().as_str()), (125, ""), "{way}: {}", output.stderr);
        assert!(reasons.iter().all(|reason| output.stderr.contains(reason)), "{way}: {}", output.stderr);
        assert!(!output.stderr.contains('\x1b'), "{}", output.stderr);
        eventually("the end of all processes", || home.nothing_runs());
        assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
    }
    repository.run(["--", "true"]).ok();
}

#[test]
fn firecracker_that_is_killed_while_it_boots_is_a_clear_error() {
    // Its agent never answers.
    let home = Home::with_firecracker_guests_that(AtBoot::Halt);
    let repository = home.repository("r");
    let mut command = repository.banger();
    let mut child = command.args(["--", "true"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever wants the VM may start it again.
    while child.try_wait().unwrap().is_none() {
        for firecracker in home.processes_named(&["firecracker"]) {
            let _ = kill(firecracker, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let output = Output::from(child.wait_with_output().unwrap());
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{}", output.stderr);
    assert!(output.stderr.contains("signal: 9"), "{}", output.stderr);
    eventually("the end of all processes", || home.nothing_runs());
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
}
