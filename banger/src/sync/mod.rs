//! Bringing the guest's workspace to the host's state: the host's side of [`banger_agent::protocol::sync`].
//!
//! The host lists what travels ([`crate::git::list`]), compares it with the `manifest` of the last sync, and sends the
//! difference as a plan. The guest compares the plan with what it has; it alone knows what changed there. See
//! `docs/architecture.md` for the three states and what becomes of them.

mod history;
mod manifest;
mod plan;
mod repository;
mod seed;
mod source;

use std::collections::{BTreeSet, HashMap};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use banger_agent::frame::{Frame, FrameError};
use banger_agent::protocol::sync::{
    Applied, Begun, CONTENT, Change, Conflict, Counts, Digest, FromSync, Kind, Mode, NEEDED, PLAN, Policy, Record,
    RecordKind, Sync, ToSync,
};
use banger_agent::protocol::{Bytes, Failure, Request};
use banger_vmm::Vm;

use self::history::Histories;
use self::manifest::{HostStat, Known, Manifest, kind};
use self::plan::Plan;
use self::repository::{Snapshot, git_path, reference_files};
use self::seed::Seed;
use self::source::{Sink, Source};
use crate::agent::{AgentError, Call};
use crate::config::History;
use crate::git::{self, Entry, GitError, Listing, Repository, Workspace};

/// Where the workspace is in the guest.
pub const GUEST_ROOT: &str = "/root/repo";

/// How often a sync starts again because files changed under it.
const ATTEMPTS: usize = 4;

/// Why the guest was not brought to the host's state. Nothing was changed there.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The host's repository cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A file of the host cannot be read.
    #[error("{0}")]
    Host(io::Error),
    /// The state of the last sync cannot be read or written.
    #[error("cannot keep the state of the sync: {0}")]
    State(io::Error),
    /// The disk that the workspace comes on cannot be written.
    #[error("cannot write the workspace's disk: {0}")]
    Disk(io::Error),
    /// The VM's side failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A file of the host may not be read.
    #[error("{0}")]
    Closed(io::Error),
    /// A file changed while it was sent.
    #[error("`{}` changes faster than it can be sent", .0.display())]
    Changed(PathBuf),
    /// Both sides changed the same things.
    #[error("{count} changed both here and in the guest since the last sync")]
    Conflicts {
        /// How many things.
        count: Things,
        /// The first of them.
        conflicts: Vec<Conflict>,
    },
}

impl From<io::Error> for SyncError {
    fn from(error: io::Error) -> Self {
        AgentError::from(error).into()
    }
}

impl From<Failure> for SyncError {
    fn from(failure: Failure) -> Self {
        AgentError::from(failure).into()
    }
}

/// A number of things, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Things(pub u64);

impl std::fmt::Display for Things {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("1 thing was"),
            count => write!(f, "{count} things were"),
        }
    }
}

/// What a sync did.
#[derive(Clone, Debug, Default)]
pub struct Report {
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

/// A listing of the workspace, and when it began.
pub struct Listed {
    listing: Listing,
    listed_ns: i64,
    took: Duration,
    apart: Vec<PathBuf>,
}

impl Listed {
    /// Lists the workspace, without what is in one of the folders `apart`.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn new(workspace: &Workspace, apart: &[PathBuf]) -> Result<Listed, SyncError> {
        let start = Instant::now();
        let (listed_ns, mut listing) = (now_ns(), git::list(workspace)?);
        let within = apart.iter().filter_map(|folder| folder.strip_prefix(&workspace.root).ok());
        for folder in within.filter(|folder| !folder.as_os_str().is_empty()) {
            let prefix = [folder.as_os_str().as_encoded_bytes(), b"/"].concat();
            listing.entries.retain(|entry| !entry.path.as_bytes().starts_with(&prefix));
        }
        Ok(Listed { listed_ns, listing, took: start.elapsed(), apart: apart.to_vec() })
    }

    /// How many files and links travel.
    pub fn files(&self) -> usize {
        self.listing.entries.len()
    }

    /// What could not be read, or does not travel: for the user to know.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.listing
            .warnings
            .iter()
            .map(|warning| format!("`{}` stays behind: {}", Bytes(warning.path.as_bytes().to_vec()), warning.error))
    }
}

