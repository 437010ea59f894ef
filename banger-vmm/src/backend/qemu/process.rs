//! The process of a QEMU, watched from its start to its end.

use std::collections::VecDeque;
use std::future::pending;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::qmp;
use super::session::{Dispatcher, Session};
use super::snapshot;
use crate::backend::{VmmCommand, VmmEvent};
use crate::complaint;
use crate::error::{CONFINED, Failure};

/// A QEMU that was told to quit may take this long to write out what it holds.
const QUIT_PATIENCE: Duration = Duration::from_secs(10);

/// A QEMU that runs, and what is told about it.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) qmp: UnixStream,
    pub(super) events: mpsc::Sender<VmmEvent>,
    /// Told when the guest's agent is there to be greeted.
    pub(super) opened: oneshot::Sender<()>,
    /// Gets QEMU's version.
    pub(super) version: Arc<OnceLock<String>>,
}

/// What a QEMU is asked for besides running.
type Task = BoxFuture<'static, Option<Failure>>;

/// The state that QEMU is to begin with: its descriptor, and the file it comes from.
pub(super) type State = (std::os::fd::RawFd, std::path::PathBuf);

/// Reports what happens to a QEMU until it is gone. QEMU is killed when nobody can tell it anything
/// any more.
pub(super) async fn drive(process: Process, mut commands: mpsc::Receiver<VmmCommand>, state: Option<State>) {
    let Process { mut child, qmp, events, opened, version } = process;
    let complaint = tokio::spawn(complaint::read_end(child.stderr.take()));
    let (reader, writer) = qmp.into_split();
    let (session, mut dispatcher) = Session::new(writer);
    let (sender, mut messages) = mpsc::channel(16);
    let reading = tokio::spawn(qmp::read(reader, sender));
    // A QEMU that is dead or dying refuses: its exit says more.
    let _ = dispatcher.tell(qmp::ENTER_COMMAND_MODE);
    let mut listener = Listener { opened: None, events, version };
    // One at a time: the others wait.
    let (mut task, mut queue): (Option<Task>, _) = (None, VecDeque::new());
    match state {
        None => listener.opened = Some(opened),
        Some(state) => task = Some(load(session.clone(), state, opened)),
    }
    let status = loop {
        if task.is_none() {
            task = queue.pop_front().map(|command| carry_out(session.clone(), command));
        }
        tokio::select! {
            Some(message) = messages.recv() => listener.hear(message, &mut dispatcher).await,
            Some(command) = dispatcher.next() => dispatcher.send(command),
            failure = run(&mut task) => {
                task = None;
                if let Some(failure) = failure {
                    listener.tell(VmmEvent::Stuck(failure)).await;
                }
            }
            command = commands.recv() => match command {
                None | Some(VmmCommand::Quit) => {
                    if command.is_some() && dispatcher.tell(qmp::QUIT).is_ok() {
                        let _ = timeout(QUIT_PATIENCE, child.wait()).await;
                    }
                    let _ = child.start_kill();
                    break child.wait().await;
                }
                Some(command) => queue.push_back(command),
            },
            status = child.wait() => break status,
        }
    };
    // Who waits for it is told that QEMU is gone.
    drop((task, queue));
    // The last events may be under way still: they tell why it ended.
    while let Some(message) = messages.recv().await {
        listener.hear(message, &mut dispatcher).await;
    }
    reading.abort();
    let complaint = complaint.await.unwrap_or_default();
    listener.tell(VmmEvent::Exited(failure(status.ok(), &complaint))).await;
}

/// Waits for the end of a task; for ever, if there is none.
async fn run(task: &mut Option<Task>) -> Option<Failure> {
    match task {
        Some(task) => task.await,
        None => pending().await,
    }
}

/// Begins with a state. The agent has its port open in it.
fn load(session: Session, (descriptor, path): State, opened: oneshot::Sender<()>) -> Task {
    async move {
        let loaded = snapshot::load(session, descriptor, &path).await;
        if loaded.is_ok() {
            let _ = opened.send(());
        }
        loaded.err()
    }
    .boxed()
}

/// Carries out a command.
fn carry_out(session: Session, command: VmmCommand) -> Task {
    async move {
        let (done, result) = match command {
            VmmCommand::Quit => return None,
            VmmCommand::Pause(done) => (done, session.execute("stop", json!({})).await.map(drop)),
            VmmCommand::Resume(done) => (done, session.execute("cont", json!({})).await.map(drop)),
            VmmCommand::Snapshot(directory, mut done) => {
                let saved = tokio::select! {
                    saved = snapshot::save(session.clone(), &directory) => Some(saved),
                    () = done.closed() => None,
                };
                let Some(saved) = saved else {
                    snapshot::cancel(&session, &directory).await;
                    return None;
                };
                (done, saved)
            }
        };
        // Who does not wait for the answer needs none.
        let _ = done.send(result);
        None
    }
    .boxed()
}

