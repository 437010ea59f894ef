//! What can go wrong with a VM, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use banger_util::text::printable;
use serde::{Deserialize, Serialize};

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about a VMM that does not find what it is made of, under the rules that confine it.
pub(crate) const CONFINED: &str = "QEMU may read system directories, and `lib` and `share/qemu` beside the `bin` that it is in: \
                                   use the package of your distribution, or one that is installed like that";

/// What went wrong. [`Error::hint`] says what to do next, [`Error::console_tail`] what the guest
/// had to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: a verb, as in "cannot `action` `path`".
        action: &'static str,
        /// The file or directory that it was tried on.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A program of the host is not installed.
    #[error("`{program}` was not found on this machine")]
    ProgramMissing {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program of the host ran and failed.
    #[error("`{program}` failed ({status}): {output}")]
    ProgramFailed {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its standard error, made printable.
        output: String,
    },
    /// A backend cannot be used on this machine.
    #[error("{}", .0.message)]
    Backend(Failure),
    /// The VMM cannot be run under the rules that confine it.
    #[error("cannot run {}, confined to the VM's files: {source}", path.display())]
    Vmm {
        /// The VMM's program.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Not a valid name of a VM.
    #[error("`{}` cannot name a VM: use 1 to 64 of a-z, 0-9, `.`, `_` and `-`, starting with a letter or digit", printable(.0.as_bytes()))]
    InvalidName(String),
    /// There is a VM of this name already.
    #[error("a VM named `{0}` exists already")]
    Exists(String),
    /// There is no VM of this name (any more).
    #[error("there is no VM named `{0}`")]
    NotFound(String),
    /// A state file is not what was written there.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A state file was written by a later version.
    #[error("{} has format {found}, and this banger knows formats up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The latest format known here.
        known: u32,
    },
    /// What was asked for needs a VM that is stopped.
    #[error("the VM `{0}` is running")]
    Running(String),
    /// What was asked for needs a VM that is running.
    #[error("the VM `{0}` is not running")]
    NotRunning(String),
    /// The VM is going down in order.
    #[error("the VM `{0}` is going down")]
    GoingDown(String),
    /// A command runs in the VM, or a connection to one of its ports is open.
    #[error("the VM `{0}` is in use: a command runs in it, or a connection to a forwarded port is open")]
    InUse(String),
    /// Another command works on the VM, and did not finish in time.
    #[error("another command has been working on the VM `{0}` for too long")]
    Busy(String),
    /// The agent's binary can not be an `/init`.
    #[error("{} cannot be the guest's agent: {reason}", path.display())]
    NotStatic {
        /// The binary.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The VM did not come up.
    #[error("the VM `{name}` did not start: {}", failure.message)]
    Boot {
        /// The VM.
        name: String,
        /// What its supervisor reports.
        failure: Failure,
    },
    /// A running VM's supervisor refused, or could not do, what it was asked.
    #[error("the VM `{name}`: {}", failure.message)]
    Refused {
        /// The VM.
        name: String,
        /// What its supervisor reports.
        failure: Failure,
    },
    /// A running VM's supervisor serves as many clients as it can.
    #[error("too many commands use the VM `{0}` at once")]
    TooManyClients(String),
    /// Ports of the host cannot be forwarded to the VM as was asked, or are not.
    #[error("the VM `{name}`: {reason}")]
    Ports {
        /// The VM.
        name: String,
        /// Why: a sentence without a full stop.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A running VM's supervisor did not answer as it should.
    #[error("the supervisor of the VM `{name}` does not answer: {reason}")]
    Supervisor {
        /// The VM.
        name: String,
        /// What happened instead.
        reason: String,
    },
}

/// A supervisor's account of what went wrong, as it crosses the process boundary.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// What was tried and what went wrong.
    pub message: String,
    /// What to do next, a hint a line.
    #[serde(default)]
    pub hint: Option<String>,
    /// The last lines of the guest's console, made printable.
    #[serde(default)]
    pub console_tail: Vec<String>,
    /// What a program may do about it.
    #[serde(default, deserialize_with = "known_kind")]
    pub(crate) kind: FailureKind,
}

/// Reads a kind; one that only a later version knows is [`FailureKind::Other`].
fn known_kind<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<FailureKind, D::Error> {
    let kind: serde_json::Value = serde::Deserialize::deserialize(deserializer)?;
    Ok(serde_json::from_value(kind).unwrap_or_default())
}

/// Failures that programs tell apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// Any other.
    #[default]
    Other,
    /// The VM is shutting down: once it is down, it can be started again.
    GoingDown,
    /// The supervisor serves as many clients as it can.
    Busy,
    /// The VM is in use, and is to stop only if it is not.
    InUse,
    /// The supervisor does not know the operation: it is of another version of banger.
    #[serde(rename = "unknown_request")]
    UnknownOperation,
    /// The VM has failed: its agent is lost, or was never there. All that can be done is to stop
    /// it.
    VmFailed,
    /// The guest reset itself while it booted, as a kernel that panics does.
    GuestReset,
    /// The backend's program is not installed.
    ProgramMissing,
    /// KVM does not run this guest, as the VMM found out: another accelerator may.
    KvmUnfit,
    /// Somebody stopped the VM while it booted.
    Stopped,
}

