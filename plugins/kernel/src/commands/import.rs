//! `banger kernel import`.

use std::path::Path;

use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message};
use banger::output::units::count;
use banger::store::kernels::Kernels;
use serde::Serialize;

/// A kernel that was taken into the store.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ImportedKernel {
    /// The kernel's name.
    name: String,
    /// What `uname -r` says.
    release: String,
    /// What the kernel was made of.
    source: String,
    /// The modules that a boot loads first, in this order.
    boot_modules: Vec<String>,
    /// Whether the kernel came with modules.
    #[serde(skip)]
    has_modules: bool,
    /// Why it does not boot everywhere.
    #[serde(skip)]
    warnings: Vec<String>,
}

/// Takes the kernel at `kernel` into the store, with the directory of its modules if it has any.
///
/// # Errors
/// If no VM can boot it, or the name is taken.
pub(super) fn import(
    name: &str,
    kernel: &Path,
    modules: Option<&Path>,
    kernels: &Kernels<'_>,
) -> Result<ImportedKernel, CommandError> {
    let kernel = kernels.import(name, kernel, modules)?;
    let no_qemu = "QEMU cannot boot it, only Firecracker can: it has no entry for PVH (CONFIG_PVH)".to_owned();
    let no_firecracker =
        kernel.firecracker_obstacle().map(|obstacle| format!("Firecracker cannot boot it: {obstacle}"));
    let warnings = (!kernel.boots_in_qemu()).then_some(no_qemu).into_iter().chain(no_firecracker).collect();
    let imported = kernel.manifest;
    Ok(ImportedKernel {
        name: imported.name,
        release: imported.release,
        source: imported.source,
        boot_modules: imported.boot_modules,
        has_modules: modules.is_some(),
        warnings,
    })
}

impl CommandOutput for ImportedKernel {
    fn messages(&self) -> Vec<Message> {
        let ImportedKernel { name, release, .. } = self;
        let status = Message::status(if self.has_modules {
            let loaded = count(self.boot_modules.len() as u64, "module", "modules");
            format!("`{name}` is here ({release}); a boot loads {loaded}")
        } else {
            format!("`{name}` is here ({release}), without modules: what a boot needs has to be built in")
        });
        [status].into_iter().chain(self.warnings.iter().map(Message::warning)).collect()
    }
}
