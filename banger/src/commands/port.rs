//! `banger port`.

use std::path::Path;

use banger_vmm::{PortForward, PortName, PortState, Vm};
use serde::Serialize;

use crate::cli::PortCommand;
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::table::table;
use crate::output::ui::Ui;
use crate::vm::forwards::added;
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
