//! `banger` on a terminal, as a person has it: a pseudo-terminal, with a shell's job control around
//! it where that matters.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use banger_tests::{Home, Output, Repository, banger_binary, eventually};
use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

/// A terminal with a program in it.
struct Terminal {
    child: Child,
    keyboard: File,
    /// Keeps the terminal from hanging up, and tells its settings.
    line: OwnedFd,
    screen: Receiver<Vec<u8>>,
    shown: Vec<u8>,
    before: Termios,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Runs `command` in a new terminal of 30 lines and 100 columns, as its session's leader.
    fn new(command: &mut Command) -> Terminal {
        let pty = openpty(&size(30, 100), None).expect("a pseudo-terminal");
        let before = tcgetattr(&pty.slave).expect("a terminal's settings");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: both calls are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("it runs");
        // What was cloned for the child is closed with the command.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (send, screen) = mpsc::channel();
        let mut reader = File::from(pty.master.try_clone().expect("a descriptor"));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                if send.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, keyboard: pty.master.into(), line: pty.slave, screen, shown: Vec::new(), before }
    }

    /// A shell of the host, without anybody's settings, that has job control and leaves the
    /// terminal's modes alone.
    fn shell(repository: &Repository<'_>) -> Terminal {
        let mut command = repository.home.command("dash");
        command.arg("-i").current_dir(&repository.root).env("PS1", "host> ").env("BANGER", banger_binary());
        let mut terminal = Terminal::new(&mut command);
        terminal.expect("host> ");
        terminal
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes what is typed");
    }

    /// Waits until the terminal shows `text`, after what was expected before. Returns what it
    /// showed until then.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.shown.windows(text.len()).position(|window| window == text.as_bytes()) {
                let until: Vec<u8> = self.shown.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&until[..at]).into_owned();
            }
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.shown.extend(chunk),
                Err(_) => panic!("no {text:?} in {:?}", String::from_utf8_lossy(&self.shown)),
            }
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call.
        assert_eq!(unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &size(rows, columns)) }, 0);
    }

    /// Whether the terminal's settings are what they were at first.
    fn is_restored(&self) -> bool {
        tcgetattr(self.line.as_fd()).expect("a terminal's settings") == self.before
    }

    /// Waits for the program's end.
    fn wait(mut self) -> i32 {
        let mut ended = None;
        eventually("the terminal's program ends", || {
            ended = self.child.try_wait().expect("its state");
            ended.is_some()
        });
        assert!(self.is_restored(), "the terminal is not as it was");
        let status = ended.expect("it has ended");
        Output::from(std::process::Output { status, stdout: Vec::new(), stderr: Vec::new() }).status
    }

    fn kill(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the guest's only `sleep` is in this state: ps(1).
fn sleep_is(repository: &Repository<'_>, state: &str) {
    eventually(&format!("the guest's sleep is in state {state}"), || {
        repository.run(["-q", "--", "ps", "-o", "stat=", "-C", "sleep"]).text().starts_with(state)
    });
}

#[test]
fn guest_shell_has_working_terminal() {
    let home = Home::new();
    let repository = home.repository("shell");
    // A terminal that no image knows: its entry is this user's.
    let source = home.path().join("terminal");
    std::fs::write(&source, "banger-test|a terminal,\n\tam, cols#77, clear=\\E[H\\E[J,\n").unwrap();
    let compiled = home.command("tic").arg(&source).current_dir(home.path()).output().expect("tic of ncurses");
    Output::from(compiled).ok();
    let mut command = repository.banger();
    let mut terminal = Terminal::new(command.current_dir(repository.root.join("sub")).env("TERM", "banger-test"));
    terminal.press("PS1='guest''> '; stty size; echo \"$TERM $PWD $(tty)\"; tput clear | od -An -c; echo $0\r");
    terminal.expect("30 100");
    terminal.expect("banger-test /root/repo/sub /dev/pts/");
    terminal.expect("033   [   H 033   [   J");
    terminal.expect("-bash");
    assert!(!terminal.is_restored());

    terminal.expect("guest> ");
    terminal.resize(40, 77);
    terminal.press("until [ \"$(stty size)\" = '40 77' ]; do sleep 0.1; done; echo size$((1))\r");
    terminal.expect("size1");
    for columns in 20..60 {
        terminal.resize(40, columns);
    }
    terminal.resize(41, 78);
    terminal.press("until [ \"$(stty size)\" = '41 78' ]; do sleep 0.1; done; echo size$((2))\r");
    terminal.expect("size2");

    // Once it runs: a shell that is just about to start a command may miss the key, here as on any
    // terminal.
    terminal.press("sleep 1000\r");
    sleep_is(&repository, "S");
    terminal.press("\x03");
    terminal.expect("guest> ");
    terminal.press("echo status$?\r");
    terminal.expect("status130");
    terminal.press("sleep 1000\r");
    sleep_is(&repository, "S");
    terminal.press("\x1a");
    terminal.expect("Stopped");
    terminal.press("echo st''ill here\r");
    terminal.expect("still here");
    terminal.press("fg\r");
    sleep_is(&repository, "S");
    terminal.press("\x03\r");
    terminal.press("stty -echo; read -r secret; stty echo; echo \"got:$secret\"\r");
    terminal.expect("echo \"got:$secret\"");
    // What is typed ahead is not lost, and what is not to be seen is not shown.
    eventually("the guest does not echo", || repository.sh("stty -a -F /dev/pts/0 | grep -q -- '-echo '").status == 0);
    terminal.press("hush\r");
    assert!(!terminal.expect("got:hush").contains("hush"));
    terminal.press("cat >/tmp/typed; exit 7\r");
    eventually("cat runs", || repository.run(["-q", "--", "pgrep", "-x", "cat"]).status == 0);
    terminal.press("a line\r\x04");
    assert_eq!(terminal.wait(), 7);
    assert_eq!(repository.run(["-q", "--", "cat", "/tmp/typed"]).text(), "a line\n");

    // Ctrl-D leaves a shell; its status is that of the last command.
    // What is only there then is said.
    let mut terminal = Terminal::new(&mut repository.banger());
    terminal.expect("# ");
    terminal.press("touch made-there; (exit 4)\r\x04");
    terminal.expect("only in the VM: 1 file (/root/repo/made-there); to copy: ");
    assert_eq!(terminal.wait(), 4);

    // A terminal only for who sits at both ends, and wants one.
    let script = "test -t 0 || echo no''tty; test -t 1 || echo no''tty; exit 3";
    let mut plain = Terminal::new(repository.banger().args(["-T", "--", "sh", "-c", script]));
    plain.expect("notty\r\nnotty");
    assert_eq!(plain.wait(), 3);
    let mut shell = Terminal::shell(&repository);
    shell.press("$BANGER -q -- tty | cat; echo x | $BANGER -q -- tty; echo end$((1))\r");
    assert_eq!(shell.expect("end1").matches("not a tty").count(), 2);
    shell.press("exit\r");
    assert_eq!(shell.wait(), 0);
}

#[test]
fn ctrl_z_stops_and_continues_the_command() {
    let home = Home::new();
    let repository = home.repository("jobs");
    repository.run(["--", "true"]).ok();
    for (options, script) in [("-q", "sleep 1000"), ("-q", "sh -c 'sleep 1000; exit 5'"), ("-qT", "sleep 1000")] {
        let mut shell = Terminal::shell(&repository);
        shell.press(&format!("$BANGER {options} -- {script}\r"));
        sleep_is(&repository, "S");
        for _ in 0..2 {
            shell.press("\x1a");
            shell.expect("Stopped");
            shell.expect("host> ");
            assert!(shell.is_restored());
            sleep_is(&repository, "T");
            shell.press("fg\r");
            sleep_is(&repository, "S");
        }
        shell.press("\x03");
        shell.expect("host> ");
        assert!(shell.is_restored());
        shell.press("echo status$?\r");
        shell.expect("status130");
        shell.press("exit\r");
        shell.wait();
    }

    // Without a shell that could continue it, as in a terminal's own window, Ctrl-Z stops nothing
    // for ever.
    let mut alone =
        Terminal::new(repository.banger().args(["-q", "--", "sh", "-c", "echo up; read x; echo \"got:$x\""]));
    alone.expect("up");
    alone.press("\x1a");
    alone.expect("^Z");
    alone.press("more\r");
    alone.expect("got:more");
    assert_eq!(alone.wait(), 0);
}

#[test]
fn terminal_is_restored_on_every_exit() {
    let home = Home::new();
    let repository = home.repository("restored");
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let mut terminal =
            Terminal::new(repository.banger().args(["-q", "--", "sh", "-c", "echo up; exec sleep 1000"]));
        terminal.expect("up");
        eventually("the terminal is raw", || !terminal.is_restored());
        terminal.kill(signal);
        assert_eq!(terminal.wait(), status);
    }
    // A shell does not heed these signals: it is killed.
    let mut terminal = Terminal::new(&mut repository.banger());
    terminal.press("echo up$((1))\r");
    terminal.expect("up1");
    terminal.kill(Signal::SIGTERM);
    assert!([129, 137].contains(&terminal.wait()));

    // A full-screen program when the VM dies under it.
    let full_screen = "printf '\\033[?1049h\\033[?25lup'; exec sleep 1000";
    let mut terminal = Terminal::new(repository.banger().args(["-q", "--", "sh", "-c", full_screen]));
    terminal.expect("up");
    kill(Pid::from_raw(repository.supervisor()), Signal::SIGKILL).unwrap();
    terminal.expect("\x1b[?1049l\x1b[?25h");
    terminal.expect("error:");
    assert_eq!(terminal.wait(), 125);
    // The next command works, and says what it found.
    let next = repository.run(["--", "echo", "next"]).ok();
    assert_eq!(next.text(), "next\n");
    assert!(next.stderr.contains("starting the VM again"), "{}", next.stderr);
}

