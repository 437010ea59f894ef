//! Snapshots: a paused guest's state, written to a file and read from it.
//!
//! QEMU calls either a migration. Its sandbox lets it run no program and open no file, so the bytes
//! go through a pipe, which works in every version: for a file, `fd:` is deprecated since 9.1
//! (QEMU's docs/about/deprecated), and `file:` is not there before 8.2.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::session::Session;
use crate::error::{Failure, IoContext, Result};
use crate::file;

/// The file of a snapshot, in its directory.
pub(super) const STATE: &str = "state";
/// By this name QEMU knows the pipe that it writes to.
const PIPE: &str = "snapshot";
/// How long the state may take to be written or read.
const TRANSFER_LIMIT: Duration = Duration::from_secs(600);
/// QEMU limits what it writes in a second, in bytes: this is no limit.
const MAX_BANDWIDTH: u64 = 1 << 40;
/// A QEMU that cannot read a state ends, and says why, within this time.
const COMPLAINT_PATIENCE: Duration = Duration::from_secs(5);

/// Writes the state of a paused guest to a new file in `directory`. On failure there is none; if
/// the future is dropped, [`cancel`] sees to that.
///
/// # Errors
/// The file system's refusal, or QEMU's.
pub(super) async fn save(mut session: Session, directory: &Path) -> Result<(), Failure> {
    let path = directory.join(STATE);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).at("create", &path)?;
    let (reader, writer) = pipe().at("make a pipe for", &path)?;
    let writing = spawn_blocking(move || write_out(reader, file));
    let saved = timeout(TRANSFER_LIMIT, send(&mut session, writer)).await.unwrap_or_else(|_| {
        let limit = TRANSFER_LIMIT.as_secs();
        Err(Failure::new(format!("QEMU did not write the VM's state within {limit} s")))
    });
    if saved.is_err() {
        stop_sending(&session).await;
    }
    // It ends when QEMU has closed the pipe.
    let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error))).at("write", &path);
    // That the file could not be written is why QEMU could not write to the pipe.
    written.map_err(Failure::from).and(saved).inspect_err(|_| _ = fs::remove_file(&path))
}

/// Ends a [`save`] that is not waited for any more.
pub(super) async fn cancel(session: &Session, directory: &Path) {
    stop_sending(session).await;
    // QEMU may not have begun.
    let _ = fs::remove_file(directory.join(STATE));
}

async fn send(session: &mut Session, pipe: PipeWriter) -> Result<(), Failure> {
    session.follow_migration().await?;
    session.execute("migrate-set-parameters", json!({ "max-bandwidth": MAX_BANDWIDTH })).await?;
    session.give(PIPE, OwnedFd::from(pipe)).await?;
    session.execute("migrate", json!({ "uri": format!("fd:{PIPE}") })).await?;
    if session.migrated().await {
        return Ok(());
    }
    let info = session.execute("query-migrate", json!({})).await?;
    let reason = info.get("error-desc").and_then(Value::as_str).unwrap_or("no reason given");
    Err(Failure::new(format!("QEMU cannot write the VM's state: {reason}")))
}

/// Has QEMU close its end of the pipe.
async fn stop_sending(session: &Session) {
    // QEMU has one of these or none, and refuses the other.
    let _ = session.execute("migrate_cancel", json!({})).await;
    let _ = session.execute("closefd", json!({ "fdname": PIPE })).await;
}

fn write_out(mut pipe: PipeReader, mut file: File) -> io::Result<()> {
    io::copy(&mut pipe, &mut file)?;
    file.sync_all()
}

/// The state that a QEMU is to read, and its way there.
#[derive(Debug)]
pub(super) struct Incoming {
    /// QEMU's end.
    pub(super) theirs: PipeReader,
    ours: PipeWriter,
    state: File,
    path: PathBuf,
}

impl Incoming {
    /// The state of the snapshot in `directory`.
    ///
    /// # Errors
    /// It is no regular file, or the file system's refusal.
    pub(super) fn open(directory: &Path) -> Result<Incoming> {
        let path = directory.join(STATE);
        let state = file::open_regular(&path).at("open", &path)?;
        let (theirs, ours) = pipe().at("make a pipe for", &path)?;
        Ok(Incoming { theirs, ours, state, path })
    }

    /// Begins to send it. QEMU sees a state that ends too early where the file cannot be read.
    pub(super) fn begin(self) -> PathBuf {
        let Incoming { theirs, mut ours, mut state, path } = self;
        drop(theirs);
        // A QEMU that ends reads no more, which ends this.
        spawn_blocking(move || io::copy(&mut state, &mut ours));
        path
    }
}

/// Has QEMU read the state from its descriptor, and the guest go on.
///
/// # Errors
/// QEMU's refusal.
pub(super) async fn load(mut session: Session, descriptor: RawFd, path: &Path) -> Result<(), Failure> {
    session.follow_migration().await?;
    session.execute("migrate-incoming", json!({ "uri": format!("fd:{descriptor}") })).await?;
    let loaded = timeout(TRANSFER_LIMIT, session.migrated()).await;
    if loaded != Ok(true) {
        sleep(COMPLAINT_PATIENCE).await;
        return Err(Failure::new(format!("QEMU cannot read the VM's state from {}", path.display())));
    }
    // The guest was paused when it was written, and still is.
    session.execute("cont", json!({})).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_a_regular_file() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("s");
        file::tests::in_place_of_file(&directory, STATE, |reason| {
            let error = Incoming::open(&directory).unwrap_err();
            assert!(error.to_string().starts_with(reason), "{error}");
        });
    }
}
