//! `/snapshot/create` and `/snapshot/load`.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Request;

/// How long Firecracker may take to write a guest's memory, or to read what it needs of it: most of
/// an hour for 64 GiB on a slow disk.
const SNAPSHOT: Duration = Duration::from_secs(3600);

/// `SnapshotCreateParams` of the schema: a full snapshot.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct SnapshotCreateParams<'a> {
    snapshot_type: SnapshotType,
    snapshot_path: &'a Path,
    mem_file_path: &'a Path,
}

#[derive(Clone, Copy, Debug, Serialize)]
enum SnapshotType {
    Full,
}

impl<'a> SnapshotCreateParams<'a> {
    /// Of a paused guest, to these files.
    pub(in crate::backend::firecracker) fn full(snapshot_path: &'a Path, mem_file_path: &'a Path) -> Self {
        SnapshotCreateParams { snapshot_type: SnapshotType::Full, snapshot_path, mem_file_path }
    }

    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put("/snapshot/create", self).within(SNAPSHOT)
    }
}

/// `SnapshotLoadParams` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct SnapshotLoadParams<'a> {
    snapshot_path: &'a Path,
    mem_backend: MemoryBackend<'a>,
    resume_vm: bool,
}

/// `MemoryBackend` of the schema.
#[derive(Clone, Debug, Serialize)]
struct MemoryBackend<'a> {
    backend_type: MemoryBackendType,
    backend_path: &'a Path,
}

#[derive(Clone, Copy, Debug, Serialize)]
enum MemoryBackendType {
    File,
}

impl<'a> SnapshotLoadParams<'a> {
    /// Goes on from these files at once. The memory's is mapped, and must not change while the
    /// guest runs.
    pub(in crate::backend::firecracker) fn resumed(snapshot_path: &'a Path, mem_file_path: &'a Path) -> Self {
        let mem_backend = MemoryBackend { backend_type: MemoryBackendType::File, backend_path: mem_file_path };
        SnapshotLoadParams { snapshot_path, mem_backend, resume_vm: true }
    }

    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put("/snapshot/load", self).within(SNAPSHOT)
    }
}
