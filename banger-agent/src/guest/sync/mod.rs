//! The workspace in the guest, and bringing it to the host's state: the guest's side of
//! [`crate::protocol::sync`].
//!
//! Everything that a sync brings is staged beside the workspace first, and moved into place when
//! all of it is there. The first sync stages the whole tree and moves that.

mod apply;
mod compare;
mod content;
mod count;
mod mount;
mod records;
mod references;
mod reserve;
mod run;
mod seed;
mod tree;
mod workspaces;

#[cfg(feature = "fuzzing")]
pub(super) use self::records::fuzzing;
pub(super) use self::run::run;
pub(super) use self::workspaces::Workspaces;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use self::apply::{Staged, apply, apply_fresh};
use self::compare::{Comparison, compare};
use self::mount::{Settings, WorkspaceMount, bind, remove_folder};
use self::records::{Log, Records};
use self::references::References;
use self::reserve::Reserve;
use self::run::failure;
use self::seed::SeedDisk;
use super::disks::sync_file_system;
use crate::protocol::sync::{Applied, Begun, Counts, GuestOnly, Item, Mode, Policy, SyncRequest};
use crate::protocol::{self, AgentFailure, AgentFailureKind};

/// After the last command: how long until the guest's own changes are counted.
const COUNT_DELAY: Duration = Duration::from_millis(500);

/// A workspace of this VM, shared by all operations.
struct Workspace {
    /// Where the agent keeps what it knows, out of the guest's sight.
    folder: PathBuf,
    /// One sync at a time.
    turn: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
    /// Moves when a command starts: what was counted before does not hold any more.
    epoch: AtomicU64,
    counts: Mutex<Option<Counts>>,
}

/// What is known, in memory.
struct Held {
    log: Log,
    /// None: there is no workspace yet.
    records: Option<Arc<Records>>,
    place: WorkspaceMount,
    /// The disk that the workspace comes on; none where it lives on the VM's own.
    seed: Option<SeedDisk>,
    /// Where the workspace is visible too, at the host's own path.
    alias: Option<PathBuf>,
}

impl Held {
    /// Brings to light what a guest that ran before has left.
    fn find(&mut self) -> io::Result<()> {
        if self.records.is_none() {
            return Ok(());
        }
        if let Some(seed) = &mut self.seed {
            seed.mount()?;
        }
        // The records are written before the tree they speak of is moved into its place.
        if !self.place.root().is_dir() {
            self.records = None;
            return Ok(());
        }
        self.show()
    }

    /// Forgets the repositories that were sent and are none any more, and returns the paths of
    /// their `.git`. Those whose worktree is gone too were removed by the guest, as it may.
    fn forget_lost(&mut self) -> io::Result<Vec<protocol::WireBytes>> {
        let root = self.place.root();
        let Some(records) = &mut self.records else { return Ok(Vec::new()) };
        let at = |path: &[u8]| root.join(protocol::WireBytes(path.to_vec()).as_os_str());
        let is_lost = |git: &&[u8]| at(tree::split(git).0).is_dir() && !at(git).join("HEAD").exists();
        let lost: Vec<_> = records.repositories().into_iter().filter(is_lost).map(<[u8]>::to_vec).collect();
        if !lost.is_empty() {
            let records = Arc::make_mut(records);
            lost.iter().for_each(|git| records.forget_repository(git));
            // Where a sync was cut short, the one that comes now settles everything.
            if records.generation.is_some() {
                self.log.replace(records)?;
            }
        }
        Ok(lost.into_iter().map(protocol::WireBytes).collect())
    }

    /// Removes references' locks that nobody holds: the guest has only just been started.
    fn break_locks(&self) -> io::Result<()> {
        let Some(records) = &self.records else { return Ok(()) };
        let root = self.place.root();
        let gits = records.repositories().into_iter();
        let references = gits.map(|git| root.join(protocol::WireBytes(git.to_vec()).as_os_str()));
        references.map(References::new).try_for_each(|references| references.break_locks())
    }

    /// Shows the workspace, unless it is shown.
    fn show(&self) -> io::Result<()> {
        if self.place.is_shown() { Ok(()) } else { self.place.show() }
    }
}

impl Workspace {
    /// Reads what the agent knew when the guest last ran, from the folder `folder`, which is made.
    /// `disk` is where the tree lives. `seed` is the block device that the workspace comes on, if
    /// there is one.
    fn new(folder: PathBuf, disk: PathBuf, seed: Option<PathBuf>) -> io::Result<Workspace> {
        let place = WorkspaceMount { disk, settings: Settings::read(&folder) };
        std::fs::create_dir_all(&folder)?;
        let (log, records) = Log::open(&folder)?;
        let (records, seed) = (records.map(Arc::new), seed.map(SeedDisk::new));
        let mut held = Held { log, records, place, seed, alias: None };
        if !held.place.settings.root.0.is_empty() {
            // What is in the way is said at the next sync.
            let _ = held.find().and_then(|()| held.break_locks());
        }
        Ok(Workspace {
            folder,
            turn: tokio::sync::Mutex::new(()),
            held: Mutex::new(held),
            epoch: AtomicU64::new(0),
            counts: Mutex::new(None),
        })
    }

    /// Where the guest sees it; empty: it is nobody's yet.
    fn root(&self) -> protocol::WireBytes {
        self.held().place.settings.root.clone()
    }

