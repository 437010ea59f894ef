//! `banger port`, and `--publish`.

use std::path::Path;

use banger_vmm::{PortForward, PortName, PortState, Vm};
use serde::Serialize;

use crate::cli::PortCommand;
use crate::error::{CommandError, ErrorKind};
use crate::host::paths::Paths;
use crate::output::table::table;
use crate::output::ui::Ui;
use crate::vm::machine::Machines;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    vm: &'a str,
    /// Those that it is about.
    ports: Vec<Port>,
}

#[derive(Debug, Serialize)]
struct Port {
    /// Where this machine listens: address and port, or a path.
    host: String,
    /// The port alone; none: a path.
    host_port: Option<u16>,
    /// A port in the guest, or a path there.
    guest: String,
    listening: bool,
    /// Why not.
    problem: Option<String>,
}

impl From<&PortState> for Port {
    fn from(state: &PortState) -> Self {
        let PortState { forward, problem } = state;
        Port {
            host: forward.host.to_string(),
            host_port: forward.host.port(),
            guest: forward.guest.to_string(),
            listening: problem.is_none(),
            problem: problem.clone(),
        }
    }
}

/// Shows or changes which ports of this machine lead into the VM that is named, or into the
/// workspace's. A VM that does not run is not started.
///
/// # Errors
/// If there is no VM, or what is asked for cannot be.
pub fn port(command: &PortCommand, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let chosen = |name: &Option<String>| super::existing(name.as_deref(), here, paths, &machines);
    match command {
        PortCommand::Add { forwards, vm } => add(&chosen(vm)?, forwards, ui),
        PortCommand::Remove { hosts, vm } => remove(&chosen(vm)?, hosts, ui),
        PortCommand::List { vm } => list(&chosen(vm)?, ui),
    }
}

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

/// Has these lead into a VM, and says so.
///
/// # Errors
/// If one cannot; then none does.
pub fn publish(vm: &Vm, forwards: &[PortForward], ui: &Ui) -> Result<(), CommandError> {
    if forwards.is_empty() {
        return Ok(());
    }
    added(vm, forwards, ui).map(drop)
}

fn added(vm: &Vm, forwards: &[PortForward], ui: &Ui) -> Result<Vec<PortState>, CommandError> {
    let ports = vm.add_ports(&vm.lock()?, forwards)?;
    for PortState { forward, problem } in &ports {
        let when = if problem.is_some() { ", from its next start on" } else { "" };
        ui.status(&format!("{} leads to {} in `{}`{when}", forward.host, forward.guest, vm.name()));
    }
    Ok(ports)
}

fn add(vm: &Vm, forwards: &[PortForward], ui: &Ui) -> Result<(), CommandError> {
    let ports = added(vm, forwards, ui)?;
    ui.answer(&answer(vm, &ports), || hosts(&ports))
}

fn remove(vm: &Vm, names: &[PortName], ui: &Ui) -> Result<(), CommandError> {
    let ports = vm.remove_ports(&vm.lock()?, names)?;
    for PortState { forward, .. } in &ports {
        ui.status(&format!("{} leads to {} in `{}` no more", forward.host, forward.guest, vm.name()));
    }
    ui.answer(&answer(vm, &ports), String::new)
}

fn list(vm: &Vm, ui: &Ui) -> Result<(), CommandError> {
    let ports = vm.ports()?;
    ui.answer(&answer(vm, &ports), || {
        if ui.is_quiet() {
            return hosts(&ports);
        }
        if ports.is_empty() {
            return String::new();
        }
        let line = |PortState { forward, problem }: &PortState| {
            let state = problem.as_ref().map_or_else(|| "listening".to_owned(), |why| format!("not listening: {why}"));
            [forward.host.to_string(), forward.guest.to_string(), state]
        };
        table(["HOST", "GUEST", "STATE"], ports.iter().map(line))
    })
}

fn answer<'a>(vm: &'a Vm, ports: &[PortState]) -> Answer<'a> {
    Answer { vm: vm.name(), ports: ports.iter().map(Port::from).collect() }
}

/// A line for each.
fn hosts(ports: &[PortState]) -> String {
    ports.iter().map(|port| format!("{}\n", port.forward.host)).collect()
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