/// Passes on what QEMU says.
struct Listener {
    /// None: the agent's port has been open, or what is awaited is not its being opened.
    opened: Option<oneshot::Sender<()>>,
    events: mpsc::Sender<VmmEvent>,
    version: Arc<OnceLock<String>>,
}

impl Listener {
    async fn hear(&mut self, message: qmp::Message, dispatcher: &mut Dispatcher) {
        match message.event() {
            Some(qmp::Event::Greeting(version)) => drop(self.version.set(version)),
            Some(qmp::Event::Answer(id, answer)) => dispatcher.answer(id, answer),
            Some(qmp::Event::AgentOpened) => drop(self.opened.take().map(|opened| opened.send(()))),
            Some(qmp::Event::Stopped) if dispatcher.is_stopping() => {}
            Some(qmp::Event::Stopped) => {
                // What is not asked for is QEMU's giving up on the guest.
                let failure = Failure::new("QEMU stopped the guest after an internal error");
                self.tell(VmmEvent::Stuck(failure)).await;
            }
            Some(qmp::Event::Migration(status)) => dispatcher.migration(status),
            Some(qmp::Event::Vmm(event)) => self.tell(event).await,
            None => {}
        }
    }

    /// Whoever does not listen is about to drop the VMM.
    async fn tell(&self, event: VmmEvent) {
        let _ = self.events.send(event).await;
    }
}

/// What an end that nobody asked for means.
fn failure(status: Option<ExitStatus>, complaint: &[u8]) -> Failure {
    let status = status.map_or_else(|| "its exit status is unknown".to_owned(), |status| status.to_string());
    let complaint = complaint::shown(complaint);
    if complaint.is_empty() {
        return Failure::new(format!("QEMU ended ({status})"));
    }
    // As QEMU words it (hw/i386/x86-common.c, x86_load_linux).
    if complaint.contains("without PVH ELF Note") {
        let failure = Failure::new("QEMU cannot boot the VM's kernel: it is an ELF without an entry for PVH");
        return failure.with_hint("use Firecracker where KVM works, or a kernel that was built with CONFIG_PVH");
    }
    let failure = Failure::new(format!("QEMU ended ({status}): {complaint}"));
    // As QEMU words it (block/file-posix.c, raw_check_lock_bytes): options such as `-blockdev` have
    // the syllable too.
    if complaint.contains("Failed to get ") && complaint.contains(" lock") {
        failure.with_hint("another process has the VM's disk open: end that, then run it again")
    } else if complaint.contains("load of migration failed") {
        failure.with_hint("the snapshot is damaged, or was made on another machine: start the VM without it")
    } else if complaint.contains("shared libraries") || complaint.contains("Permission denied") {
        failure.with_hint(CONFINED)
    } else if complaint.contains("allocate memory") || complaint.contains("guest memory") {
        failure.with_hint("give the VM less memory, or free some on this machine")
    } else {
        failure
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn qemu_stderr_is_quoted_with_a_hint() {
        let status = Some(ExitStatus::from_raw(256));
        let locked =
            failure(status, b"qemu: -blockdev x: Failed to get \"write\" lock\nIs another process using the image?\n");
        assert!(locked.message.contains("Failed to get \"write\" lock; Is another"), "{}", locked.message);
        assert!(locked.hint.unwrap().contains("disk"));
        let missing =
            failure(status, b"qemu: -blockdev driver=file,filename=/x: Could not open '/x': No such file or directory");
        assert_eq!(missing.hint, None, "{missing:?}");
        let memory = failure(status, b"qemu: cannot set up guest memory 'microvm.ram': Cannot allocate memory");
        assert!(memory.hint.unwrap().contains("less memory"));
        for unreadable in [
            "qemu: error while loading shared libraries: libpixman-1.so.0: cannot open shared object file: Permission denied",
            "qemu: could not open '/home/me/qemu/bios-microvm.bin': Permission denied",
        ] {
            let failure = failure(status, unreadable.as_bytes());
            assert!(failure.hint.unwrap().contains("may read system directories"), "{unreadable}");
        }
        let without_pvh = b"qemu-system-x86_64: Error loading uncompressed kernel without PVH ELF Note\n";
        let without_pvh = failure(status, without_pvh);
        assert!(without_pvh.message.contains("cannot boot the VM's kernel"), "{}", without_pvh.message);
        assert!(without_pvh.hint.unwrap().contains("CONFIG_PVH"));
        assert_eq!(failure(status, b"").message, "QEMU ended (exit status: 1)");
    }
}
