//! A stream that is attached to a command: what the host says, and what the command says.
//!
//! [`Input`] takes frames from the host and never waits for the command, so that a signal always
//! gets through; one task feeds standard input; one pumps each output; one writes frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::libc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::MAX_PIPE;
use super::process::Stdio;
use super::registry::{Attached, ExecId, Registry};
use crate::frame::{CHUNK, Frame};
use crate::guest::files::File;
use crate::guest::stream::{Reader, Writer};
use crate::protocol::AgentReply;
use crate::protocol::exec::{Exit, FromCommand, STDIN, Started, ToCommand};

/// After how many bytes of standard input the host is told. Half of what the first hosts had as
/// [`STDIN_WINDOW`](crate::protocol::exec::STDIN_WINDOW).
const TOLD: usize = 128 << 10;

/// A command's stream while it is served.
pub(super) struct Stream {
    command: Attached,
    /// To the task that writes frames.
    out: mpsc::Sender<Frame>,
    sending: JoinHandle<()>,
    listening: JoinHandle<()>,
    feeding: JoinHandle<()>,
    pumps: Vec<JoinHandle<()>>,
    /// Told when the command has ended.
    over: watch::Sender<bool>,
}

impl Stream {
    /// Answers the host that the command runs, and begins to serve its stream.
    pub(super) async fn attach(
        registry: &Arc<Registry>,
        command: Attached,
        stdio: Stdio,
        reader: Reader,
        mut writer: Writer,
    ) -> Stream {
        let (out, mut frames) = mpsc::channel::<Frame>(4);
        let sending = tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if writer.send(frame).await.is_err() {
                    return;
                }
            }
            let _ = writer.close().await;
        });
        let _ = out.send(Frame::control(&AgentReply::Ok(Started { pid: command.pid.as_raw() }))).await;

        let (over, is_over) = watch::channel(false);
        let (to_stdin, chunks) = mpsc::unbounded_channel();
        let Stdio { stdin, outputs } = stdio;
        let pump = |(channel, file)| tokio::spawn(pump(channel, file, out.clone(), is_over.clone()));
        let pumps = outputs.into_iter().map(pump).collect();
        let feeding = tokio::spawn(feed(stdin, chunks, out.clone()));
        let input = Input { registry: Arc::clone(registry), id: command.id, to_stdin: Some(to_stdin) };
        let listening = tokio::spawn(input.listen(reader));
        Stream { command, out, sending, listening, feeding, pumps, over }
    }

    /// Waits until the command has ended and what it had written is on its way.
    pub(super) async fn wait(&mut self) -> Exit {
        let exit = loop {
            tokio::select! {
                biased;
                () = self.command.stopped.notified() => self.say(&FromCommand::Stopped).await,
                // The registry follows every command to its end.
                exit = &mut self.command.exit => break exit.unwrap_or(Exit::Signal(libc::SIGKILL as u8)),
            }
        };
        let _ = self.over.send(true);
        for pump in self.pumps.drain(..) {
            let _ = pump.await;
        }
        exit
    }

    /// Tells the host something. A host that is gone needs nothing.
    pub(super) async fn say(&self, message: &FromCommand) {
        let _ = self.out.send(Frame::control(message)).await;
    }

    /// Ends the stream, once all is sent.
    pub(super) async fn close(self) {
        drop(self.out);
        self.feeding.abort();
        let _ = self.sending.await;
        self.listening.abort();
    }
}

/// What the host says while a command runs.
struct Input {
    registry: Arc<Registry>,
    id: ExecId,
    to_stdin: Option<mpsc::UnboundedSender<Bytes>>,
}

impl Input {
    /// Takes frames until the stream ends.
    async fn listen(mut self, mut reader: Reader) {
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
                    Ok(ToCommand::Resize(size)) => self.registry.resize(self.id, size),
                    Ok(ToCommand::Signal { signal }) => self.registry.signal(self.id, signal),
                    Err(_) => break,
                },
            }
        }
        self.registry.stream_ended(self.id);
    }
}

/// Feeds standard input, and reports what was taken.
async fn feed(mut stdin: File, mut chunks: mpsc::UnboundedReceiver<Bytes>, out: mpsc::Sender<Frame>) {
    let mut untold = 0;
    while let Some(bytes) = chunks.recv().await {
        // A command that closed its input takes the rest as /dev/null would.
        let _ = stdin.write_all(&bytes).await;
        untold += bytes.len();
        if untold >= TOLD {
            let _ = out.send(Frame::control(&FromCommand::StdinTaken { bytes: untold })).await;
            untold = 0;
        }
    }
}

