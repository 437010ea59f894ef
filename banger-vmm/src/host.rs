//! What the kernel says about this host and its processes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{IoContext, Result};

/// Changes with every boot of the host: proc(5).
pub(crate) fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).at("read", path)?.trim().to_owned())
}

/// A process's start, in clock ticks since the host's boot: field 22 of `/proc/<pid>/stat`.
pub(crate) fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let path = Path::new(&path);
    let stat = fs::read_to_string(path).at("read", path)?;
    // The second field is a name in parentheses, and may hold anything but a NUL.
    let field = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok());
    field.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)).at("read", path)
}

/// Sends a signal to the process `pid` that started at `start`, and says whether it was there. A
/// process that has the same pid since is never sent one: the pidfd stays the first one's
/// (pidfd_open(2)).
pub(crate) fn signal(pid: i32, start: u64, signal: Signal) -> Result<bool> {
    let path = format!("/proc/{pid}");
    let path = Path::new(&path);
    match Process::open(pid).at("open", path)? {
        Some(process) if start_time(pid).is_ok_and(|found| found == start) => process.signal(signal).at("signal", path),
        _ => Ok(false),
    }
}

/// A process, whoever has its pid later.
struct Process(OwnedFd);

impl Process {
    /// The process that has this pid now; none: there is none.
    fn open(pid: i32) -> io::Result<Option<Process>> {
        let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Some(Process(process))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// False: it has ended.
    fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a process takes of memory, in bytes: the second field of `/proc/<pid>/statm`. 0 for one
/// that is gone.
pub(crate) fn resident_bytes(pid: i32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::{Child, Command};

    use super::*;

    const INSIDE: &str = "BANGER_TEST_IN_PID_NAMESPACE";

    fn sleep() -> (Child, i32) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        (child, pid)
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_signal_is_for_the_process_that_was_noted() {
        let (mut child, pid) = sleep();
        let start = start_time(pid).unwrap();
        assert!(!signal(pid, start + 1, Signal::KILL).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        assert!(signal(pid, start, Signal::KILL).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(!signal(pid, start, Signal::KILL).unwrap() && !signal(0, start, Signal::KILL).unwrap());
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn the_next_process_of_the_same_pid_gets_no_signal() {
        if env::var_os(INSIDE).is_some() {
            let (first, pid) = sleep();
            let process = Process::open(pid).unwrap().unwrap();
            end(first);
            // The next one to be made has this pid: pid_namespaces(7).
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let (mut second, same) = sleep();
            assert_eq!(same, pid);
            assert!(!process.signal(Signal::KILL).unwrap());
            assert!(second.try_wait().unwrap().is_none());
            return end(second);
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root has PID namespaces everywhere");
            return;
        }
        let mut again = Command::new("unshare");
        again.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(env::current_exe().unwrap());
        again.args(["--exact", "host::tests::the_next_process_of_the_same_pid_gets_no_signal"]).env(INSIDE, "1");
        assert!(again.status().unwrap().success());
    }
}
