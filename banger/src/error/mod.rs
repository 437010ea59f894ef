//! What ends a command of banger's, with the exit status that it deserves.

mod kind;
mod libraries;
mod usage;

use std::path::Path;

use serde::Serialize;

pub use self::kind::{ErrorKind, FAILED, NOT_EXECUTABLE, NOT_FOUND, TIMED_OUT};

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

    /// Sets the kind, by which scripts tell errors apart.
    #[must_use]
    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the lines that are shown below the message.
    #[must_use]
    pub fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// Adds a hint: what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Replaces hints that need the name of the VM, which is `name`.
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use banger_agent::protocol::{AgentFailure, AgentFailureKind};

    use super::*;

    #[test]
    fn error_kinds_have_unique_names_and_set_exit_code() {
        let names: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
        let failure = AgentFailure::new(AgentFailureKind::CommandNotFound, "no \u{1b}[31mcommand");
        let answer = serde_json::to_value(CommandError::from(failure).hint("try").answer()).unwrap();
        let expected = serde_json::json!({
            "kind": "command_not_found", "message": "no ^[[31mcommand", "details": [], "hints": ["try"], "exit_code": 127,
        });
        assert_eq!(answer, expected);
    }
}
