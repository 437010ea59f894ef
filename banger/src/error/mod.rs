//! What ends a command of banger's, with the exit status that it deserves.

mod kind;
mod usage;

use std::path::Path;

use banger_agent::protocol::sync::MAX_NAMED;
use banger_agent::protocol::{Failure, FailureKind};
use serde::Serialize;

pub use self::kind::{ErrorKind, FAILED, NOT_EXECUTABLE, NOT_FOUND, TIMED_OUT};
use crate::git::GitError;
use crate::sync::SyncError;
use crate::vm::agent::AgentError;

/// How the hint begins that names the command for all that a guest has said.
pub(crate) const WHOLE_CONSOLE: &str = "for all that the guest said: banger logs";

/// An error for the user: what was tried and went wrong, and what to do next.
#[derive(Debug)]
pub struct CommandError {
    /// What a program goes by, and what gives the exit status.
    pub kind: ErrorKind,
    /// One sentence.
    pub message: String,
    /// More of it, a line each: what the guest's console said, which files are concerned.
    pub details: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

/// A [`CommandError`] as `--json` has it.
#[derive(Debug, Serialize)]
pub struct ErrorAnswer {
    /// See [`ErrorKind::name`].
    pub kind: &'static str,
    /// One sentence.
    pub message: String,
    /// More of it.
    pub details: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
    /// The exit status.
    pub exit_code: u8,
}

impl CommandError {
    /// A failure of banger's own.
    pub fn new(message: impl Into<String>) -> Self {
        CommandError { kind: ErrorKind::Failed, message: message.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// The same, of this kind.
    #[must_use]
    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// The same, with these lines of details.
    #[must_use]
    pub fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same, with hints for the VM named `name` where the error does not know its VM.
    #[must_use]
    pub fn in_vm(mut self, name: &str) -> Self {
        if self.kind == ErrorKind::GuestFull {
            self.hints = vec![
                format!("free some space in the VM: banger vm exec {name} -- COMMAND"),
                format!("make its disk larger: banger config set disk SIZE, then banger restart {name}"),
            ];
        }
        self
    }

    /// `cannot <action> <path>: <why>`.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        CommandError::new(format!("cannot {action} `{}`: {error}", path.display())).kind(error.into())
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        self.kind.status()
    }

    /// As `--json` has it: foreign text in it is printable.
    pub fn answer(&self) -> ErrorAnswer {
        let clean = |text: &String| banger_vmm::printable(text.as_bytes());
        ErrorAnswer {
            kind: self.kind.name(),
            message: clean(&self.message),
            details: self.details.iter().map(clean).collect(),
            hints: self.hints.iter().map(clean).collect(),
            exit_code: self.status(),
        }
    }
}

impl From<GitError> for CommandError {
    fn from(error: GitError) -> Self {
        let kind = match &error {
            GitError::NotARepository { .. } | GitError::Bare { .. } | GitError::InsideGitDir { .. } => {
                ErrorKind::NoWorkspace
            }
            GitError::DubiousOwnership { .. } | GitError::Outside { .. } => ErrorKind::UntrustedRepository,
            GitError::Io { source, .. } => source.into(),
            _ => ErrorKind::Repository,
        };
        let hints = error.hint().into_iter().collect();
        CommandError { kind, hints, ..CommandError::new(error.to_string()) }
    }
}

impl From<banger_vmm::Error> for CommandError {
    fn from(error: banger_vmm::Error) -> Self {
        use banger_vmm::Error;
        let kind = match &error {
            Error::Io { source, .. } => source.into(),
            Error::ProgramMissing { .. } => ErrorKind::MissingProgram,
            Error::NotFound(_) => ErrorKind::VmNotFound,
            Error::InvalidName(_) => ErrorKind::Usage,
            Error::Exists(_) => ErrorKind::VmExists,
            Error::Damaged { .. } => ErrorKind::StateDamaged,
            Error::Newer { .. } => ErrorKind::StateNewer,
            Error::Running(_) => ErrorKind::VmRunning,
            Error::NotRunning(_) => ErrorKind::VmNotRunning,
            Error::Busy(_) | Error::InUse(_) | Error::TooManyClients(_) => ErrorKind::VmBusy,
            Error::GoingDown(_) => ErrorKind::VmEnded,
            Error::NotStatic { .. } => ErrorKind::Installation,
            Error::Ports { .. } => ErrorKind::Port,
            Error::Boot { .. } | Error::Refused { .. } | Error::Supervisor { .. } => ErrorKind::VmFailed,
            _ => ErrorKind::Failed,
        };
        let logs = match &error {
            Error::Boot { name, .. } => Some(format!("{WHOLE_CONSOLE} {name}")),
            _ => None,
        };
        let hint = error.hint().unwrap_or_default();
        let hints = hint.lines().map(str::to_owned).chain(logs).collect();
        let mut details: Vec<_> = error.console_tail().to_vec();
        if !details.is_empty() {
            details.insert(0, "the end of the guest's console:".into());
        }
        CommandError { kind, hints, details, ..CommandError::new(error.to_string()) }
    }
}

impl From<banger_image::Error> for CommandError {
    fn from(error: banger_image::Error) -> Self {
        use banger_image::Error;
        let kind = match &error {
            Error::InvalidName { .. } | Error::Reference { .. } | Error::BadName { .. } | Error::KernelName { .. } => {
                ErrorKind::Usage
            }
            Error::Unknown { .. } | Error::NotInRegistry { .. } | Error::NotHere { .. } => ErrorKind::UnknownImage,
            Error::InUse { .. } => ErrorKind::ImageInUse,
            Error::KernelInUse { .. } => ErrorKind::KernelInUse,
            Error::Server { .. } | Error::Unauthorized { .. } | Error::WrongContent { .. } => ErrorKind::Registry,
            Error::Catalog { .. } => ErrorKind::Catalog,
            Error::Exists { .. } => ErrorKind::ImageExists,
            Error::MissingTool { .. } => ErrorKind::MissingProgram,
            Error::Damaged { .. } => ErrorKind::StateDamaged,
            Error::Io(source) | Error::FileSystem(banger_image::ext4::Error::Image(source)) => source.into(),
            _ => ErrorKind::Image,
        };
        let hints = error.hint().into_iter().collect();
        // What a program of the host said comes below.
        let text = error.to_string();
        let mut lines = text.lines();
        let message = lines.next().unwrap_or_default().to_owned();
        let details = lines.map(|line| line.trim_start().to_owned()).collect();
        CommandError { kind, hints, details, ..CommandError::new(message) }
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        let error = CommandError::new(failure.message);
        match failure.kind {
            FailureKind::CommandNotFound => error.kind(ErrorKind::CommandNotFound),
            FailureKind::NotExecutable => error.kind(ErrorKind::CommandNotExecutable),
            FailureKind::NoSuchFolder => error.kind(ErrorKind::NoSuchFolder),
            FailureKind::NoSuchUser => error.kind(ErrorKind::NoSuchUser),
            FailureKind::NoSpace => error.kind(ErrorKind::GuestFull).in_vm("NAME"),
            FailureKind::BadRequest => error
                .kind(ErrorKind::Guest)
                .hint("the VM may run the agent of another version of banger: banger restart"),
            FailureKind::Changed => error.kind(ErrorKind::Guest).hint("run it again; nothing was overwritten"),
            FailureKind::NoSuchFile | FailureKind::TooLong | FailureKind::Other => error.kind(ErrorKind::Guest),
        }
    }
}

impl From<AgentError> for CommandError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Vm(error) => error.into(),
            AgentError::Refused(failure) => failure.into(),
            AgentError::Silent => {
                CommandError::new(error.to_string()).kind(ErrorKind::Agent).hint("stop the VM: banger stop --force")
            }
            AgentError::Broken(_) => CommandError::new(error.to_string())
                .kind(ErrorKind::Agent)
                .hint("run it again: the VM is started if it does not run"),
        }
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_kind_has_a_name_of_its_own_and_gives_the_status() {
        let names: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
        let failure = Failure::new(FailureKind::CommandNotFound, "no \u{1b}[31mcommand");
        let answer = serde_json::to_value(CommandError::from(failure).hint("try").answer()).unwrap();
        let expected = serde_json::json!({
            "kind": "command_not_found", "message": "no ^[[31mcommand", "details": [], "hints": ["try"], "exit_code": 127,
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn each_line_of_a_hint_is_a_hint_and_a_full_disk_names_its_vm() {
        let failure = serde_json::json!({"message": "late", "hint": "a\nb"});
        let failure = serde_json::from_value(failure).unwrap();
        let error = CommandError::from(banger_vmm::Error::Refused { name: "box".into(), failure });
        assert_eq!(error.hints, ["a", "b"]);
        let full = CommandError::from(Failure::new(FailureKind::NoSpace, "full")).in_vm("box");
        assert!(full.hints[0].contains("banger vm exec box --") && full.hints[1].ends_with("banger restart box"));
    }

    #[test]
    fn what_a_program_of_this_machine_said_is_shown_in_lines() {
        let status = std::os::unix::process::ExitStatusExt::from_raw(1 << 8);
        let tail = vec!["E: 22.04 is not a release".to_owned(), "E: mmdebstrap failed to run".to_owned()];
        let error = banger_image::Error::ToolFailed {
            tool: "mmdebstrap",
            status,
            tail: tail.clone(),
            hint: Some("try".into()),
        };
        let error = CommandError::from(error);
        assert_eq!(error.message, "`mmdebstrap` failed (exit status: 1)");
        assert_eq!((error.details, error.hints), (tail, vec!["try".to_owned()]));
    }
}
