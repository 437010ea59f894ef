//! Whether KVM works here. That `/dev/kvm` exists does not mean that it runs guests: [a few
//! instructions](guest) tell in a millisecond that it does not, and a boot that it does.

mod access;
mod guest;

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use kvm_ioctls::Kvm;
use nix::errno::Errno;
use nix::libc::SIGALRM;
use serde::{Deserialize, Serialize};

use self::guest::Outcome;
use crate::error::Result;
use crate::{file, host};

/// The device through which a process uses KVM.
pub(crate) const DEVICE: &str = "/dev/kvm";
/// The only version of the interface there is, as Documentation/virt/kvm/api.rst of Linux says.
const API_VERSION: i32 = 12;
const FORMAT: u32 = 1;
/// How `banger-vmm` is told to be a probe, and how long one may take, in seconds: it takes a
/// millisecond.
pub const PROBE: &str = "probe-kvm";
const PROBE_LIMIT: u32 = 3;
/// What a probe ends with whose guest has stopped; another failure says nothing.
const STOPPED: u8 = 3;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, by the kernel's KVM.
    Kvm,
    /// QEMU's own translator: works everywhere, several times slower.
    Tcg,
}

/// What the caller wants of an accelerator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// TCG.
    Tcg,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "KVM",
            Accelerator::Tcg => "TCG",
        })
    }
}

/// What is known about KVM before a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmSupport {
    /// A guest came up under it since the host booted.
    Works,
    /// Nothing speaks against it. Whether it runs a whole guest is to be seen.
    Unknown,
    /// It does not, for this reason.
    Unusable(String),
}

/// `kvm.json`: what a boot under KVM has shown.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    format_version: u32,
    /// A verdict holds until the host boots again.
    boot_id: String,
    /// None if it works.
    problem: Option<String>,
}

/// Asks the device, then the memory of this host, then a guest of a few instructions. `supervisor`
/// is `banger-vmm`.
///
/// What is kept in `host_folder` holds until the host boots again.
pub(crate) fn support(host_folder: &Path, supervisor: &Path) -> KvmSupport {
    if let Err(problem) = ask_device() {
        return KvmSupport::Unusable(problem);
    }
    match remembered(host_folder) {
        KvmSupport::Unknown => {
            let support = probe(supervisor);
            if let KvmSupport::Unusable(problem) = &support {
                // Not being able to costs the next start a moment.
                let _ = remember(host_folder, Some(problem.clone()));
            }
            support
        }
        known => known,
    }
}

/// What a boot or a guest has shown since the host booted.
pub fn remembered(host_folder: &Path) -> KvmSupport {
    let verdict: Result<Verdict> = file::read_json(&path(host_folder), FORMAT);
    match (verdict, host::boot_id()) {
        (Ok(verdict), Ok(boot_id)) if verdict.boot_id == boot_id => match verdict.problem {
            None => KvmSupport::Works,
            Some(problem) => KvmSupport::Unusable(problem),
        },
        _ => KvmSupport::Unknown,
    }
}

/// Forgets what was found out, so that KVM is tried anew.
///
/// # Errors
/// If the file is there and cannot be removed.
pub fn forget(host_folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(path(host_folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Asks the device, and runs a guest of a few instructions in a process of its own, since it may
/// never come back. Nothing is kept.
pub fn probe(supervisor: &Path) -> KvmSupport {
    if let Err(problem) = ask_device() {
        return KvmSupport::Unusable(problem);
    }
    let ran = Command::new(supervisor).env_clear().arg(PROBE).stdin(Stdio::null()).stderr(Stdio::null()).output();
    match ran {
        Ok(output) if output.status.code() == Some(i32::from(STOPPED)) => {
            KvmSupport::Unusable(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) if output.status.signal() == Some(SIGALRM) => {
            KvmSupport::Unusable(format!("a guest of a few instructions has not ended within {PROBE_LIMIT} s"))
        }
        // The whole guest will tell.
        _ => KvmSupport::Unknown,
    }
}

/// The whole of `banger-vmm probe-kvm`: says on standard output what is wrong.
pub fn run_probe() -> ExitCode {
    // Its end is that of this process.
    nix::unistd::alarm::set(PROBE_LIMIT);
    let (text, code) = match guest::run() {
        Outcome::Done => return ExitCode::SUCCESS,
        Outcome::Stopped(reason) => (reason, ExitCode::from(STOPPED)),
        Outcome::Inconclusive(reason) => (reason, ExitCode::FAILURE),
    };
    // Whoever asked may be gone.
    let _ = writeln!(io::stdout(), "{text}");
    code
}

/// Remembers what a boot under KVM has shown, until the host boots again.
pub(crate) fn remember(host_folder: &Path, problem: Option<String>) -> Result<()> {
    file::create_folder(host_folder)?;
    file::write_json(&path(host_folder), &Verdict { format_version: FORMAT, boot_id: host::boot_id()?, problem })
}

fn path(host_folder: &Path) -> PathBuf {
    host_folder.join("kvm.json")
}

/// What to do where this user may not open the device; none: it can be opened, or that is not why
/// not.
pub fn access_hint() -> Option<String> {
    let error = Kvm::new().err()?;
    let is_denied = matches!(Errno::from_raw(error.errno()), Errno::EACCES | Errno::EPERM);
    is_denied.then(|| access::denied(Path::new(DEVICE)).hint)
}

/// Whether the device answers; if not, why.
pub(crate) fn ask_device() -> Result<(), String> {
    let kvm = Kvm::new().map_err(|error| match Errno::from_raw(error.errno()) {
        Errno::ENOENT => format!("there is no {DEVICE}"),
        Errno::EACCES | Errno::EPERM => access::denied(Path::new(DEVICE)).problem,
        errno => format!("cannot open {DEVICE}: {}", io::Error::from(errno)),
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(()),
        version => Err(format!("{DEVICE} speaks version {version} of its interface, not {API_VERSION}")),
    }
}
