//! `banger delete`.

use std::path::Path;
use std::time::Duration;

use banger_agent::protocol::Request;
use banger_agent::protocol::sync::GuestOnly;
use banger_vmm::{Vm, VmState};
use serde::Serialize;

use crate::agent::Call;
use crate::error::{CommandError, ErrorKind};
use crate::machine::Machines;
use crate::paths::Paths;
use crate::ui::Ui;
use crate::units::count;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Deleted {
    /// The VM; none: the repository had none.
    vm: Option<String>,
    /// Whether there was one to delete.
    deleted: bool,
}

/// Deletes the workspace's VM. Without `force`, only one that runs and says that it holds nothing of its own: what changed in the
/// guest would be lost.
///
/// # Errors
/// If it holds changes, or cannot be asked for them, or cannot be deleted.
pub fn delete(force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let (_, vm) = super::vm_of(here, paths, &machines)?;
    let Some(vm) = vm else {
        ui.status("this repository has no VM");
        return ui.answer(&Deleted { vm: None, deleted: false }, String::new);
    };
    if !force {
        check(&vm)?;
    }
    machines.remove(&vm, Duration::ZERO)?;
    ui.status(&format!("deleted `{}`", vm.name()));
    ui.answer(&Deleted { vm: Some(vm.name().to_owned()), deleted: true }, String::new)
}

fn check(vm: &Vm) -> Result<(), CommandError> {
    let hint = "delete it all the same: banger delete --force";
    // A VM that was never synced to holds nothing.
    if !vm.folder().join("sync/manifest").exists() {
        return Ok(());
    }
    if !matches!(vm.state()?, VmState::Running { .. }) {
        let message = format!("`{}` does not run, so it cannot be asked for changes that exist only there", vm.name());
        let error = CommandError::new(message).kind(ErrorKind::GuestChanges);
        return Err(error.hint("start it, and try again: banger -- true").hint(hint));
    }
    let only: GuestOnly = Call::ask(vm, &Request::GuestOnly)?;
    if only.counts.files + only.counts.references == 0 {
        return Ok(());
    }
    let files = count(only.counts.files, "file", "files");
    let references = count(only.counts.references, "branch or tag", "branches and tags");
    let message = format!("`{}` has changes that exist only there: {files}, {references}", vm.name());
    let mut error = CommandError::new(message).kind(ErrorKind::GuestChanges);
    error.details = only.named.iter().take(10).map(|path| banger_vmm::printable(&path.0)).collect();
    Err(error.hint(hint))
}