#[test]
fn delete_asks_before_discarding_unsynced_changes() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.sh("echo work >made-there").ok();
    repository.run(["stop"]).ok();
    for (keys, is_left) in [("n\r", true), ("\r", true), ("y\r", false)] {
        let mut terminal = Terminal::new(repository.banger().arg("delete"));
        let asked = terminal.expect("Delete it all the same? [y/N]");
        assert!(asked.contains("1 file (/root/repo/made-there)"), "{asked}");
        terminal.press(keys);
        terminal.expect(if is_left { "nothing was deleted" } else { "deleted `" });
        assert!(terminal.child.wait().unwrap().success());
        assert_eq!(home.vms().len(), usize::from(is_left));
    }
}

#[test]
fn shell_in_named_vm_prints_reattach_hint() {
    let home = Home::new();
    let repository = home.repository("shell");
    let mut command = repository.banger();
    command.args(["vm", "run", "--name", "box", "--memory", "512M"]);
    let mut terminal = Terminal::new(&mut command);
    terminal.expect("root@box:~# ");
    terminal.press("exit 4\r");
    terminal.expect("`box` runs on: ");
    let said = terminal.expect("deletes it");
    assert!(["exec", "stop", "delete"].iter().all(|name| said.contains(&format!("`banger vm {name} box`"))), "{said}");
    assert_eq!(terminal.wait(), 4);
    assert_eq!(repository.run(["vm", "exec", "box", "--", "hostname"]).ok().text(), "box\n");
    // What is only there is not deleted unasked.
    let mut terminal = Terminal::new(repository.banger().args(["vm", "delete", "box"]));
    terminal.expect("[y/N]");
    terminal.press("y\r");
    assert_eq!(terminal.wait(), 0);
    assert!(home.vms().is_empty());
}

