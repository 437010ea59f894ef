//! The commands besides running one.

mod config;
mod cp;
mod delete;
mod doctor;
mod du;
mod list;
mod logs;
mod overview;
mod port;
mod prune;
mod restart;
mod start;
mod status;
mod stop;
mod trust;

pub use config::config;
pub use cp::cp;
pub use delete::delete;
pub use doctor::doctor;
pub use du::du;
pub use list::list;
pub use logs::logs;
pub use overview::overview;
pub use port::{check_forwards, port, publish};
pub use prune::{Prunes, prune};
pub use restart::restart;
pub use start::start;
pub use status::status;
pub use stop::stop;
pub use trust::trust;

use std::path::Path;

use banger_vmm::Vm;

use crate::cli::Run;
use crate::config::Settings;
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;
use crate::vm::machine::{Machines, VmSpec, git_host};
use crate::vm::ownership::VmOwner;

/// The VM of this name, or without one that of the workspace around `here`, which may have none.
fn chosen(name: Option<&str>, here: &Path, paths: &Paths, machines: &Machines<'_>) -> Result<Option<Vm>, CommandError> {
    match name {
        Some(name) => named(name, machines).map(Some),
        None => Ok(vm_of(here, paths, machines)?.1),
    }
}

/// The same, where there has to be one.
///
/// # Errors
/// If there is none, or `here` is in no workspace.
pub fn existing(name: Option<&str>, here: &Path, paths: &Paths, machines: &Machines<'_>) -> Result<Vm, CommandError> {
    chosen(name, here, paths, machines)?.ok_or_else(|| {
        let error = CommandError::new("this repository has no VM").kind(ErrorKind::VmNotFound);
        error.hint("make it, and run something there: banger -- true")
    })
}

/// The VM of this name.
///
/// # Errors
/// If there is none, or can be none.
pub fn named(name: &str, machines: &Machines<'_>) -> Result<Vm, CommandError> {
    machines.named(name)?.ok_or_else(|| {
        let error = CommandError::new(format!("there is no VM named `{name}`")).kind(ErrorKind::VmNotFound);
        error.hint("for a list: banger list")
    })
}

/// What the configuration says of an existing VM's processors, memory and disk: the user's, and
/// that of the repository that it is of.
fn resources(vm: &Vm, paths: &Paths) -> Result<VmSpec, CommandError> {
    let owner = vm.record().ok().and_then(|record| VmOwner::of(&record));
    let root = owner.as_ref().map(VmOwner::path).filter(|root| root.is_dir());
    let spec = VmSpec::from(&Settings::of_process(paths, root, &Run::default())?);
    Ok(VmSpec { image: None, default_image: None, net: None, ..spec })
}

/// The VM of the workspace around `here`.
fn vm_of(here: &Path, paths: &Paths, machines: &Machines<'_>) -> Result<(Workspace, Option<Vm>), CommandError> {
    let workspace = Workspace::discover(here, git_host(paths))?;
    let vm = machines.find(&workspace)?;
    Ok((workspace, vm))
}
