//! One sync, from the request to the last word: what a first one and a later one have in common.

use std::cell::Cell;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use banger_agent::frame::FrameError;
use banger_agent::protocol::sync::{Begun, Digest, FromSync, Kind, Mode, Record, RecordKind, SyncRequest, ToSync};
use banger_agent::protocol::{AgentRequest, WireBytes, now_ns};
use banger_vmm::Vm;

use super::filters::Filters;
use super::history::Histories;
use super::manifest::{HostStat, Manifest, SyncedFile, kind};
use super::repository::Snapshot;
use super::source::{self, Sink, Source};
use super::{Listed, SyncError, SyncOptions, SyncReport};
use crate::git::{Entry, FilteredFiles, History, Listing, Repository, Workspace};
use crate::vm::agent::{AgentError, Call};
use crate::vm::checkout::GuestCheckout;
use crate::vm::ownership::VmOwner;

/// What an attempt at a sync knows between the guest's first answer and the last.
pub(super) struct Progress {
    /// The guest's first answer.
    pub(super) begun: Begun,
    /// What both sides agreed on in the last sync; empty before the first.
    pub(super) base: Manifest,
    /// What both sides agree on after this one, as far as it is known.
    pub(super) next: Manifest,
    pub(super) histories: Histories,
    pub(super) filters: Filters,
    pub(super) report: SyncReport,
}

impl Progress {
    /// Writes to the sync state in `directory` what the guest has applied. `next` comes last: with
    /// an older one, the next sync sends some things again; with one that is ahead, it would lack
    /// some.
    pub(super) fn save(self, directory: &Path, snapshots: &[Snapshot<'_>]) -> Result<SyncReport, SyncError> {
        self.histories.save(snapshots.iter().filter_map(Snapshot::sent))?;
        self.filters.save()?;
        self.next.save(directory).map_err(SyncError::State)?;
        Ok(self.report)
    }
}

/// One attempt at a sync.
pub(super) struct Engine<'a> {
    pub(super) vm: &'a Vm,
    pub(super) workspace: &'a Workspace,
    pub(super) checkout: &'a GuestCheckout,
    pub(super) listed: &'a Listed,
    pub(super) options: &'a SyncOptions<'a>,
    /// When the second is over in which files with a filter were written in the guest, in
    /// nanoseconds since 1970.
    pub(super) index_clock_ns: Cell<i64>,
}

impl<'a> Engine<'a> {
    /// Where is kept what this side knows of the syncs.
    pub(super) fn folder(&self) -> &'a Path {
        self.checkout.syncs()
    }

    pub(super) fn listing(&self) -> &'a Listing {
        &self.listed.listing
    }

    pub(super) fn repositories(&self) -> impl Iterator<Item = &'a Repository> {
        std::iter::once(&self.workspace.repository).chain(&self.listed.listing.repositories)
    }

    /// The workspace's root in the guest.
    pub(super) fn guest_root(&self) -> &'a [u8] {
        self.checkout.guest_path().as_os_str().as_encoded_bytes()
    }

    /// Those that the guest shall have.
    pub(super) fn sent_repositories(&self, histories: &Histories) -> impl Iterator<Item = &'a Repository> {
        let has_any = histories.kind() != History::None;
        self.repositories().filter(move |_| has_any)
    }

    pub(super) fn run(&self) -> Result<SyncReport, SyncError> {
        let manifest = Manifest::load(self.folder()).map_err(SyncError::State)?;
        let generation = new_generation();
        let request = SyncRequest {
            root: self.checkout.guest_path().as_os_str().into(),
            alias: self.checkout.alias().map(|path| path.as_os_str().into()),
            base: manifest.as_ref().map(|manifest| manifest.generation.clone()),
            generation: generation.clone(),
            excludes: WireBytes(self.workspace.repository.global_excludes()?),
            clock_ns: now_ns(),
        };
        let request =
            if self.checkout.is_own() { AgentRequest::Sync(request) } else { AgentRequest::SyncAdditional(request) };
        let mut call = Call::open(self.vm, &request)?;
        let begun = call.answer::<Begun>().map_err(SyncError::from);
        // Without a manifest, the guest may have no files yet.
        let begun = if manifest.is_some() { begun.map_err(SyncError::of_later_sync) } else { begun }?;
        // In a bare VM the first repository gets the disk; in others, the VM's own has it.
        if begun.seed && !self.checkout.is_own() && VmOwner::of(&self.vm.record().map_err(AgentError::from)?).is_some()
        {
            let error = FrameError::Unexpected("the agent offers a disk for a repository that has none");
            return Err(AgentError::from(error).into());
        }
        self.checkout.begin().map_err(SyncError::State)?;
        let mut report = SyncReport { guest_only: begun.guest_only, ..SyncReport::default() };
        let history = self.options.history;
        let mut histories = match begun.mode {
            Mode::Initial => Histories::initial(self.folder(), history, self.repositories())?,
            mode => Histories::of(self.folder(), history, mode == Mode::Complete)?,
        };
        report.notes.extend(histories.note.take());
        let mut base = manifest.unwrap_or_default();
        for WireBytes(git) in &begun.lost {
            histories.forget(git);
            // What the host has not sent cannot be lost: a guest may name as many as it likes.
            if base.repositories.remove(git).is_some() {
                let git = WireBytes([self.guest_root(), b"/", git].concat());
                report.notes.push(format!("`{git}` was gone in the VM: it is sent again"));
            }
        }
        let filters = Filters::load(self.folder())?;
        let next = Manifest { generation, ..Manifest::default() };
        let progress = Progress { begun, base, next, histories, filters, report };
        let report = match progress.begun.mode {
            Mode::Initial => self.initial(call, progress)?,
            Mode::Delta | Mode::Complete => self.incremental(call, progress).map_err(SyncError::of_later_sync)?,
        };
        self.wait_for_index_clock();
        Ok(report)
    }

    /// Waits until git in the guest may write its index: it knows times by the second only, and
    /// compares the contents of files that are not older than the index. Whoever compares a file
    /// with a filter takes it for changed.
    fn wait_for_index_clock(&self) {
        let left = u64::try_from(self.index_clock_ns.get().saturating_sub(now_ns())).unwrap_or_default();
        // A file may be of the future: nobody waits for that.
        if left <= 1_000_000_000 {
            thread::sleep(Duration::from_nanos(left));
        }
    }

    /// Sends the index, which may have moved since the snapshot. Returns its length and its digest.
    pub(super) fn send_index(
        &self,
        out: &mut dyn Sink,
        snapshot: &Snapshot<'_>,
        path: Vec<u8>,
        manifest: &Manifest,
        filtered: &FilteredFiles,
    ) -> Result<(u64, Digest), SyncError> {
        let (index, digest) = snapshot.index(self.listing(), filtered, &|entry| manifest.guest_stat(entry))?;
        if filtered.values().any(|is_clean| *is_clean) {
            self.index_clock_ns.set(self.index_clock_ns.get().max(index.mtime_ns));
        }
        let kind = RecordKind::Content(Kind::File(0o644));
        let record = Record { mtime_ns: index.mtime_ns, ..plain(path, kind, 0) };
        Ok((source::send_as(out, record, &index.bytes, digest)?.bytes, digest))
    }

    pub(super) fn record(&self, entry: &Entry, mtime_ns: i64) -> (Record, Source) {
        let kind = kind(entry);
        let source = Source::of(entry, &self.workspace.root, &self.listed.boundary);
        let kind = RecordKind::Content(kind);
        (Record { path: entry.path.as_bytes().to_vec(), kind, mtime_ns, size: entry.size }, source)
    }

    pub(super) fn known(&self, entry: &Entry, digest: [u8; 32], guest_mtime_ns: Option<i64>) -> SyncedFile {
        let stat = HostStat::of(entry, self.listed.read_ns(entry));
        SyncedFile { path: entry.path.as_bytes().to_vec(), kind: kind(entry), digest, stat, guest_mtime_ns }
    }
}

