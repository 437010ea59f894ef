//! Why a sync did not happen.

use std::io;
use std::path::PathBuf;

use banger_agent::protocol::sync::{Conflict, MAX_NAMED, Side};
use banger_agent::protocol::{AgentFailure, AgentFailureKind};

use crate::error::{CommandError, ErrorKind};
use crate::git::GitError;
use crate::vm::agent::AgentError;

/// Why the guest was not brought to the host's state. Nothing was changed there.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The host's repository cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A file of the host cannot be read.
    #[error("{0}")]
    Host(io::Error),
    /// The state of the last sync cannot be read or written.
    #[error("cannot keep the state of the sync: {0}")]
    State(io::Error),
    /// The disk that the workspace comes on cannot be written.
    #[error("cannot write the workspace's disk: {0}")]
    Disk(io::Error),
    /// The VM's side failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The VM's disk is full. The guest has the files of an earlier sync, and may have some of this
    /// one.
    #[error(transparent)]
    GuestFull(AgentFailure),
    /// Something was written in the guest while it was synced, by commands that run there.
    #[error(transparent)]
    GuestChanged(AgentFailure),
    /// A file of the host may not be read.
    #[error("{0}")]
    Unreadable(io::Error),
    /// A file changed while it was sent.
    #[error("`{}` changes faster than it can be sent", .0.display())]
    Changed(PathBuf),
    /// Another command's sync of the workspace does not come to its end.
    #[error("another command syncs this workspace, and does not come to its end")]
    Busy,
    /// Both sides changed the same things.
    #[error("{count} changed both here and in the guest since the last sync")]
    Conflicts {
        /// How many things.
        count: ChangeCount,
        /// The first of them.
        conflicts: Vec<Conflict>,
    },
}

impl SyncError {
    /// The error of a sync into a guest that has files of an earlier one.
    pub(super) fn of_later_sync(self) -> SyncError {
        match self {
            SyncError::Agent(AgentError::Refused(failure)) if failure.kind == AgentFailureKind::NoSpace => {
                SyncError::GuestFull(failure)
            }
            SyncError::Agent(AgentError::Refused(failure)) if failure.kind == AgentFailureKind::Changed => {
                SyncError::GuestChanged(failure)
            }
            error => error,
        }
    }
}

impl From<io::Error> for SyncError {
    fn from(error: io::Error) -> Self {
        AgentError::from(error).into()
    }
}

impl From<AgentFailure> for SyncError {
    fn from(failure: AgentFailure) -> Self {
        AgentError::from(failure).into()
    }
}

impl From<SyncError> for CommandError {
    fn from(error: SyncError) -> Self {
        let message = error.to_string();
        match error {
            SyncError::Git(error) => error.into(),
            SyncError::Agent(error) => error.into(),
            SyncError::GuestFull(failure) | SyncError::GuestChanged(failure) => failure.into(),
            SyncError::Host(error) | SyncError::Unreadable(error) => {
                CommandError::new(format!("cannot read the workspace: {message}")).kind((&error).into())
            }
            SyncError::State(error) | SyncError::Disk(error) => {
                let (failed, kind) = (CommandError::new(message), ErrorKind::from(&error));
                let failed = failed.kind(kind);
                match kind {
                    ErrorKind::NoSpace => {
                        failed.hint("free some space, and run it again; what banger takes of it: banger du")
                    }
                    _ => failed,
                }
            }
            SyncError::Changed(_) => CommandError::new(message)
                .kind(ErrorKind::FilesChanging)
                .hint("run it again when the files are at rest"),
            SyncError::Busy => CommandError::new(message)
                .kind(ErrorKind::VmBusy)
                .hint("end that command, or stop the VM: banger stop --force"),
            SyncError::Conflicts { conflicts, .. } => {
                let name = |path| banger_vmm::printable(path);
                let mut error = CommandError::new(message).kind(ErrorKind::Conflict);
                error.details = conflicts
                    .iter()
                    .take(MAX_NAMED)
                    .map(|c| {
                        format!("{} ({} here, {} in the VM)", name(&c.path.0), describe(c.host), describe(c.guest))
                    })
                    .collect();
                error.hint("take this side's: --host-wins").hint("keep the VM's: --guest-wins")
            }
        }
    }
}

/// What a side of a conflict did.
fn describe(side: Side) -> &'static str {
    match side {
        Side::Changed => "changed",
        Side::Added => "added",
        Side::Deleted => "deleted",
    }
}

/// A number of things, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeCount(pub u64);

impl std::fmt::Display for ChangeCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("1 thing was"),
            count => write!(f, "{count} things were"),
        }
    }
}
