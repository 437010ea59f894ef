//! The first sync: all there is.

use banger_agent::protocol::sync::{Begun, CONTENT, RecordKind, ToSync};

use super::engine::{Engine, commit, plain, readable};
use super::history::Histories;
use super::link::{Link, Meter};
use super::manifest::Manifest;
use super::repository::{Snapshot, reference_files};
use super::seed::Seed;
use super::source::{self, Sink, Source};
use super::{Report, SyncError};
use crate::agent::Call;

impl Engine<'_> {
    /// Brings everything to a guest that has nothing: on a disk that it gets (`begun.seed`), or over the link.
    pub(super) fn fresh(
        &self,
        mut call: Call,
        generation: String,
        begun: &Begun,
        histories: Histories,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        let root = self.guest_root();
        let read = |repository| Snapshot::read(repository, self.listing(), root, &histories);
        let snapshots = self.sent_repositories(&histories).map(read).collect::<Result<Vec<_>, _>>()?;
        call.say(&ToSync::PlanEnds { policy: self.policy })?;
        let files: u64 = self.listing().entries.iter().map(|entry| entry.size).sum();
        let objects = snapshots.iter().flat_map(|snapshot| snapshot.objects().map(|(_, object)| object.size));
        let meter = Meter::new(files + objects.sum::<u64>(), self.shows);
        let manifest = if begun.seed {
            let mut disk = Seed::create(&self.vm.workspace_disk(), &meter)?;
            let manifest = self.everything(&mut disk, generation, &snapshots, report)?;
            disk.finish()?;
            manifest
        } else {
            let mut out = Link::new(call.data(CONTENT), begun.holes, &meter);
            let manifest = self.everything(&mut out, generation, &snapshots, report)?;
            out.flush()?;
            manifest
        };
        commit(&mut call, report)?;
        histories.save(snapshots.iter().filter_map(Snapshot::sent))?;
        manifest.save(self.folder()).map_err(SyncError::State)
    }

    /// Puts all that the host has, and returns what was put.
    pub(super) fn everything(
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
            report.bytes += sent.bytes;
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
            source::send(out, record, &snapshot.object_source(object))?;
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
}
