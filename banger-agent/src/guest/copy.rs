//! Copies out of the guest and into it: the guest's side of [`crate::protocol::copy`].

use std::io::{self, Read, Write};
use std::path::Path;

use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::stream::{Reader, Writer};
use crate::copy::{AsSent, CopyError, Opened, Target, receive, send};
use crate::frame::{Frame, MAX_DATA};
use crate::protocol::copy::{Announced, CONTENT, CopyIn, CopyOut, FromCopy, ToCopy};
use crate::protocol::{AgentFailure, AgentFailureKind, AgentReply};

/// Chunks that wait between the link and the disk.
const CHUNKS: usize = 4;

/// Sends files to the host.
pub(super) async fn out(request: CopyOut, mut writer: Writer) {
    let opened = spawn_blocking(move || Opened::new(Path::new(request.path.as_os_str()))).await;
    let opened = match opened.map_err(|error| other(&error)).and_then(|opened| opened.map_err(|e| failure(&e))) {
        Ok(opened) => opened,
        Err(failure) => return answer(writer, &AgentReply::<()>::Error(failure)).await,
    };
    if writer.send(Frame::control(&AgentReply::Ok(Announced::from(opened.source.clone())))).await.is_err() {
        return;
    }
    let (sender, mut chunks) = mpsc::channel(CHUNKS);
    let sending = spawn_blocking(move || send(opened, &mut Chunks { sender, gathered: Vec::new() }));
    while let Some(chunk) = chunks.recv().await {
        // A host that is gone needs no more: the sending ends with the channel.
        if writer.send(Frame::Data(CONTENT, chunk)).await.is_err() {
            return;
        }
    }
    finish(writer, sending.await).await;
}

/// Writes files of the host. `flush` makes them safe.
pub(super) async fn into(request: CopyIn, mut reader: Reader, mut writer: Writer, flush: impl Future<Output = ()>) {
    let found = spawn_blocking(move || Target::find(Path::new(request.path.as_os_str()), &request.source)).await;
    let target = match found.map_err(|error| other(&error)).and_then(|found| found.map_err(|e| failure(&e))) {
        Ok(target) => target,
        Err(failure) => return answer(writer, &AgentReply::<()>::Error(failure)).await,
    };
    if writer.send(Frame::control(&AgentReply::Ok(()))).await.is_err() {
        return;
    }
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let receiving = spawn_blocking(move || {
        let mut input = Input { chunks, chunk: Bytes::new(), ended: false };
        receive(target, &mut input, &mut AsSent)
    });
    let mut sender = Some(sender);
    loop {
        let chunk = match reader.next().await {
            Some(Ok(Frame::Data(CONTENT, chunk))) => Some(chunk),
            Some(Ok(frame)) if frame.message::<ToCopy>().is_ok() => None,
            // A host that is gone has not sent all: the receiving sees the channel end without
            // this.
            _ => break,
        };
        let is_last = chunk.is_none();
        // The host does not listen while it sends: what cannot be written any more is taken all the
        // same.
        if let Some(receiving) = &sender
            && receiving.send(chunk).await.is_err()
        {
            sender = None;
        }
        if is_last {
            break;
        }
    }
    drop(sender);
    let received = receiving.await;
    flush.await;
    finish(writer, received).await;
}

async fn finish<E: std::fmt::Display>(
    writer: Writer,
    outcome: Result<Result<crate::protocol::copy::Copied, CopyError>, E>,
) {
    let last = match outcome {
        Ok(Ok(copied)) => FromCopy::Done(copied),
        Ok(Err(error)) => FromCopy::Failed(failure(&error)),
        Err(error) => FromCopy::Failed(other(&error)),
    };
    answer(writer, &last).await;
}

async fn answer<T: serde::Serialize>(mut writer: Writer, message: &T) {
    let _ = writer.send(Frame::control(message)).await;
    let _ = writer.close().await;
}

fn other(error: &impl std::fmt::Display) -> AgentFailure {
    AgentFailure::new(AgentFailureKind::Other, format!("the agent cannot copy: {error}"))
}

fn failure(error: &CopyError) -> AgentFailure {
    let kind = match error {
        CopyError::Io { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => AgentFailureKind::NoSuchFile,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AgentFailureKind::NoSpace,
            _ => AgentFailureKind::Other,
        },
        _ => AgentFailureKind::Other,
    };
    AgentFailure::new(kind, format!("in the VM: {error}"))
}

/// Gathers what is written into chunks as long as a frame may be.
struct Chunks {
    sender: mpsc::Sender<Bytes>,
    gathered: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_DATA - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..count]);
        if self.gathered.len() == MAX_DATA {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.gathered, Vec::with_capacity(MAX_DATA));
        self.sender.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads what a channel brings. None is the end; a channel that ends before was cut off.
struct Input {
    chunks: mpsc::Receiver<Option<Bytes>>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.chunk = chunk,
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
