//! Pausing a VM that runs, having it go on, and writing snapshots of it.
//!
//! A snapshot pauses the VM for as long as the VMM writes its state and the VM's own disks are
//! copied. What there is of it is made in a directory beside its place ([`Making`]), so that a
//! supervisor that is killed leaves either all of it or none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_agent::link::Mux;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::blocking;
use super::shutdown::sync_disks;
use super::ways::Way;
use crate::activity::LastActivity;
use crate::backend::VmmControl;
use crate::error::{Failure, Result};
use crate::kvm::Accelerator;
use crate::launch::Launch;
use crate::record::{BackendKind, VmRecord};
use crate::snapshot::{self, GuestFiles, Making, RunBy, SnapshotInfo, cannot_restore};
use crate::vm::Vm;

/// How long the guest may take to write out its disks' caches. They are in its memory too, which is
/// part of the snapshot.
const SYNC_LIMIT: Duration = Duration::from_secs(10);

/// What a client wants done with a VM that runs.
pub(super) enum Action {
    Pause,
    Resume,
    /// A snapshot that will be this directory.
    Snapshot(PathBuf),
}

/// A client's wish, and how it is told what came of it.
pub(super) struct Request {
    pub(super) action: Action,
    pub(super) done: oneshot::Sender<Result<(), Failure>>,
}

/// What came of an action.
pub(super) struct Outcome {
    pub(super) result: Result<(), Failure>,
    /// Whether the VM is paused now.
    pub(super) is_paused: bool,
    /// Why a VM that should go on does not.
    pub(super) stuck: Option<Failure>,
    /// Whether the VMM was told to write the VM's state, whatever came of it.
    pub(super) vmm_wrote: bool,
}

impl Outcome {
    fn new(result: Result<(), Failure>, is_paused: bool) -> Outcome {
        Outcome { result, is_paused, stuck: None, vmm_wrote: false }
    }
}

/// An action that is being carried out.
pub(super) struct Job {
    task: JoinHandle<Outcome>,
    cancel: CancellationToken,
    done: Option<oneshot::Sender<Result<(), Failure>>>,
}

impl Job {
    /// Begins an action, for who asked for it, if anybody did.
    pub(super) fn begin(action: Action, done: Option<oneshot::Sender<Result<(), Failure>>>, target: Target) -> Job {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(carry_out(action, target, cancel.clone()));
        Job { task, cancel, done }
    }

    /// Ends a snapshot that is being made. What there is of it goes, and the VM goes on.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits for the end.
    pub(super) async fn ended(&mut self) -> Outcome {
        (&mut self.task).await.unwrap_or_else(|error| {
            let failure = Failure::new(error.to_string());
            Outcome { stuck: Some(failure.clone()), ..Outcome::new(Err(failure), true) }
        })
    }

    /// Tells who asked what came of it.
    pub(super) fn answer(self, result: Result<(), Failure>) {
        if let Some(done) = self.done {
            // Who has gone needs no answer.
            let _ = done.send(result);
        }
    }
}

/// Waits for the end of a job; for ever, if there is none.
pub(super) async fn ended(job: &mut Option<Job>) -> Outcome {
    match job {
        Some(job) => job.ended().await,
        None => std::future::pending().await,
    }
}

/// The VM that an action is about.
pub(super) struct Target {
    pub(super) control: VmmControl,
    /// The agent's link; none: it cannot answer.
    pub(super) mux: Option<Mux>,
    pub(super) is_paused: bool,
    pub(super) source: Arc<Source>,
    /// The VMM's; none: it does not say.
    pub(super) version: Option<String>,
}

/// What a VM was started with.
pub(super) struct Source {
    pub(super) launch: Launch,
    pub(super) record: VmRecord,
    pub(super) backend: BackendKind,
    pub(super) accelerator: Accelerator,
}

impl Source {
    /// What a snapshot of the VM is of.
    fn info(&self, version: Option<&str>) -> Result<SnapshotInfo, Failure> {
        let version =
            version.ok_or_else(|| Failure::new("the VMM does not say its version, which a snapshot is of"))?;
        let run_by = RunBy { backend: self.backend, version, accelerator: self.accelerator };
        let is_there = |disk: &&str| self.launch.folder.join(disk).exists();
        let disks = OWN_DISKS.into_iter().filter(is_there).map(str::to_owned).collect();
        Ok(SnapshotInfo::new(&self.record, run_by, files(&self.launch)?, disks))
    }
}

/// A VM's own disks, in its directory.
const OWN_DISKS: [&str; 2] = [Vm::DISK, Vm::WORKSPACE];

fn files(launch: &Launch) -> Result<GuestFiles> {
    GuestFiles::read(&launch.kernel, &launch.initramfs, &launch.base, launch.modules.as_deref())
}

/// The snapshot that a VM is to go on from.
pub(super) struct Restore {
    pub(super) directory: PathBuf,
    info: SnapshotInfo,
}

