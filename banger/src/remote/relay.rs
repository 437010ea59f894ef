//! The streams of a command in the VM, passed on to git, within limits.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use banger_agent::protocol::exec::{Exec, Exit};
use banger_vmm::Vm;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::advertisement::{Advertisement, Invalid};
use super::broken;
use crate::error::{CommandError, ErrorKind};
use crate::output::units::{size, time};
use crate::vm::agent::{AgentError, SILENCE_LIMIT};
use crate::vm::guest_command::{CommandEvent, GuestCommand, GuestCommandInput, GuestCommandOutput};

/// How long the command may go on when git has closed the connection.
const FAREWELL: Duration = Duration::from_secs(5);
/// The limit where there is none: a timer needs one.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How much of git's is read at once, in bytes.
const CHUNK: usize = 64 << 10;
/// How much of what the command says on standard error is kept, in bytes and in lines.
const KEPT: (usize, usize) = (8 << 10, 8);

/// How much a VM may send, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    /// None: there is no limit.
    pub(super) time: Option<Duration>,
}

/// Runs `exec` in the VM, with git on its standard input and output.
///
/// # Errors
/// If the command cannot be started, fails or reaches a limit, or a connection breaks.
pub(super) fn run(vm: &Vm, exec: Exec, limits: Limits) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| broken(&error))?;
    runtime.block_on(relay(vm, exec, limits))
}

async fn relay(vm: &Vm, exec: Exec, limits: Limits) -> Result<(), CommandError> {
    let command = GuestCommand::spawn(vm, exec).await.map_err(|error| match CommandError::from(error) {
        error if error.kind == ErrorKind::CommandNotFound => {
            let error = CommandError::new(format!("the VM `{}` has no git", vm.name())).kind(error.kind);
            error.hint("install it there, for example: apt-get install git")
        }
        error => error,
    })?;
    let GuestCommand { mut input, mut output } = command;
    let mut streams = Streams { limits, received: 0, list: Advertisement::default(), errors: Vec::new() };
    let exit = streams.pass_on(&mut input, &mut output).await?;
    match exit {
        Exit::Code(0) => Ok(()),
        exit => Err(streams.failed(vm, exit)),
    }
}

/// Standard input and output, which git makes pipes.
fn ends() -> io::Result<(pipe::Receiver, pipe::Sender)> {
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok((pipe::Receiver::from_file(stdin)?, pipe::Sender::from_file(stdout)?))
}

struct Streams {
    limits: Limits,
    /// How many bytes came from the VM.
    received: u64,
    list: Advertisement,
    /// The end of standard error.
    errors: Vec<u8>,
}

impl Streams {
    async fn pass_on(
        &mut self,
        input: &mut GuestCommandInput,
        output: &mut GuestCommandOutput,
    ) -> Result<Exit, CommandError> {
        let (mut stdin, mut stdout) = ends().map_err(|error| broken(&error))?;
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let mut is_open = true;
        let mut end = Instant::now() + self.limits.time.unwrap_or(FOREVER);
        let mut silent_at = Instant::now() + SILENCE_LIMIT;
        loop {
            tokio::select! {
                sent = input.send(), if !input.is_sent() => {
                    // Of a connection that is gone, what came before is still to be read, and why.
                    let _ = sent;
                }
                read = stdin.read_buf(&mut chunk), if is_open && input.is_sent() => {
                    if read.map_err(|error| broken(&error))? == 0 {
                        is_open = false;
                        input.close_stdin();
                        // git has all that it wants, or is gone.
                        end = end.min(Instant::now() + FAREWELL);
                    } else {
                        input.queue_stdin(chunk.split().freeze());
                        chunk.reserve(CHUNK);
                    }
                }
                event = output.next() => {
                    silent_at = Instant::now() + SILENCE_LIMIT;
                    match event? {
                        CommandEvent::Stdout(bytes) => {
                            self.received += bytes.len() as u64;
                            self.check(&bytes)?;
                            let written = stdout.write_all(&bytes);
                            let written = timeout_at(end, written).await.map_err(|_| self.timed_out(is_open))?;
                            written.map_err(|error| broken(&error))?;
                        }
                        CommandEvent::Stderr(bytes) => {
                            self.received += bytes.len() as u64;
                            self.check(&[])?;
                            self.errors.extend_from_slice(&bytes);
                            self.errors.drain(..self.errors.len().saturating_sub(KEPT.0));
                        }
                        CommandEvent::Stopped | CommandEvent::OutOfMemory => {}
                        CommandEvent::Exited(exit) => return Ok(exit),
                    }
                }
                () = sleep_until(end) => return Err(self.timed_out(is_open)),
                () = sleep_until(silent_at) => return Err(AgentError::Silent.into()),
            }
        }
    }

    /// What has come is within the limits.
    fn check(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let refuse = |Invalid(why): Invalid| {
            CommandError::new(format!("cannot fetch from the VM: {why}")).kind(ErrorKind::Guest)
        };
        self.list.check(bytes).map_err(refuse)?;
        if self.received <= self.limits.bytes {
            return Ok(());
        }
        let most = size(self.limits.bytes >> 20);
        let error = CommandError::new(format!("the VM sends more than {most}")).kind(ErrorKind::Guest);
        Err(error.hint("if it has so much, raise the limit: banger config set fetch_limit SIZE"))
    }

    fn timed_out(&self, is_open: bool) -> CommandError {
        if !is_open {
            return broken(&io::Error::new(io::ErrorKind::BrokenPipe, "git has closed it"));
        }
        let time = time(self.limits.time.unwrap_or(FOREVER));
        let error = CommandError::new(format!("the VM did not send everything within {time}")).kind(ErrorKind::Guest);
        error.hint("if it needs longer, raise the limit: banger config set fetch_timeout TIME")
    }

    /// The command failed: what it said is foreign.
    fn failed(&self, vm: &Vm, exit: Exit) -> CommandError {
        let text = String::from_utf8_lossy(&self.errors);
        let mut lines: Vec<_> = text.lines().rev().take(KEPT.1).map(str::to_owned).collect();
        lines.reverse();
        let message = format!("`git upload-pack` failed in the VM `{}` (exit status {})", vm.name(), exit.status());
        CommandError::new(message).kind(ErrorKind::Guest).details(lines)
    }
}
