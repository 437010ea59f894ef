//! Leaving the command that spawned the supervisor.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::libc;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use crate::confinement::forbid_core_dumps;

/// No launch is longer, in bytes.
const MAX_INPUT: u64 = 1 << 20;

/// Makes this process a child of init in a session of its own, without anything that it inherited
/// but two pipes: what was in the first one is returned, and the second.
///
/// To be called before there are other threads.
pub(super) fn detach() -> io::Result<(Vec<u8>, File)> {
    // A descriptor that stayed open would keep the end of some pipe from being seen: `x=$(banger
    // …)` would hang.
    // SAFETY: nothing in this process has opened a descriptor yet, so nobody loses one.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: there is no other thread, so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => std::process::exit(0),
        ForkResult::Child => {}
    }
    setsid()?;
    umask(Mode::from_bits_truncate(0o077));
    forbid_core_dumps()?;

    let mut input = Vec::new();
    io::stdin().lock().take(MAX_INPUT).read_to_end(&mut input)?;
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok((input, output))
}