impl Failure {
    /// A failure without a hint.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), ..Failure::default() }
    }

    /// The failure to serve somebody who came too late.
    pub(crate) fn going_down() -> Self {
        Failure::new("the VM is going down").of_kind(FailureKind::GoingDown).with_hint("run it again")
    }

    /// The refusal to stop a VM that is in use.
    pub(crate) fn in_use() -> Self {
        Failure::new("the VM is in use").of_kind(FailureKind::InUse)
    }

    /// This failure as one of another kind.
    pub(crate) fn of_kind(mut self, kind: FailureKind) -> Self {
        self.kind = kind;
        self
    }

    /// This failure with a hint: what to do next.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Backend(failure) => return failure,
            Error::ProgramMissing { .. } => FailureKind::ProgramMissing,
            _ => FailureKind::Other,
        };
        Failure { message: error.to_string(), hint: error.hint(), kind, ..Failure::default() }
    }
}

impl Error {
    /// Whether the VM did not start because somebody stopped it while it booted.
    pub fn is_stopped_boot(&self) -> bool {
        matches!(self, Error::Boot { failure, .. } if failure.kind == FailureKind::Stopped)
    }

    /// What to do next, if there is something to say: a hint a line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Io { source, path, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some disk space and run it again".into())
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some(format!("banger keeps its state there: make {} writable for you", path.display()))
                }
                _ => None,
            },
            Error::ProgramMissing { package, .. } => Some(format!("install the package `{package}`")),
            Error::Vmm { .. } => Some(CONFINED.into()),
            Error::Exists(_) | Error::InvalidName(_) => Some("choose another name".into()),
            Error::Damaged { .. } => Some("delete this VM; the next command makes a new one".into()),
            Error::Newer { .. } => Some("use the newer banger that made it, or delete this VM".into()),
            Error::Running(_) => Some("stop it first".into()),
            Error::GoingDown(_) => Some("run it again".into()),
            Error::InUse(_) => Some("wait for the command to end".into()),
            Error::TooManyClients(_) => Some("wait for one of them to end".into()),
            Error::Busy(_) => Some("wait for the other command, or end it".into()),
            Error::NotStatic { .. } => Some("install banger anew: its parts do not fit together".into()),
            Error::Supervisor { .. } => Some("stop the VM; the next command starts it anew".into()),
            Error::Backend(failure) | Error::Boot { failure, .. } | Error::Refused { failure, .. } => {
                failure.hint.clone()
            }
            Error::Ports { hint, .. } => Some(hint.clone()),
            Error::ProgramFailed { .. } | Error::NotFound(_) | Error::NotRunning(_) => None,
        }
    }

    /// The last lines of the guest's console, made printable, where they help to understand the
    /// error.
    pub fn console_tail(&self) -> &[String] {
        match self {
            Error::Boot { failure, .. } | Error::Refused { failure, .. } => &failure.console_tail,
            _ => &[],
        }
    }
}

/// Says on what an I/O operation failed.
pub(crate) trait IoContext<T> {
    /// `action` is a verb: "cannot `action` `path`: …".
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).at(action, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_of_newer_version_deserializes() {
        let read = |json: &str| serde_json::from_str::<Failure>(json).unwrap();
        assert_eq!(read(r#"{"message":"m","kind":"busy"}"#).kind, FailureKind::Busy);
        for json in [r#"{"message":"m"}"#, r#"{"message":"m","kind":"unheard_of","more":1}"#] {
            assert_eq!(read(json), Failure::new("m"));
        }
    }
}
