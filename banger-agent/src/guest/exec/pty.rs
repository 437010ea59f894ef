//! A terminal for a command: pty(7).
//!
//! Between the agent and the command stands a session leader. Without it the command's process
//! group would be an orphaned one, which the kernel does not let Ctrl-Z stop; and only a parent
//! learns that its child was stopped.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::pty::{Winsize, openpty};

use crate::protocol::exec::Size;

/// The two ends of a new pseudo-terminal.
pub(super) struct Pty {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

impl Pty {
    /// Opens a pair; the master does not block and neither end is inherited.
    pub(super) fn open(size: Size) -> io::Result<Pty> {
        let pair = openpty(Some(&winsize(size)), None)?;
        for fd in [&pair.master, &pair.slave] {
            // SAFETY: fcntl on an open descriptor with constant arguments.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        // SAFETY: as above.
        unsafe { libc::fcntl(pair.master.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) };
        Ok(Pty { master: pair.master, slave: pair.slave })
    }
}

/// Tells the terminal its size; the foreground process group gets SIGWINCH.
pub(super) fn resize(master: RawFd, size: Size) {
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call.
    unsafe { libc::ioctl(master, libc::TIOCSWINSZ, &winsize(size)) };
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A pipe for what the session leader reports, close-on-exec at both ends.
pub(super) fn report_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

unsafe extern "C" {
    /// As fork(2), but it may be called where a signal handler may, and so in a child of a process
    /// with threads: it runs no handlers of pthread_atfork(3), which may wait for locks
    /// (POSIX.1-2024, `_Fork`). glibc has it from 2.34 on, musl from 1.2.3 on.
    fn _Fork() -> libc::pid_t;
}

/// Becomes the session leader of the terminal on standard input, and forks: the function returns in
/// the command-to-be, which is in the foreground; the session leader stays inside, writes the
/// child's pid and then each wait status to `report` as native 32-bit numbers, and exits with the
/// child.
///
/// # Safety
/// Only between fork and exec: it calls async-signal-safe functions alone.
pub(super) unsafe fn lead_session(report: RawFd) -> io::Result<()> {
    // SAFETY: plain system calls on this process's own state; the caller guarantees the place.
    unsafe {
        if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        match _Fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // A background process group that takes the terminal is sent SIGTTOU, unless it
                // blocks it.
                let mut ttou: libc::sigset_t = std::mem::zeroed();
                let mut before: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut ttou);
                libc::sigaddset(&mut ttou, libc::SIGTTOU);
                libc::sigprocmask(libc::SIG_BLOCK, &ttou, &mut before);
                libc::setpgid(0, 0);
                libc::tcsetpgrp(0, libc::getpid());
                libc::sigprocmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
                Ok(())
            }
            child => watch(child, report),
        }
    }
}

/// The session leader's whole life.
///
/// # Safety
/// As [`lead_session`].
unsafe fn watch(child: libc::pid_t, report: RawFd) -> ! {
    // SAFETY: async-signal-safe calls; `report` is an open descriptor that this process owns a copy
    // of.
    unsafe {
        // Signals are the command's business. The leader outlives it, whatever the terminal sends.
        for signal in 1..libc::SIGRTMIN() {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        // Everything else is closed: the terminal, and the pipe by which the parent waits for the
        // exec.
        if report > 0 {
            libc::syscall(libc::SYS_close_range, 0, report - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, report + 1, u32::MAX, 0);
        let say = |number: libc::c_int| libc::write(report, (&raw const number).cast(), size_of::<libc::c_int>());
        say(child);
        loop {
            let mut status = 0;
            if libc::waitpid(child, &mut status, libc::WUNTRACED) == child {
                say(status);
                if !libc::WIFSTOPPED(status) {
                    libc::_exit(0);
                }
            } else if *libc::__errno_location() != libc::EINTR {
                libc::_exit(1);
            }
        }
    }
}

/// A copy of `fd` that is closed on exec.
pub(super) fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor is owned by nobody else.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: just made.
        copy => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    static HANDLED: AtomicBool = AtomicBool::new(false);

    extern "C" fn handle() {
        HANDLED.store(true, Ordering::Relaxed);
    }

    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<extern "C" fn()>,
            parent: Option<extern "C" fn()>,
            child: Option<extern "C" fn()>,
        ) -> libc::c_int;
    }

    #[test]
    fn session_leader_forks_without_atfork_handlers() {
        let pty = Pty::open(Size { rows: 24, columns: 80 }).unwrap();
        let (reader, writer) = report_pipe().unwrap();
        // SAFETY: the handler only stores a flag, and the processes that are forked make only calls
        // that are async-signal-safe until they exit.
        let (status, leader) = unsafe {
            assert_eq!(pthread_atfork(Some(handle), None, None), 0);
            let leader = _Fork();
            if leader == 0 {
                libc::dup2(pty.slave.as_raw_fd(), 0);
                let led = lead_session(writer.as_raw_fd());
                libc::_exit(if led.is_ok() && !HANDLED.load(Ordering::Relaxed) { 42 } else { 1 });
            }
            drop(writer);
            let mut status = 0;
            (libc::waitpid(leader, &mut status, 0), leader)
        };
        assert_eq!(status, leader);
        let mut report = [0; 8];
        std::io::Read::read_exact(&mut std::fs::File::from(reader), &mut report).unwrap();
        let status = i32::from_ne_bytes(report[4..].try_into().unwrap());
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "{status}");
    }
}
