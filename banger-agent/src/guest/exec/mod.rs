//! Running a command: the guest's side of [`crate::protocol::exec`].
//!
//! The tasks of one command: [`Input`] takes frames from the host and never waits for the command,
//! so that a signal always gets through; one task feeds standard input; one pumps each output; one
//! writes frames. The operation ends when the main process has ended and what it had written is
//! sent. What it left running lives on.

mod cgroup;
mod memory;
mod pty;
mod spawn;

use std::future::pending;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::cgroup::Cgroup;
use self::spawn::{Spawned, Streams, signal_group, spawn};
use super::files::{File, non_blocking};
use super::stream::{Reader, Writer};
use crate::frame::{CHUNK, Frame};
use crate::protocol::exec::{Exec, Exit, FromCommand, STDERR, STDIN, STDOUT, Started, ToCommand};
use crate::protocol::{Failure, FailureKind, Reply};

/// After INT, TERM or HUP, or when the client is gone: how long until everything that the command
/// started is killed.
const GRACE: Duration = Duration::from_secs(5);
/// What a pipe to or from a command can hold, the most that pipe(7) lets a user set: each time that
/// one side has to wait for the other costs a translated guest more than what it waits for.
const MAX_PIPE: usize = 1 << 20;
/// After how many bytes of standard input the host is told. Half of what the first hosts had as
/// [`STDIN_WINDOW`].
const TOLD: usize = 128 << 10;

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// What the request says.
    Asked,
    /// The agent's own [`super::sftp`].
    Sftp,
}

/// Runs `exec` and serves its stream to the end.
///
/// `flush` is awaited between the command's end and its report: it makes what was written safe.
pub(super) async fn run(
    exec: Exec,
    program: Program,
    reader: Reader,
    mut writer: Writer,
    flush: impl Future<Output = ()>,
) {
    let kills = memory::kills();
    let spawned = match spawn(&exec, program) {
        Ok(spawned) => spawned,
        Err(failure) => {
            // The client may be gone; there is nobody else to tell.
            let _ = writer.send(Frame::control(&Reply::<Started>::Error(failure))).await;
            return;
        }
    };
    let mut running = match Running::new(spawned).await {
        Ok(running) => running,
        Err(error) => {
            let failure = Failure::new(FailureKind::Other, format!("cannot follow a command in the guest: {error}"));
            let _ = writer.send(Frame::control(&Reply::<Started>::Error(failure))).await;
            return;
        }
    };
    let (out, mut frames) = mpsc::channel::<Frame>(4);
    let sending = tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if writer.send(frame).await.is_err() {
                return;
            }
        }
        let _ = writer.close().await;
    });
    let _ = out.send(Frame::control(&Reply::Ok(Started { pid: running.group.as_raw() }))).await;

    let ended = Arc::new(Notify::new());
    let (over, is_over) = watch::channel(false);
    let pumps: Vec<_> =
        running.outputs.drain(..).map(|(channel, fd)| pump(channel, fd, out.clone(), is_over.clone())).collect();
    let feeding = feed(running.stdin.take(), running.input.take(), out.clone());
    let input = Input { group: running.group, terminal: running.terminal.clone(), to_stdin: running.to_stdin.take() };
    let listening = tokio::spawn(input.listen(reader, Arc::clone(&ended)));

    let exit = running.wait(&ended, &out).await;
    let _ = over.send(true);
    for pump in pumps {
        let _ = pump.await;
    }
    flush.await;
    // A command that came through had no need of what was killed.
    if exit.status() != 0 && memory::kills() > kills {
        let _ = out.send(Frame::control(&FromCommand::OutOfMemory)).await;
    }
    let _ = out.send(Frame::control(&FromCommand::Exited(exit))).await;
    drop(out);
    feeding.abort();
    let _ = sending.await;
    listening.abort();
}

