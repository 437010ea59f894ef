//! The workspace in the guest, and bringing it to the host's state: the guest's side of [`crate::protocol::sync`].
//!
//! Everything that a sync brings is staged beside the workspace first, and moved into place when all of it is there. The first
//! sync stages the whole tree and moves that.

mod apply;
mod compare;
mod content;
mod count;
mod records;
mod references;
mod seed;
mod tree;

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::apply::{Staged, apply, apply_fresh};
use self::compare::{Comparison, Decision, compare};
use self::content::Contents;
use self::records::{Log, Records};
use self::references::References;
use self::seed::SeedDisk;
use super::clock::set_clock;
use super::init::WORKSPACE;
use super::serve::sync_file_system;
use super::{Reader, Writer};
use crate::frame::{Frame, FrameError, MAX_DATA};
use crate::protocol::sync::{
    Applied, Begun, CONTENT, Change, Counts, FromSync, GuestOnly, Item, MAX_ITEMS, MAX_NAMED, Mode, NEEDED, PLAN,
    Policy, Sync, ToSync,
};
use crate::protocol::{self, Failure, FailureKind, Reply};

/// After the last command: how long until the guest's own changes are counted.
const COUNT_DELAY: Duration = Duration::from_millis(500);

/// The workspace of this VM. Shared by all operations.
pub(super) struct Workspace {
    /// Where the agent keeps what it knows, out of the guest's sight.
    folder: PathBuf,
    /// Keeps paths on the disk reachable: they lead through this descriptor.
    _disk: OwnedFd,
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
    place: Place,
    /// The disk that the workspace comes on; none where it lives on the VM's own.
    seed: Option<SeedDisk>,
    shown: bool,
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

    /// Forgets the repositories that were sent and are none any more, and returns the paths of their `.git`. Those whose worktree is
    /// gone too were removed by the guest, as it may.
    fn forget_lost(&mut self) -> io::Result<Vec<protocol::Bytes>> {
        let root = self.place.root();
        let Some(records) = &mut self.records else { return Ok(Vec::new()) };
        let at = |path: &[u8]| root.join(protocol::Bytes(path.to_vec()).as_os_str());
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
        Ok(lost.into_iter().map(protocol::Bytes).collect())
    }

    /// Removes references' locks that nobody holds: the guest has only just been started.
    fn break_locks(&self) -> io::Result<()> {
        let Some(records) = &self.records else { return Ok(()) };
        let root = self.place.root();
        let gits = records.repositories().into_iter();
        let references = gits.map(|git| root.join(protocol::Bytes(git.to_vec()).as_os_str()));
        references.map(References::new).try_for_each(|references| references.break_locks())
    }

    /// Shows the workspace, if it has not been shown yet.
    fn show(&mut self) -> io::Result<()> {
        if !self.shown {
            self.place.show()?;
            self.shown = true;
        }
        Ok(())
    }
}

/// Where the workspace is.
///
/// It lives on a disk of its own, or on the VM's disk itself, and is bound to where the guest sees it: an overlay would make each
/// file twice as dear to create. The agent works on it from its own side, where the stage is in the same mount, so that things can
/// be renamed.
#[derive(Clone, Debug, Default)]
struct Place {
    /// The folder of the tree and the stage, on the disk.
    disk: PathBuf,
    /// Kept beside the log, for a guest that has been started again.
    settings: Settings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Settings {
    /// Where the guest sees the workspace.
    root: protocol::Bytes,
    /// Patterns of the host's own excludes file.
    excludes: protocol::Bytes,
}

impl Place {
    /// The tree, from the agent's side.
    fn root(&self) -> PathBuf {
        self.disk.join("tree")
    }

    fn stage(&self) -> PathBuf {
        self.disk.join("stage")
    }

