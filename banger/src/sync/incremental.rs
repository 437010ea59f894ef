//! An incremental sync: what changed since the last one is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use banger_agent::frame::{Frame, FrameError};
use banger_agent::protocol::WireBytes;
use banger_agent::protocol::sync::{CONTENT, Change, FromSync, Item, Mode, NEEDED, PLAN, Policy, RecordKind, ToSync};

use super::engine::{Engine, Progress, commit, plain, readable};
use super::link::{Link, Meter};
use super::manifest::{Manifest, SyncedFile, kind};
use super::plan::Plan;
use super::repository::{Snapshot, git_path};
use super::source::{self, Source};
use super::{ChangeCount, SyncError, SyncReport};
use crate::git::FilteredFiles;
use crate::vm::agent::{AgentError, Call};

/// What a guest may take to compare a plan with what it has, however much it says meanwhile.
const COMPARE_LIMIT: Duration = Duration::from_secs(3600);

impl Engine<'_> {
    /// Sends what changed since the last sync.
    pub(super) fn incremental(&self, mut call: Call, mut progress: Progress) -> Result<SyncReport, SyncError> {
        let mut plan = Plan::default();
        // The guest may have deleted what did not change here, and the host's state shall replace
        // its.
        let everything = progress.begun.mode == Mode::Complete || self.options.policy == Policy::HostWins;
        self.compare_files(everything, &mut plan, &mut progress)?;
        let (mut snapshots, mut filtered) = (Vec::new(), BTreeMap::new());
        let Progress { base: last, next, histories, filters, .. } = &mut progress;
        for repository in self.sent_repositories(histories) {
            let path = git_path(repository);
            let base = last.repositories.get(&path);
            if let Some(base) = base.filter(|_| !everything && self.is_held_in(&path)) {
                next.repositories.insert(path, base.clone());
                continue;
            }
            let fingerprint = histories.fingerprint(repository)?;
            if let Some(base) = base.filter(|base| !everything && base.fingerprint == fingerprint)
                && filters.is_settled(repository, &path, &fingerprint, self.listing(), next)?
            {
                next.repositories.insert(path, base.clone());
                continue;
            }
            let root = self.guest_root();
            let mut snapshot = Snapshot::read(repository, self.listing(), root, histories)?;
            let answer = filters.decide(repository, &path, snapshot.fingerprint(), self.listing(), next)?;
            let base = base.cloned().unwrap_or_default();
            let changes = snapshot.changes(self.vm, root, &base, everything, &answer)?;
            if answer.is_news && !changes.iter().any(|(_, source)| matches!(source, Source::Index(_))) {
                filters.not_told(&path);
            }
            plan.extend(changes);
            filtered.insert(path.clone(), answer.files);
            next.repositories.insert(path, snapshot.known());
            snapshots.push(snapshot);
        }
        for path in last.repositories.keys().filter(|path| !next.repositories.contains_key(*path)) {
            plan.no_repository(path);
        }
        if plan.is_empty() {
            // Stats may have moved without content; that is worth remembering, and nothing for the
            // guest.
            next.generation = last.generation.clone();
            if next != last {
                return progress.save(self.folder(), &snapshots);
            }
            progress.filters.save()?;
            return Ok(progress.report);
        }
        let (needed, now_ns) = propose(&mut call, &plan, self.options.policy)?;
        let sizes = needed.iter().map(|number| self.size(&plan.get(*number).0)).sum();
        let meter = Meter::new(sizes, self.options.on_progress);
        let mut out = Link::new(call.data(CONTENT), progress.begun.holes, &meter);
        let items = || needed.iter().map(|number| plan.get(*number));
        self.send_contents(&mut out, items(), now_ns, &mut progress)?;
        self.send_indexes(&mut out, items(), &snapshots, &filtered, &mut progress)?;
        out.flush()?;
        commit(&mut call, &mut progress.report)?;
        progress.save(self.folder(), &snapshots)
    }

    /// Finds which files of the worktree changed on the host.
    fn compare_files(&self, everything: bool, plan: &mut Plan, progress: &mut Progress) -> Result<(), SyncError> {
        let Progress { begun, base, next, report, .. } = progress;
        // Where everything is asked for, what is not named is taken for deleted.
        let is_held = |path: &[u8]| !everything && self.options.held.contains(path);
        // What is there is not what will be listed.
        let unchanged = |known: &SyncedFile| SyncedFile { guest_mtime_ns: None, ..known.clone() };
        let gone = |known: &SyncedFile, plan: &mut Plan, next: &mut Manifest| match is_held(&known.path) {
            true => next.entries.push(unchanged(known)),
            false => self.gone(known, plan),
        };
        let mut known = base.entries.iter().peekable();
        for entry in &self.listing().entries {
            let path = entry.path.as_bytes();
            while let Some(known) = known.next_if(|known| known.path.as_slice() < path) {
                gone(known, plan, next);
            }
            let before = known.next_if(|known| known.path == path);
            if is_held(path) {
                next.entries.extend(before.map(unchanged));
                continue;
            }
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
            let is_agreed = same_content && begun.mode == Mode::Delta;
            let guest_mtime_ns = before.filter(|_| is_agreed).and_then(|before| before.guest_mtime_ns);
            next.entries.push(self.known(entry, digest, guest_mtime_ns));
            if everything || !same_content {
                let base = before.map(|before| before.digest);
                plan.put(path, digest, kind(entry), base, source);
            }
        }
        known.for_each(|known| gone(known, plan, next));
        next.folders = self.folders();
        for folder in next.folders.iter().filter(|folder| everything || !base.folders.contains(*folder)) {
            plan.folder(folder);
        }
        Ok(())
    }

    /// Whether something of the repository whose `.git` is at `git` is left alone.
    fn is_held_in(&self, git: &[u8]) -> bool {
        self.options.held.iter().any(|held| held.strip_prefix(git).is_some_and(|rest| rest.starts_with(b"/")))
    }

    pub(super) fn folders(&self) -> BTreeSet<Vec<u8>> {
        self.listing().submodule_folders.iter().map(|folder| folder.as_bytes().to_vec()).collect()
    }

    /// A file that the listing does not have any more: deleted, or a folder now, or ignored. An
    /// ignored one is the guest's own affair.
    fn gone(&self, known: &SyncedFile, plan: &mut Plan) {
        let is_entry = |path: &[u8]| self.listing().entry(path).is_some();
        let slashes = known.path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let is_beneath_a_file = slashes.map(|(at, _)| &known.path[..at]).any(is_entry);
        let path = self.workspace.root.join(WireBytes(known.path.clone()).as_os_str());
        let is_gone = match std::fs::symlink_metadata(path) {
            Ok(metadata) => metadata.is_dir(),
            // What cannot be looked at may well be there.
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if is_beneath_a_file || is_gone {
            plan.delete(&known.path, known.digest);
        }
    }

    /// How many bytes an item's content has, as far as that is known.
    fn size(&self, item: &Item) -> u64 {
        match item.change {
            Change::Object { size } => size,
            _ => self.listing().entry(&item.path).map_or(0, |entry| entry.size),
        }
    }

    /// Sends the contents of `items`, but for git's indexes. `now_ns` is the guest's clock, in
    /// nanoseconds since 1970.
    fn send_contents<'b>(
        &self,
        out: &mut Link<'_>,
        items: impl Iterator<Item = &'b (Item, Source)>,
        now_ns: i64,
        progress: &mut Progress,
    ) -> Result<(), SyncError> {
        let Progress { base, next, report, .. } = progress;
        for (item, source) in items {
            let record = match (&item.change, source) {
                (_, Source::Index(_)) => continue,
                (Change::Object { size }, _) => plain(item.path.clone(), RecordKind::Object, *size),
                (Change::Put { kind, .. }, _) => {
                    let mut record = plain(item.path.clone(), RecordKind::Content(*kind), 0);
                    record.mtime_ns = now_ns;
                    if let Some(entry) = self.listing().entry(&item.path) {
                        // A file that replaces one must not be older than what was built from the
                        // former, or make skips it; none may be newer than what will be built from
                        // it, whatever the clocks say.
                        let replaces = base.entry(&item.path).is_some() || self.options.policy == Policy::HostWins;
                        record.mtime_ns = if replaces { now_ns } else { entry.mtime_ns.min(now_ns) };
                    }
                    record
                }
                _ => continue,
            };
            let mtime_ns = record.mtime_ns;
            let sent = source::send(out, record, source)?;
            report.bytes += sent.bytes;
            // The manifest lacks the listed files that could not be read, so a position in the
            // listing is none in the manifest.
            if let Some((entry, known)) = self.listing().entry(&item.path).zip(next.entry_mut(&item.path)) {
                known.guest_mtime_ns = sent.is(entry).then_some(mtime_ns);
                known.digest = sent.digest;
            }
        }
        Ok(())
    }

    /// Sends the indexes among `items`: they hold the times of files that were sent before.
    fn send_indexes<'b>(
        &self,
        out: &mut Link<'_>,
        items: impl Iterator<Item = &'b (Item, Source)>,
        snapshots: &[Snapshot<'_>],
        filtered: &BTreeMap<Vec<u8>, FilteredFiles>,
        progress: &mut Progress,
    ) -> Result<(), SyncError> {
        let Progress { next, report, .. } = progress;
        for (item, source) in items {
            let Source::Index(git) = source else { continue };
            let Some(snapshot) = snapshots.iter().find(|snapshot| snapshot.git == *git) else { continue };
            let Some(filtered) = filtered.get(git) else { continue };
            let (bytes, digest) = self.send_index(out, snapshot, item.path.clone(), next, filtered)?;
            report.bytes += bytes;
            if let Some(known) = next.repositories.get_mut(git) {
                known.index = Some(digest);
            }
        }
        Ok(())
    }
}

