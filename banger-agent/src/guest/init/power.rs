//! The end of a guest, orderly or at once.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
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

use super::BootError;
use super::pid1::Init;
use crate::guest::paths::{REPOSITORIES, WORKSPACE};
use crate::protocol::PowerState;

/// The initramfs, seen from the guest. systemd changes back into it at the end (`bootup(7)`).
pub(super) const EXIT_ROOT: &str = "/run/initramfs";

/// The agent's own program in [`EXIT_ROOT`], under the name that systemd runs it by.
pub(super) const SHUTDOWN: &str = "/shutdown";

/// Where systemd leaves the guest's root, seen from [`EXIT_ROOT`].
pub(super) const OLD_ROOT: &str = "/oldroot";

/// A little more than the agent gives the hosts.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);

impl Init {
    /// Asks the guest to stop its services and power off. Returns if it has not after `limit`.
    ///
    /// Blocks, so it wants a thread of its own; the agent may serve until the end.
    pub fn stop(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        sync();
        let signal = match self {
            Init::Systemd(_) => libc::SIGRTMIN() + 4, // poweroff.target, see systemd(1)
            // What BusyBox understands: its init switches the machine off, or reboots it.
            Init::Other(_) if goes_by_reset() => libc::SIGTERM,
            Init::Other(_) => libc::SIGUSR2,
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
    }
}

/// Powers off without asking the guest, with clean disks.
pub fn power_off_by_force() -> ! {
    make_read_only();
    power_off_now()
}

/// Whether the machine can only be left by a reset. A machine whose agent is at a vsock port may be
/// Firecracker's, which has no ACPI S5 and ends with a reset of its guest; Linux would halt it
/// instead, for ever.
fn goes_by_reset() -> bool {
    // The second is where the first is for who has left the guest's root.
    let line = fs::read_to_string("/proc/cmdline").or_else(|_| fs::read_to_string(format!("{OLD_ROOT}/proc/cmdline")));
    has_vsock_agent(&line.unwrap_or_default())
}

/// By its word alone: it must hold as well for a guest that does not understand the others.
fn has_vsock_agent(line: &str) -> bool {
    line.split_ascii_whitespace().any(|word| word.starts_with("banger.agent=vsock:"))
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
    leave(last_mode())
}

fn last_mode() -> RebootMode {
    if goes_by_reset() { RebootMode::RB_AUTOBOOT } else { RebootMode::RB_POWER_OFF }
}

fn leave(mode: RebootMode) -> ! {
    let _ = reboot(mode);
    // Not reached but without CAP_SYS_BOOT; as PID 1 this is a kernel panic, which ends the VM too.
    std::process::exit(1)
}

/// What systemd does when all is stopped, for a guest without it: back into the initramfs.
pub(super) fn leave_and_finish() -> ! {
    say_farewell(PowerState::PowerOff);
    let old_root = format!("{EXIT_ROOT}{OLD_ROOT}");
    let _ = pivot_root(EXIT_ROOT, old_root.as_str()).and_then(|()| chdir("/"));
    finish()
}

/// What systemd runs at the end, with the name of its last action: systemd-shutdown(8).
pub(super) fn finish_for_systemd(action: Option<&str>) -> ! {
    say_farewell(match action {
        Some("reboot" | "kexec") => PowerState::Reboot,
        _ => PowerState::PowerOff,
    });
    finish()
}

/// Where PID 1 says to the agent, which still runs, how the machine is about to go.
const SOCKET: &str = "/run/banger/power";

/// Takes [`SOCKET`], which is root's only.
pub(super) fn listen() -> Result<UnixListener, BootError> {
    let path = Path::new(SOCKET);
    let socket = UnixListener::bind(path).map_err(BootError::io("listen on", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(BootError::io("protect", path))?;
    Ok(socket)
}

/// Has the agent tell the hosts, and waits until they know. Best effort: the machine goes all the
/// same.
fn say_farewell(state: PowerState) {
    let say = || -> io::Result<()> {
        let mut socket = UnixStream::connect(SOCKET)?;
        socket.set_read_timeout(Some(FAREWELL_PATIENCE))?;
        socket.write_all(&serde_json::to_vec(&state)?)?;
        socket.shutdown(Shutdown::Write)?;
        // Its end is the answer.
        socket.read(&mut [0]).map(drop)
    };
    let _ = say();
}

/// The last act of PID 1, standing in the initramfs: nothing may run any more, so that the disk
/// can be unmounted, so that its journal is clean. A step that fails must not keep the next from
/// being tried.
///
/// A guest that asks for a reboot is powered off as well, or reset where it is by that that a
/// machine goes; the host starts it when it is wanted.
fn finish() -> ! {
    let mode = last_mode();
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
    leave(mode)
}

#[cfg(test)]
mod tests {
    use nix::unistd::{getpid, gettid};

    use super::super::pid1::blocked;
    use super::*;

    #[test]
    fn machine_with_an_agent_at_vsock_is_left_by_a_reset() {
        assert!(has_vsock_agent("quiet banger.unheard=of banger.agent=vsock:1000 reboot=t\n"));
        assert!(!has_vsock_agent("quiet banger.agent=virtio-serial:banger.0 banger.hostname=vsock\n"));
    }

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
