//! Snapshots of VMs: directories with what the VMM wrote of the guest's state, copies of the VM's
//! own disks as they were at that moment, and `snapshot.json`.
//!
//! A snapshot's directory appears complete, by a rename. A guest goes on only on what it was: the
//! VMM of the same version, with the same accelerator, processors, memory, kernel and image.

mod making;
mod restoring;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use banger_agent::net::NetMode;
use serde::{Deserialize, Serialize};

pub(crate) use self::making::Making;
pub(crate) use self::restoring::{finish, put_disks};
use crate::error::{Failure, IoContext, Result};
use crate::file;
use crate::kvm::Accelerator;
use crate::record::{BackendKind, VmRecord};

/// The file that says what a snapshot is of.
const FILE: &str = "snapshot.json";
const FORMAT: u32 = 1;

/// `snapshot.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotInfo {
    format_version: u32,
    /// When it was made, in seconds since 1970.
    created: u64,
    /// What ran the VM,
    pub(crate) backend: BackendKind,
    /// of this version,
    version: String,
    /// and what ran its instructions.
    pub(crate) accelerator: Accelerator,
    /// As in the VM's record.
    image: String,
    kernel: String,
    cpus: u32,
    memory_mib: u64,
    net: NetMode,
    /// What the record's names stood for.
    files: GuestFiles,
    /// Which of the VM's own disks there are, in the order of their attachment.
    pub(crate) disks: Vec<String>,
}

/// The files that a guest is made of besides its own disks, so that others of the same names are
/// told from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestFiles {
    kernel: String,
    initramfs: String,
    base: FileStamp,
    modules: Option<FileStamp>,
}

/// What tells a large file from one that replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileStamp {
    length: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

impl FileStamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = path.metadata().at("look at", path)?;
        Ok(FileStamp { length: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
    }
}

impl GuestFiles {
    /// Reads the kernel and the initramfs, and looks at the images.
    ///
    /// # Errors
    /// The file system's refusal.
    pub(crate) fn read(kernel: &Path, initramfs: &Path, base: &Path, modules: Option<&Path>) -> Result<Self> {
        Ok(GuestFiles {
            kernel: digest(kernel)?,
            initramfs: digest(initramfs)?,
            base: FileStamp::of(base)?,
            modules: modules.map(FileStamp::of).transpose()?,
        })
    }
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let hashed = File::open(path).and_then(|file| hasher.update_reader(file).map(drop));
    hashed.at("read", path)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What runs a VM of which a snapshot is made, or that is to go on from one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunBy<'a> {
    pub(crate) backend: BackendKind,
    /// As the backend has it.
    pub(crate) version: &'a str,
    pub(crate) accelerator: Accelerator,
}

impl SnapshotInfo {
    /// Of a VM that runs.
    pub(crate) fn new(record: &VmRecord, run_by: RunBy<'_>, files: GuestFiles, disks: Vec<String>) -> Self {
        SnapshotInfo {
            format_version: FORMAT,
            created: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            backend: run_by.backend,
            version: run_by.version.to_owned(),
            accelerator: run_by.accelerator,
            image: record.image.clone(),
            kernel: record.kernel.clone(),
            cpus: record.cpus,
            memory_mib: record.memory_mib,
            net: record.net,
            files,
            disks,
        }
    }

    /// Reads what the snapshot in `directory` is of. `own` are the names of a VM's own disks.
    ///
    /// # Errors
    /// It cannot be read, is none, or of a later version of banger.
    pub(crate) fn read(directory: &Path, own: &[&str]) -> Result<Self, Failure> {
        let path = directory.join(FILE);
        let info = file::open_regular(&path).at("open", &path).and_then(|file| file::read_json_of(file, &path, FORMAT));
        let info: SnapshotInfo = info.map_err(|error| cannot_restore(directory, &error.to_string()))?;
        if !info.disks.iter().all(|disk| own.contains(&disk.as_str())) {
            return Err(cannot_restore(directory, "it names disks that no VM has"));
        }
        Ok(info)
    }

    /// Checks that a VM of this record can go on from it.
    ///
    /// # Errors
    /// Everything in which the VM differs.
    pub(crate) fn check(
        &self,
        directory: &Path,
        record: &VmRecord,
        version: &str,
        files: &GuestFiles,
    ) -> Result<(), Failure> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, theirs: &dyn std::fmt::Display, ours: &dyn std::fmt::Display| {
            let (theirs, ours) = (theirs.to_string(), ours.to_string());
            if theirs != ours {
                differences.push(format!("{what} `{theirs}`, and not `{ours}`"));
            }
        };
        compare("the version", &self.version, &version);
        compare("the number of processors", &self.cpus, &record.cpus);
        compare("the memory in MiB", &self.memory_mib, &record.memory_mib);
        compare("the kernel", &self.kernel, &record.kernel);
        compare("the image", &self.image, &record.image);
        compare("the network", &self.net.name(), &record.net.name());
        let is_same = |what: &str, is_same: bool| (!is_same).then(|| format!("another {what} of the same name"));
        let (mine, theirs) = (&self.files, files);
        let other_files = [
            is_same("kernel", mine.kernel == theirs.kernel && mine.modules == theirs.modules),
            is_same("initramfs", mine.initramfs == theirs.initramfs),
            is_same("image", mine.base == theirs.base),
        ];
        differences.extend(other_files.into_iter().flatten());
        match differences.is_empty() {
            true => Ok(()),
            false => Err(cannot_restore(directory, &format!("it was made with {}", differences.join(", and ")))),
        }
    }
}

