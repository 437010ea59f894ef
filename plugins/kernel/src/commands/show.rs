//! `banger kernel show`.

use banger::error::CommandError;
use banger::output::table::facts;
use banger::output::ui::Ui;
use banger::output::units::bytes;
use banger::store::kernels::Kernels;
use serde::Serialize;

use super::Shown;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    kernel: Shown,
    /// The kernel's own banner.
    version: String,
    /// The modules that a boot loads first, in this order.
    boot_modules: Vec<String>,
    /// Whether the guest has others to load later.
    has_modules: bool,
    /// BLAKE3 of the kernel.
    blake3: String,
}

pub(super) fn show(name: &str, kernels: &Kernels<'_>, ui: &Ui) -> Result<(), CommandError> {
    let kernel = match kernels.store().kernel(name)? {
        Some(kernel) => kernel,
        None => return Err(kernels.store().kernel_not_here(name)?.into()),
    };
    let answer = Answer {
        kernel: Shown::new(&kernel, kernels)?,
        version: kernel.manifest.version,
        boot_modules: kernel.manifest.boot_modules,
        has_modules: kernel.modules_disk.is_some(),
        blake3: kernel.manifest.vmlinuz_blake3,
    };
    ui.answer(&answer, || text(&answer))
}

fn text(answer: &Answer) -> String {
    let kernel = &answer.kernel;
    let mut lines = vec![
        ("name", kernel.name.clone()),
        ("release", kernel.release.clone()),
        ("version", answer.version.clone()),
        ("source", kernel.source.clone()),
        ("disk", bytes(kernel.disk_bytes)),
        ("blake3", answer.blake3.clone()),
        ("modules", if answer.has_modules { "yes" } else { "none" }.to_owned()),
    ];
    lines.extend(answer.boot_modules.iter().map(|module| ("boot", module.clone())));
    lines.extend(kernel.images.iter().map(|image| ("image", image.clone())));
    lines.extend(kernel.vms.iter().map(|vm| ("vm", vm.clone())));
    facts(&lines)
}