/// Copies one output to the host until it ends, or its command does and what it had written is
/// drained.
async fn pump(channel: u8, mut file: File, out: mpsc::Sender<Frame>, mut is_over: watch::Receiver<bool>) {
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
}

#[cfg(test)]
mod tests {
    use tokio::io::{ReadHalf, WriteHalf};
    use tokio_util::codec::{FramedRead, FramedWrite};

    use super::*;
    use crate::frame::FrameCodec;
    use crate::guest::exec::registry::tests::script;
    use crate::link::{self, Mux, MuxStream};
    use crate::protocol::exec::{STDERR, STDOUT};

    /// A link to an agent, and a stream on it to a command that runs `text`.
    async fn run(registry: &Arc<Registry>, text: &'static str) -> (Mux, Reader, Writer) {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (mux, driver) = Mux::host(host);
        tokio::spawn(driver);
        let registry = Arc::clone(registry);
        tokio::spawn(link::serve(guest, move |stream| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move {
                let (mut reader, writer) = frames(stream);
                reader.next().await.unwrap().unwrap();
                let (process, stdio) = script(text).await;
                let mut stream = Stream::attach(&registry, registry.add(process), stdio, reader, writer).await;
                let exit = stream.wait().await;
                stream.say(&FromCommand::Exited(exit)).await;
                stream.close().await;
            });
        }));
        let (mut reader, mut writer) = frames(mux.open().await.unwrap());
        writer.send(Frame::control(&"a request")).await.unwrap();
        let answer = reader.next().await.unwrap().unwrap();
        assert!(matches!(answer.message(), Ok(AgentReply::Ok(Started { pid: 1.. }))), "{answer:?}");
        (mux, reader, writer)
    }

    fn frames(stream: MuxStream) -> (Reader, Writer) {
        let (read, write): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(stream);
        (FramedRead::new(read, FrameCodec), FramedWrite::new(write, FrameCodec))
    }

    #[tokio::test]
    async fn command_gets_its_input_and_all_it_wrote_comes_before_its_exit() {
        let registry = Arc::default();
        let (_mux, mut reader, mut writer) = run(&registry, "cat; echo no >&2; exit 3").await;
        let sent = vec![b'x'; TOLD + 1];
        for chunk in sent.chunks(CHUNK) {
            writer.send(Frame::Data(STDIN, Bytes::copy_from_slice(chunk))).await.unwrap();
        }
        writer.send(Frame::control(&ToCommand::StdinClosed)).await.unwrap();
        let (mut output, mut errors, mut taken) = (Vec::new(), Vec::new(), 0);
        let exit = loop {
            match reader.next().await.unwrap().unwrap() {
                Frame::Data(STDOUT, bytes) => output.extend_from_slice(&bytes),
                Frame::Data(STDERR, bytes) => errors.extend_from_slice(&bytes),
                frame => match frame.message().unwrap() {
                    FromCommand::StdinTaken { bytes } => taken += bytes,
                    FromCommand::Exited(exit) => break exit,
                    other => panic!("{other:?}"),
                },
            }
        };
        assert!(output == sent);
        assert_eq!((&errors[..], exit), (&b"no\n"[..], Exit::Code(3)));
        assert!((TOLD..=sent.len()).contains(&taken), "{taken}");
        assert!(reader.next().await.is_none());
        assert_eq!(registry.running(), []);
    }

    #[tokio::test]
    async fn stream_that_ends_hangs_its_command_up() {
        let registry = Arc::default();
        let (_mux, reader, writer) = run(&registry, "exec sleep 100").await;
        assert_eq!(registry.running().len(), 1);
        drop((reader, writer));
        let removed = async {
            while !registry.running().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(4), removed).await.expect("a command that is hung up ends within the grace period");
    }

    #[tokio::test]
    async fn signals_reach_the_command() {
        let registry = Arc::default();
        let (_mux, mut reader, mut writer) = run(&registry, "exec sleep 100").await;
        writer.send(Frame::control(&ToCommand::Signal { signal: libc::SIGUSR1 })).await.unwrap();
        let exit = reader.next().await.unwrap().unwrap();
        assert!(matches!(exit.message(), Ok(FromCommand::Exited(Exit::Signal(10)))), "{exit:?}");
    }
}
