//! `banger port`.

use std::path::Path;

use banger_vmm::{PortState, Vm};
use serde::Serialize;

use crate::cli::PortCommand;
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message, Verbosity};
use crate::output::table::table;
use crate::output::ui::Ui;
use crate::vm::forwards;
use crate::vm::machine::Machines;

/// Forwards to a VM that were added, removed or listed.
#[derive(Clone, Debug, Serialize)]
pub struct VmPorts {
    /// The VM's name.
    pub vm: String,
    /// The forwards: all that were listed, or those that were added or removed.
    pub ports: Vec<PortEntry>,
    /// What was done with them.
    #[serde(skip)]
    pub action: PortAction,
}

/// A port or Unix socket of this machine that leads to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortEntry {
    /// Where this machine listens: an address and port, or a path.
    pub host: String,
    /// The port of `host`; none: `host` is a path.
    pub host_port: Option<u16>,
    /// A port in the guest, or a path there.
    pub guest: String,
    /// Whether this machine listens.
    pub listening: bool,
    /// Why this machine does not listen.
    pub problem: Option<String>,
}

/// What a `banger port` command does with forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortAction {
    /// They were added.
    Added,
    /// They were removed.
    Removed,
    /// They were listed.
    Listed,
}

/// Lists or changes the forwards to the VM that `command` names, or to the VM of the workspace
/// around `here`. A VM that does not run is not started.
///
/// # Errors
/// If there is no VM; if one forward cannot be added or removed, then none is.
pub fn port(command: &PortCommand, here: &Path, paths: &Paths, ui: &Ui) -> Result<VmPorts, CommandError> {
    let machines = Machines::new(paths, ui);
    let chosen = |name: &Option<String>| super::existing(name.as_deref(), here, paths, &machines);
    match command {
        PortCommand::Add { forwards, vm } => {
            let vm = chosen(vm)?;
            let ports = vm.add_ports(&vm.lock()?, forwards)?;
            Ok(VmPorts::new(&vm, &ports, PortAction::Added))
        }
        PortCommand::Remove { hosts, vm } => {
            let vm = chosen(vm)?;
            let ports = vm.remove_ports(&vm.lock()?, hosts)?;
            Ok(VmPorts::new(&vm, &ports, PortAction::Removed))
        }
        PortCommand::List { vm } => {
            let vm = chosen(vm)?;
            Ok(VmPorts::new(&vm, &vm.ports()?, PortAction::Listed))
        }
    }
}

impl VmPorts {
    fn new(vm: &Vm, ports: &[PortState], action: PortAction) -> VmPorts {
        VmPorts { vm: vm.name().to_owned(), ports: ports.iter().map(PortEntry::from).collect(), action }
    }

    /// A line for each.
    fn hosts(&self) -> String {
        self.ports.iter().map(|port| format!("{}\n", port.host)).collect()
    }
}

impl From<&PortState> for PortEntry {
    fn from(state: &PortState) -> Self {
        let PortState { forward, problem } = state;
        PortEntry {
            host: forward.host.to_string(),
            host_port: forward.host.port(),
            guest: forward.guest.to_string(),
            listening: problem.is_none(),
            problem: problem.clone(),
        }
    }
}

impl CommandOutput for VmPorts {
    fn messages(&self) -> Vec<Message> {
        let message = |PortEntry { host, guest, listening, .. }: &PortEntry| match self.action {
            PortAction::Added => Some(Message::status(forwards::added(host, guest, *listening, &self.vm))),
            PortAction::Removed => Some(Message::status(format!("{host} leads to {guest} in `{}` no more", self.vm))),
            PortAction::Listed => None,
        };
        self.ports.iter().filter_map(message).collect()
    }

    fn text(&self, verbosity: Verbosity) -> String {
        match self.action {
            PortAction::Removed => String::new(),
            PortAction::Added => self.hosts(),
            PortAction::Listed if verbosity.quiet => self.hosts(),
            PortAction::Listed if self.ports.is_empty() => String::new(),
            PortAction::Listed => {
                let line = |port: &PortEntry| {
                    let not_listening = |why: &String| format!("not listening: {why}");
                    let state = port.problem.as_ref().map_or_else(|| "listening".to_owned(), not_listening);
                    [port.host.clone(), port.guest.clone(), state]
                };
                table(["HOST", "GUEST", "STATE"], self.ports.iter().map(line))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_home::TestHome;
    use super::*;

    #[test]
    fn ports_of_a_stopped_vm_are_added_listed_and_removed() {
        let home = TestHome::new();
        home.create("box", serde_json::Value::Null);
        let vm = || Some("box".to_owned());
        let run = |command| port(&command, home.folder.path(), &home.paths, &home.ui).unwrap();
        let added = run(PortCommand::Add { forwards: vec!["8080:80".parse().unwrap()], vm: vm() });
        let message = "127.0.0.1:8080 leads to 80 in `box`, from its next start on";
        assert_eq!(added.messages(), [Message::status(message)]);
        assert_eq!(added.text(Verbosity::default()), "127.0.0.1:8080\n");

        let listed = run(PortCommand::List { vm: vm() });
        assert_eq!((&listed.ports, listed.messages().len()), (&added.ports, 0));
        let text = listed.text(Verbosity::default());
        assert!(text.starts_with("HOST            GUEST  STATE\n127.0.0.1:8080  80     not listening: "), "{text}");

        let removed = run(PortCommand::Remove { hosts: vec!["8080".parse().unwrap()], vm: vm() });
        assert_eq!(removed.messages(), [Message::status("127.0.0.1:8080 leads to 80 in `box` no more")]);
        let empty = run(PortCommand::List { vm: vm() });
        assert_eq!(
            (empty.json().as_str(), empty.text(Verbosity::default()).as_str()),
            ("{\"vm\":\"box\",\"ports\":[]}\n", "")
        );
    }
}
