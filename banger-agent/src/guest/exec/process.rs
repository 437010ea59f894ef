//! The process of a command, and how its end is learned.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::Arc;

use banger_util::process;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::MAX_PIPE;
use super::cgroup::Cgroup;
use super::spawn::{Spawned, Streams, signal_group};
use crate::guest::files::{File, non_blocking};
use crate::protocol::exec::{Exit, STDERR, STDOUT};

/// A command that was started.
pub(super) struct Process {
    /// The process group of the command itself.
    pub(super) group: Pid,
    /// The agent's end of the command's terminal, if it has one.
    pub(super) terminal: Option<Arc<OwnedFd>>,
    cgroup: Option<Cgroup>,
    life: Life,
}

/// The agent's ends of a command's standard streams.
pub(super) struct Stdio {
    pub(super) stdin: File,
    /// Each with the channel that carries it.
    pub(super) outputs: Vec<(u8, File)>,
}

/// How the end of a command is learned.
enum Life {
    /// From the command itself, a child of the agent.
    Child { child: Child, pidfd: AsyncFd<OwnedFd> },
    /// From the session leader of its terminal, which reports wait statuses.
    Session { child: Child, report: File },
}

/// What a command's life brings.
pub(super) enum Event {
    /// It was stopped at its terminal.
    Stopped,
    /// It ended.
    Ended(Exit),
}

impl Process {
    /// Takes over what was spawned.
    ///
    /// # Errors
    /// If a descriptor cannot be polled, or the command's session leader does not report.
    pub(super) async fn new(spawned: Spawned) -> io::Result<(Process, Stdio)> {
        let Spawned { child, streams, cgroup } = spawned;
        match streams {
            Streams::Pipes { stdin, stdout, stderr } => {
                let group = Pid::from_raw(child.id() as i32);
                // SAFETY: an owned descriptor stays open, and the same, for as long as it is
                // registered.
                let pidfd = unsafe { AsyncFd::register(pidfd(group)?)? };
                for pipe in [&stdin, &stdout] {
                    // Where it may not be, it is slower.
                    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(MAX_PIPE as i32));
                }
                let outputs = vec![(STDOUT, File::new(stdout)?), (STDERR, File::new(stderr)?)];
                let process = Process { group, terminal: None, cgroup, life: Life::Child { child, pidfd } };
                Ok((process, Stdio { stdin: File::new(stdin)?, outputs }))
            }
            Streams::Terminal { master, report } => {
                let mut report = File::new(report)?;
                let group = Pid::from_raw(report.read_i32().await?);
                let outputs = vec![(STDOUT, File::new(master.try_clone()?)?)];
                let stdin = File::new(master.try_clone()?)?;
                let life = Life::Session { child, report };
                Ok((Process { group, terminal: Some(Arc::new(master)), cgroup, life }, Stdio { stdin, outputs }))
            }
        }
    }

    /// Waits for what happens next. Not to be called after [`Event::Ended`].
    pub(super) async fn next(&mut self) -> Event {
        match &mut self.life {
            Life::Child { child, pidfd } => {
                // A pidfd is readable once its process has ended: pidfd_open(2).
                let _ = pidfd.readable().await;
                Event::Ended(child.wait().map_or(Exit::Signal(libc::SIGKILL as u8), exit))
            }
            Life::Session { child, report } => match report.read_i32().await {
                Ok(status) if libc::WIFSTOPPED(status) => Event::Stopped,
                Ok(status) => {
                    let _ = child.wait();
                    Event::Ended(exit(ExitStatus::from_raw(status)))
                }
                // The session leader was killed, and the terminal hung up on the command.
                Err(_) => {
                    let _ = child.wait();
                    Event::Ended(Exit::Signal(libc::SIGKILL as u8))
                }
            },
        }
    }

    /// Kills everything that the command started; without a control group, its process group.
    pub(super) fn kill(&self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => signal_group(self.group, libc::SIGKILL),
        }
    }

    /// After the command's end: kills at `deadline` what it left running in its control group.
    pub(super) fn kill_the_rest_at(mut self, deadline: Instant) {
        if let Some(cgroup) = self.cgroup.take() {
            tokio::spawn(async move {
                sleep_until(deadline).await;
                cgroup.kill();
            });
        }
    }
}

fn exit(status: ExitStatus) -> Exit {
    match status.code() {
        Some(code) => Exit::Code(code as u8),
        None => Exit::Signal(status.signal().unwrap_or(libc::SIGKILL) as u8),
    }
}

/// A descriptor of the process, for [`AsyncFd`]. It was started here, and nobody has waited for it.
fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    let process = process::Process::open(pid.as_raw())?.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let descriptor = OwnedFd::from(process);
    non_blocking(&descriptor)?;
    Ok(descriptor)
}

impl File {
    /// Reads a native 32-bit number.
    async fn read_i32(&mut self) -> io::Result<i32> {
        let mut bytes = [0; 4];
        let mut filled = 0;
        while filled < 4 {
            match self.read(&mut bytes[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(i32::from_ne_bytes(bytes))
    }
}
