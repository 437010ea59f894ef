//! Pipes, exit statuses and variables of `banger -- command`, all in one VM.

use std::io::Read;
use std::process::Stdio;

use banger_tests::Home;

#[test]
fn stdio_is_byte_exact_and_statuses_pass_through() {
    let home = Home::new();
    let repository = home.repository("streams");
    // The shell of no arguments, without a terminal, reads its commands from standard input, or
    // nothing.
    assert_eq!(repository.with_input(["-q"], b"echo from-stdin\nexit 9\n").status, 9);
    let nothing = repository.run(["-q"]);
    assert_eq!((nothing.status, nothing.text().as_str()), (0, ""), "{}", nothing.stderr);

    let every_byte: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let echoed = repository.with_input(["-q", "--", "cat"], &every_byte);
    assert!(echoed.stdout == every_byte, "{} bytes of {}", echoed.stdout.len(), every_byte.len());
    assert_eq!(echoed.stderr, "");
    let apart = repository.run(["-q", "--", "sh", "-c", "printf out; printf err >&2"]);
    assert_eq!((apart.text().as_str(), apart.stderr.as_str()), ("out", "err"));

    for (script, status) in [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(repository.sh(script).status, status, "{script}");
    }
    let missing = repository.run(["--", "no-such-command"]);
    assert_eq!(missing.status, 127);
    assert!(missing.stderr.contains("`no-such-command`: command not found"), "{}", missing.stderr);
    assert_eq!(repository.run(["--", "/etc/passwd"]).status, 126);
    let usage = repository.run(["--bogus"]);
    assert!(usage.status == 125 && usage.stderr.starts_with("banger: error: "), "{}", usage.stderr);
    assert!(usage.stderr.contains("hint: usage: banger "), "{}", usage.stderr);
    let late = repository.run(["--timeout", "1", "--", "sleep", "100"]);
    assert_eq!(late.status, 124, "{}", late.stderr);

    let env = home.path().join("env");
    std::fs::write(&env, "A=file\nB=file\n").unwrap();
    let env = env.to_str().unwrap();
    let variables =
        repository.run(["-q", "--env-file", env, "-e", "B=option", "-e", "LANG", "--", "sh", "-c", "echo $A $B $LANG"]);
    assert_eq!(variables.ok().text(), "file option C.UTF-8\n");
    assert_eq!(repository.run(["-q", "-w", "sub", "--", "pwd"]).text(), "/root/repo/sub\n");
    assert_eq!(repository.run(["-w", "/nowhere", "--", "pwd"]).status, 125);
    assert_eq!(repository.run(["-q", "-u", "65534:65534", "-w", "/", "--", "id", "-u"]).text(), "65534\n");

    // What a command leaves running does not hold banger up, and lives on.
    repository.sh("sleep 1000 & echo $! > /tmp/daemon").ok();
    repository.sh("kill -0 $(cat /tmp/daemon) && kill $(cat /tmp/daemon)").ok();

    // A reader that goes away ends the command, as SIGPIPE would here.
    let mut endless = repository.banger().args(["-q", "--", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 4];
    endless.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(&some, b"y\ny\n");
    let end: banger_tests::Output = endless.wait_with_output().unwrap().into();
    assert_eq!(end.status, 128 + 13);
}
