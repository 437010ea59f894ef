//! What ends a command of banger's, with the exit status that it deserves.

use std::path::Path;

use banger_agent::protocol::{Failure, FailureKind};

use crate::agent::AgentError;
use crate::git::GitError;
use crate::sync::SyncError;

/// The exit status of banger's own failures, as with `docker run` and `env`(1).
pub const FAILED: u8 = 125;
/// The exit status after `--timeout`, as with `timeout`(1).
pub const TIMED_OUT: u8 = 124;
/// The exit status for a command that exists and cannot be run, as a shell gives it.
pub const NOT_EXECUTABLE: u8 = 126;
/// The exit status for a command that does not exist, as a shell gives it.
pub const NOT_FOUND: u8 = 127;

/// An error for the user: what was tried and went wrong, and what to do next.
#[derive(Debug)]
pub struct CommandError {
    /// The exit status.
    pub status: u8,
    /// One sentence.
    pub message: String,
    /// More of it, a line each: what the guest's console said, which files are concerned.
    pub details: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

impl CommandError {
    /// A failure of banger's own.
    pub fn new(message: impl Into<String>) -> Self {
        CommandError { status: FAILED, message: message.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// `cannot <action> <path>: <why>`.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        CommandError::new(format!("cannot {action} `{}`: {error}", path.display()))
    }
}

impl From<GitError> for CommandError {
    fn from(error: GitError) -> Self {
        let hints = error.hint().into_iter().collect();
        CommandError { hints, ..CommandError::new(error.to_string()) }
    }
}

impl From<banger_vmm::Error> for CommandError {
    fn from(error: banger_vmm::Error) -> Self {
        let hints = error.hint().into_iter().collect();
        let mut details: Vec<_> = error.console_tail().to_vec();
        if !details.is_empty() {
            details.insert(0, "the end of the guest's console:".into());
        }
        CommandError { hints, details, ..CommandError::new(error.to_string()) }
    }
}

impl From<banger_image::Error> for CommandError {
    fn from(error: banger_image::Error) -> Self {
        let hints = error.hint().into_iter().collect();
        CommandError { hints, ..CommandError::new(error.to_string()) }
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        let mut error = CommandError::new(failure.message);
        match failure.kind {
            FailureKind::CommandNotFound => error.status = NOT_FOUND,
            FailureKind::NotExecutable => error.status = NOT_EXECUTABLE,
            FailureKind::NoSpace => {
                return error.hint("free space in the VM, or start with a new one: banger delete");
            }
            FailureKind::BadRequest => {
                return error.hint("the VM may run the agent of another version of banger: banger stop");
            }
            _ => {}
        }
        error
    }
}

impl From<AgentError> for CommandError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Vm(error) => error.into(),
            AgentError::Refused(failure) => failure.into(),
            AgentError::Silent => CommandError::new(error.to_string()).hint("stop the VM: banger stop --force"),
            AgentError::Broken(_) => CommandError::new(error.to_string())
                .hint("run it again: what was written before is safe, and the VM is started anew if it has to be"),
        }
    }
}

impl From<SyncError> for CommandError {
    fn from(error: SyncError) -> Self {
        let message = error.to_string();
        match error {
            SyncError::Git(error) => error.into(),
            SyncError::Agent(error) => error.into(),
            SyncError::Host(_) => CommandError::new(format!("cannot read the workspace: {message}")),
            SyncError::State(_) => CommandError::new(message),
            SyncError::Changed(_) => CommandError::new(message).hint("run it again when the files are at rest"),
            SyncError::Conflicts { conflicts, .. } => {
                let name = |path| banger_vmm::printable(path);
                let mut error = CommandError::new(message);
                error.details = conflicts
                    .iter()
                    .map(|c| format!("{} ({} here, {} in the VM)", name(&c.path.0), word(c.host), word(c.guest)))
                    .collect();
                error.hint("take this side's: --host-wins").hint("keep the VM's: --guest-wins")
            }
        }
    }
}

fn word(side: banger_agent::protocol::sync::Side) -> &'static str {
    use banger_agent::protocol::sync::Side;
    match side {
        Side::Changed => "changed",
        Side::Added => "added",
        Side::Deleted => "deleted",
    }
}
