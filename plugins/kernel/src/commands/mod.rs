//! The commands of `banger kernel`.

mod delete;
mod import;
mod list;
mod pull;
mod show;

use banger::banger_image::Kernel;
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::command_output::CommandOutput;
use banger::output::ui::Ui;
use banger::store::disk_usage::allocated;
use banger::store::kernels::Kernels;
use serde::Serialize;

use crate::cli::Command;

/// Runs the command, and prints its result.
pub(crate) fn run(command: &Command, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let kernels = Kernels::new(paths, ui);
    match command {
        Command::Pull { kernel } => pull::pull(kernel, &kernels)?.print(ui),
        Command::Import { name, kernel, modules } => {
            import::import(name, kernel, modules.as_deref(), &kernels)?.print(ui)
        }
        Command::List => list::list(&kernels)?.print(ui),
        Command::Show { kernel } => show::show(kernel, &kernels)?.print(ui),
        Command::Delete { kernel } => delete::delete(kernel, &kernels)?.print(ui),
    }
}

/// A kernel in the store.
#[derive(Clone, Debug, Serialize)]
struct KernelEntry {
    /// The kernel's name.
    name: String,
    /// What `uname -r` says.
    release: String,
    /// What the kernel was made of.
    source: String,
    /// Bytes that the kernel takes on this machine's disks.
    disk_bytes: u64,
    /// When the kernel was made, in seconds since 1970.
    created: u64,
    /// The names of the images that boot it.
    images: Vec<String>,
    /// The names of the VMs that boot it.
    vms: Vec<String>,
    /// Whether QEMU can boot it.
    qemu: bool,
    /// Whether Firecracker can boot it.
    firecracker: bool,
    /// Why Firecracker cannot boot it.
    firecracker_reason: Option<String>,
}

impl KernelEntry {
    fn new(kernel: &Kernel, kernels: &Kernels<'_>) -> Result<KernelEntry, CommandError> {
        let users = kernels.users(&kernel.name)?;
        let obstacle = kernel.firecracker_obstacle();
        Ok(KernelEntry {
            name: kernel.name.clone(),
            release: kernel.manifest.release.clone(),
            source: kernel.manifest.source.clone(),
            disk_bytes: allocated(&kernel.dir),
            created: kernel.manifest.created,
            images: users.images,
            vms: users.vms,
            qemu: kernel.boots_in_qemu(),
            firecracker: obstacle.is_none(),
            firecracker_reason: obstacle.map(|obstacle| obstacle.to_string()),
        })
    }
}
