//! Ports and Unix sockets of this machine that lead into a VM, as `--publish` and `banger port add`
//! ask for them.

use std::fmt::Display;

use banger_vmm::{PortForward, PortState, Vm};

use crate::error::{CommandError, ErrorKind};
use crate::output::ui::Ui;

/// Checks forwards of the command line before anything is done for them: no two may contradict each
/// other.
///
/// # Errors
/// The first two that do.
pub fn check_forwards(forwards: &[PortForward]) -> Result<(), CommandError> {
    banger_vmm::check_forwards(forwards).map_err(|reason| {
        let error = CommandError::new(reason).kind(ErrorKind::Usage);
        error.hint("give each a port of its own, or 0 for any that is free")
    })
}

/// Adds forwards to a VM, and says so.
///
/// # Errors
/// If one cannot be added; then none is.
pub fn publish(vm: &Vm, forwards: &[PortForward], ui: &Ui) -> Result<(), CommandError> {
    if forwards.is_empty() {
        return Ok(());
    }
    for PortState { forward, problem } in vm.add_ports(&vm.lock()?, forwards)? {
        ui.status(&added(&forward.host, &forward.guest, problem.is_none(), vm.name()));
    }
    Ok(())
}

/// The message about a forward from `host` to `guest` that was added to the VM named `vm`.
/// `listening` says whether this machine listens already.
pub(crate) fn added(host: &impl Display, guest: &impl Display, listening: bool, vm: &str) -> String {
    let when = if listening { "" } else { ", from its next start on" };
    format!("{host} leads to {guest} in `{vm}`{when}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicting_forwards_are_a_usage_error() {
        let forwards = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        assert!(check_forwards(&forwards(&["8080:80", "8081:80", "0:1", "0:2"])).is_ok());
        let error = check_forwards(&forwards(&["8080:80", "8080:81"])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.message.contains("cannot lead to both 80 and 81"), "{}", error.message);
    }
}
