//! The end of a guest, orderly or at once.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, chdir, pivot_root, sync};

use super::pid1::Init;
use crate::guest::paths::{REPOSITORIES, WORKSPACE};

/// The initramfs, seen from the guest. systemd changes back into it at the end (`bootup(7)`).
pub(super) const EXIT_ROOT: &str = "/run/initramfs";

/// The agent's own program in [`EXIT_ROOT`], under the name that systemd runs it by.
pub(super) const SHUTDOWN: &str = "/shutdown";

/// Where systemd leaves the guest's root, seen from [`EXIT_ROOT`].
pub(super) const OLD_ROOT: &str = "/oldroot";

impl Init {
    /// Asks the guest to stop its services and power off; after `limit` does it without asking.
    ///
    /// Blocks, so it wants a thread of its own; the agent may serve until the end.
    pub fn power_off(&self, limit: Duration) -> ! {
        let deadline = Instant::now() + limit;
        sync();
        let signal = match self {
            Init::Systemd(_) => libc::SIGRTMIN() + 4, // poweroff.target, see systemd(1)
            Init::Other(_) => libc::SIGUSR2,          // what BusyBox understands
            Init::Minimal => libc::SIGTERM,
        };
        // An init that has only just been started does not know the signal yet, and the kernel
        // spares PID 1 what it does not know. There is no event for its learning.
        while !takes(Path::new("/proc/1/status"), signal) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: sends a signal; no memory is involved. (nix knows no real-time signals.)
        unsafe { libc::kill(1, signal) };
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        make_read_only();
        power_off_now()
    }
}

/// Whether the process of this `status` handles `signal`, or waits for it with the signal blocked:
/// proc_pid_status(5).
fn takes(status: &Path, signal: i32) -> bool {
    let status = fs::read_to_string(status).unwrap_or_default();
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigBlk:").or(line.strip_prefix("SigCgt:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Brings every file system to the disk and into a clean state, whoever still writes: the kernel's
/// emergency remount, from sysrq.rst. Its work is done when the workspace cannot be written any
/// more.
fn make_read_only() {
    const PATIENCE: Duration = Duration::from_secs(5);
    sync();
    let deadline = Instant::now() + PATIENCE;
    if fs::write("/proc/sysrq-trigger", "u").is_ok() {
        let is_read_only = || statvfs(WORKSPACE).is_ok_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY));
        while !is_read_only() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Powers off at once. What is not on the disk by now is lost.
pub fn power_off_now() -> ! {
    let _ = reboot(RebootMode::RB_POWER_OFF);
    // Not reached but without CAP_SYS_BOOT; as PID 1 this is a kernel panic, which ends the VM too.
    std::process::exit(1)
}

/// What systemd does when all is stopped, for a guest without it: back into the initramfs.
pub(super) fn leave_and_finish() -> ! {
    let old_root = format!("{EXIT_ROOT}{OLD_ROOT}");
    let _ = pivot_root(EXIT_ROOT, old_root.as_str()).and_then(|()| chdir("/"));
    finish()
}

/// The last act of PID 1, standing in the initramfs: nothing may run any more, so that the disk
/// can be unmounted, so that its journal is clean. A step that fails must not keep the next from
/// being tried.
///
/// A guest that asks for a reboot is powered off as well; the host starts it when it is wanted.
pub(super) fn finish() -> ! {
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while !matches!(waitpid(None, None), Err(Errno::ECHILD)) {}
    sync();
    // With all that is mounted in it. Nobody is left to hold on to the disk, so it is gone on
    // return.
    let _ = umount2(OLD_ROOT, MntFlags::MNT_DETACH);
    // systemd takes /run along.
    for place in [WORKSPACE, REPOSITORIES] {
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
    power_off_now()
}

#[cfg(test)]
mod tests {
    use nix::unistd::{getpid, gettid};

    use super::super::pid1::blocked;
    use super::*;

    #[test]
    fn waiting_for_a_blocked_signal_is_detected() {
        let (tell, told) = std::sync::mpsc::channel();
        let init = thread::spawn(move || {
            let signals = blocked([Signal::SIGUSR1]).unwrap();
            tell.send(gettid()).unwrap();
            signals.read_signal().unwrap().unwrap().ssi_signo
        });
        let id = told.recv().unwrap();
        let status = format!("/proc/self/task/{id}");
        // It has come to wait for them by then.
        while !fs::read_to_string(format!("{status}/syscall")).unwrap().starts_with("0 ") {
            thread::sleep(Duration::from_millis(1));
        }
        let status = Path::new(&status).join("status");
        assert!(takes(&status, libc::SIGUSR1) && !takes(&status, libc::SIGUSR2));
        // SAFETY: sends a signal to a thread of this process, which has it blocked.
        unsafe { libc::syscall(libc::SYS_tgkill, getpid().as_raw(), id.as_raw(), libc::SIGUSR1) };
        assert_eq!(init.join().unwrap(), libc::SIGUSR1 as u32);
    }
}
