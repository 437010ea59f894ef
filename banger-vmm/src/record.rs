//! What is written down about a VM: `vm.json`.

use std::path::Path;

use banger_agent::net::NetMode;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;

/// The latest format of `vm.json`. A record is written in the earliest one that has what it says:
///
/// 1. Knows of no choice of backends: what it says of one is that of [`BackendChoice::Auto`].
/// 2. Has [`VmRecord::backend`].
const FORMAT: u32 = 2;
const WITHOUT_BACKEND: u32 = 1;

/// Everything that lasts about a VM but the contents of its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The format that the record had when it was read; which one it is written in, its content
    /// decides.
    pub format_version: u32,
    /// The VM's name: 1 to 64 of a-z, 0-9, `.`, `_`, `-`.
    pub name: String,
    /// What the VM is for. Its meaning is the caller's.
    pub workspace: serde_json::Value,
    /// The image's name.
    pub image: String,
    /// The kernel's name.
    pub kernel: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the disk as the guest sees it, in bytes.
    pub disk_bytes: u64,
    /// What is to run the VM, from its next start on.
    #[serde(default, skip_serializing_if = "BackendChoice::is_open")]
    pub backend: BackendChoice,
    /// How the guest reaches other machines.
    pub net: NetMode,
    /// The guest's `/etc/machine-id`: 32 hexadecimal digits.
    pub machine_id: String,
    /// The guest's host name.
    pub hostname: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Whether the VM goes when its command ends, so that its disk need not survive a crash.
    #[serde(rename = "throwaway")]
    pub ephemeral: bool,
    /// When the VM counts as started.
    pub ready: Ready,
    /// After how many milliseconds without anybody using it the VM stops by itself; 0: never.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout_ms: u64,
    /// How much of the host's disks and network the VM may use, from its next start on.
    #[serde(default, skip_serializing_if = "RateLimits::is_unlimited")]
    pub limits: RateLimits,
}

/// The rates of a VM's disks and network; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimits {
    /// Operations per second of the VM's own disks together, reads and writes.
    pub disk_iops: u64,
    /// Bytes per second of the VM's own disks together, reads and writes.
    pub disk_bandwidth: u64,
    /// Bytes per second of the network, in each direction.
    pub net_bandwidth: u64,
}

impl RateLimits {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == RateLimits::default()
    }
}

/// What a record of a version has that knew no idle time: half an hour.
fn default_idle_timeout() -> u64 {
    30 * 60 * 1000
}

/// What runs a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Firecracker, which needs KVM.
    Firecracker,
    /// QEMU's `microvm` machine.
    Qemu,
}

impl BackendKind {
    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            BackendKind::Firecracker => "Firecracker",
            BackendKind::Qemu => "QEMU",
        }
    }
}

/// What the user wants to run a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// Firecracker where it can run the VM, else QEMU.
    #[default]
    Auto,
    /// Firecracker or an error.
    Firecracker,
    /// QEMU.
    Qemu,
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendKind::Firecracker => "Firecracker",
            BackendKind::Qemu => "QEMU",
        })
    }
}

impl BackendChoice {
    /// All choices, in the order in which help texts list them.
    pub const ALL: [BackendChoice; 3] = [BackendChoice::Auto, BackendChoice::Firecracker, BackendChoice::Qemu];

    /// The backend that is forced; none: any.
    pub const fn kind(self) -> Option<BackendKind> {
        match self {
            BackendChoice::Auto => None,
            BackendChoice::Firecracker => Some(BackendKind::Firecracker),
            BackendChoice::Qemu => Some(BackendKind::Qemu),
        }
    }

    /// The choice's name on command lines, in configuration files and in records.
    pub const fn name(self) -> &'static str {
        match self {
            BackendChoice::Auto => "auto",
            BackendChoice::Firecracker => "firecracker",
            BackendChoice::Qemu => "qemu",
        }
    }

    /// Whether banger chooses.
    fn is_open(&self) -> bool {
        *self == BackendChoice::Auto
    }

    /// The choice of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        BackendChoice::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

/// When a VM counts as started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// When the agent answers.
    #[default]
    Agent,
    /// When the image's init has finished booting.
    System,
}

impl VmRecord {
    /// A record of the current format with the defaults: 2 processors, 2 GiB of memory, a disk of
    /// 32 GiB, `user` networking, half an hour of idle time.
    pub fn new(name: &str, image: &str, kernel: &str, created: u64) -> Self {
        VmRecord {
            format_version: WITHOUT_BACKEND,
            name: name.to_owned(),
            workspace: serde_json::Value::Null,
            image: image.to_owned(),
            kernel: kernel.to_owned(),
            cpus: 2,
            memory_mib: 2048,
            disk_bytes: 32 << 30,
            backend: BackendChoice::default(),
            net: NetMode::default(),
            machine_id: file::random_hex(16),
            hostname: hostname(name),
            created,
            ephemeral: false,
            ready: Ready::default(),
            idle_timeout_ms: default_idle_timeout(),
            limits: RateLimits::default(),
        }
    }

