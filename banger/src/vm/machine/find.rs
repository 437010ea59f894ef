//! Which VM a command is about: one that it names, or that of the workspace it is run in.

use std::path::Path;

use banger_vmm::Vm;

use super::Machines;
use crate::config::git_host;
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;

/// The VM named `name`, or without a name the VM of the workspace around `here`, which may have
/// none.
///
/// # Errors
/// If there is no VM of this name, or `here` is in no workspace.
pub(crate) fn chosen(
    name: Option<&str>,
    here: &Path,
    paths: &Paths,
    machines: &Machines<'_>,
) -> Result<Option<Vm>, CommandError> {
    match name {
        Some(name) => named(name, machines).map(Some),
        None => Ok(vm_of(here, paths, machines)?.1),
    }
}

/// The VM named `name`, or without a name the VM of the workspace around `here`.
///
/// # Errors
/// If there is no such VM, or `here` is in no workspace.
pub fn existing(name: Option<&str>, here: &Path, paths: &Paths, machines: &Machines<'_>) -> Result<Vm, CommandError> {
    chosen(name, here, paths, machines)?.ok_or_else(|| {
        let error = CommandError::new("this repository has no VM").kind(ErrorKind::VmNotFound);
        error.hint("make it, and run something there: banger -- true")
    })
}

/// The VM named `name`.
///
/// # Errors
/// If there is no such VM, or the name is invalid.
pub fn named(name: &str, machines: &Machines<'_>) -> Result<Vm, CommandError> {
    machines.named(name)?.ok_or_else(|| {
        let error = CommandError::new(format!("there is no VM named `{name}`")).kind(ErrorKind::VmNotFound);
        error.hint("for a list: banger list")
    })
}

/// The workspace around `here`, and its VM if it has one.
///
/// # Errors
/// If `here` is in no workspace, or the store cannot be read.
pub(crate) fn vm_of(
    here: &Path,
    paths: &Paths,
    machines: &Machines<'_>,
) -> Result<(Workspace, Option<Vm>), CommandError> {
    let workspace = Workspace::discover(here, git_host(paths))?;
    let vm = machines.find(&workspace)?;
    Ok((workspace, vm))
}
