//! This process's standard streams. Reading and writing them may block for as long as it likes, so
//! each has a thread.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use banger_agent::frame::{CHUNK, MAX_DATA};
use banger_agent::protocol::exec::STDERR;
use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

/// Chunks of standard input, none after its end. A chunk is read once the one before it was taken
/// from the queue.
pub(super) fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (send, receive) = mpsc::channel(1);
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        while let Ok(place) = futures::executor::block_on(send.reserve()) {
            let count = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(io::stdin().as_fd(), PollFlags::POLLIN);
                    continue;
                }
                Err(_) => return,
            };
            place.send(Bytes::copy_from_slice(&buffer[..count]));
        }
    });
    receive
}

/// A thread that writes what it is sent to standard output and standard error.
pub(super) struct Writer {
    chunks: mpsc::Sender<(u8, Bytes)>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl Writer {
    pub(super) fn start() -> Writer {
        // Few, so that a reader that is slow slows the command down.
        let (chunks, mut queue) = mpsc::channel::<(u8, Bytes)>(4);
        let thread = thread::spawn(move || {
            while let Some((channel, chunk)) = queue.blocking_recv() {
                match channel {
                    STDERR => write_all(io::stderr().as_fd(), &chunk)?,
                    _ => write_all(io::stdout().as_fd(), &chunk)?,
                }
            }
            Ok(())
        });
        Writer { chunks, thread }
    }

    /// Waits until a chunk can be queued without waiting.
    pub(super) async fn has_room(&self) {
        // Whether the queue is closed is for `write` to say.
        let _ = self.chunks.reserve().await;
    }

    /// Queues a chunk; false when its stream cannot be written any more.
    pub(super) async fn write(&self, channel: u8, chunk: Bytes) -> bool {
        debug_assert!(chunk.len() <= MAX_DATA);
        self.chunks.send((channel, chunk)).await.is_ok()
    }

    /// Completes when the reader of a stream has gone away.
    pub(super) async fn closed(&self) {
        self.chunks.closed().await;
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// What kept it from being written.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.chunks);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")))
    }
}

/// Past the standard library's buffers: bytes leave as they come.
fn write_all(fd: BorrowedFd<'_>, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match nix::unistd::write(fd, rest) {
            Ok(count) => rest = &rest[count..],
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => wait_for(fd, PollFlags::POLLOUT),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A standard stream may be in non-blocking mode by another process's doing.
fn wait_for(fd: BorrowedFd<'_>, events: PollFlags) {
    // Whatever it says, the next read or write says it better.
    let _ = poll(&mut [PollFd::new(fd, events)], PollTimeout::NONE);
}
