//! The initial sync: everything is sent.

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::sync::{CONTENT, RecordKind, ToSync};

use super::engine::{Engine, Progress, commit, plain, readable};
use super::filters::Filters;
use super::link::{Link, Meter};
use super::manifest::Manifest;
use super::repository::{Snapshot, reference_files};
use super::seed::Seed;
use super::source::{self, Sink, Source};
use super::{SyncError, SyncReport};
use crate::git::{History, Repository};
use crate::vm::agent::Call;

impl Engine<'_> {
    /// Sends everything to a guest without a workspace: on a disk that it gets (`begun.seed`), or
    /// over the link.
    pub(super) fn initial(&self, mut call: Call, mut progress: Progress) -> Result<SyncReport, SyncError> {
        let root = self.guest_root();
        let histories = &progress.histories;
        let read = |repository| Snapshot::read(repository, self.listing(), root, histories);
        let snapshots = self.sent_repositories(histories).map(read).collect::<Result<Vec<_>, _>>()?;
        if histories.kind() == History::Full {
            progress.report.notes.extend(partial_clones(self.sent_repositories(histories))?);
        }
        call.say(&ToSync::PlanEnds { policy: self.options.policy })?;
        let files: u64 = self.listing().entries.iter().map(|entry| entry.size).sum();
        let objects = snapshots.iter().flat_map(|snapshot| snapshot.objects().map(|(_, object)| object.size));
        let meter = Meter::new(files + objects.sum::<u64>(), self.options.on_progress);
        if progress.begun.seed {
            let mut disk = Seed::create(self.vm, &meter)?;
            self.send_everything(&mut disk, &snapshots, &mut progress)?;
            disk.finish()?;
        } else {
            let mut out = Link::new(call.data(CONTENT), progress.begun.holes, &meter);
            self.send_everything(&mut out, &snapshots, &mut progress)?;
            out.flush()?;
        }
        commit(&mut call, &mut progress.report)?;
        progress.report.notes.extend(progress.filters.note());
        progress.save(self.folder(), &snapshots)
    }

    /// Sends all files and repositories of the host, and notes them in `progress.next`.
    fn send_everything(
        &self,
        out: &mut dyn Sink,
        snapshots: &[Snapshot<'_>],
        progress: &mut Progress,
    ) -> Result<(), SyncError> {
        let Progress { next, filters, report, .. } = progress;
        for entry in &self.listing().entries {
            let (record, source) = self.record(entry, entry.mtime_ns);
            let Some(sent) = readable(source::send(out, record, &source), report)? else { continue };
            report.bytes += sent.bytes;
            let guest_mtime_ns = sent.is(entry).then_some(entry.mtime_ns);
            next.entries.push(self.known(entry, sent.digest, guest_mtime_ns));
        }
        for folder in &self.listing().submodule_folders {
            let record = plain(folder.as_bytes().to_vec(), RecordKind::Folder, 0);
            source::send(out, record, &Source::Bytes(Vec::new()))?;
        }
        next.folders = self.folders();
        for snapshot in snapshots {
            report.bytes += self.send_repository(out, snapshot, next, filters)?;
            next.repositories.insert(snapshot.git.clone(), snapshot.known());
        }
        Ok(())
    }

    /// Sends what git has of a repository. `manifest` knows the files, which were sent before.
    fn send_repository(
        &self,
        out: &mut dyn Sink,
        snapshot: &Snapshot<'_>,
        manifest: &Manifest,
        filters: &mut Filters,
    ) -> Result<u64, SyncError> {
        let mut bytes = 0;
        for (path, object) in snapshot.objects() {
            let record = plain(path, RecordKind::Object, object.size);
            source::send(out, record, &snapshot.object_source(object))?;
            bytes += object.size;
        }
        for (path, kind, content) in snapshot.files() {
            bytes += content.len() as u64;
            source::send(out, plain(path, RecordKind::Content(kind), 0), &Source::Bytes(content))?;
        }
        let (repository, fingerprint) = (snapshot.repository, snapshot.fingerprint());
        let filtered = filters.decide(repository, &snapshot.git, fingerprint, self.listing(), manifest)?.files;
        bytes += self.send_index(out, snapshot, snapshot.index_path(), manifest, &filtered)?.0;
        // HEAD comes last: by it the guest sees that a repository is whole.
        for (path, content) in reference_files(snapshot) {
            source::send(out, plain(path, RecordKind::References, 0), &Source::Bytes(content))?;
        }
        Ok(bytes)
    }
}

/// What the VM lacks because it is not here, in one line.
fn partial_clones<'a>(repositories: impl Iterator<Item = &'a Repository>) -> Result<Option<String>, SyncError> {
    let mut found = Vec::new();
    for repository in repositories {
        found.extend(repository.partial()?.map(|partial| (repository, partial)));
    }
    let Some((repository, partial)) = found.first() else { return Ok(None) };
    let name = match repository.path.as_bytes() {
        b"" => "this repository".to_owned(),
        path => format!("`{}`", WireBytes(path.to_vec())),
    };
    let others = match found.len() {
        1 => String::new(),
        count => format!(" (and {} others)", count - 1),
    };
    let (missing, remote) = (partial.missing(), &partial.remote);
    let filter = if partial.filter.is_empty() { String::new() } else { format!(" (`{}`)", partial.filter) };
    Ok(Some(format!(
        "{name}{others} is a partial clone{filter}: {missing} that git has not fetched here are missing in the VM; \
         git there fetches them from `{remote}`"
    )))
}
