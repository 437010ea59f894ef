//! The commands besides running one.

mod config;
mod cp;
mod delete;
mod du;
mod list;
mod logs;
mod overview;
mod prune;
mod restart;
mod status;
mod stop;
mod trust;

pub use config::config;
pub use cp::cp;
pub use delete::delete;
pub use du::du;
pub use list::list;
pub use logs::logs;
pub use overview::overview;
pub use prune::prune;
pub use restart::restart;
pub use status::status;
pub use stop::stop;
pub use trust::trust;

use std::path::Path;

use banger_vmm::Vm;

use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::machine::{Machines, git_host};
use crate::paths::Paths;

/// The VM of this name, or without one that of the workspace around `here`, which may have none.
fn chosen(name: Option<&str>, here: &Path, paths: &Paths, machines: &Machines<'_>) -> Result<Option<Vm>, CommandError> {
    let Some(name) = name else { return Ok(vm_of(here, paths, machines)?.1) };
    let vm = machines.named(name)?;
    let unknown = || CommandError::new(format!("there is no VM named `{name}`")).kind(ErrorKind::VmNotFound);
    vm.map(Some).ok_or_else(|| unknown().hint("for a list: banger list"))
}

/// The VM of the workspace around `here`.
fn vm_of(here: &Path, paths: &Paths, machines: &Machines<'_>) -> Result<(Workspace, Option<Vm>), CommandError> {
    let workspace = Workspace::discover(here, git_host(paths))?;
    let vm = machines.find(&workspace)?;
    Ok((workspace, vm))
}
