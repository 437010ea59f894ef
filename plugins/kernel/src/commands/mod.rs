//! What `banger kernel` does.

mod delete;
mod import;
mod list;
mod pull;
mod show;

use banger::banger_image::Kernel;
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::store::disk_usage::allocated;
use banger::store::kernels::Kernels;
use serde::Serialize;

use crate::cli::Command;

/// Does it, and answers.
pub(crate) fn run(command: &Command, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let kernels = Kernels::new(paths, ui);
    match command {
        Command::Pull { kernel } => pull::pull(kernel, &kernels, ui),
        Command::Import { name, kernel, modules } => import::import(name, kernel, modules.as_deref(), &kernels, ui),
        Command::List => list::list(&kernels, ui),
        Command::Show { kernel } => show::show(kernel, &kernels, ui),
        Command::Delete { kernel } => delete::delete(kernel, &kernels, ui),
    }
}

/// A kernel, as `--json` has it.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    /// What `uname -r` says.
    release: String,
    /// What it was made of.
    source: String,
    /// What it takes on this machine's disks.
    disk_bytes: u64,
    /// In seconds since 1970.
    created: u64,
    /// The images that boot it.
    images: Vec<String>,
    /// The VMs that boot it.
    vms: Vec<String>,
}

impl Shown {
    fn new(kernel: &Kernel, kernels: &Kernels<'_>) -> Result<Shown, CommandError> {
        let users = kernels.users(&kernel.name)?;
        Ok(Shown {
            name: kernel.name.clone(),
            release: kernel.manifest.release.clone(),
            source: kernel.manifest.source.clone(),
            disk_bytes: allocated(&kernel.dir),
            created: kernel.manifest.created,
            images: users.images,
            vms: users.vms,
        })
    }
}
