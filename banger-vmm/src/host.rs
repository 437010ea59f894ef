//! What the kernel says about this host and its processes.

use std::path::Path;
use std::{fs, io};

use banger_util::process::{Process, Signal, Stat};
use nix::sys::prctl;
use nix::unistd::{Pid, getppid};

use crate::error::{IoContext, Result};

/// The id of the host's boot, another one for each: proc(5).
pub(crate) fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).at("read", path)?.trim().to_owned())
}

/// A process's start, in clock ticks since the host's boot.
pub(crate) fn start_time(pid: i32) -> Result<u64> {
    Stat::read(pid).map(|stat| stat.start_ticks).at("read", Path::new(&format!("/proc/{pid}/stat")))
}

/// Sends a signal to the process `pid` that started `start` clock ticks after the host's boot.
/// False: there is none. Another process that has been given this pid never gets the signal, since
/// a [`Process`] stays the one that was opened.
pub(crate) fn signal(pid: i32, start: u64, signal: Signal) -> Result<bool> {
    let path = format!("/proc/{pid}");
    let path = Path::new(&path);
    match Process::open(pid).at("open", path)? {
        Some(process) if start_time(pid).is_ok_and(|found| found == start) => process.signal(signal).at("signal", path),
        _ => Ok(false),
    }
}

/// What a process takes of memory, in bytes: the second field of `/proc/<pid>/statm`. 0 for one
/// that is gone.
pub(crate) fn resident_bytes(pid: i32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// Between fork and exec: has this process die with its supervisor. It makes only system calls that
/// signal-safety(7) allows.
pub(crate) fn die_with(supervisor: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // Had the supervisor died before that, nobody would tell this process.
    if getppid() == supervisor { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleep() -> (Child, i32) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        (child, pid)
    }

    #[test]
    fn signal_needs_matching_start_time() {
        let (mut child, pid) = sleep();
        let start = start_time(pid).unwrap();
        assert!(!signal(pid, start + 1, Signal::KILL).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        assert!(signal(pid, start, Signal::KILL).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(!signal(pid, start, Signal::KILL).unwrap() && !signal(0, start, Signal::KILL).unwrap());
    }
}