/// Syncs the workspace into the VM. `listed` may be a listing made a moment ago, `history` is how much of git's history the guest
/// shall have, if somebody said it.
///
/// # Errors
/// See [`SyncError`]: nothing was changed in the guest.
pub fn sync(
    vm: &Vm,
    workspace: &Workspace,
    mut listed: Listed,
    policy: Policy,
    history: Option<History>,
) -> Result<Report, SyncError> {
    let start = Instant::now();
    let folder = vm.folder().join("sync");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(SyncError::State)?;
    let lock = File::create(folder.join("lock")).map_err(SyncError::State)?;
    lock.lock().map_err(SyncError::State)?;
    for attempt in 1.. {
        let engine = Engine { vm, workspace, listed: &listed, folder: &folder, policy, history };
        match engine.run() {
            Ok(mut report) => {
                report.listing += listed.took;
                report.total = start.elapsed();
                return Ok(report);
            }
            Err(SyncError::Changed(_)) if attempt < ATTEMPTS => listed = Listed::new(workspace, &listed.apart)?,
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop returns")
}

struct Engine<'a> {
    vm: &'a Vm,
    workspace: &'a Workspace,
    listed: &'a Listed,
    folder: &'a Path,
    policy: Policy,
    history: Option<History>,
}

impl<'a> Engine<'a> {
    fn listing(&self) -> &'a Listing {
        &self.listed.listing
    }

    fn repositories(&self) -> impl Iterator<Item = &'a Repository> {
        std::iter::once(&self.workspace.repository).chain(&self.listed.listing.repositories)
    }

    /// Those that the guest shall have.
    fn sent_repositories(&self, histories: &Histories) -> impl Iterator<Item = &'a Repository> {
        let has_any = histories.kind() != History::None;
        self.repositories().filter(move |_| has_any)
    }

    fn run(&self) -> Result<Report, SyncError> {
        let manifest = Manifest::load(self.folder).map_err(SyncError::State)?;
        let generation = new_generation();
        let request = Sync {
            root: GUEST_ROOT.into(),
            alias: alias(&self.workspace.root),
            base: manifest.as_ref().map(|manifest| manifest.generation.clone()),
            generation: generation.clone(),
            excludes: Bytes(self.workspace.repository.global_excludes()?),
            clock_ns: now_ns(),
        };
        let mut call = Call::open(self.vm, &Request::Sync(request))?;
        let begun: Begun = call.answer()?;
        let mut report = Report { guest_only: begun.guest_only, ..Report::default() };
        let mut histories = match begun.mode {
            Mode::Fresh => Histories::fresh(self.folder, self.history, self.repositories())?,
            mode => Histories::of(self.folder, self.history, mode == Mode::Complete)?,
        };
        report.notes.extend(histories.note.take());
        let mut manifest = manifest.unwrap_or_default();
        for Bytes(git) in &begun.lost {
            manifest.repositories.remove(git);
            histories.forget(git);
            let git = Bytes([GUEST_ROOT.as_bytes(), b"/", git].concat());
            report.notes.push(format!("`{git}` was gone in the VM: it is sent again"));
        }
        match begun.mode {
            Mode::Fresh => self.fresh(call, generation, begun.seed, histories, &mut report)?,
            mode => self.difference(call, generation, manifest, mode, histories, &mut report)?,
        }
        Ok(report)
    }

    /// Brings everything to a guest that has nothing: on a disk that it gets (`seed`), or over the link.
    fn fresh(
        &self,
        mut call: Call,
        generation: String,
        seed: bool,
        histories: Histories,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        let root = GUEST_ROOT.as_bytes();
        let read = |repository| Snapshot::read(repository, self.listing(), root, &histories);
        let snapshots = self.sent_repositories(&histories).map(read).collect::<Result<Vec<_>, _>>()?;
        call.say(&ToSync::PlanEnds { policy: self.policy })?;
        let manifest = if seed {
            let mut disk = Seed::create(&self.vm.workspace_disk())?;
            let manifest = self.everything(&mut disk, generation, &snapshots, report)?;
            disk.finish()?;
            manifest
        } else {
            let mut out = call.data(CONTENT);
            let manifest = self.everything(&mut out, generation, &snapshots, report)?;
            out.flush()?;
            manifest
        };
        self.commit(&mut call, report)?;
        histories.save(snapshots.iter().filter_map(Snapshot::sent))?;
        manifest.save(self.folder).map_err(SyncError::State)
    }

    /// Puts all that the host has, and returns what was put.
    fn everything(
        &self,
        out: &mut dyn Sink,
        generation: String,
        snapshots: &[Snapshot<'_>],
        report: &mut Report,
    ) -> Result<Manifest, SyncError> {
        let mut manifest = Manifest { generation, ..Manifest::default() };
        for entry in &self.listing().entries {
            let (record, source) = self.record(entry, entry.mtime_ns);
            let Some(sent) = readable(source::send(out, record, &source), report)? else { continue };
            report.bytes += sent.size;
            let guest_mtime_ns = sent.is(entry).then_some(entry.mtime_ns);
            manifest.entries.push(self.known(entry, sent.digest, guest_mtime_ns));
        }
        for folder in &self.listing().submodule_folders {
            let record = plain(folder.as_bytes().to_vec(), RecordKind::Folder, 0);
            source::send(out, record, &Source::Bytes(Vec::new()))?;
        }
        manifest.folders = self.folders();
        for snapshot in snapshots {
            report.bytes += self.send_repository(out, snapshot, &manifest)?;
            manifest.repositories.insert(snapshot.git.clone(), snapshot.known());
        }
        Ok(manifest)
    }

    /// Sends what git has of a repository. `manifest` knows the files, which were sent before.
    fn send_repository(
        &self,
        out: &mut dyn Sink,
        snapshot: &Snapshot<'_>,
        manifest: &Manifest,
    ) -> Result<u64, SyncError> {
        let mut bytes = 0;
        for (path, object) in snapshot.objects() {
            let record = plain(path, RecordKind::Object, object.size);
            source::send(out, record, &Source::File(object.path.clone()))?;
            bytes += object.size;
        }
        for (path, kind, content) in snapshot.files() {
            bytes += content.len() as u64;
            source::send(out, plain(path, RecordKind::Content(kind), 0), &Source::Bytes(content))?;
        }
        bytes += self.send_index(out, snapshot, snapshot.index_path(), manifest)?.0;
        // HEAD comes last: by it the guest sees that a repository is whole.
        for (path, content) in reference_files(snapshot) {
            source::send(out, plain(path, RecordKind::References, 0), &Source::Bytes(content))?;
        }
        Ok(bytes)
    }

    /// Sends the index, which may have moved since the snapshot. Returns its length and its digest.
    fn send_index(
        &self,
        out: &mut dyn Sink,
        snapshot: &Snapshot<'_>,
        path: Vec<u8>,
        manifest: &Manifest,
    ) -> Result<(u64, Digest), SyncError> {
        let (index, digest) = snapshot.index(self.listing(), &|entry| manifest.guest_stat(entry))?;
        let kind = RecordKind::Content(Kind::File(0o644));
        let record = Record { mtime_ns: index.mtime_ns, ..plain(path, kind, 0) };
        Ok((source::send_as(out, record, &index.bytes, digest)?.size, digest))
    }

    /// Sends what is not as it was.
    fn difference(
        &self,
        mut call: Call,
        generation: String,
        manifest: Manifest,
        mode: Mode,
        histories: Histories,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        let mut next = Manifest { generation, ..Manifest::default() };
        let mut plan = Plan::default();
        // The guest may have deleted what did not change here, and the host's state shall replace its.
        let everything = mode == Mode::Complete || self.policy == Policy::HostWins;
        self.compare_files(&manifest, everything, &mut plan, &mut next, mode, report)?;
        let mut snapshots = Vec::new();
        for repository in self.sent_repositories(&histories) {
            let path = git_path(repository);
            let base = manifest.repositories.get(&path);
            if let Some(base) = base.filter(|_| !everything)
                && base.fingerprint == histories.fingerprint(repository)?
            {
                next.repositories.insert(path, base.clone());
                continue;
            }
            let root = GUEST_ROOT.as_bytes();
            let snapshot = Snapshot::read(repository, self.listing(), root, &histories)?;
            plan.extend(snapshot.changes(self.vm, root, base.unwrap_or(&Default::default()), everything)?);
            next.repositories.insert(path, snapshot.known());
            snapshots.push(snapshot);
        }
        for path in manifest.repositories.keys().filter(|path| !next.repositories.contains_key(*path)) {
            plan.no_repository(path);
        }
        if plan.is_empty() {
            // Stats may have moved without content; that is worth remembering, and nothing for the guest.
            next.generation = manifest.generation.clone();
            if next != manifest {
                histories.save(snapshots.iter().filter_map(Snapshot::sent))?;
                next.save(self.folder).map_err(SyncError::State)?;
            }
            return Ok(());
        }
        let (needed, now_ns) = self.propose(&mut call, &plan)?;
        self.send_needed(&mut call, &plan, &needed, now_ns, &manifest, &mut next, &snapshots, report)?;
        self.commit(&mut call, report)?;
        histories.save(snapshots.iter().filter_map(Snapshot::sent))?;
        next.save(self.folder).map_err(SyncError::State)
    }

    /// Finds which files of the worktree changed on the host.
    fn compare_files(
        &self,
        manifest: &Manifest,
        everything: bool,
        plan: &mut Plan,
        next: &mut Manifest,
        mode: Mode,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        let mut known = manifest.entries.iter().peekable();
        for entry in &self.listing().entries {
            let path = entry.path.as_bytes();
            while let Some(gone) = known.next_if(|known| known.path.as_slice() < path) {
                self.gone(gone, plan);
            }
            let before = known.next_if(|known| known.path == path);
            let is_same = before.is_some_and(|before| before.kind == kind(entry) && before.stat.matches(entry));
            let (_, source) = self.record(entry, 0);
            let digest = match before {
                Some(before) if is_same => Some(before.digest),
                _ => readable(source::digest(&source), report)?,
            };
            let Some(digest) = digest else {
                // The guest keeps what it has.
                next.entries.extend(before.cloned());
                continue;
            };
            let same_content = before.is_some_and(|before| (before.digest, before.kind) == (digest, kind(entry)));
            let is_agreed = same_content && mode == Mode::Delta;
            let guest_mtime_ns = before.filter(|_| is_agreed).and_then(|before| before.guest_mtime_ns);
            next.entries.push(self.known(entry, digest, guest_mtime_ns));
            if everything || !same_content {
                let base = before.map(|before| before.digest);
                plan.put(path, digest, kind(entry), base, source);
            }
        }
        known.for_each(|gone| self.gone(gone, plan));
        next.folders = self.folders();
        for folder in next.folders.iter().filter(|folder| everything || !manifest.folders.contains(*folder)) {
            plan.folder(folder);
        }
        Ok(())
    }

    fn folders(&self) -> BTreeSet<Vec<u8>> {
        self.listing().submodule_folders.iter().map(|folder| folder.as_bytes().to_vec()).collect()
    }

    /// A file that the listing does not have any more: deleted, or a folder now, or ignored. An ignored one is the guest's own affair.
    fn gone(&self, known: &Known, plan: &mut Plan) {
        let entries = &self.listing().entries;
        let is_entry = |path: &[u8]| entries.binary_search_by(|entry| entry.path.as_bytes().cmp(path)).is_ok();
        let slashes = known.path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let is_beneath_a_file = slashes.map(|(at, _)| &known.path[..at]).any(is_entry);
        let path = self.workspace.root.join(Bytes(known.path.clone()).as_os_str());
        let is_gone = match std::fs::symlink_metadata(path) {
            Ok(metadata) => metadata.is_dir(),
            // What cannot be looked at may well be there.
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if is_beneath_a_file || is_gone {
            plan.delete(&known.path, known.digest);
        }
    }

    /// Sends the plan, and learns which items are needed, and the guest's clock.
    fn propose(&self, call: &mut Call, plan: &Plan) -> Result<(Vec<usize>, i64), SyncError> {
        for batch in plan.batches() {
            call.send(Frame::Data(PLAN, batch.into()))?;
        }
        call.say(&ToSync::PlanEnds { policy: self.policy })?;
        let mut needed = Vec::new();
        loop {
            match call.receive()?.ok_or(AgentError::from(FrameError::Ended))? {
                Frame::Data(NEEDED, numbers) => {
                    for number in numbers.chunks_exact(4) {
                        let number = u32::from_le_bytes([number[0], number[1], number[2], number[3]]) as usize;
                        if number >= plan.len() || needed.last().is_some_and(|last| *last >= number) {
                            let error = FrameError::Unexpected("the agent asks for what was not offered");
                            return Err(AgentError::from(error).into());
                        }
                        needed.push(number);
                    }
                }
                frame => match frame.message().map_err(AgentError::from)? {
                    FromSync::Compared { conflicts, conflict_count, .. }
                        if conflict_count > 0 && self.policy == Policy::Stop =>
                    {
                        return Err(SyncError::Conflicts { count: Things(conflict_count), conflicts });
                    }
                    FromSync::Compared { now_ns, .. } => return Ok((needed, now_ns)),
                    FromSync::Failed(failure) => return Err(failure.into()),
                    FromSync::Applied(_) => {
                        return Err(AgentError::from(FrameError::Unexpected(
                            "the agent applied nothing that was sent",
                        ))
                        .into());
                    }
                },
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the whole state of a sync in progress")]
    fn send_needed(
        &self,
        call: &mut Call,
        plan: &Plan,
        needed: &[usize],
        now_ns: i64,
        manifest: &Manifest,
        next: &mut Manifest,
        snapshots: &[Snapshot<'_>],
        report: &mut Report,
    ) -> Result<(), SyncError> {
        let mut out = call.data(CONTENT);
        let places: HashMap<&[u8], usize> =
            self.listing().entries.iter().enumerate().map(|(place, entry)| (entry.path.as_bytes(), place)).collect();
        for (item, source) in needed.iter().map(|number| plan.get(*number)) {
            let record = match (&item.change, source) {
                (_, Source::Index(_)) => continue,
                (Change::Object { size }, _) => plain(item.path.clone(), RecordKind::Object, *size),
                (Change::Put { kind, .. }, _) => {
                    let mut record = plain(item.path.clone(), RecordKind::Content(*kind), 0);
                    record.mtime_ns = now_ns;
                    if let Some(place) = places.get(&item.path[..]) {
                        // A file that replaces one must not be older than what was built from the former, or make skips it; none
                        // may be newer than what will be built from it, whatever the clocks say.
                        let replaces = manifest.entry(&item.path).is_some() || self.policy == Policy::HostWins;
                        let mtime_ns = self.listing().entries[*place].mtime_ns;
                        record.mtime_ns = if replaces { now_ns } else { mtime_ns.min(now_ns) };
                    }
                    record
                }
                _ => continue,
            };
            let mtime_ns = record.mtime_ns;
            let sent = source::send(&mut out, record, source)?;
            report.bytes += sent.size;
            if let Some(place) = places.get(&item.path[..]) {
                let is_as_listed = sent.is(&self.listing().entries[*place]);
                next.entries[*place].guest_mtime_ns = is_as_listed.then_some(mtime_ns);
                next.entries[*place].digest = sent.digest;
            }
        }
        for (item, source) in needed.iter().map(|number| plan.get(*number)) {
            let Source::Index(git) = source else { continue };
            let Some(snapshot) = snapshots.iter().find(|snapshot| snapshot.git == *git) else { continue };
            let (bytes, digest) = self.send_index(&mut out, snapshot, item.path.clone(), next)?;
            report.bytes += bytes;
            if let Some(known) = next.repositories.get_mut(git) {
                known.index = Some(digest);
            }
        }
        Ok(out.flush()?)
    }

    fn commit(&self, call: &mut Call, report: &mut Report) -> Result<(), SyncError> {
        call.say(&ToSync::Commit)?;
        loop {
            match call.receive()?.ok_or(AgentError::from(FrameError::Ended))?.message().map_err(AgentError::from)? {
                FromSync::Applied(applied) => {
                    report.applied = applied;
                    return Ok(());
                }
                FromSync::Failed(failure) => return Err(failure.into()),
                // In a fresh sync nobody waited for the comparison of the empty plan.
                FromSync::Compared { .. } => {}
            }
        }
    }

    fn record(&self, entry: &Entry, mtime_ns: i64) -> (Record, Source) {
        let kind = kind(entry);
        let path = entry.path.under(&self.workspace.root);
        let source = if kind == Kind::Link { Source::Link(path) } else { Source::File(path) };
        let kind = RecordKind::Content(kind);
        (Record { path: entry.path.as_bytes().to_vec(), kind, mtime_ns, size: entry.size }, source)
    }

    fn known(&self, entry: &Entry, digest: [u8; 32], guest_mtime_ns: Option<i64>) -> Known {
        let stat = HostStat::of(entry, self.listed.listed_ns);
        Known { path: entry.path.as_bytes().to_vec(), kind: kind(entry), digest, stat, guest_mtime_ns }
    }
}

/// What was read of a file of the host; none, and a note, if that is not allowed: one file shall not stop all others.
fn readable<T>(read: Result<T, SyncError>, report: &mut Report) -> Result<Option<T>, SyncError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(SyncError::Closed(error)) => {
            report.notes.push(format!("what cannot be read stays behind: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn plain(path: Vec<u8>, kind: RecordKind, size: u64) -> Record {
    Record { path, kind, mtime_ns: 0, size }
}

/// The host's path, where the guest can have the workspace at it too.
fn alias(root: &Path) -> Option<Bytes> {
    const TAKEN: [&str; 8] = ["/proc", "/sys", "/dev", "/run", "/usr", "/etc", "/boot", "/lib"];
    let is_taken = TAKEN.iter().any(|taken| root.starts_with(taken));
    let overlaps = Path::new(GUEST_ROOT).starts_with(root) || root.starts_with(GUEST_ROOT);
    (!is_taken && !overlaps).then(|| root.as_os_str().into())
}

/// The host's clock, in nanoseconds since 1970.
fn now_ns() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() as i64)
}

fn new_generation() -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{}-{}", now.as_nanos(), std::process::id())
}