impl Restore {
    /// Looks at the snapshot in `directory`.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn open(directory: &Path) -> Result<Restore, Failure> {
        Ok(Restore { directory: directory.to_owned(), info: SnapshotInfo::read(directory, &OWN_DISKS)? })
    }

    /// Of these ways, the one that the snapshot was made in.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn way(&self, ways: Vec<Way>) -> Result<Way, Failure> {
        let SnapshotInfo { backend, accelerator, .. } = self.info;
        let is_it = |way: &Way| (way.backend.kind(), way.accelerator) == (backend, accelerator);
        let way = ways.into_iter().find(is_it).ok_or_else(|| {
            let reason = format!("{} ran the VM under {accelerator}, and cannot now", backend.name());
            cannot_restore(&self.directory, &reason)
        })?;
        // No other way leads anywhere.
        Ok(Way { is_trial: false, ..way })
    }

    /// Checks that the VM can go on from it in this way, and puts its disks in the place of the
    /// VM's.
    ///
    /// # Errors
    /// It cannot, or the file system's refusal.
    pub(super) async fn prepare(&self, launch: &Launch, record: &VmRecord, way: &Way) -> Result<(), Failure> {
        let version = way.backend.version().await?;
        let (launch, record) = (launch.clone(), record.clone());
        let (directory, info) = (self.directory.clone(), self.info.clone());
        blocking(move || {
            info.check(&directory, &record, &version, &files(&launch)?)?;
            LastActivity::forget_changes(&launch.folder)?;
            Ok(snapshot::put_disks(&launch.folder, &directory, &info)?)
        })
        .await
    }
}

async fn carry_out(action: Action, target: Target, cancel: CancellationToken) -> Outcome {
    let was_paused = target.is_paused;
    match action {
        Action::Pause => {
            let result = target.control.pause().await;
            let is_paused = was_paused || result.is_ok();
            Outcome::new(result, is_paused)
        }
        Action::Resume => {
            let result = if was_paused { target.control.resume().await } else { Ok(()) };
            let is_paused = was_paused && result.is_err();
            Outcome::new(result, is_paused)
        }
        Action::Snapshot(place) => target.snapshot(&place, &cancel).await,
    }
}

impl Target {
    async fn snapshot(self, place: &Path, cancel: &CancellationToken) -> Outcome {
        let refused = |failure| Outcome::new(Err(failure), self.is_paused);
        let begun = {
            let (place, source, version) = (place.to_owned(), Arc::clone(&self.source), self.version.clone());
            blocking(move || {
                let info = source.info(version.as_deref())?;
                Ok::<_, Failure>((Making::begin(&place)?, info))
            })
            .await
        };
        let (making, info) = match begun {
            Ok(begun) => begun,
            Err(failure) => return refused(failure),
        };
        let (making, outcome) = self.freeze(making, info.disks.clone(), cancel).await;
        let Outcome { result, .. } = outcome;
        // The VM goes on meanwhile.
        let result = blocking(move || match result {
            Ok(()) => Ok(making.complete(&info)?),
            Err(failure) => {
                making.discard();
                Err(failure)
            }
        })
        .await;
        Outcome { result, ..outcome }
    }

    /// Pauses the VM while its state is written and its disks are copied.
    async fn freeze(&self, making: Making, disks: Vec<String>, cancel: &CancellationToken) -> (Making, Outcome) {
        if !self.is_paused {
            let paused = async {
                if let Some(mux) = self.mux.clone() {
                    // Without an answer, the guest's memory has what its disks have not.
                    let _ = timeout(SYNC_LIMIT, sync_disks(mux)).await;
                }
                self.control.pause().await
            };
            let paused = tokio::select! {
                paused = paused => paused,
                () = cancel.cancelled() => Err(cancelled()),
            };
            if let Err(failure) = paused {
                // It may have come, or come still, all the same. A VM that runs has no need of it.
                let _ = self.control.resume().await;
                return (making, Outcome::new(Err(failure), false));
            }
        }
        let written = tokio::select! {
            written = self.control.snapshot(making.path()) => written,
            () = cancel.cancelled() => Err(cancelled()),
        };
        let (made, result) = match written {
            Ok(()) => {
                let (vm, cancel) = (self.source.launch.folder.clone(), cancel.clone());
                blocking(move || {
                    let mut making = making;
                    let mut copy = |disk: &String| making.copy(&vm, disk, &|| cancel.is_cancelled());
                    let copied = disks.iter().try_for_each(&mut copy);
                    (making, copied.map_err(|error| if cancel.is_cancelled() { cancelled() } else { error.into() }))
                })
                .await
            }
            Err(failure) => (making, Err(failure)),
        };
        let resumed = if self.is_paused { Ok(()) } else { self.control.resume().await };
        let stuck = resumed.err();
        (made, Outcome { result, is_paused: self.is_paused || stuck.is_some(), stuck, vmm_wrote: true })
    }
}

fn cancelled() -> Failure {
    Failure::new("the VM was stopped while its snapshot was made")
}
