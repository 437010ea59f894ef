//! Ports and Unix sockets of this machine that lead into a VM, as `--publish` and `banger port add`
//! ask for them.

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
    added(vm, forwards, ui).map(drop)
}

/// Adds forwards to a VM, says so, and returns how each is.
///
/// # Errors
/// If one cannot be added; then none is.
pub(crate) fn added(vm: &Vm, forwards: &[PortForward], ui: &Ui) -> Result<Vec<PortState>, CommandError> {
    let ports = vm.add_ports(&vm.lock()?, forwards)?;
    for PortState { forward, problem } in &ports {
        let when = if problem.is_some() { ", from its next start on" } else { "" };
        ui.status(&format!("{} leads to {} in `{}`{when}", forward.host, forward.guest, vm.name()));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_that_contradict_each_other_are_refused_as_usage() {
        let forwards = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        assert!(check_forwards(&forwards(&["8080:80", "8081:80", "0:1", "0:2"])).is_ok());
        let error = check_forwards(&forwards(&["8080:80", "8080:81"])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.message.contains("cannot lead to both 80 and 81"), "{}", error.message);
    }
}
