//! The commands besides running one.

mod config;
mod delete;
mod list;
mod overview;
mod status;
mod stop;
mod trust;

pub use config::config;
pub use delete::delete;
pub use list::list;
pub use overview::overview;
pub use status::status;
pub use stop::stop;
pub use trust::trust;

use std::path::Path;

use banger_vmm::Vm;

use crate::error::CommandError;
use crate::git::Workspace;
use crate::machine::{Machines, git_host};
use crate::paths::Paths;

/// The VM of the workspace around `here`.
fn vm_of(here: &Path, paths: &Paths, machines: &Machines<'_>) -> Result<(Workspace, Option<Vm>), CommandError> {
    let workspace = Workspace::discover(here, git_host(paths))?;
    let vm = machines.find(&workspace)?;
    Ok((workspace, vm))
}
