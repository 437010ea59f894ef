//! `banger delete`.

use std::path::Path;
use std::time::Duration;

use banger_vmm::Vm;
use serde::Serialize;

use crate::error::{CommandError, ErrorKind};
use crate::guest_work::GuestWork;
use crate::machine::Machines;
use crate::paths::Paths;
use crate::ui::Ui;

/// How often a VM is stopped again that others start before it is gone.
const FORCED_TRIES: u32 = 5;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Deleted {
    /// The VM; none: the repository had none.
    vm: Option<String>,
    /// Whether there was one to delete, and nobody said no.
    deleted: bool,
}

/// Deletes the VM named `name`, or the workspace's. One that has changes of its own, or may have, goes if `force` is set or somebody at the terminal says so.
///
/// # Errors
/// If it has changes and there is nobody to ask, or it cannot be deleted.
pub fn delete(name: Option<&str>, force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let Some(vm) = super::chosen(name, here, paths, &machines)? else {
        ui.status("this repository has no VM");
        return ui.answer(&Deleted { vm: None, deleted: false }, String::new);
    };
    if !force && !may_go(&vm, name, ui)? {
        ui.status("nothing was deleted");
        return ui.answer(&Deleted { vm: Some(vm.name().to_owned()), deleted: false }, String::new);
    }
    let remove = || machines.remove(&vm, Duration::ZERO);
    let mut removed = remove();
    // Who forces it means it, whoever starts it meanwhile.
    for _ in 1..if force { FORCED_TRIES } else { 1 } {
        if !removed.as_ref().is_err_and(|error| error.kind == ErrorKind::VmRunning) {
            break;
        }
        removed = remove();
    }
    removed.map_err(|error| match error.kind {
        ErrorKind::VmRunning => CommandError::new(format!("another command has started `{}` meanwhile", vm.name()))
            .kind(ErrorKind::VmBusy)
            .hint("run it again"),
        _ => error,
    })?;
    ui.status(&format!("deleted `{}`", vm.name()));
    ui.answer(&Deleted { vm: Some(vm.name().to_owned()), deleted: true }, String::new)
}

/// Whether the VM, which the user has called by `name`, may go: it has nothing of its own, or somebody says so.
fn may_go(vm: &Vm, name: Option<&str>, ui: &Ui) -> Result<bool, CommandError> {
    let work = GuestWork::now(vm)?;
    if work.is_nothing() {
        return Ok(true);
    }
    let error = work.error(vm.name());
    let named = if error.details.is_empty() { String::new() } else { format!(" ({})", error.details.join(", ")) };
    match ui.confirm(&format!("{}{named}. Delete it all the same?", error.message)) {
        Err(nobody) if nobody.kind == ErrorKind::InputNeeded => {
            let named = name.map(|name| format!(" {name}")).unwrap_or_default();
            let error = error.hint(format!("delete it all the same: banger delete --force{named}"));
            Err(match work {
                GuestWork::Unknown if name.is_none() => error.hint("look into it before: banger"),
                _ => error,
            })
        }
        answer => answer,
    }
}
