//! `banger kernel show`.

use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Verbosity};
use banger::output::table::facts;
use banger::output::units::bytes;
use banger::store::kernels::Kernels;
use serde::Serialize;

use super::KernelEntry;

const NO_PVH: &str = "no: it has no entry for PVH";

/// All that is known of a kernel.
#[derive(Clone, Debug, Serialize)]
pub(super) struct KernelDetails {
    #[serde(flatten)]
    kernel: KernelEntry,
    /// The kernel's own banner.
    version: String,
    /// The modules that a boot loads first, in this order.
    boot_modules: Vec<String>,
    /// Whether the guest has others to load later.
    has_modules: bool,
    /// BLAKE3 of the kernel, in hex.
    blake3: String,
    /// What to do so that Firecracker can boot it.
    #[serde(skip)]
    hint: Option<String>,
}

/// The kernel of this name.
///
/// # Errors
/// If there is none, or a store cannot be read.
pub(super) fn show(name: &str, kernels: &Kernels<'_>) -> Result<KernelDetails, CommandError> {
    let kernel = match kernels.store().kernel(name)? {
        Some(kernel) => kernel,
        None => return Err(kernels.store().kernel_not_here(name)?.into()),
    };
    Ok(KernelDetails {
        hint: kernel.firecracker_obstacle().map(|obstacle| obstacle.hint()),
        kernel: KernelEntry::new(&kernel, kernels)?,
        version: kernel.manifest.version,
        boot_modules: kernel.manifest.boot_modules,
        has_modules: kernel.modules_disk.is_some(),
        blake3: kernel.manifest.vmlinuz_blake3,
    })
}

impl CommandOutput for KernelDetails {
    fn text(&self, _verbosity: Verbosity) -> String {
        text(self)
    }
}

fn text(details: &KernelDetails) -> String {
    let kernel = &details.kernel;
    let firecracker = match (&kernel.firecracker_reason, &details.hint) {
        (Some(reason), Some(hint)) => format!("no: {reason} ({hint})"),
        _ => "yes".to_owned(),
    };
    let mut lines = vec![
        ("name", kernel.name.clone()),
        ("release", kernel.release.clone()),
        ("version", details.version.clone()),
        ("source", kernel.source.clone()),
        ("disk", bytes(kernel.disk_bytes)),
        ("blake3", details.blake3.clone()),
        ("modules", if details.has_modules { "yes" } else { "none" }.to_owned()),
        ("qemu", if kernel.qemu { "yes" } else { NO_PVH }.to_owned()),
        ("firecracker", firecracker),
    ];
    lines.extend(details.boot_modules.iter().map(|module| ("boot", module.clone())));
    lines.extend(kernel.images.iter().map(|image| ("image", image.clone())));
    lines.extend(kernel.vms.iter().map(|vm| ("vm", vm.clone())));
    facts(&lines)
}