/// A command and what the agent holds of it.
struct Running {
    /// The process group of the command itself.
    group: Pid,
    cgroup: Option<Cgroup>,
    life: Life,
    terminal: Option<Arc<OwnedFd>>,
    stdin: Option<File>,
    outputs: Vec<(u8, File)>,
    to_stdin: Option<mpsc::UnboundedSender<Bytes>>,
    input: Option<mpsc::UnboundedReceiver<Bytes>>,
}

/// How the end of a command is learned.
enum Life {
    Child { child: std::process::Child, pidfd: AsyncFd<OwnedFd> },
    Session { child: std::process::Child, report: File },
}

/// What [`Life`] tells.
enum Event {
    Stopped,
    Ended(Exit),
}

impl Running {
    async fn new(spawned: Spawned) -> io::Result<Running> {
        let Spawned { child, streams, cgroup } = spawned;
        let (to_stdin, input) = mpsc::unbounded_channel();
        let (life, group, terminal, stdin, outputs) = match streams {
            Streams::Pipes { stdin, stdout, stderr } => {
                let group = Pid::from_raw(child.id() as i32);
                // SAFETY: an owned descriptor stays open, and the same, for as long as it is
                // registered.
                let pidfd = unsafe { AsyncFd::register(pidfd_open(group)?)? };
                for pipe in [&stdin, &stdout] {
                    // Where it may not be, it is slower.
                    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(MAX_PIPE as i32));
                }
                let outputs = vec![(STDOUT, File::new(stdout)?), (STDERR, File::new(stderr)?)];
                (Life::Child { child, pidfd }, group, None, File::new(stdin)?, outputs)
            }
            Streams::Terminal { master, report } => {
                let mut report = File::new(report)?;
                let group = Pid::from_raw(report.read_i32().await?);
                let outputs = vec![(STDOUT, File::new(master.try_clone()?)?)];
                let stdin = File::new(master.try_clone()?)?;
                (Life::Session { child, report }, group, Some(Arc::new(master)), stdin, outputs)
            }
        };
        Ok(Running {
            group,
            cgroup,
            life,
            terminal,
            stdin: Some(stdin),
            outputs,
            to_stdin: Some(to_stdin),
            input: Some(input),
        })
    }

    /// Waits for the end, reporting stops; when `hang_up` is notified, kills after the grace
    /// period.
    async fn wait(&mut self, hang_up: &Notify, out: &mpsc::Sender<Frame>) -> Exit {
        let mut deadline = None;
        loop {
            let grace = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = self.life.next() => match event {
                    Event::Ended(exit) => {
                        if deadline.is_some() {
                            self.reap(deadline).await;
                        }
                        return exit;
                    }
                    Event::Stopped => {
                        let _ = out.send(Frame::control(&FromCommand::Stopped)).await;
                    }
                },
                () = hang_up.notified() => {
                    deadline.get_or_insert(tokio::time::Instant::now() + GRACE);
                }
                () = grace => {
                    deadline = None;
                    self.kill();
                }
            }
        }
    }

    /// After a signal from the client, what the command started has the rest of the grace period
    /// too; then it is killed. The client need not wait for that.
    async fn reap(&mut self, deadline: Option<tokio::time::Instant>) {
        if let (Some(cgroup), Some(deadline)) = (self.cgroup.take(), deadline) {
            tokio::spawn(async move {
                tokio::time::sleep_until(deadline).await;
                cgroup.kill();
            });
        }
    }

    fn kill(&self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => signal_group(self.group, libc::SIGKILL),
        }
    }
}

impl Life {
    async fn next(&mut self) -> Event {
        match self {
            Life::Child { child, pidfd } => {
                // A pidfd is readable once its process has ended: pidfd_open(2).
                let _ = pidfd.readable().await;
                Event::Ended(child.wait().map_or(Exit::Signal(libc::SIGKILL as u8), exit))
            }
            Life::Session { child, report } => match report.read_i32().await {
                Ok(status) if libc::WIFSTOPPED(status) => Event::Stopped,
                Ok(status) => {
                    let _ = child.wait();
                    Event::Ended(exit(std::os::unix::process::ExitStatusExt::from_raw(status)))
                }
                // The session leader was killed, and the terminal hung up on the command.
                Err(_) => {
                    let _ = child.wait();
                    Event::Ended(Exit::Signal(libc::SIGKILL as u8))
                }
            },
        }
    }
}

