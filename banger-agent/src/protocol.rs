//! The operations that the agent serves, and their messages.
//!
//! One operation is one stream. Its first frame is an [`AgentRequest`]; what follows is the
//! operation's own. The agent's first frame is the operation's answer, or an [`AgentFailure`] in
//! its place: every answer is an [`AgentReply`].

pub mod copy;
pub mod exec;
pub mod forward;
pub mod sync;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::terminfo::Terminfo;
pub use crate::wire_bytes::WireBytes;

/// The first frame of a stream: which operation it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum AgentRequest {
    /// Runs a command: [`exec`].
    Exec(exec::Exec),
    /// Serves the guest's files by the SSH File Transfer Protocol, version 3. The stream goes on as
    /// that of a command does ([`exec`]), whose standard streams carry the protocol.
    Sftp {
        /// Who reads and writes the files, as in [`exec::Exec::user`].
        user: Option<String>,
    },
    /// Connects to an address in the guest: [`forward`].
    Forward(forward::Forward),
    /// Listens in the guest: [`forward`].
    Listen(forward::Listen),
    /// Tells what listens in the guest: [`forward`].
    Listeners,
    /// Takes a connection that has come to an address of [`AgentRequest::Listen`]: [`forward`].
    Accept(forward::Accept),
    /// Brings the VM's own workspace to the host's state: [`sync`].
    Sync(sync::SyncRequest),
    /// Brings a workspace that is not the VM's own to the host's state: [`sync`]. Agents
    /// of versions with a single workspace for each VM refuse the request, and so mix nothing up.
    #[serde(rename = "sync_further")]
    SyncAdditional(sync::SyncRequest),
    /// Reads one small file of the guest; the answer is [`FileInfo`], then its bytes as data on
    /// channel 1.
    ReadFile {
        /// The file's absolute path in the guest.
        path: WireBytes,
        /// A longer file is an error, in bytes.
        limit: u64,
    },
    /// Copies files of the guest to the host: [`copy`].
    CopyOut(copy::CopyOut),
    /// Copies files of the host into the guest: [`copy`].
    CopyIn(copy::CopyIn),
    /// Finds what changed in the guest alone since the last sync; the answer is
    /// [`sync::GuestOnly`].
    GuestOnly,
    /// Waits until the image's init has finished booting; the answer is [`Readiness`].
    Ready {
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Lets the user into an SSH server of the guest's own; the answer is whether the key is there,
    /// `bool`.
    Authorize(Authorize),
    /// Gives the files of a workspace to a user of the guest; the answer is how many were
    /// another's, `u64`.
    Own(Own),
    /// Lets programs in the guest know a terminal; the answer is whether they are to look for it in
    /// `/etc/terminfo`, `bool`.
    Terminfo(Terminfo),
    /// Reads how many commands run, and how full disk and memory are; the answer is [`Stat`].
    Stat,
    /// Writes out what the guest has in memory of its disks; the answer is empty.
    SyncDisks,
    /// Powers the guest off. The answer comes first, if it comes at all.
    Shutdown,
    /// Waits until the guest is about to power off or to reboot; the answer is [`PowerState`]. Once
    /// the host has ended the stream, or after a second, the guest unmounts its disks and goes. One
    /// that panics, or whose init does not run the agent's last program, goes without an answer.
    Farewell,
}

/// The answer to [`AgentRequest::Farewell`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// The guest powers off.
    PowerOff,
    /// The guest reboots.
    Reboot,
}

/// The agent's answer to an [`AgentRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentReply<T> {
    /// The operation has begun, or was done.
    Ok(T),
    /// The operation was not done.
    Error(AgentFailure),
}

/// Why the agent did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentFailure {
    /// What a program can go by.
    pub kind: AgentFailureKind,
    /// What a person reads: what was tried and what went wrong.
    pub message: String,
}

/// The kinds of [`AgentFailure`] that a caller treats apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentFailureKind {
    /// The request is not understood: unknown operation, or fields that are missing.
    BadRequest,
    /// The command does not exist (exit status 127).
    CommandNotFound,
    /// The command exists and cannot be run (exit status 126).
    NotExecutable,
    /// The folder to run in does not exist.
    NoSuchFolder,
    /// There is no such user in the guest.
    NoSuchUser,
    /// A file that was asked for does not exist.
    NoSuchFile,
    /// A file is longer than was asked for.
    TooLong,
    /// No space or inodes are left in the guest.
    NoSpace,
    /// Something was written in the guest while it was synced: to be tried again.
    Changed,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl AgentFailure {
    /// Makes a failure of `kind`. `message` is for people.
    pub fn new(kind: AgentFailureKind, message: impl Into<String>) -> Self {
        AgentFailure { kind, message: message.into() }
    }
}

/// The answer to [`AgentRequest::ReadFile`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FileInfo {
    /// The file's length in bytes: so many follow.
    pub size: u64,
}

/// The answer to [`AgentRequest::Ready`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// What the init says: `running`, `degraded`, or `starting` when the time was up; `none`
    /// without an init.
    pub state: String,
    /// Names of the systemd units that failed.
    pub failed_units: Vec<String>,
}

/// Puts a key among those that an SSH server in the guest lets in as root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Authorize {
    /// The public key, as a line of sshd(8)'s `authorized_keys`.
    pub key: String,
    /// Whether the key is put there even if the guest has no server: it is about to get one.
    pub awaited: bool,
}

/// Gives the files of a workspace to a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Own {
    /// Where the workspace is in the guest, absolute.
    pub root: WireBytes,
    /// Whom the files are given to, as in [`exec::Exec::user`].
    pub user: String,
}

/// The answer to [`AgentRequest::Stat`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stat {
    /// Commands that run at the moment.
    pub commands: u32,
    /// Bytes that the guest's disk can hold.
    pub disk_total: u64,
    /// Bytes of the guest's disk that are free.
    pub disk_free: u64,
    /// The guest's memory in bytes.
    pub memory_total: u64,
    /// Memory that could be used without swapping, in bytes.
    pub memory_available: u64,
}

/// This machine's clock, in nanoseconds since 1970: the host tells the guest, which may have been
/// paused or asleep.
pub fn now_ns() -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_of_newer_version_is_an_error() {
        assert!(serde_json::from_str::<AgentRequest>(r#"{"op":"teleport"}"#).is_err());
        let kind: AgentFailureKind = serde_json::from_str("\"of_a_later_version\"").unwrap();
        assert_eq!(kind, AgentFailureKind::Other);
    }
}
