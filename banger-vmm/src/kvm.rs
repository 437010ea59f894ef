//! Whether KVM works here. That `/dev/kvm` exists does not mean that it runs guests: only a boot tells.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::{file, host};

const DEVICE: &str = "/dev/kvm";
/// The only version of the interface there is, as Documentation/virt/kvm/api.rst of Linux says.
const API_VERSION: i32 = 12;
const FORMAT: u32 = 1;

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
pub(crate) enum Prospect {
    /// A guest came up under it since the host booted.
    Works,
    /// The device answers. Whether it runs a guest is to be seen.
    Untried,
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

/// Asks the device, then the memory of this host.
pub(crate) fn prospect(host_folder: &Path) -> Prospect {
    if let Err(problem) = ask_device() {
        return Prospect::Unusable(problem);
    }
    let verdict: Result<Verdict> = file::read_json(&path(host_folder), FORMAT);
    match (verdict, host::boot_id()) {
        (Ok(verdict), Ok(boot_id)) if verdict.boot_id == boot_id => match verdict.problem {
            None => Prospect::Works,
            Some(problem) => Prospect::Unusable(problem),
        },
        _ => Prospect::Untried,
    }
}

/// Remembers what a boot under KVM has shown, until the host boots again.
pub(crate) fn remember(host_folder: &Path, problem: Option<String>) -> Result<()> {
    file::create_folder(host_folder)?;
    file::write_json(&path(host_folder), &Verdict { format_version: FORMAT, boot_id: host::boot_id()?, problem })
}

fn path(host_folder: &Path) -> PathBuf {
    host_folder.join("kvm.json")
}

/// Whether the device answers; if not, why.
pub(crate) fn ask_device() -> Result<(), String> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no {DEVICE}"),
        io::ErrorKind::PermissionDenied => {
            format!("you may not open {DEVICE}: become a member of the group `kvm` (sudo usermod -aG kvm $USER)")
        }
        _ => format!("cannot open {DEVICE}: {error}"),
    })?;
    // SAFETY: KVM_GET_API_VERSION takes no argument and touches no memory of ours.
    match unsafe { ioctl::get_api_version(device.as_raw_fd()) } {
        Ok(API_VERSION) => Ok(()),
        Ok(version) => Err(format!("{DEVICE} speaks version {version} of its interface, not {API_VERSION}")),
        Err(error) => Err(format!("{DEVICE} does not answer: {error}")),
    }
}

mod ioctl {
    nix::ioctl_none!(get_api_version, 0xae, 0x00);
}
