//! Commands that a QEMU is given while it runs, and their answers.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::qmp::MigrationStatus;
use crate::error::Failure;

/// How long QEMU may take to answer a command. To stop the guest, it waits for its disks.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A command that is to be sent.
pub(super) struct Command {
    name: &'static str,
    arguments: Value,
    /// Goes with it (SCM_RIGHTS of unix(7)).
    descriptor: Option<OwnedFd>,
    answer: oneshot::Sender<Result<Value, String>>,
}

/// Gives commands to a QEMU.
#[derive(Clone)]
pub(super) struct Session {
    commands: mpsc::Sender<Command>,
    migration: watch::Receiver<MigrationStatus>,
}

impl Session {
    /// A session, and the end of it that sends the commands to QEMU.
    pub(super) fn new(writer: OwnedWriteHalf) -> (Session, Dispatcher) {
        let (commands, queue) = mpsc::channel(1);
        let (migration, seen) = watch::channel(MigrationStatus::Active);
        let session = Session { commands, migration: seen };
        (session, Dispatcher { writer, queue, waiting: HashMap::new(), next: 0, stop: None, migration })
    }

    /// Carries out a command. Its answer is not of interest, but for that it succeeded.
    ///
    /// # Errors
    /// QEMU's refusal, in its words.
    pub(super) async fn execute(&self, name: &'static str, arguments: Value) -> Result<Value, Failure> {
        self.execute_with(name, arguments, None).await
    }

    /// Hands QEMU a descriptor, which it knows by `name` from then on.
    ///
    /// # Errors
    /// QEMU's refusal, in its words.
    pub(super) async fn give(&self, name: &str, descriptor: OwnedFd) -> Result<(), Failure> {
        self.execute_with("getfd", json!({ "fdname": name }), Some(descriptor)).await.map(drop)
    }

    async fn execute_with(
        &self,
        name: &'static str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
    ) -> Result<Value, Failure> {
        let gone = || Failure::new("QEMU is going down");
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command { name, arguments, descriptor, answer }).await.map_err(|_| gone())?;
        match timeout(ANSWER_LIMIT, answered).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(refusal))) => Err(Failure::new(format!("QEMU refuses `{name}`: {refusal}"))),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Failure::new(format!("QEMU did not answer `{name}` within {} s", ANSWER_LIMIT.as_secs()))),
        }
    }

    /// Forgets how the last migration ended, and has QEMU tell about the next one.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub(super) async fn follow_migration(&mut self) -> Result<(), Failure> {
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        self.execute("migrate-set-capabilities", events).await?;
        self.migration.mark_unchanged();
        Ok(())
    }

    /// Waits for the end of the migration that was begun after [`Session::follow_migration`], and
    /// says whether it succeeded.
    pub(super) async fn migrated(&mut self) -> bool {
        while self.migration.changed().await.is_ok() {
            match *self.migration.borrow_and_update() {
                MigrationStatus::Active => {}
                MigrationStatus::Completed => return true,
                MigrationStatus::Failed => return false,
            }
        }
        false
    }
}

/// The end of a [`Session`] that talks to QEMU.
pub(super) struct Dispatcher {
    writer: OwnedWriteHalf,
    queue: mpsc::Receiver<Command>,
    /// Who waits for the answer to the command of a number.
    waiting: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    next: u64,
    /// The number of a `stop` that was not answered yet: QEMU tells of the stop before it answers.
    stop: Option<u64>,
    migration: watch::Sender<MigrationStatus>,
}

impl Dispatcher {
    /// The next command to be sent; none comes when there is no session any more.
    pub(super) async fn next(&mut self) -> Option<Command> {
        self.queue.recv().await
    }

    /// Sends a command.
    pub(super) fn send(&mut self, command: Command) {
        let Command { name, arguments, descriptor, answer } = command;
        self.next += 1;
        let mut line = json!({ "execute": name, "arguments": arguments, "id": self.next }).to_string().into_bytes();
        line.push(b'\n');
        match self.send_line(&line, descriptor.as_ref()) {
            Ok(()) => {
                if name == "stop" {
                    self.stop = Some(self.next);
                }
                self.waiting.retain(|_, answer| !answer.is_closed());
                self.waiting.insert(self.next, answer);
            }
            // Who has given up does not listen.
            Err(error) => drop(answer.send(Err(format!("it takes no commands: {error}")))),
        }
    }

    /// Lines are short, and QEMU reads them: its socket has room for one.
    fn send_line(&self, line: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let raw: Vec<_> = descriptor.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let socket = self.writer.as_ref().as_raw_fd();
        let sent = sendmsg::<()>(socket, &[IoSlice::new(line)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Sends what has no answer that anybody waits for.
    pub(super) fn tell(&self, line: &[u8]) -> io::Result<()> {
        self.send_line(line, None)
    }

    /// Takes an answer.
    pub(super) fn answer(&mut self, id: u64, answer: Result<Value, String>) {
        if self.stop == Some(id) {
            self.stop = None;
        }
        if let Some(waiting) = self.waiting.remove(&id) {
            let _ = waiting.send(answer);
        }
    }

    /// Whether the guest's processors were stopped since a command said so.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Takes note of how far a migration is.
    pub(super) fn migration(&self, status: MigrationStatus) {
        self.migration.send_replace(status);
    }
}
