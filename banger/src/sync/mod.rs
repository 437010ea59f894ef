//! Bringing the guest's workspace to the host's state: the host's side of
//! [`banger_agent::protocol::sync`].
//!
//! The host lists what travels ([`crate::git::list`]), compares it with the `manifest` of the last
//! sync, and sends the difference as a plan. The guest compares the plan with what it has; it alone
//! knows what changed there. See `docs/architecture.md` for the three states and what becomes of
//! them.

mod engine;
mod error;
mod filters;
mod history;
mod incremental;
mod initial;
mod link;
mod listed;
mod manifest;
mod plan;
mod repository;
mod seed;
mod source;
mod watch;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::thread;
use std::time::{Duration, Instant};

use banger_agent::protocol::sync::{Applied, Counts, Policy};
use banger_vmm::Vm;

use self::engine::Engine;
pub use self::error::{ChangeCount, SyncError};
pub use self::listed::{Listed, is_apart};
pub use self::watch::{Watch, WatchEvent, WatchOptions};
use crate::git::{History, Workspace};
use crate::host::file::create_private;
use crate::vm::checkout::GuestCheckout;

/// How often a sync starts again because files changed under it.
const ATTEMPTS: usize = 4;
/// How long one waits for another command's sync of the workspace before it says so,
const LOCK_NOTICE: Duration = Duration::from_secs(2);
/// and before it gives up.
const LOCK_LIMIT: Duration = Duration::from_secs(1800);
/// How often it looks.
const LOCK_PACE: Duration = Duration::from_millis(20);

/// What a sync did.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// What the guest says it did.
    pub applied: Applied,
    /// Bytes of content that were sent.
    pub bytes: u64,
    /// What changed in the guest alone, if that is known.
    pub guest_only: Option<Counts>,
    /// What the user should know about git in the guest.
    pub notes: Vec<String>,
    /// How long the listing took, when this sync made one.
    pub listing: Duration,
    /// How long all of it took.
    pub total: Duration,
}

/// How to sync, and whom to tell how it goes.
pub struct SyncOptions<'a> {
    /// Who wins where both sides changed something.
    pub policy: Policy,
    /// How much of git's history a new guest gets; none: by its size.
    pub history: Option<History>,
    /// Paths, those of git's own files included, that are left alone on both sides, unless
    /// everything has to be compared anew.
    pub held: &'a BTreeSet<Vec<u8>>,
    /// Called once if another command's sync of the workspace takes longer than two seconds.
    pub on_wait: &'a dyn Fn(),
    /// Called during a large transfer with the bytes that are sent, and the bytes that there are.
    pub on_progress: &'a dyn Fn(u64, u64),
}

/// Syncs the workspace into the VM, to `checkout`. `listed` may be a listing made a moment ago; it is
/// made anew if files change under the sync.
///
/// # Errors
/// See [`SyncError`]. After one, nothing was changed in the guest.
pub fn sync(
    vm: &Vm,
    workspace: &Workspace,
    checkout: &GuestCheckout,
    listed: &mut Listed,
    options: &SyncOptions<'_>,
) -> Result<SyncReport, SyncError> {
    let start = Instant::now();
    let folder = checkout.syncs();
    // Not the VM's folder with it: one that was deleted meanwhile would come back empty.
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(SyncError::State(error)),
        _ => {}
    }
    let lock = create_private(&folder.join("lock")).map_err(SyncError::State)?;
    lock_within(&lock, LOCK_NOTICE, LOCK_LIMIT, options.on_wait)?;
    for attempt in 1.. {
        let index_clock_ns = Cell::new(0);
        let engine = Engine { vm, workspace, checkout, listed, options, index_clock_ns };
        match engine.run() {
            Ok(mut report) => {
                report.listing += listed.took;
                report.total = start.elapsed();
                return Ok(report);
            }
            Err(SyncError::Changed(_) | SyncError::GuestChanged(_)) if attempt < ATTEMPTS => {
                *listed = Listed::new(workspace, &listed.apart)?;
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop returns")
}

/// Takes a lock, which others hold no longer than `limit`. After `notice`, `waits` is called.
fn lock_within(lock: &File, notice: Duration, limit: Duration, waits: &dyn Fn()) -> Result<(), SyncError> {
    let start = Instant::now();
    let mut waits = Some(waits);
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(SyncError::State(error)),
            Err(TryLockError::WouldBlock) if start.elapsed() >= limit => return Err(SyncError::Busy),
            Err(TryLockError::WouldBlock) => {}
        }
        if start.elapsed() >= notice
            && let Some(waits) = waits.take()
        {
            waits();
        }
        thread::sleep(LOCK_PACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_another_sync_is_reported_once_and_times_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (ours, theirs) = (file.reopen().unwrap(), file.reopen().unwrap());
        let said = Cell::new(0);
        let wait = |limit| {
            let waits = || said.set(said.get() + 1);
            lock_within(&ours, Duration::from_millis(30), limit, &waits)
        };
        theirs.lock().unwrap();
        assert!(matches!(wait(Duration::from_millis(200)), Err(SyncError::Busy)));
        assert_eq!(said.get(), 1);
        theirs.unlock().unwrap();
        wait(Duration::ZERO).unwrap();
        assert_eq!(said.get(), 1);
    }
}
