//! The process of a QEMU, watched from its start to its end.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::qmp;
use crate::backend::{VmmCommand, VmmEvent};
use crate::console;
use crate::error::{CONFINED, Failure};

/// A QEMU that was told to quit may take this long to write out what it holds.
const QUIT_PATIENCE: Duration = Duration::from_secs(10);
/// As much of the end of its complaints is kept, in bytes,
const MAX_COMPLAINT: usize = 4 << 10;
/// and as many lines shown.
const COMPLAINT_LINES: usize = 4;

/// Reports what happens to a QEMU until it is gone; when the guest's agent first opens its port, to
/// `opened`. QEMU is killed when nobody can tell it anything any more.
pub(super) async fn drive(
    mut child: Child,
    qmp: UnixStream,
    mut commands: mpsc::Receiver<VmmCommand>,
    opened: oneshot::Sender<()>,
    events: mpsc::Sender<VmmEvent>,
) {
    let mut opened = Some(opened);
    let complaint = tokio::spawn(read_end(child.stderr.take()));
    let (reader, mut writer) = qmp.into_split();
    let (sender, mut messages) = mpsc::channel(16);
    let reading = tokio::spawn(qmp::read(reader, sender));
    // A QEMU that is dead or dying refuses: its exit says more.
    let _ = writer.write_all(qmp::ENTER_COMMAND_MODE).await;
    let status = loop {
        tokio::select! {
            Some(message) = messages.recv() => tell(message, &mut opened, &events).await,
            command = commands.recv() => match command {
                Some(VmmCommand::Pause(done) | VmmCommand::Resume(done) | VmmCommand::Snapshot(_, done)) => {
                    let _ = done.send(Err(Failure::new("QEMU cannot be paused")));
                }
                quit => {
                    if quit.is_some() && writer.write_all(qmp::QUIT).await.is_ok() {
                        let _ = timeout(QUIT_PATIENCE, child.wait()).await;
                    }
                    let _ = child.start_kill();
                    break child.wait().await;
                }
            },
            status = child.wait() => break status,
        }
    };
    // The last events may be under way still: they tell why it ended.
    drop(writer);
    while let Some(message) = messages.recv().await {
        tell(message, &mut opened, &events).await;
    }
    reading.abort();
    let complaint = complaint.await.unwrap_or_default();
    let _ = events.send(VmmEvent::Exited(failure(status.ok(), &complaint))).await;
}

/// Passes on what a message says. Whoever does not listen is about to drop the VMM.
async fn tell(message: qmp::Message, opened: &mut Option<oneshot::Sender<()>>, events: &mpsc::Sender<VmmEvent>) {
    match message.event() {
        Some(qmp::Event::AgentOpened) => drop(opened.take().map(|opened| opened.send(()))),
        Some(qmp::Event::Vmm(event)) => drop(events.send(event).await),
        None => {}
    }
}

/// Reads to the end, and keeps the last of it.
async fn read_end(stderr: Option<ChildStderr>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stderr) = stderr else { return kept };
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(MAX_COMPLAINT));
    }
    kept
}

/// What an end that nobody asked for means.
fn failure(status: Option<ExitStatus>, complaint: &[u8]) -> Failure {
    let status = status.map_or_else(|| "its exit status is unknown".to_owned(), |status| status.to_string());
    let complaint = console::last_lines(complaint, COMPLAINT_LINES).join("; ");
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
