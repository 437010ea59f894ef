//! The process that a throwaway VM is for.

use std::future::pending;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Completes when the process has ended, and never if there is none or it cannot be watched: the next command of its kind sweeps.
pub(super) async fn ended(owner: Option<u32>) {
    match owner.map(open) {
        Some(Ok(process)) => _ = process.readable().await,
        Some(Err(error)) if error.raw_os_error() == Some(libc::ESRCH) => {}
        Some(Err(_)) | None => pending().await,
    }
}

/// A descriptor that is readable once the process has ended: pidfd_open(2).
fn open(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the call has no memory effects; a returned descriptor is new and close-on-exec.
    let process = match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: just made, owned by nobody else.
        fd => unsafe { OwnedFd::from_raw_fd(fd as i32) },
    };
    // SAFETY: an owned descriptor stays open, and the same, for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn an_end_is_seen_whenever_it_comes() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let watching = tokio::spawn(ended(Some(pid)));
        tokio::task::yield_now().await;
        assert!(!watching.is_finished());
        drop(child.stdin.take());
        watching.await.unwrap();
        child.wait().unwrap();
        ended(Some(pid)).await;
    }
}
