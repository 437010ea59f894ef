//! A command in the guest: spawned, fed, followed to its end.
//!
//! [`GuestCommand`] is for tasks, and has what the command prints as it comes. [`run`] blocks until
//! the command has ended, and keeps the end of the output.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use banger_agent::frame::{Frame, FrameError, MAX_DATA};
use banger_agent::protocol::exec::{
    Exec, Exit, FromCommand, STDERR, STDIN, STDIN_WINDOW, STDOUT, Size, Started, ToCommand,
};
use banger_agent::protocol::{AgentRequest, now_ns};
use banger_vmm::Vm;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::vm::agent::{self, AgentError, SILENCE_LIMIT, begin, begin_on};

/// How much of the output is kept: its end, in bytes.
const KEPT: usize = 16 << 10;
/// How many lines of it an error shows.
const LINES: usize = 5;

/// A command that runs in the guest.
///
/// Dropping it, or its `input`, before the command has ended hangs the command up: its process
/// group gets SIGHUP, and what the command started is killed 5 seconds later.
///
/// The halves are used at the same time, as in the example: a command whose output is not read may
/// never read its input.
///
/// ```no_run
/// # async fn example(vm: &banger::banger_vmm::Vm) -> Result<(), banger::vm::agent::AgentError> {
/// use banger::banger_agent::protocol::exec::Exec;
/// use banger::vm::guest_command::{CommandEvent, GuestCommand};
///
/// let exec = Exec { argv: vec!["sort".into()], ..Exec::default() };
/// let GuestCommand { mut input, mut output } = GuestCommand::spawn(vm, exec).await?;
/// input.queue_stdin("two\none\n".into());
/// input.close_stdin();
/// let exit = loop {
///     tokio::select! {
///         sent = input.send(), if !input.is_sent() => sent?,
///         event = output.next() => match event? {
///             CommandEvent::Stdout(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
///             CommandEvent::Exited(exit) => break exit,
///             _ => {}
///         },
///     }
/// };
/// # Ok(())
/// # }
/// ```
pub struct GuestCommand {
    /// To the command.
    pub input: GuestCommandInput,
    /// From the command.
    pub output: GuestCommandOutput,
}

/// The half of a [`GuestCommand`] that the host speaks on: standard input, signals, the size of the
/// terminal.
///
/// What is said is queued, and goes to the guest when [`GuestCommandInput::send`] or
/// [`GuestCommandInput::flush`] is awaited. Standard input is sent as the command takes it: no more
/// than [`STDIN_WINDOW`] bytes are on their way, so that signals get through to a command that does
/// not read.
pub struct GuestCommandInput {
    frames: agent::Writer,
    window: Arc<Semaphore>,
    /// Standard input that waits for the window.
    stdin: VecDeque<Bytes>,
    /// Whether standard input ends after that.
    closing: bool,
    /// Whether frames are queued that are not written.
    unflushed: bool,
}

/// The half of a [`GuestCommand`] that the guest speaks on: output, and how the command ended.
pub struct GuestCommandOutput {
    frames: agent::Reader,
    window: Arc<Semaphore>,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEvent {
    /// It wrote to standard output, or to its terminal.
    Stdout(Bytes),
    /// It wrote to standard error. With a terminal, this does not happen.
    Stderr(Bytes),
    /// It was stopped at its terminal (Ctrl-Z), and waits for SIGCONT.
    Stopped,
    /// The guest's kernel killed a process for want of memory while the command ran. Comes before
    /// the end of a command that failed.
    OutOfMemory,
    /// It ended, and all that it had written has come. The last event.
    Exited(Exit),
}

impl GuestCommand {
    /// Starts a command. The guest's clock is set to the host's; `exec.clock_ns` is ignored.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the guest cannot start the command; if the VM or its agent is
    /// gone, or does not answer.
    pub async fn spawn(vm: &Vm, exec: Exec) -> Result<GuestCommand, AgentError> {
        Ok(GuestCommand::new(begin(vm, &exec_request(exec)).await?))
    }