/// Has the guest apply what was sent. The comparison of an empty plan, which nobody waited for in
/// an initial sync, may come before.
pub(super) fn commit(call: &mut Call, report: &mut SyncReport) -> Result<(), SyncError> {
    call.say(&ToSync::Commit)?;
    for _ in 0..2 {
        match call.receive()?.ok_or(AgentError::from(FrameError::Ended))?.message().map_err(AgentError::from)? {
            FromSync::Applied(applied) => {
                report.applied = applied;
                return Ok(());
            }
            FromSync::Failed(failure) => return Err(failure.into()),
            FromSync::Compared { .. } => {}
        }
    }
    Err(AgentError::from(FrameError::Unexpected("the agent compares again and again, and applies nothing")).into())
}

/// What was read of a file of the host; none, and a note, if that is not allowed: one file shall
/// not stop all others.
pub(super) fn readable<T>(read: Result<T, SyncError>, report: &mut SyncReport) -> Result<Option<T>, SyncError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(SyncError::Unreadable(error)) => {
            report.notes.push(format!("what cannot be read stays behind: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn plain(path: Vec<u8>, kind: RecordKind, size: u64) -> Record {
    Record { path, kind, mtime_ns: 0, size }
}

fn new_generation() -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{}-{}", now.as_nanos(), std::process::id())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use banger_agent::frame::{Frame, FrameCodec};
    use bytes::BytesMut;
    use tokio_util::codec::Encoder;

    use super::*;
    use crate::vm::agent::Limits;

    /// An operation whose agent says this, whatever it hears.
    fn call(says: Vec<Frame>) -> Call {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut wire = BytesMut::new();
        says.into_iter().for_each(|frame| FrameCodec.encode(frame, &mut wire).unwrap());
        thread::spawn(move || {
            let _ = theirs.write_all(&wire);
            // Until the host has gone.
            let _ = std::io::copy(&mut theirs, &mut std::io::sink());
        });
        Call::on(ours, &AgentRequest::Stat, Limits::default()).unwrap()
    }

    #[test]
    fn endless_compare_replies_are_an_error() {
        let compared = || Frame::control(&FromSync::Compared { conflicts: Vec::new(), conflict_count: 0, now_ns: 0 });
        let applied = || Frame::control(&FromSync::Applied(Default::default()));
        let committed = |says| commit(&mut call(says), &mut SyncReport::default()).map_err(|error| error.to_string());
        committed(vec![applied()]).unwrap();
        committed(vec![compared(), applied()]).unwrap();
        let error = committed(std::iter::repeat_with(compared).take(1000).collect()).unwrap_err();
        assert!(error.contains("compares again and again"), "{error}");
    }
}
