//! Processes of this machine: by descriptor, and as `/proc` has them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

pub use rustix::process::Signal;

/// A process, whoever has its pid later: a pidfd (pidfd_open(2)), which is readable when the
/// process has ended.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that has `pid` now. None: there is none.
    ///
    /// # Errors
    /// The kernel's refusal, such as too many descriptors.
    pub fn open(pid: i32) -> io::Result<Option<Process>> {
        // In other system calls, what is negative names a process group.
        let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Some(Process(process))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal. False: the process has ended.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<Process> for OwnedFd {
    fn from(process: Process) -> OwnedFd {
        process.0
    }
}

/// What `/proc/<pid>/stat` says: proc_pid_stat(5). Ticks are those of `sysconf(_SC_CLK_TCK)`, of
/// which a second has 100 as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// How the process is, as a letter: `Z` has ended and waits for its parent.
    pub state: char,
    /// What it has had of processors so far, in user and in kernel mode together, in ticks.
    pub cpu_ticks: u64,
    /// Its start, in ticks since the machine's boot. With the pid, and the boot, it names the
    /// process: pids are used again.
    pub start_ticks: u64,
}

impl Stat {
    /// Reads it.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such process; the kernel's refusal.
    pub fn read(pid: i32) -> io::Result<Stat> {
        let stat = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(stat: &[u8]) -> Option<Stat> {
        // The second field is a name in parentheses, and may hold anything but a NUL.
        let behind = stat.iter().rposition(|&byte| byte == b')')? + 1;
        let fields: Vec<&str> = std::str::from_utf8(&stat[behind..]).ok()?.split_ascii_whitespace().collect();
        // The manual counts from 1, and the third is the first here.
        let field = |number: usize| fields.get(number - 3);
        let number = |of: usize| field(of)?.parse::<u64>().ok();
        Some(Stat {
            state: field(3)?.chars().next()?,
            cpu_ticks: number(14)?.checked_add(number(15)?)?,
            start_ticks: number(22)?,
        })
    }
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
    fn stat_is_read_whatever_the_process_is_called() {
        let stat = b"7 (a) b\xff) Z (c) S 1 7 7 0 -1 4194560 9 0 0 0 11 31 0 0 20 0 1 0 5829 1 2 3 4";
        assert_eq!(Stat::parse(stat), Some(Stat { state: 'S', cpu_ticks: 42, start_ticks: 5829 }));
        assert_eq!(Stat::parse(b"7 (a) S 1 2"), None);
    }

    #[test]
    fn stat_tells_processes_apart_and_shows_their_end() {
        let (mut child, pid) = sleep();
        let stat = Stat::read(pid).unwrap();
        assert!(stat.start_ticks > 0 && stat.state != 'Z');
        child.kill().unwrap();
        while Stat::read(pid).unwrap().state != 'Z' {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(Stat::read(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn no_process_is_opened_for_a_pid_that_nobody_has() {
        let (child, pid) = sleep();
        assert!(Process::open(pid).unwrap().is_some());
        end(child);
        for pid in [pid, 0, -1] {
            assert!(Process::open(pid).unwrap().is_none(), "{pid}");
        }
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn reused_pid_gets_no_signal() {
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
        again.args(["--exact", "process::tests::reused_pid_gets_no_signal"]).env(INSIDE, "1");
        assert!(again.status().unwrap().success());
    }
}