    /// Starts the agent's own SFTP server on the standard streams of a command. It serves the
    /// guest's files as `user` sees them; none: as root.
    ///
    /// # Errors
    /// As [`GuestCommand::spawn`].
    pub async fn sftp(vm: &Vm, user: Option<String>) -> Result<GuestCommand, AgentError> {
        Ok(GuestCommand::new(begin(vm, &AgentRequest::Sftp { user }).await?))
    }

    /// Starts a command on a stream to the agent on which nothing has been said.
    ///
    /// # Errors
    /// As [`GuestCommand::spawn`].
    pub(crate) async fn spawn_on(stream: UnixStream, exec: Exec) -> Result<GuestCommand, AgentError> {
        Ok(GuestCommand::new(begin_on(stream, &exec_request(exec)).await?))
    }

    fn new((_, reader, writer): (Started, agent::Reader, agent::Writer)) -> GuestCommand {
        let window = Arc::new(Semaphore::new(STDIN_WINDOW));
        let output = GuestCommandOutput { frames: reader, window: Arc::clone(&window) };
        let input =
            GuestCommandInput { frames: writer, window, stdin: VecDeque::new(), closing: false, unflushed: false };
        GuestCommand { input, output }
    }
}

fn exec_request(exec: Exec) -> AgentRequest {
    AgentRequest::Exec(Exec { clock_ns: now_ns(), ..exec })
}

impl GuestCommandInput {
    /// Queues standard input. However much that is, it is kept here until the command takes it: who
    /// has more calls [`GuestCommandInput::send`] first.
    pub fn queue_stdin(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.stdin.push_back(bytes);
        }
    }

    /// Ends standard input, after what was queued.
    pub fn close_stdin(&mut self) {
        self.closing = true;
    }

    /// Queues a signal for the command's process group, by its number on Linux. INT, TERM and HUP
    /// also start the 5 seconds after which all that the command started is killed.
    pub fn signal(&mut self, signal: i32) {
        self.queue(Frame::control(&ToCommand::Signal { signal }));
    }

    /// Queues a new size of the command's terminal. A command without one does not notice.
    pub fn resize(&mut self, size: Size) {
        self.queue(Frame::control(&ToCommand::Resize(size)));
    }

    /// Whether all that was queued is sent: it is time for more standard input.
    pub fn is_sent(&self) -> bool {
        self.is_flushed() && self.stdin.is_empty() && !self.closing
    }

    /// Whether all that was queued is sent, but for standard input that the command does not take
    /// yet.
    pub fn is_flushed(&self) -> bool {
        !self.unflushed
    }

    /// Sends all that was queued, standard input as the command takes it. Nothing is lost or sent
    /// twice if the future is dropped.
    ///
    /// # Errors
    /// If the connection breaks. What was queued is gone then.
    pub async fn send(&mut self) -> Result<(), AgentError> {
        while !self.is_sent() {
            self.flush().await?;
            self.pass_stdin_on().await;
        }
        Ok(())
    }

    /// Sends what was queued, but no standard input that the command does not take yet. Nothing is
    /// lost or sent twice if the future is dropped.
    ///
    /// # Errors
    /// If the connection breaks. What was queued is gone then.
    pub async fn flush(&mut self) -> Result<(), AgentError> {
        let flushed = poll_fn(|cx| self.frames.poll_flush_unpin(cx)).await;
        self.unflushed = false;
        if flushed.is_err() {
            self.stdin.clear();
            self.closing = false;
        }
        Ok(flushed?)
    }

    /// Waits until the command takes standard input, if there is some, and queues a frame of it; or
    /// its end.
    async fn pass_stdin_on(&mut self) {
        if let Some(bytes) = self.stdin.front_mut() {
            self.window.acquire().await.expect("the window is never closed").forget();
            // As much more as there is room for.
            let more = self.window.forget_permits(bytes.len().min(MAX_DATA) - 1);
            let frame = Frame::Data(STDIN, bytes.split_to(1 + more));
            if bytes.is_empty() {
                self.stdin.pop_front();
            }
            self.queue(frame);
        } else if self.closing {
            self.closing = false;
            self.queue(Frame::control(&ToCommand::StdinClosed));
        }
    }

