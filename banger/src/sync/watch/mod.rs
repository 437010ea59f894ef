//! Keeping a guest at the host's state while both go on: directories of the working tree that
//! travel are watched, and what changes is synced.
//!
//! Events only say where to look. What is sent is decided as in any other sync, by comparing three
//! states; where the events leave a doubt, the workspace is listed anew. The lock of the syncs is
//! held for each sync by itself, so other commands sync in between.

mod directories;
mod pace;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc as done;
use std::thread;
use std::time::{Duration, Instant};

use banger_agent::protocol::sync::{Conflict, Policy};
use banger_vmm::{Vm, VmState};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

use self::directories::{Changes, Directories, Place};
use self::pace::{GitLocks, Pace};
use super::{Listed, SyncError, SyncOptions, SyncReport, sync};
use crate::error::{CommandError, ErrorKind};
use crate::git::{History, Identity, RelPath, Relisted, Repository, Workspace};
use crate::vm::agent::AgentError;
use crate::vm::checkout::GuestCheckout;

/// How long the end of a watch waits for a sync that is under way.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// After a sync that failed: when the next is tried though nothing changes here,
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// and how long this may become.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How often a workspace is listed in a row because directories were made meanwhile.
const LISTINGS: usize = 5;
/// Events that wait until somebody takes them.
const QUEUE: usize = 16;

/// What is done in a VM after a sync.
type AfterSync = Box<dyn Fn(&Vm) -> Result<(), CommandError> + Send>;

/// What to keep in sync.
pub struct WatchOptions {
    /// The VM.
    pub vm: Vm,
    /// The workspace, which was synced to `checkout` before.
    pub workspace: Workspace,
    /// Where it is in the VM.
    pub checkout: GuestCheckout,
    /// Directories that do not travel: see [`Listed::new`].
    pub apart: Vec<PathBuf>,
    /// See [`SyncOptions::history`].
    pub history: Option<History>,
    /// Called in the VM after each sync that has written something.
    pub after_sync: AfterSync,
}

/// What a watch tells.
#[derive(Debug)]
pub enum WatchEvent {
    /// A sync has brought something into the VM. The number is how many files travel.
    Synced(SyncReport, usize),
    /// These things were changed on both sides, and are left alone on both; all else is synced.
    Conflicts(Vec<Conflict>),
    /// A sync was not done. It is tried again; another failure of the same reason is not told.
    Failed(CommandError),
    /// Something that the user should know.
    Note(String),
    /// The watch has ended.
    Ended(CommandError),
}

/// A watch that goes on until this is dropped.
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    /// How many directories are watched.
    directories: usize,
    /// Closed when the watch is to end.
    stop: Option<PipeWriter>,
    /// Disconnected when it has ended.
    done: done::Receiver<Infallible>,
}

impl Watch {
    /// Begins to watch, and syncs what has changed until then.
    ///
    /// # Errors
    /// If the workspace cannot be listed, or this machine does not let so many directories be
    /// watched.
    pub fn start(options: WatchOptions) -> Result<Watch, CommandError> {
        let directories = Directories::new()?;
        let (events, receiver) = mpsc::channel(QUEUE);
        let (stopped, stop) = io::pipe().map_err(|error| failed(&error))?;
        let (sender, done) = done::channel();
        let mut watcher = Watcher {
            supervisor: supervisor(&options.vm),
            options,
            directories,
            listed: None,
            places: Vec::new(),
            locks: GitLocks::default(),
            stop: stopped,
            events,
            told: None,
            conflicts: BTreeSet::new(),
        };
        watcher.list(true)?;
        let directories = watcher.directories.len();
        thread::spawn(move || {
            watcher.run();
            drop(sender);
        });
        Ok(Watch { events: receiver, directories, stop: Some(stop), done })
    }

    /// How many directories are watched at the beginning.
    pub fn directories(&self) -> usize {
        self.directories
    }

    /// The next thing that it tells; none after the last.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.events.recv().await
    }
}

impl Drop for Watch {
    /// Lets a sync that is under way come to its end, unless that takes long: a guest need not
    /// answer. What is given up is as a sync that was killed, and goes on with the next.
    fn drop(&mut self) {
        drop(self.stop.take());
        self.events.close();
        let _ = self.done.recv_timeout(STOP_LIMIT);
    }
}

/// Why a watch goes no further.
enum End {
    /// Nobody wants it any more.
    Stopped,
    Failed(CommandError),
}

/// What is tried after a sync.
enum Next {
    /// Nothing, until something changes.
    Wait,
    /// Another sync, if nothing changes before.
    Retry,
}