fn exit(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status.code() {
        Some(code) => Exit::Code(code as u8),
        None => Exit::Signal(status.signal().unwrap_or(libc::SIGKILL) as u8),
    }
}

fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call has no memory effects; a returned descriptor is new and close-on-exec.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) } {
        -1 => Err(io::Error::last_os_error()),
        fd => {
            // SAFETY: just made, owned by nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
            non_blocking(&fd)?;
            Ok(fd)
        }
    }
}

/// What the host says while a command runs.
struct Input {
    group: Pid,
    terminal: Option<Arc<OwnedFd>>,
    to_stdin: Option<mpsc::UnboundedSender<Bytes>>,
}

impl Input {
    /// Takes frames until the stream ends, and hangs the command up then.
    async fn listen(mut self, mut reader: Reader, hang_up: Arc<Notify>) {
        while let Some(Ok(frame)) = reader.next().await {
            match frame {
                // The channel is unbounded, the host is not: it keeps to STDIN_WINDOW.
                Frame::Data(STDIN, bytes) => {
                    if let Some(to_stdin) = &self.to_stdin {
                        let _ = to_stdin.send(bytes);
                    }
                }
                Frame::Data(..) => {}
                Frame::Control(_) => match frame.message() {
                    Ok(ToCommand::StdinClosed) => self.to_stdin = None,
                    Ok(ToCommand::Resize(size)) => {
                        if let Some(terminal) = &self.terminal {
                            pty::resize(terminal.as_raw_fd(), size);
                        }
                    }
                    Ok(ToCommand::Signal { signal }) => self.signal(signal, &hang_up),
                    Err(_) => break,
                },
            }
        }
        self.signal(libc::SIGHUP, &hang_up);
        // A command that was stopped could not act on the signal.
        signal_group(self.group, libc::SIGCONT);
    }

    fn signal(&self, signal: i32, hang_up: &Notify) {
        signal_group(self.group, signal);
        if matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGHUP) {
            hang_up.notify_one();
        }
    }
}

/// Feeds standard input, and reports what was taken.
fn feed(
    stdin: Option<File>,
    input: Option<mpsc::UnboundedReceiver<Bytes>>,
    out: mpsc::Sender<Frame>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (Some(mut stdin), Some(mut input)) = (stdin, input) else { return };
        let mut untold = 0;
        while let Some(bytes) = input.recv().await {
            // A command that closed its input takes the rest as /dev/null would.
            let _ = stdin.write_all(&bytes).await;
            untold += bytes.len();
            if untold >= TOLD {
                let _ = out.send(Frame::control(&FromCommand::StdinTaken { bytes: untold })).await;
                untold = 0;
            }
        }
    })
}

/// Copies one output to the host until it ends, or its command does and what it had written is
/// drained.
fn pump(channel: u8, mut file: File, out: mpsc::Sender<Frame>, mut is_over: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        let mut left = usize::MAX;
        while left > 0 {
            let over = *is_over.borrow();
            let read = if over {
                left = left.min(MAX_PIPE);
                // A terminal hands its last bytes over a moment late. A pipe has them already.
                match timeout(Duration::from_millis(20), file.read(&mut buffer)).await {
                    Ok(read) => read,
                    Err(_) => return,
                }
            } else {
                tokio::select! {
                    read = file.read(&mut buffer) => read,
                    _ = is_over.changed() => continue,
                }
            };
            match read {
                // A terminal whose other side is closed everywhere reads as EIO.
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    left = left.saturating_sub(count);
                    if out.send(Frame::Data(channel, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
}

impl File {
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