    fn queue(&mut self, frame: Frame) {
        // Frames are short enough. If the connection is gone, flushing and reading say so.
        let _ = self.frames.start_send_unpin(frame);
        self.unflushed = true;
    }
}

impl GuestCommandOutput {
    /// Waits for what the command does next. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// If the connection breaks before the command has ended, or the agent sends what makes no
    /// sense.
    pub async fn next(&mut self) -> Result<CommandEvent, AgentError> {
        loop {
            return Ok(match self.frames.next().await.unwrap_or(Err(FrameError::Ended))? {
                Frame::Data(STDOUT, bytes) => CommandEvent::Stdout(bytes),
                Frame::Data(STDERR, bytes) => CommandEvent::Stderr(bytes),
                Frame::Data(..) => continue,
                frame => match frame.message()? {
                    FromCommand::StdinTaken { bytes } => {
                        // An agent cannot have taken more than was sent.
                        let sent = STDIN_WINDOW.saturating_sub(self.window.available_permits());
                        self.window.add_permits(bytes.min(sent));
                        continue;
                    }
                    FromCommand::Stopped => CommandEvent::Stopped,
                    FromCommand::OutOfMemory => CommandEvent::OutOfMemory,
                    FromCommand::Exited(exit) => CommandEvent::Exited(exit),
                },
            });
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// The end of what it printed, on both streams.
    pub output: Vec<u8>,
    /// Whether the guest's kernel killed a process meanwhile, for want of memory.
    pub out_of_memory: bool,
}

impl Finished {
    /// The last lines of what it printed.
    pub fn last_lines(&self) -> Vec<String> {
        let output = String::from_utf8_lossy(&self.output);
        let mut lines: Vec<_> = output.lines().rev().take(LINES).map(str::to_owned).collect();
        lines.reverse();
        lines
    }
}

/// Runs `exec` to its end, with `input` on its standard input. `each` is given what it prints, as
/// it comes. Blocks: a task calls it by
/// `spawn_blocking`.
///
/// # Errors
/// If it cannot be started, or the connection breaks.
pub fn run(vm: &Vm, exec: Exec, input: &[u8], each: impl FnMut(&[u8])) -> Result<Finished, AgentError> {
    run_on(vm.connect_agent()?, exec, input, each)
}

/// Runs `exec` to its end on a stream to the agent on which nothing has been said.
fn run_on(stream: UnixStream, exec: Exec, input: &[u8], each: impl FnMut(&[u8])) -> Result<Finished, AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut command = GuestCommand::spawn_on(stream, exec).await?;
        command.input.queue_stdin(Bytes::copy_from_slice(input));
        command.input.close_stdin();
        follow(command, each).await
    })
}

/// Sends what was queued, and reads to the command's end.
async fn follow(command: GuestCommand, mut each: impl FnMut(&[u8])) -> Result<Finished, AgentError> {
    let GuestCommand { mut input, mut output } = command;
    let (mut kept, mut out_of_memory) = (Vec::new(), false);
    loop {
        tokio::select! {
            sent = async {
                timeout(SILENCE_LIMIT, input.flush()).await.map_err(|_| AgentError::Silent)??;
                input.pass_stdin_on().await;
                Ok::<_, AgentError>(())
            }, if !input.is_sent() => {
                // Of a connection that is gone, what came before is still to be read, and why.
                if let Err(AgentError::Silent) = sent {
                    return Err(AgentError::Silent);
                }
            }
            event = output.next() => match event? {
                CommandEvent::Stdout(bytes) | CommandEvent::Stderr(bytes) => {
                    each(&bytes);
                    kept.extend_from_slice(&bytes);
                    kept.drain(..kept.len().saturating_sub(KEPT));
                }
                CommandEvent::Stopped => {}
                CommandEvent::OutOfMemory => out_of_memory = true,
                CommandEvent::Exited(exit) => return Ok(Finished { exit, output: kept, out_of_memory }),
            },
        }
    }
}
