//! The end of a guest, orderly or at once.

use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, chdir, pivot_root, sync};

use super::pid1::Init;

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
        sync();
        let signal = match self {
            Init::Systemd(_) => libc::SIGRTMIN() + 4, // poweroff.target, see systemd(1)
            Init::Other(_) => libc::SIGUSR2,          // what BusyBox understands
            Init::Minimal => libc::SIGTERM,
        };
        // SAFETY: sends a signal; no memory is involved. (nix knows no real-time signals.)
        unsafe { libc::kill(1, signal) };
        thread::sleep(limit);
        sync();
        power_off_now()
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
    // With all that is mounted in it. Nobody is left to hold on to the disk, so it is gone on return.
    let _ = umount2(OLD_ROOT, MntFlags::MNT_DETACH);
    power_off_now()
}
