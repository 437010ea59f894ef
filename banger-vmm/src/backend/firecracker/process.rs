//! The process of a Firecracker, watched from its start to its end.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::api::{Client, VmState};
use super::end_signs::EndSigns;
use super::run_directory::RunDirectory;
use super::snapshot;
use crate::backend::{VmmCommand, VmmEvent};
use crate::complaint;
use crate::confinement::Confined;

/// How long it may take to read the rest of the console, and of the standard error, when Firecracker
/// is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a pipe holds, in bytes: pipe(7).
const PIPE_CAPACITY: usize = 64 << 10;

/// A Firecracker that runs.
pub(super) struct Process {
    confined: Confined,
    log: pipe::Receiver,
    signs: Arc<Mutex<EndSigns>>,
    /// Closed when the console was read to its end.
    console_ended: oneshot::Receiver<()>,
    pub(super) client: Client,
    directory: Arc<RunDirectory>,
}

impl Process {
    /// A process with these connections, and its guest's console.
    pub(super) fn new(
        confined: Confined,
        log: pipe::Receiver,
        console: UnixStream,
        client: Client,
        directory: Arc<RunDirectory>,
    ) -> (Console, Process) {
        let signs = Arc::default();
        let (ended, console_ended) = oneshot::channel();
        let console = Console { stream: console, signs: Arc::clone(&signs), ended: Some(ended) };
        (console, Process { confined, log, signs, console_ended, client, directory })
    }

    /// Reports what happens until it is gone; to `log_lines`, that it has logged something. It is
    /// killed when nobody can tell it anything any more.
    pub(super) async fn drive(
        mut self,
        mut commands: mpsc::Receiver<VmmCommand>,
        log_lines: watch::Sender<()>,
        events: mpsc::Sender<VmmEvent>,
    ) {
        let complaint = tokio::spawn(complaint::read_end(self.confined.child.stderr.take()));
        let mut waiting = VecDeque::new();
        let mut working: Option<BoxFuture<'static, ()>> = None;
        let mut buffer = [0; 4096];
        let status = loop {
            if working.is_none() {
                working = waiting.pop_front().map(|command| self.carry_out(command));
            }
            tokio::select! {
                read = self.log.read(&mut buffer) => if let Ok(read) = read {
                    lock(&self.signs).see_log(&buffer[..read]);
                    let _ = log_lines.send(());
                },
                command = commands.recv() => match command {
                    // Whatever the guest was told that a disk has, Firecracker has written to the
                    // file; a flush, with `Writeback`, has reached the disk. All that is lost with
                    // the process is what the guest has under way, as when power is lost.
                    None | Some(VmmCommand::Quit) => {
                        self.confined.kill();
                        break self.confined.child.wait().await;
                    }
                    Some(command) => waiting.push_back(command),
                },
                () = async { working.as_mut().expect("the condition").await }, if working.is_some() => working = None,
                status = self.confined.child.wait() => break status,
            }
        };
        // All that it has logged waits to be read: the FIFO's writer is gone.
        for _ in 0..PIPE_CAPACITY / buffer.len() {
            let Ok(read @ 1..) = self.log.try_read(&mut buffer) else { break };
            lock(&self.signs).see_log(&buffer[..read]);
        }
        let _ = timeout(LAST_WORDS, &mut self.console_ended).await;
        // Without a pid namespace, a process that it has started may hold its standard error.
        let complaint = timeout(LAST_WORDS, complaint).await.ok().and_then(Result::ok).unwrap_or_default();
        let (event, failure) = lock(&self.signs).end(status.ok(), &complaint);
        // Whoever does not listen is about to drop the VMM.
        if let Some(event) = event {
            let _ = events.send(event).await;
        }
        let _ = events.send(VmmEvent::Exited(failure)).await;
    }

    fn carry_out(&self, command: VmmCommand) -> BoxFuture<'static, ()> {
        let (client, directory) = (self.client.clone(), Arc::clone(&self.directory));
        async move {
            let (done, answer) = match command {
                VmmCommand::Pause(answer) => (snapshot::pause(&client).await, answer),
                VmmCommand::Resume(answer) => {
                    (client.call(&VmState::Resumed.request()).await.map(drop).map_err(Into::into), answer)
                }
                VmmCommand::Snapshot(target, answer) => {
                    (snapshot::write(&client, &directory, &target, &answer).await, answer)
                }
                VmmCommand::Quit => return,
            };
            // Who asked may have gone.
            let _ = answer.send(done);
        }
        .boxed()
    }
}

/// What a guest writes on its console, seen on its way to who follows it.
pub(super) struct Console {
    stream: UnixStream,
    signs: Arc<Mutex<EndSigns>>,
    ended: Option<oneshot::Sender<()>>,
}

impl AsyncRead for Console {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let new = &buffer.filled()[before..];
        lock(&self.signs).see_console(new);
        if new.is_empty() {
            self.ended = None;
        }
        Poll::Ready(read)
    }
}

fn lock(signs: &Mutex<EndSigns>) -> MutexGuard<'_, EndSigns> {
    signs.lock().unwrap_or_else(PoisonError::into_inner)
}