/// The failure to start from a snapshot.
pub(crate) fn cannot_restore(directory: &Path, reason: &str) -> Failure {
    Failure::new(format!("cannot restore the snapshot {}: {reason}", directory.display()))
        .with_hint("start the VM without the snapshot")
}

/// Copies a disk into a new file, which is not synced yet. Where the file system can, they share
/// their blocks.
fn copy_disk(source: &File, to: &Path, is_cancelled: &dyn Fn() -> bool) -> Result<File> {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).at("create", to)?;
    let check = || match is_cancelled() {
        true => Err(io::Error::from(io::ErrorKind::Interrupted)),
        false => Ok(()),
    };
    banger_util::sparse::copy_while(source, &target, check).at("write", to)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn files(folder: &Path) -> GuestFiles {
        for name in ["kernel", "initramfs", "base"] {
            fs::write(folder.join(name), name).unwrap();
        }
        let path = |name| folder.join(name);
        GuestFiles::read(&path("kernel"), &path("initramfs"), &path("base"), None).unwrap()
    }

    fn info(files: GuestFiles) -> SnapshotInfo {
        let run_by = RunBy { backend: BackendKind::Qemu, version: "7.2.22", accelerator: Accelerator::Tcg };
        SnapshotInfo::new(&VmRecord::new("vm", "debian", "generic", 0), run_by, files, vec!["disk.ext4".into()])
    }

    #[test]
    fn restore_is_refused_with_every_difference() {
        let folder = tempfile::tempdir().unwrap();
        let same = files(folder.path());
        let info = info(same.clone());
        let directory = Path::new("/s");
        let record = VmRecord::new("other", "debian", "generic", 1);
        info.check(directory, &record, "7.2.22", &same).unwrap();
        let refused = |change: &dyn Fn(&mut VmRecord), version, files: &GuestFiles| {
            let mut record = record.clone();
            change(&mut record);
            info.check(directory, &record, version, files).unwrap_err().message
        };
        for (change, part) in [
            (&(|record: &mut VmRecord| record.cpus = 3) as &dyn Fn(&mut VmRecord), "processors `2`, and not `3`"),
            (&|record| record.memory_mib = 1, "the memory in MiB `2048`, and not `1`"),
            (&|record| record.kernel = "k".into(), "the kernel `generic`, and not `k`"),
            (&|record| record.image = "i".into(), "the image `debian`, and not `i`"),
            (&|record| record.net = NetMode::None, "the network `user`, and not `none`"),
        ] {
            let message = refused(change, "7.2.22", &same);
            assert!(message.starts_with("cannot restore the snapshot /s: ") && message.contains(part), "{message}");
        }
        let both = refused(&|record| record.cpus = 1, "8.0.0", &same);
        assert!(both.contains("the version `7.2.22`, and not `8.0.0`, and the number of processors"), "{both}");
        fs::write(folder.path().join("kernel"), "kernels").unwrap();
        let path = |name| folder.path().join(name);
        let other = GuestFiles::read(&path("kernel"), &path("initramfs"), &path("base"), None).unwrap();
        assert!(refused(&|_| (), "7.2.22", &other).contains("another kernel of the same name"));
    }

    #[test]
    fn damaged_or_foreign_description_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let info = info(files(folder.path()));
        let write = |text: String| fs::write(folder.path().join(FILE), text).unwrap();
        let refused = || SnapshotInfo::read(folder.path(), &["disk.ext4"]).unwrap_err();
        assert!(refused().message.contains("snapshot.json"), "{:?}", refused());
        write(serde_json::to_string(&info).unwrap());
        assert_eq!(SnapshotInfo::read(folder.path(), &["disk.ext4"]).unwrap(), info);
        let mut json = serde_json::to_value(&info).unwrap();
        json["disks"] = serde_json::json!(["../../etc/passwd"]);
        write(json.to_string());
        assert!(refused().message.contains("disks that no VM has"));
        json["format_version"] = 9.into();
        write(json.to_string());
        assert!(refused().message.contains("format 9"), "{:?}", refused());
        write("{".into());
        assert_eq!(refused().hint.as_deref(), Some("start the VM without the snapshot"));
    }

    #[test]
    fn files_of_a_snapshot_are_regular_ones() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("s");
        let vm = folder.path().join("vm");
        fs::create_dir(&vm).unwrap();
        file::tests::in_place_of_file(&snapshot, FILE, |reason| {
            let failure = SnapshotInfo::read(&snapshot, &["disk.ext4"]).unwrap_err();
            assert!(failure.message.contains(reason), "{failure:?}");
        });
        let info = info(files(folder.path()));
        file::tests::in_place_of_file(&snapshot, "disk.ext4", |reason| {
            let error = put_disks(&vm, &snapshot, &info).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert!(fs::read_dir(&vm).unwrap().next().is_none());
        });
    }
}