    /// Gives it this name, and the host name that goes with it. False if it has the name already.
    pub fn rename(&mut self, name: &str) -> bool {
        if self.name == name {
            return false;
        }
        name.clone_into(&mut self.name);
        self.hostname = hostname(name);
        true
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`Error::Newer`] for one of a later version, [`Error::Damaged`] for what is none.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut record: VmRecord = file::read_json(path, FORMAT)?;
        if record.format_version == WITHOUT_BACKEND {
            record.backend = BackendChoice::Auto;
        }
        Ok(record)
    }

    /// Writes the record beside `path`, then renames it into place.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let format_version = if self.backend.is_open() { WITHOUT_BACKEND } else { FORMAT };
        file::write_json(path, &VmRecord { format_version, ..self.clone() })
    }

    /// What the kernel command line and the folder's name rely on, checked before a VM is made.
    pub(crate) fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        let hostname_fits =
            self.hostname.len() <= 63 && self.hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let id_fits = self.machine_id.len() == 32 && self.machine_id.bytes().all(|b| b.is_ascii_hexdigit());
        if !hostname_fits || self.hostname.is_empty() || !id_fits {
            return Err(Error::InvalidName(self.hostname.clone()));
        }
        Ok(())
    }
}

/// Whether this can name a VM.
pub fn is_name(name: &str) -> bool {
    check_name(name).is_ok()
}

/// Lets only names pass that are harmless as a folder's name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let valid = name.len() <= 64
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b"._-".contains(&b));
    if valid { Ok(()) } else { Err(Error::InvalidName(name.to_owned())) }
}

/// A VM's name as a host name: a label of RFC 1123.
fn hostname(name: &str) -> String {
    let label: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "banger".to_owned() } else { label.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trips_through_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.json");
        let mut record = VmRecord::new("my-project", "debian", "generic", 1_700_000_000);
        record.workspace = serde_json::json!({"root": "/home/me/my-project"});
        record.write(&path).unwrap();
        assert_eq!(VmRecord::read(&path).unwrap(), record);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["vm.json"]);
    }

    #[test]
    fn record_without_idle_timeout_gets_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.json");
        let mut old = serde_json::to_value(VmRecord::new("x", "i", "k", 0)).unwrap();
        old.as_object_mut().unwrap().remove("idle_timeout_ms").unwrap();
        std::fs::write(&path, old.to_string()).unwrap();
        assert_eq!(VmRecord::read(&path).unwrap().idle_timeout_ms, 1_800_000);
    }

    #[test]
    fn limits_are_written_only_if_there_are_any() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.json");
        let mut record = VmRecord::new("x", "i", "k", 0);
        record.write(&path).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("limits"));
        assert!(VmRecord::read(&path).unwrap().limits.is_unlimited());
        record.limits.disk_iops = 100;
        record.write(&path).unwrap();
        assert_eq!(VmRecord::read(&path).unwrap().limits, RateLimits { disk_iops: 100, ..RateLimits::default() });
        // As a version writes them that has other ones too.
        let mut later = serde_json::to_value(&record).unwrap();
        later["limits"] = serde_json::json!({"net_bandwidth": 7, "cpu": 1});
        std::fs::write(&path, later.to_string()).unwrap();
        assert_eq!(VmRecord::read(&path).unwrap().limits, RateLimits { net_bandwidth: 7, ..RateLimits::default() });
    }

    #[test]
    fn record_of_a_version_without_backends_leaves_the_choice_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.json");
        let mut old = serde_json::to_value(VmRecord::new("x", "i", "k", 0)).unwrap();
        assert_eq!(old["format_version"], 1);
        assert_eq!(old.get("backend"), None);
        std::fs::write(&path, old.to_string()).unwrap();
        assert_eq!(VmRecord::read(&path).unwrap().backend, BackendChoice::Auto);
        // The last version without a choice wrote down that it was QEMU.
        old["backend"] = "qemu".into();
        std::fs::write(&path, old.to_string()).unwrap();
        assert_eq!(VmRecord::read(&path).unwrap().backend, BackendChoice::Auto);
    }

    #[test]
    fn record_with_a_backend_is_refused_by_versions_that_would_pass_over_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.json");
        let written = |backend| {
            VmRecord { backend, ..VmRecord::new("x", "i", "k", 0) }.write(&path).unwrap();
            assert_eq!(VmRecord::read(&path).unwrap().backend, backend);
            serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap()
        };
        assert_eq!(written(BackendChoice::Firecracker)["format_version"], 2);
        assert_eq!(written(BackendChoice::Qemu)["format_version"], 2);
        // QEMU runs what is open.
        assert_eq!(written(BackendChoice::Auto)["format_version"], 1);
    }

    #[test]
    fn invalid_record_is_a_damaged_or_newer_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.json");
        let deep = "[".repeat(200_000);
        let long = " ".repeat(2 << 20);
        for damaged in
            ["", "{", "\u{0}\u{0}\u{0}", "{\"format_version\":1}", "{\"format_version\":-1}", "[]", &deep, &long]
        {
            std::fs::write(&path, damaged).unwrap();
            let error = VmRecord::read(&path).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("vm.json"));
        }
        std::fs::write(&path, r#"{"format_version":7,"name":{"of":"another shape"}}"#).unwrap();
        assert!(matches!(VmRecord::read(&path), Err(Error::Newer { found: 7, .. })));
    }

    #[test]
    fn vm_names_are_validated() {
        for name in ["a", "my-project.2", "0_"] {
            check_name(name).unwrap();
        }
        for name in ["", ".", "..", ".tmp-x", "a/b", "A", "a b", "a\n", "-rf", "\u{e9}", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        let error = check_name("\u{1b}[2J").unwrap_err().to_string();
        assert!(error.contains("^[[2J"), "{error}");
    }

    #[test]
    fn hostname_is_a_valid_dns_label() {
        for (name, label) in [("my_project.x", "my-project-x"), ("_", "banger"), ("a.", "a")] {
            assert_eq!(hostname(name), label);
        }
        let mut record = VmRecord::new("x", "i", "k", 0);
        record.check().unwrap();
        record.hostname = "x banger.net=evil".into();
        assert!(record.check().is_err());
    }
}
