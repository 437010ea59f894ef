//! The VM's agent, for tasks: each operation is a stream of its own.

use std::sync::Arc;

use banger::banger_agent::protocol::exec::Exec;
use banger::banger_agent::protocol::{AgentRequest, WireBytes};
use banger::error::{CommandError, ErrorKind};
use banger::vm::agent::begin;
pub(super) use banger::vm::agent::{Reader, Writer};
use banger::vm::guest_command::GuestCommand;
use banger::vm::running::RunningVm;
use russh::ChannelId;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// A VM that runs, for as long as it is held.
pub(crate) struct Up {
    /// The VM.
    pub(crate) machine: RunningVm,
    /// What its image and the configuration set for every command.
    pub(crate) env: Vec<(WireBytes, WireBytes)>,
}

/// A VM that runs, or will.
#[derive(Clone)]
pub(crate) struct Guest(watch::Receiver<Option<Result<Arc<Up>, Arc<CommandError>>>>);

impl Guest {
    /// `start` brings it up, on a thread of its own.
    pub(crate) fn new(start: impl FnOnce() -> Result<Up, CommandError> + Send + 'static) -> Guest {
        let (told, guest) = watch::channel(None);
        spawn_blocking(move || {
            let started = start().map(Arc::new).map_err(Arc::new);
            // Nobody listens when the client has gone meanwhile.
            let _ = told.send(Some(started));
        });
        Guest(guest)
    }

    /// The VM, once it is up.
    pub(super) async fn up(&self) -> Result<Arc<Up>, Arc<CommandError>> {
        let mut guest = self.0.clone();
        let started = guest.wait_for(Option::is_some).await.map_or(None, |started| started.clone());
        started
            .unwrap_or_else(|| Err(Arc::new(CommandError::new("the VM's start broke off").kind(ErrorKind::VmFailed))))
    }

    /// Starts a command in the VM, once the VM is up.
    pub(super) async fn spawn(&self, exec: Exec) -> Result<GuestCommand, CommandError> {
        let up = self.up().await.map_err(|error| copy(&error))?;
        Ok(GuestCommand::spawn(&up.machine.vm, exec).await?)
    }

    /// Starts the SFTP server of the VM's agent, once the VM is up.
    pub(super) async fn sftp(&self, user: Option<String>) -> Result<GuestCommand, CommandError> {
        let up = self.up().await.map_err(|error| copy(&error))?;
        Ok(GuestCommand::sftp(&up.machine.vm, user).await?)
    }

    /// Begins an operation, and waits for the agent's answer.
    pub(super) async fn open<T: DeserializeOwned>(
        &self,
        request: &AgentRequest,
    ) -> Result<(T, Reader, Writer), CommandError> {
        let up = self.up().await.map_err(|error| copy(&error))?;
        Ok(begin(&up.machine.vm, request).await?)
    }
}

/// A copy of an error, for one more who asks.
fn copy(error: &CommandError) -> CommandError {
    CommandError {
        kind: error.kind,
        message: error.message.clone(),
        details: error.details.clone(),
        hints: error.hints.clone(),
    }
}

/// Ends the task of a channel when that is closed.
pub(super) type Tasks = std::collections::HashMap<ChannelId, tokio::task::AbortHandle>;