    /// Shows the tree where the guest expects it, and to each of its users: `/root` itself is closed to most.
    fn show(&self) -> io::Result<()> {
        let root = Path::new(self.settings.root.as_os_str());
        bind(&self.root(), root)?;
        root.ancestors().skip(1).try_for_each(make_searchable)
    }
}

impl Workspace {
    /// Reads what the agent knew when the guest last ran. `disk` is the folder on the VM's disk that is the agent's own.
    /// `seed` is the block device that the workspace comes on, if there is one.
    pub(super) fn new(disk: BorrowedFd<'_>, seed: Option<PathBuf>) -> io::Result<Workspace> {
        let disk = disk.try_clone_to_owned()?;
        let folder = PathBuf::from(format!("/proc/self/fd/{}/sync", disk.as_raw_fd()));
        let place = Place { disk: WORKSPACE.into(), settings: read_settings(&folder) };
        fs::create_dir_all(&folder)?;
        let (log, records) = Log::open(&folder)?;
        let (records, seed) = (records.map(Arc::new), seed.map(SeedDisk::new));
        let mut held = Held { log, records, place, seed, shown: false, alias: None };
        if !held.place.settings.root.0.is_empty() {
            // What is in the way is said at the next sync.
            let _ = held.find().and_then(|()| held.break_locks());
        }
        Ok(Workspace {
            folder,
            _disk: disk,
            turn: tokio::sync::Mutex::new(()),
            held: Mutex::new(held),
            epoch: AtomicU64::new(0),
            counts: Mutex::new(None),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn counts(&self) -> MutexGuard<'_, Option<Counts>> {
        self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A command starts: the guest's own changes are not known any more.
    pub(super) fn forget_count(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        *self.counts() = None;
    }

    /// The last command has ended: counts what changed in the guest, unless another starts at once.
    pub(super) fn count_soon(self: &Arc<Self>) {
        let (workspace, epoch) = (Arc::clone(self), self.epoch.load(Ordering::Relaxed));
        let still = move |workspace: &Workspace| workspace.epoch.load(Ordering::Relaxed) == epoch;
        tokio::spawn(async move {
            tokio::time::sleep(COUNT_DELAY).await;
            if still(&workspace) {
                let _ = tokio::task::spawn_blocking(move || {
                    if let Ok(found) = workspace.guest_only()
                        && still(&workspace)
                    {
                        *workspace.counts() = Some(found.counts);
                    }
                })
                .await;
            }
        });
    }

    /// What changed in the guest alone since the last sync. Walks the workspace.
    pub(super) fn guest_only(&self) -> Result<GuestOnly, Failure> {
        let (records, place) = {
            let held = self.held();
            (held.records.clone(), held.place.clone())
        };
        let Some(records) = records else { return Ok(GuestOnly::default()) };
        count::guest_only(&place, &records)
            .map_err(|error| failure("count the changes in", &place.settings.root, &error))
    }

    /// Prepares for a sync: says what the guest has, and removes what a former one left half done.
    fn begin(&self, request: &Sync) -> Result<Begun, Failure> {
        let mut held = self.held();
        let settings = Settings { root: request.root.clone(), excludes: request.excludes.clone() };
        let explain = |error: &io::Error| failure("prepare", &request.root, error);
        if held.place.settings != settings {
            let json = serde_json::to_vec(&settings).unwrap_or_default();
            let new = self.folder.join("settings.new");
            let written = fs::write(&new, json).and_then(|()| fs::rename(&new, self.folder.join("settings")));
            written.map_err(|error| explain(&error))?;
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
            return Ok(Begun { mode: Mode::Fresh, seed: seed.is_some(), lost, guest_only });
        };
        remove_folder(&place.stage()).map_err(|error| explain(&error))?;
        let agreed = records.generation.is_some() && records.generation == request.base;
        let mode = if agreed { Mode::Delta } else { Mode::Complete };
        Ok(Begun { mode, seed: false, lost, guest_only })
    }

    /// Makes the workspace visible at the host's path too, and no more where that was before. Where that cannot be, it is not: nothing
    /// depends on it.
    fn bind_alias(&self, request: &Sync) {
        let mut held = self.held();
        let wanted = request.alias.as_ref().map(|alias| PathBuf::from(alias.as_os_str()));
        if held.alias == wanted {
            return;
        }
        if let Some(before) = held.alias.take() {
            // What still uses it may go on.
            let unbound = nix::mount::umount2(&before, nix::mount::MntFlags::MNT_DETACH);
            if unbound.is_ok() {
                let _ = fs::remove_dir(&before);
            }
        }
        held.alias = wanted.filter(|alias| bind(&held.place.root(), alias).is_ok());
    }
}

/// What the agent last knew; nothing before the first sync.
fn read_settings(folder: &Path) -> Settings {
    let json = fs::read(folder.join("settings")).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// Removes a folder with all that is in it, if it is there.
fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Binds `root` at `alias`, unless the image has something there.
fn bind(root: &Path, alias: &Path) -> io::Result<()> {
    fs::create_dir_all(alias)?;
    if fs::read_dir(alias)?.next().is_some() {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    }
    let none: Option<&str> = None;
    Ok(nix::mount::mount(Some(root), alias, none, nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC, none)?)
}

/// Lets everybody reach what is in a folder, without showing what is.
fn make_searchable(folder: &Path) -> io::Result<()> {
    const SEARCH: u32 = 0o111;
    let mut permissions = fs::metadata(folder)?.permissions();
    if permissions.mode() & SEARCH == SEARCH {
        return Ok(());
    }
    permissions.set_mode(permissions.mode() | SEARCH);
    fs::set_permissions(folder, permissions)
}

/// Serves one sync to the end.
pub(super) async fn run(workspace: Arc<Workspace>, request: Sync, mut reader: Reader, mut writer: Writer) {
    let _turn = workspace.turn.lock().await;
    // If the client goes away in the middle, there is nobody to tell, and nothing was changed.
    if let Err(End::Failed(failure)) = steps(&workspace, request, &mut reader, &mut writer).await {
        let _ = writer.send(Frame::control(&FromSync::Failed(failure))).await;
    }
    let _ = writer.close().await;
}

/// Why a sync ends early.
enum End {
    Failed(Failure),
    /// Conflicts were reported, or the client is gone.
    Over,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        End::Failed(failure)
    }
}

impl From<FrameError> for End {
    fn from(_: FrameError) -> Self {
        End::Over
    }
}

async fn steps(workspace: &Arc<Workspace>, request: Sync, reader: &mut Reader, writer: &mut Writer) -> Result<(), End> {
    // A host that slept leaves its guest with an old clock, which breaks signatures, TLS and make.
    set_clock(request.clock_ns);
    let begun = blocking(workspace, request.clone(), |workspace, request| workspace.begin(&request)).await;
    let begun = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            writer.send(Frame::control(&Reply::<Begun>::Error(failure))).await?;
            return Err(End::Over);
        }
    };
    let (mode, seed) = (begun.mode, begun.seed);
    if mode != Mode::Fresh {
        workspace.bind_alias(&request);
    }
    writer.send(Frame::control(&Reply::Ok(begun))).await?;

    let (mut items, policy) = receive_plan(reader).await?;
    let (records, place) = {
        let held = workspace.held();
        (held.records.clone().unwrap_or_default(), held.place.clone())
    };
    if mode == Mode::Complete {
        add_deletions(&mut items, &records);
    }
    let comparison = if mode == Mode::Fresh {
        Comparison::default()
    } else {
        let plan = (records, place.clone(), items);
        let (compared, back) = blocking(workspace, plan, move |_, (records, place, items)| {
            let compared = compare(&place.root(), &records, &items, policy);
            Ok((compared.map_err(|error| failure("compare", &place.settings.root, &error))?, items))
        })
        .await?;
        items = back;
        compared
    };
    report(&comparison, writer).await?;
    if policy == Policy::Stop && !comparison.conflicts.is_empty() {
        return Err(End::Over);
    }

    let staged = if seed {
        receive_commit(reader).await?;
        blocking(workspace, (), |workspace, ()| workspace.take_seed()).await?
    } else {
        receive_contents(workspace, &place, reader).await?
    };
    let generation = request.generation.clone();
    let applied = blocking(workspace, (staged, items, comparison), move |workspace, (staged, items, comparison)| {
        workspace.apply(mode, &generation, staged, &items, comparison)
    })
    .await?;
    if mode == Mode::Fresh {
        workspace.bind_alias(&request);
    }
    writer.send(Frame::control(&FromSync::Applied(applied))).await?;
    Ok(())
}

impl Workspace {
    /// Mounts what the host has written on the workspace's disk.
    fn take_seed(&self) -> Result<Staged, Failure> {
        let mut held = self.held();
        let place = held.place.clone();
        let seed =
            held.seed.as_mut().ok_or_else(|| Failure::new(FailureKind::BadRequest, "there is no disk for it"))?;
        let staged = seed.mount().and_then(|()| Staged::seeded(&place.disk));
        staged.map_err(|error| failure("take what was written for", &place.settings.root, &error))
    }

