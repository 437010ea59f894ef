//! Operations of the agent for tasks: no read or write blocks.

use std::os::unix::net::UnixStream as StdUnixStream;

use banger_agent::frame::{Frame, FrameCodec, FrameError, FrameReader};
use banger_agent::link::PAYLOAD;
use banger_agent::protocol::{AgentReply, AgentRequest};
use banger_vmm::Vm;
use futures::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::codec::FramedWrite;

use super::{ANSWER_LIMIT, AgentError, FRAME_LIMIT};

/// The frames of an operation that come from the agent. A frame must be whole within 30
/// seconds of its first byte.
pub type Reader = FrameReader<OwnedReadHalf>;
/// The frames of an operation that go to the agent.
pub type Writer = FramedWrite<OwnedWriteHalf, FrameCodec>;

/// Opens a stream to the agent, begins an operation on it, and waits for the answer.
///
/// # Errors
/// If the VM or its agent is gone, or the request is refused.
pub async fn begin<T: DeserializeOwned>(vm: &Vm, request: &AgentRequest) -> Result<(T, Reader, Writer), AgentError> {
    let vm = vm.clone();
    // This waits while other commands have all the streams that there are.
    let opened = spawn_blocking(move || vm.connect_agent()).await;
    begin_on(opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?, request).await
}

/// Begins an operation on an open stream to the agent, on which nothing has been said, and waits
/// for the answer.
///
/// # Errors
/// If the VM or its agent is gone, or the request is refused.
pub(crate) async fn begin_on<T: DeserializeOwned>(
    stream: StdUnixStream,
    request: &AgentRequest,
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
        AgentReply::Ok(answer) => Ok((answer, reader, writer)),
        AgentReply::Error(failure) => Err(AgentError::Refused(failure)),
    }
}