/// Sends the plan, and learns which items are needed, and the guest's clock.
fn propose(call: &mut Call, plan: &Plan, policy: Policy) -> Result<(Vec<usize>, i64), SyncError> {
    for batch in plan.batches() {
        call.send(Frame::Data(PLAN, batch.into()))?;
    }
    call.say(&ToSync::PlanEnds { policy })?;
    call.end_within(COMPARE_LIMIT);
    let mut needed = Vec::new();
    loop {
        match call.receive()?.ok_or(AgentError::from(FrameError::Ended))? {
            Frame::Data(NEEDED, numbers) => {
                if numbers.is_empty() || !numbers.len().is_multiple_of(4) {
                    let error = FrameError::Unexpected("the agent asks for nothing");
                    return Err(AgentError::from(error).into());
                }
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
                    if conflict_count > 0 && policy == Policy::Stop =>
                {
                    return Err(SyncError::Conflicts { count: ChangeCount(conflict_count), conflicts });
                }
                FromSync::Compared { now_ns, .. } => {
                    call.end_whenever();
                    return Ok((needed, now_ns));
                }
                FromSync::Failed(failure) => return Err(failure.into()),
                FromSync::Applied(_) => {
                    return Err(
                        AgentError::from(FrameError::Unexpected("the agent applied nothing that was sent")).into()
                    );
                }
            },
        }
    }
}