/// The thread that watches.
struct Watcher {
    options: WatchOptions,
    /// The process id of the VM's supervisor when the watch began.
    supervisor: Option<i32>,
    directories: Directories,
    /// The workspace as it was last listed; none: it has to be listed.
    listed: Option<Listed>,
    /// What of it is watched.
    places: Vec<Place>,
    locks: GitLocks,
    stop: PipeReader,
    events: mpsc::Sender<WatchEvent>,
    /// The failure that was told last.
    told: Option<String>,
    /// The conflicts that there are, and were told.
    conflicts: BTreeSet<Vec<u8>>,
}

impl Watcher {
    fn run(mut self) {
        if let Err(End::Failed(error)) = self.follow() {
            // Nobody may listen any more.
            let _ = self.events.blocking_send(WatchEvent::Ended(error));
        }
    }

    fn follow(&mut self) -> Result<Infallible, End> {
        let mut changes = Changes { everything: true, ..Changes::default() };
        let mut retry = FIRST_RETRY;
        loop {
            let limit = match self.bring(&changes)? {
                Next::Wait => {
                    retry = FIRST_RETRY;
                    None
                }
                Next::Retry => {
                    let limit = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    Some(limit)
                }
            };
            changes = Changes { everything: limit.is_some(), ..Changes::default() };
            self.gather(&mut changes, limit)?;
        }
    }

