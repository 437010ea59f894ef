//! The same for tasks, whose reads and writes do not block.

use std::os::unix::net::UnixStream as StdUnixStream;

use banger_agent::frame::{Frame, FrameCodec, FrameError, FrameReader};
use banger_agent::link::PAYLOAD;
use banger_agent::protocol::{Reply, Request};
use banger_vmm::Vm;
use futures::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::codec::FramedWrite;

use super::{ANSWER_LIMIT, AgentError, FRAME_LIMIT};

/// The frames of an operation, from the agent: one that has begun is whole within half a minute,
pub type Reader = FrameReader<OwnedReadHalf>;
/// and to it.
pub type Writer = FramedWrite<OwnedWriteHalf, FrameCodec>;

/// Begins an operation, and waits for the agent's answer.
///
/// # Errors
/// If the VM or its agent is gone, or the request is refused.
pub async fn begin<T: DeserializeOwned>(vm: &Vm, request: &Request) -> Result<(T, Reader, Writer), AgentError> {
    let vm = vm.clone();
    // This waits while other commands have all the streams that there are.
    let opened = spawn_blocking(move || vm.connect_agent()).await;
    begin_on(opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?, request).await
}

/// The same on a stream to the agent that is there.
///
/// # Errors
/// If the VM or its agent is gone, or the request is refused.
pub(crate) async fn begin_on<T: DeserializeOwned>(
    stream: StdUnixStream,
    request: &Request,
) -> Result<(T, Reader, Writer), AgentError> {
    stream.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(stream)?.into_split();
    let mut reader = FrameReader::new(read, PAYLOAD, FRAME_LIMIT);
    let mut writer = FramedWrite::new(write, FrameCodec);
    let answer = async {
        writer.send(Frame::control(request)).await?;
        reader.next().await.unwrap_or(Err(FrameError::Ended))
    };
    match timeout(ANSWER_LIMIT, answer).await.map_err(|_| AgentError::Silent)??.message()? {
        Reply::Ok(answer) => Ok((answer, reader, writer)),
        Reply::Error(failure) => Err(AgentError::Refused(failure)),
    }
}