    /// From now on it is the one at `root`, also for a guest that is started again.
    fn claim(&self, root: &protocol::WireBytes) -> io::Result<()> {
        let mut held = self.held();
        let settings = Settings { root: root.clone(), ..held.place.settings.clone() };
        settings.write(&self.folder)?;
        held.place.settings = settings;
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn counts(&self) -> MutexGuard<'_, Option<Counts>> {
        self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A command starts: the guest's own changes are not known any more.
    fn forget_count(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        *self.counts() = None;
    }

    /// Changes when a command starts.
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Counts what changed in the guest, unless a command has started since `epoch`.
    fn count(&self, epoch: u64) {
        if self.epoch() == epoch
            && let Ok(found) = self.guest_only()
            && self.epoch() == epoch
        {
            *self.counts() = Some(found.counts);
        }
    }

    /// What changed in the guest alone since the last sync. Walks the workspace.
    fn guest_only(&self) -> Result<GuestOnly, AgentFailure> {
        let (records, place) = {
            let held = self.held();
            (held.records.clone(), held.place.clone())
        };
        let Some(records) = records else { return Ok(GuestOnly::default()) };
        count::guest_only(&place, &records)
            .map_err(|error| failure("count the changes in", &place.settings.root, &error))
    }

    /// Prepares for a sync: says what the guest has, and removes what a former one left half done.
    fn begin(&self, request: &SyncRequest) -> Result<Begun, AgentFailure> {
        let mut held = self.held();
        let settings = Settings { root: request.root.clone(), excludes: request.excludes.clone() };
        let explain = |error: &io::Error| failure("prepare", &request.root, error);
        if held.place.settings != settings {
            settings.write(&self.folder).map_err(|error| explain(&error))?;
            held.place.settings = settings;
        }
        held.find().map_err(|error| failure("show the workspace at", &request.root, &error))?;
        let lost = held.forget_lost().map_err(|error| explain(&error))?;
        let place = held.place.clone();
        let guest_only = *self.counts();
        let Held { records, seed, .. } = &mut *held;
        let Some(records) = records else {
            let cleared = match seed {
                // The host will write it.
                Some(seed) => seed.unmount(),
                None => remove_folder(&place.root()).and_then(|()| remove_folder(&place.stage())),
            };
            cleared.map_err(|error| explain(&error))?;
            return Ok(Begun { mode: Mode::Initial, seed: seed.is_some(), lost, guest_only, holes: true });
        };
        remove_folder(&place.stage()).map_err(|error| explain(&error))?;
        let agreed = records.generation.is_some() && records.generation == request.base;
        let mode = if agreed { Mode::Delta } else { Mode::Complete };
        Ok(Begun { mode, seed: false, lost, guest_only, holes: true })
    }

    /// Makes the workspace visible at the host's path too, and no more where that was before. Where
    /// that cannot be, it is not: nothing depends on it.
    fn bind_alias(&self, request: &SyncRequest) {
        let mut held = self.held();
        let wanted = request.alias.as_ref().map(|alias| PathBuf::from(alias.as_os_str()));
        if held.alias == wanted {
            return;
        }
        if let Some(before) = held.alias.take() {
            // What still uses it may go on.
            let unbound = nix::mount::umount2(&before, nix::mount::MntFlags::MNT_DETACH);
            if unbound.is_ok() {
                let _ = std::fs::remove_dir(&before);
            }
        }
        held.alias = wanted.filter(|alias| bind(&held.place.root(), alias).is_ok());
    }

    /// Mounts what the host has written on the workspace's disk.
    fn take_seed(&self) -> Result<Staged, AgentFailure> {
        let mut held = self.held();
        let place = held.place.clone();
        let seed = held
            .seed
            .as_mut()
            .ok_or_else(|| AgentFailure::new(AgentFailureKind::BadRequest, "there is no disk for it"))?;
        let staged = seed.mount().and_then(|()| Staged::seeded(&place.disk));
        staged.map_err(|error| failure("take what was written for", &place.settings.root, &error))
    }

    /// The room that is kept on the workspace's own disk, if it has one.
    fn reserve(&self) -> Option<Reserve> {
        let held = self.held();
        held.seed.as_ref().and_then(SeedDisk::root).map(|_| Reserve::new(&held.place.disk))
    }

    /// Brings what commands and syncs wrote to the workspace's own disk, if it has one.
    fn flush(&self) {
        let disk = self.held().seed.as_ref().and_then(SeedDisk::root);
        if let Some(disk) = disk {
            sync_file_system(&disk);
        }
    }

    fn apply(
        &self,
        mode: Mode,
        generation: &str,
        staged: Staged,
        items: &[Item],
        comparison: Comparison,
        policy: Policy,
    ) -> Result<Applied, AgentFailure> {
        let mut held = self.held();
        let held = &mut *held;
        let place = held.place.clone();
        let explain = |error: io::Error| failure("write", &place.settings.root, &error);
        let applied = if mode == Mode::Initial {
            apply_fresh(&mut held.log, &place, generation, staged).map_err(explain).and_then(|(records, applied)| {
                held.records = Some(Arc::new(records));
                let shown = held.show();
                shown.map_err(|error| failure("show the workspace at", &place.settings.root, &error))?;
                Ok(applied)
            })
        } else {
            let records = Arc::make_mut(held.records.get_or_insert_default());
            // What came took its time, and commands in the guest went on.
            let now = compare(&place.root(), records, items, policy).map_err(explain)?;
            if !comparison.holds(&now) {
                let _ = remove_folder(&place.stage());
                let message = "files were changed in the VM while they were synced";
                return Err(AgentFailure::new(AgentFailureKind::Changed, message));
            }
            apply(&mut held.log, records, &place, generation, staged, items, comparison).map_err(explain)
        };
        // Its absence is seen to at the next sync. If the disk is full, this is what makes room.
        let _ = remove_folder(&place.stage());
        applied
    }
}