    /// Waits until something changes, or `limit` is over, and then until it has changed.
    fn gather(&mut self, changes: &mut Changes, limit: Option<Duration>) -> Result<(), End> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            if !self.wait(deadline)? {
                return Ok(());
            }
            self.read(changes)?;
            let locks = self.lock_paths();
            let mut pace = Pace::new();
            loop {
                let locked = self.locks.are_held(&locks);
                let Some(time) = pace.next(changes, locked) else { break };
                if !self.wait(Some(Instant::now() + time))? {
                    if locked {
                        // It is held for longer, as by `git commit --all` whose message is being
                        // written.
                        self.locks.pass_over(&locks);
                    }
                    break;
                }
                self.read(changes)?;
            }
            if !changes.is_empty() {
                return Ok(());
            }
        }
    }

    fn read(&mut self, changes: &mut Changes) -> Result<(), End> {
        self.directories.read(changes).map_err(|error| End::Failed(failed(&error)))
    }

    /// Waits for events; false if the `deadline` came first.
    fn wait(&self, deadline: Option<Instant>) -> Result<bool, End> {
        loop {
            let timeout = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                // Rounded up, so that it does not spin.
                Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let mut ready = [
                PollFd::new(self.directories.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, timeout) {
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(End::Failed(failed(&error.into()))),
            }
            let is_ready = |at: usize| ready[at].revents().is_some_and(|events| !events.is_empty());
            if is_ready(1) {
                return Err(End::Stopped);
            }
            if is_ready(0) {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            }
        }
    }

    fn repositories(&self) -> impl Iterator<Item = &Repository> {
        let nested = self.listed.iter().flat_map(Listed::repositories);
        std::iter::once(&self.options.workspace.repository).chain(nested)
    }

    fn lock_paths(&self) -> Vec<PathBuf> {
        self.repositories().flat_map(Repository::locks).collect()
    }

    /// Lists the workspace, and watches the directories of it that travel. `directories` says that
    /// there may be others than when it was last listed.
    fn list(&mut self, mut directories: bool) -> Result<(), CommandError> {
        let WatchOptions { workspace, apart, .. } = &self.options;
        for _ in 0..LISTINGS {
            let listed = Listed::new(workspace, apart)?;
            let mut places: Vec<_> = listed.directories().into_iter().map(Place::Tree).collect();
            for repository in std::iter::once(&workspace.repository).chain(listed.repositories()) {
                places.extend(repository.own_directories()?.into_iter().map(Place::Git));
            }
            directories |= places != self.places;
            self.listed = Some(listed);
            self.places = places;
            if !directories {
                break;
            }
            let boundary = workspace.repository.boundary();
            if !self.directories.update(self.places.iter().cloned(), &workspace.root, boundary)? {
                break;
            }
            // What happened in a new one before it was watched is not known.
        }
        Ok(())
    }

    /// Syncs, if what has changed travels.
    fn bring(&mut self, changes: &Changes) -> Result<Next, End> {
        let WatchOptions { workspace, .. } = &self.options;
        if Identity::at(&workspace.root).as_ref() != Some(&workspace.identity) {
            let error = CommandError::new(format!("the repository at {} is gone", workspace.root.display()));
            return Err(End::Failed(error.kind(ErrorKind::NoWorkspace)));
        }
        match self.look_at(changes) {
            Ok(false) => return Ok(Next::Wait),
            Ok(true) => {}
            Err(error) => return self.fail(error),
        }
        let Some(mut listed) = self.listed.take() else { return Ok(Next::Retry) };
        let (outcome, conflicts) = self.sync(&mut listed);
        self.tell_conflicts(conflicts)?;
        match outcome {
            Ok(report) => {
                self.told = None;
                let files = listed.files();
                self.listed = Some(listed);
                self.finish(report, files)
            }
            Err(SyncError::Conflicts { conflicts, .. }) => {
                self.listed = Some(listed);
                self.tell_conflicts(conflicts)?;
                Ok(Next::Wait)
            }
            Err(SyncError::Agent(error @ (AgentError::Vm(_) | AgentError::Broken(_)))) if self.is_over() => {
                Err(End::Failed(error.into()))
            }
            Err(error) => self.fail(error.into()),
        }
    }

    /// Brings the listing up to date; false if nothing has changed that travels.
    fn look_at(&mut self, changes: &Changes) -> Result<bool, CommandError> {
        if !changes.everything
            && let Some(listed) = &mut self.listed
        {
            let paths: BTreeSet<RelPath> = changes.paths.keys().cloned().collect();
            match listed.relist(&self.options.workspace, paths)? {
                Relisted::Same => return Ok(false),
                Relisted::Updated => return Ok(true),
                Relisted::Unknown => {}
            }
        }
        self.list(changes.directories).map(|()| true)
    }

    /// Syncs what is listed. What both sides changed is held back, and returned.
    fn sync(&self, listed: &mut Listed) -> (Result<SyncReport, SyncError>, Vec<Conflict>) {
        let WatchOptions { vm, workspace, checkout, history, .. } = &self.options;
        let sync_with = |held: &BTreeSet<Vec<u8>>, listed: &mut Listed| {
            let options =
                SyncOptions { policy: Policy::Stop, history: *history, held, on_wait: &|| {}, on_progress: &|_, _| {} };
            sync(vm, workspace, checkout, listed, &options)
        };
        match sync_with(&BTreeSet::new(), listed) {
            Err(SyncError::Conflicts { count, conflicts }) if count.0 == conflicts.len() as u64 => {
                let held = conflicts.iter().map(|conflict| conflict.path.0.clone()).collect();
                (sync_with(&held, listed), conflicts)
            }
            outcome => (outcome, Vec::new()),
        }
    }

    /// Tells of a sync that was done.
    fn finish(&mut self, mut report: SyncReport, files: usize) -> Result<Next, End> {
        for note in std::mem::take(&mut report.notes) {
            self.tell(WatchEvent::Note(note))?;
        }
        let applied = &report.applied;
        if applied.written + applied.deleted + applied.references + applied.kept == 0 {
            return Ok(Next::Wait);
        }
        if applied.written > 0
            && let Err(error) = (self.options.after_sync)(&self.options.vm)
        {
            self.tell(WatchEvent::Synced(report, files))?;
            return self.fail(error);
        }
        self.tell(WatchEvent::Synced(report, files))?;
        Ok(Next::Wait)
    }

    fn tell_conflicts(&mut self, conflicts: Vec<Conflict>) -> Result<(), End> {
        let now: BTreeSet<_> = conflicts.iter().map(|conflict| conflict.path.0.clone()).collect();
        let is_new = |conflict: &Conflict| !self.conflicts.contains(&conflict.path.0);
        let new: Vec<_> = conflicts.into_iter().filter(is_new).collect();
        self.conflicts = now;
        if new.is_empty() { Ok(()) } else { self.tell(WatchEvent::Conflicts(new)) }
    }

    /// Tells of a sync that was not done, once for each reason.
    fn fail(&mut self, error: CommandError) -> Result<Next, End> {
        self.listed = None;
        if self.told.as_ref() != Some(&error.message) {
            self.told = Some(error.message.clone());
            self.tell(WatchEvent::Failed(error))?;
        }
        Ok(Next::Retry)
    }

    fn tell(&self, event: WatchEvent) -> Result<(), End> {
        self.events.blocking_send(event).map_err(|_| End::Stopped)
    }

    /// Whether the VM has ended, or is going down, since the watch began.
    fn is_over(&self) -> bool {
        let vm = &self.options.vm;
        vm.is_going_down() || supervisor(vm) != self.supervisor
    }
}

/// The process id of a VM's supervisor, if the VM runs.
fn supervisor(vm: &Vm) -> Option<i32> {
    match vm.state() {
        Ok(VmState::Running { pid, .. }) => Some(pid),
        _ => None,
    }
}

fn failed(error: &io::Error) -> CommandError {
    CommandError::new(format!("cannot watch the working tree: {error}")).kind(error.into())
}
