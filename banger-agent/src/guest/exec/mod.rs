//! Running a command: the guest's side of [`crate::protocol::exec`].
//!
//! A [`Registry`] owns the commands that run; the operation's stream is attached to its command.
//! The operation ends when the main process has ended and what it had written is sent. What it left
//! running lives on.

mod cgroup;
mod memory;
mod process;
mod pty;
mod registry;
mod spawn;
mod stream;

use std::sync::Arc;

use futures::SinkExt;

use self::process::{Process, Stdio};
pub(super) use self::registry::Registry;
use self::spawn::spawn;
use self::stream::Stream;
use super::stream::{Reader, Writer};
use crate::frame::Frame;
use crate::protocol::exec::{Exec, FromCommand, Started};
use crate::protocol::{AgentFailure, AgentFailureKind, AgentReply};

/// What a pipe to or from a command can hold, the most that pipe(7) lets a user set: each time that
/// one side has to wait for the other costs a translated guest more than what it waits for.
const MAX_PIPE: usize = 1 << 20;

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
    registry: &Arc<Registry>,
    exec: Exec,
    program: Program,
    reader: Reader,
    mut writer: Writer,
    flush: impl Future<Output = ()>,
) {
    let kills = memory::kills();
    let (process, stdio) = match start(&exec, program).await {
        Ok(started) => started,
        Err(failure) => {
            // The client may be gone; there is nobody else to tell.
            let _ = writer.send(Frame::control(&AgentReply::<Started>::Error(failure))).await;
            return;
        }
    };
    let mut stream = Stream::attach(registry, registry.add(process), stdio, reader, writer).await;
    let exit = stream.wait().await;
    flush.await;
    // A command that came through had no need of what was killed.
    if exit.status() != 0 && memory::kills() > kills {
        stream.say(&FromCommand::OutOfMemory).await;
    }
    stream.say(&FromCommand::Exited(exit)).await;
    stream.close().await;
}

/// Starts `exec`.
///
/// # Errors
/// As [`spawn`]; of another kind if the command runs and cannot be followed.
async fn start(exec: &Exec, program: Program) -> Result<(Process, Stdio), AgentFailure> {
    Process::new(spawn(exec, program)?).await.map_err(|error| {
        AgentFailure::new(AgentFailureKind::Other, format!("cannot follow a command in the guest: {error}"))
    })
}
