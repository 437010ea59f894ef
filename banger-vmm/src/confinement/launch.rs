//! A supervisor's side of its [launcher](super::launcher).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpid, pipe2};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::launcher::{CONFINE, KILL, Order, Report};
use super::{Confinement, Jail, Rules};
use crate::error::Failure;
use crate::host::die_with;
use crate::network::{NetworkProgram, Starting, UserNetwork};

/// No report is longer, in bytes.
const MAX_REPORT: u64 = 64 << 10;

/// A VMM that is to run confined. It has no environment variables.
#[derive(Debug)]
pub(crate) struct ConfinedCommand {
    /// Its program, among what the rules allow it to read.
    pub(crate) program: PathBuf,
    /// All arguments but the program's name.
    pub(crate) arguments: Vec<OsString>,
    /// Its working directory.
    pub(crate) directory: PathBuf,
    pub(crate) rules: Rules,
    /// How the jailer runs it; none: the launcher does. With one, its working directory becomes its
    /// root directory, and it inherits no descriptors but those of the streams.
    pub(crate) jail: Option<Jail>,
    /// What it inherits, by the same numbers, besides standard input, output and error.
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    /// What connects its tap [`crate::network::TAP`] to other machines; none: it has no tap.
    pub(crate) network: Option<NetworkProgram>,
}

/// A VMM that runs confined.
pub(crate) struct Confined {
    /// The launcher, which ends as the VMM does, after it. When it is killed, the VMM dies a moment
    /// later.
    pub(crate) child: Child,
    /// The VMM.
    pub(crate) pid: i32,
    pub(crate) confinement: Confinement,
    /// To be kept as long as the VMM is to have a network.
    #[allow(dead_code, reason = "it is dropped with the rest")]
    pub(crate) network: Option<UserNetwork>,
}

impl Confined {
    /// Kills the VMM; [`Child::wait`] returns when it is gone.
    pub(crate) fn kill(&self) {
        if let Some(launcher) = self.child.id() {
            // Until it is waited for, nobody else has its pid.
            let _ = kill(Pid::from_raw(launcher.cast_signed()), KILL);
        }
    }
}

/// Runs a VMM by the launcher, which is the binary `banger-vmm`. Returns when the program runs and
/// its network answers. To be called on the main thread, in a tokio runtime: launcher and VMM die
/// with this thread's process.
///
/// # Errors
/// What the launcher could not do. That the host has no namespaces is none:
/// [`Confined::confinement`] says so. A network needs a network namespace.
pub(crate) async fn launch(launcher: &Path, command: ConfinedCommand) -> Result<Confined, Failure> {
    let run = |error: io::Error| Failure::new(format!("cannot run {}: {error}", launcher.display()));
    let (ours, theirs) = StdUnixStream::pair().map_err(run)?;
    // When the launcher ends, so does what connects its network.
    let (ended, held) = match command.network {
        Some(_) => pipe2(OFlag::O_CLOEXEC)
            .map(|(reader, writer)| (Some(reader), Some(writer)))
            .map_err(|error| run(error.into()))?,
        None => (None, None),
    };
    let number = |descriptor: &OwnedFd| descriptor.as_raw_fd();
    let order = Order {
        program: command.program,
        arguments: command.arguments,
        directory: command.directory,
        rules: command.rules,
        jail: command.jail,
        descriptors: command.descriptors.iter().map(number).collect(),
        network: command.network.is_some(),
        held: held.as_ref().map(number),
    };
    let mut process = Command::new(launcher);
    process.env_clear().arg(CONFINE).arg(theirs.as_raw_fd().to_string()).current_dir("/").kill_on_drop(true);
    process.stdin(command.stdin).stdout(command.stdout).stderr(command.stderr);
    let inherited: Vec<RawFd> =
        order.descriptors.iter().copied().chain(order.held).chain([theirs.as_raw_fd()]).collect();
    let supervisor = getpid();
    // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows, and no
    // allocation.
    unsafe {
        process.pre_exec(move || {
            die_with(supervisor)?;
            for descriptor in &inherited {
                // SAFETY: this process has them, and they stay open until it has run its program.
                if libc::fcntl(*descriptor, libc::F_SETFD, 0) == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let mut child = process.spawn().map_err(run)?;
    // With them go this end's copies of what the VMM has: when it ends, reading from ours does.
    drop((process, theirs, held, command.descriptors));

    ours.set_nonblocking(true).map_err(run)?;
    let mut control = UnixStream::from_std(ours).map_err(run)?;
    let mut line = serde_json::to_vec(&order).map_err(|error| run(error.into()))?;
    line.push(b'\n');
    // Of a launcher that is gone, the end says more.
    let _ = control.write_all(&line).await;
    let mut reports = BufReader::new(control);
    let mut network = command.network.zip(ended);
    let mut starting: Option<Starting> = None;
    loop {
        match next(&mut reports).await {
            Some(Report::Devices) => {
                let Some(((program, ended), launcher)) = network.take().zip(child.id()) else { continue };
                starting = Some(program.start(launcher.cast_signed(), ended)?);
            }
            Some(Report::Started { pid, confinement }) => {
                let network = match starting {
                    Some(starting) => Some(starting.ready().await?),
                    None => None,
                };
                return Ok(Confined { child, pid, confinement, network });
            }
            Some(Report::Failed(failure)) => return Err(failure),
            None => {
                let status = child.wait().await.map_err(run)?;
                return Err(Failure::new(format!("cannot confine the VMM: its launcher ended ({status})")));
            }
        }
    }
}

/// The next report; none: the launcher is gone, or says what is not understood.
async fn next(reports: &mut BufReader<UnixStream>) -> Option<Report> {
    let mut line = Vec::new();
    reports.take(MAX_REPORT).read_until(b'\n', &mut line).await.ok()?;
    serde_json::from_slice(&line).ok()
}

#[cfg(test)]
mod tests;