#[test]
fn worktree_include_is_trusted_as_it_was_shown_and_once_confirmed() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.write(".gitignore", ".env*\n");
    repository.write(".worktreeinclude", ".env.test\n");
    repository.write(".env", "");
    repository.write(".env.test", "");
    let travels = |path: &str| {
        let document = repository.run(["why", "--json", path]).ok().document();
        document["paths"][0]["reason"] == "included"
    };
    let ask = |arguments: &[&str]| {
        let mut command = repository.banger();
        command.arg("trust").args(arguments);
        let mut terminal = Terminal::new(&mut command);
        let shown = terminal.expect("[y/N] ");
        (terminal, shown)
    };
    let (mut terminal, shown) = ask(&[]);
    assert!(shown.contains("rule `.env.test`") && shown.contains("file `.env.test`"), "{shown}");
    assert!(shown.contains("Allow these files into the VM?") && !shown.contains("`.env`"), "{shown}");
    assert!(!travels(".env.test"), "before the answer");
    terminal.press("n\n");
    assert_eq!(terminal.wait(), 0);
    assert!(!travels(".env.test"));
    // With --quiet the user sees what the question is about, too.
    let (mut terminal, shown) = ask(&["--quiet"]);
    assert!(shown.contains("file `.env.test`"), "{shown}");
    // What is trusted is what was shown, and not what took its place meanwhile.
    repository.write(".worktreeinclude", ".env*\n");
    terminal.press("y\n");
    assert_eq!(terminal.wait(), 0);
    assert!(!travels(".env") && !travels(".env.test"));
    repository.write(".worktreeinclude", ".env.test\n");
    assert!(travels(".env.test") && !travels(".env"));
}