    /// Brings what commands and syncs wrote to the workspace's own disk, if it has one.
    pub(super) fn settle(&self) {
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
    ) -> Result<Applied, Failure> {
        let mut held = self.held();
        let held = &mut *held;
        let place = held.place.clone();
        let explain = |error: &io::Error| failure("write", &place.settings.root, error);
        let applied = if mode == Mode::Fresh {
            let (records, applied) = apply_fresh(&mut held.log, &place, generation, staged).map_err(|e| explain(&e))?;
            held.records = Some(Arc::new(records));
            held.show().map_err(|error| failure("show the workspace at", &place.settings.root, &error))?;
            applied
        } else {
            let records = Arc::make_mut(held.records.get_or_insert_default());
            apply(&mut held.log, records, &place, generation, staged, items, comparison).map_err(|e| explain(&e))?
        };
        // Its absence is seen to at the next sync.
        let _ = remove_folder(&place.stage());
        Ok(applied)
    }
}

async fn receive_plan(reader: &mut Reader) -> Result<(Vec<Item>, Policy), End> {
    let mut items = Vec::new();
    loop {
        match reader.next().await.ok_or(End::Over)?? {
            Frame::Data(PLAN, batch) => {
                let bad = |_| Failure::new(FailureKind::BadRequest, "a plan's batch is not understood");
                items.extend(postcard::from_bytes::<Vec<Item>>(&batch).map_err(bad)?);
                if items.len() > MAX_ITEMS || !items.iter().all(|item| tree::is_plain(&item.path)) {
                    return Err(
                        Failure::new(FailureKind::BadRequest, "the plan is too long, or leaves its root").into()
                    );
                }
            }
            frame => match frame.message()? {
                ToSync::PlanEnds { policy } => return Ok((items, policy)),
                ToSync::Commit => return Err(End::Over),
            },
        }
    }
}

/// In a complete plan, what is not named was deleted on the host.
fn add_deletions(items: &mut Vec<Item>, records: &Records) {
    let named: std::collections::HashSet<_> = items.iter().map(|item| (&item.path[..], reference(item))).collect();
    let files = records.files.iter().filter(|(path, _)| !named.contains(&(&path[..], None)));
    let files =
        files.map(|(path, known)| Item { path: path.clone(), change: Change::Delete { base: Some(known.digest) } });
    let gone = records.references.iter().filter(|((path, name), _)| !named.contains(&(&path[..], Some(&name[..]))));
    let gone = gone.map(|((path, name), value)| Item {
        path: path.clone(),
        change: Change::Ref { name: name.clone(), base: Some(value.clone()), new: None },
    });
    let more: Vec<_> = files.chain(gone).collect();
    items.extend(more);
}

fn reference(item: &Item) -> Option<&str> {
    match &item.change {
        Change::Ref { name, .. } => Some(name),
        _ => None,
    }
}

/// Tells the host what is needed and what is in conflict.
async fn report(comparison: &Comparison, writer: &mut Writer) -> Result<(), FrameError> {
    let needed = comparison.decisions.iter().enumerate().filter(|(_, decision)| **decision == Decision::Put);
    let numbers: Vec<u8> = needed.flat_map(|(number, _)| (number as u32).to_le_bytes()).collect();
    for chunk in numbers.chunks(MAX_DATA) {
        writer.feed(Frame::Data(NEEDED, Bytes::copy_from_slice(chunk))).await?;
    }
    let conflicts = comparison.conflicts.iter().take(MAX_NAMED).cloned().collect();
    let conflict_count = comparison.conflicts.len() as u64;
    let now_ns = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() as i64);
    writer.send(Frame::control(&FromSync::Compared { conflicts, conflict_count, now_ns })).await
}

/// Waits until the host has written the workspace's disk.
async fn receive_commit(reader: &mut Reader) -> Result<(), End> {
    match reader.next().await.ok_or(End::Over)??.message()? {
        ToSync::Commit => Ok(()),
        ToSync::PlanEnds { .. } => Err(End::Over),
    }
}

/// Passes the contents on to a thread that stages them, until the host commits.
async fn receive_contents(workspace: &Arc<Workspace>, place: &Place, reader: &mut Reader) -> Result<Staged, End> {
    let (chunks, receiver) = mpsc::channel::<Bytes>(16);
    let (stage, root) = (place.stage(), place.settings.root.clone());
    let staging = blocking(workspace, (), move |_, ()| {
        Staged::receive(&stage, Contents::new(receiver)).map_err(|error| failure("stage files for", &root, &error))
    });
    let receiving = async {
        loop {
            match reader.next().await.ok_or(End::Over)?? {
                // Once staging has failed, what is still coming is taken all the same: the host reads no answer before it has sent all.
                Frame::Data(CONTENT, chunk) => _ = chunks.send(chunk).await,
                Frame::Data(..) => return Err(End::Over),
                frame => match frame.message()? {
                    ToSync::Commit => {
                        drop(chunks);
                        return Ok(());
                    }
                    ToSync::PlanEnds { .. } => return Err(End::Over),
                },
            }
        }
    };
    let (staged, received) = tokio::join!(staging, receiving);
    received?;
    Ok(staged?)
}

async fn blocking<A: Send + 'static, B: Send + 'static>(
    workspace: &Arc<Workspace>,
    argument: A,
    work: impl FnOnce(&Workspace, A) -> Result<B, Failure> + Send + 'static,
) -> Result<B, Failure> {
    let workspace = Arc::clone(workspace);
    let done = tokio::task::spawn_blocking(move || work(&workspace, argument)).await;
    done.unwrap_or_else(|error| Err(Failure::new(FailureKind::Other, format!("the agent failed: {error}"))))
}

/// An error in the guest's tree, in words.
fn failure(what: &str, path: &protocol::Bytes, error: &io::Error) -> Failure {
    let full = matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSPC | Errno::EDQUOT));
    let kind = if full { FailureKind::NoSpace } else { FailureKind::Other };
    Failure::new(kind, format!("cannot {what} `{path}` in the guest: {error}"))
}
