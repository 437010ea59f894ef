//! What is known about a VM's supervisor while it lives.
//!
//! The lock is the truth, the file is information: one that lies beside a free lock tells of a
//! supervisor that was killed.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_util::process::Signal;
use serde::{Deserialize, Serialize};

use crate::confinement::Confinement;
use crate::error::{Error, IoContext, Result};
use crate::kvm::Accelerator;
use crate::record::BackendKind;
use crate::wire::{AgentInfo, Feature, Hello};
use crate::{file, host};

const LOCK: &str = "supervisor.lock";
const FILE: &str = "run.json";
const FORMAT: u32 = 1;

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    pub(crate) format_version: u32,
    /// The supervisor.
    pub(crate) pid: i32,
    /// Its start, in clock ticks since the host's boot, as `/proc/<pid>/stat` has it: pids are used
    /// again.
    pub(crate) start_time: u64,
    /// The host's boot that these belong to.
    pub(crate) boot_id: String,
    /// The VMM's name; empty before it was started.
    pub(crate) backend: String,
    /// When the supervisor started, in seconds since 1970.
    pub(crate) started: u64,
    pub(crate) phase: VmPhase,
    /// Its hello, for who cannot ask at the socket. Empty in versions without one.
    #[serde(default)]
    pub(crate) hello: Hello,
    /// [`Feature::RestoreSocket`], as versions without hello read and write it.
    #[serde(default)]
    restores_socket: bool,
    /// What confines the VMM; none: nothing does, or it has not been started.
    #[serde(default)]
    pub(crate) confinement: Option<Confinement>,
}

/// How far a VM is, for commands that find its `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub(crate) enum VmPhase {
    Starting,
    Running {
        /// None: a version without a choice of backends, whose VMM is QEMU.
        #[serde(default)]
        backend: Option<BackendKind>,
        accelerator: Accelerator,
        /// Why it is not Firecracker under KVM, if it is not and nobody asked for that.
        #[serde(default)]
        reason: Option<String>,
        agent: AgentInfo,
    },
    Failed {
        reason: String,
    },
}

impl RunInfo {
    pub(crate) fn new(pid: i32, start_time: u64, boot_id: String, started: u64) -> Self {
        let hello = Hello::of_supervisor();
        RunInfo {
            format_version: FORMAT,
            pid,
            start_time,
            boot_id,
            backend: String::new(),
            started,
            phase: VmPhase::Starting,
            restores_socket: hello.has(Feature::RestoreSocket),
            hello,
            confinement: None,
        }
    }

    /// Whether the supervisor makes its socket anew for a hangup.
    pub(crate) fn restores_socket(&self) -> bool {
        self.restores_socket || self.hello.has(Feature::RestoreSocket)
    }

    /// What ended a VM that left this behind.
    pub(crate) fn crash(self) -> Result<String> {
        Ok(match self.phase {
            VmPhase::Failed { reason } => reason,
            _ if self.boot_id != host::boot_id()? => "this machine went down under it".into(),
            _ => "its supervisor was killed".into(),
        })
    }

    /// None if there is no such file, or one that says nothing: it is information, and not the
    /// truth.
    pub(crate) fn read(vm: &Path) -> Result<Option<Self>> {
        match file::read_json(&vm.join(FILE), FORMAT) {
            Ok(info) => Ok(Some(info)),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends the supervisor a signal, and says whether there was one to send it to.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool> {
        Ok(self.boot_id == host::boot_id()? && host::signal(self.pid, self.start_time, signal)?)
    }

    pub(crate) fn write(&self, vm: &Path) -> Result<()> {
        file::write_json(&vm.join(FILE), self)
    }

    pub(crate) fn remove(vm: &Path) -> Result<()> {
        file::remove_if_there(&vm.join(FILE))
    }
}

/// The supervisor's claim on a VM, held for life. None if another one has it.
pub(crate) fn supervise(vm: &Path) -> Result<Option<File>> {
    let path = vm.join(LOCK);
    let lock = file::open_lock(&path)?;
    // A command that probes the lock holds it for an instant: that is no supervisor.
    Ok(file::lock_within(&lock, &path, Duration::from_millis(500))?.then_some(lock))
}

/// Whether the VM has a supervisor that lives.
pub(crate) fn is_supervised(vm: &Path) -> Result<bool> {
    let path = vm.join(LOCK);
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).at("open", &path),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(error)) => Err(error).at("lock", &path),
    }
}

/// Waits for the supervisor to be gone.
pub(crate) fn wait_until_unsupervised(name: &str, vm: &Path, patience: Duration) -> Result<()> {
    let (path, start) = (vm.join(LOCK), Instant::now());
    let who = || RunInfo::read(vm).map(|info| info.map(|info| (info.pid, info.start_time)));
    let before = who()?;
    while start.elapsed() < patience {
        let lock = match file::open_lock(&path) {
            Err(_) if !vm.is_dir() => return Ok(()),
            lock => lock?,
        };
        if file::lock_within(&lock, &path, Duration::from_millis(50))? {
            return Ok(());
        }
        // Another command may have started it again before this one has seen it down.
        if who()?.is_some_and(|now| before != Some(now)) {
            return Ok(());
        }
    }
    let reason = format!("it is still there {} s after its VM went down", patience.as_secs());
    Err(Error::Supervisor { name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> RunInfo {
        let mut info = serde_json::to_value(RunInfo::new(1, 2, "b".into(), 3)).unwrap();
        change(info.as_object_mut().unwrap());
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn restored_socket_is_known_from_hello_or_the_flag_of_earlier_versions() {
        assert!(written(|_| ()).restores_socket());
        assert!(written(|info| _ = info.remove("hello")).restores_socket());
        assert!(written(|info| _ = info.remove("restores_socket")).restores_socket());
        let neither = written(|info| info.retain(|name, _| name != "hello" && name != "restores_socket"));
        assert!(!neither.restores_socket() && neither.hello == Hello::default());
        // Commands of earlier versions read the flag alone.
        let info = serde_json::to_value(RunInfo::new(1, 2, "b".into(), 3)).unwrap();
        assert_eq!(info["restores_socket"], true);
    }
}
