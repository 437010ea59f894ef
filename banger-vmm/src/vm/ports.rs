//! A VM's ports, as a command sees and changes them.

use super::{Vm, VmLock};
use crate::error::{Error, Result};
use crate::ports::{HostEnd, PortForward, PortName, PortState, check_forwards, matching, place, read, write};
use crate::run;
use crate::wire::{Operation, PortsAnswer};

/// Why nothing listens for a VM that is stopped.
const NOT_RUNNING: &str = "the VM does not run";

/// What to do about a refusal.
#[derive(Clone, Copy)]
enum Hint<'a> {
    /// The host cannot listen there.
    Another,
    /// Two of the wanted forwards contradict each other.
    Disagree,
    /// This host address is forwarded to something else.
    Elsewhere(&'a HostEnd),
    /// No forward has the given name.
    Unknown,
}

impl Vm {
    /// Adds forwards from the host to the VM, from now on or from its next start on: all of these
    /// or, on an error, none. One that is there already is no error. Returns those that are wanted,
    /// in their order.
    ///
    /// # Errors
    /// [`Error::Ports`] if the host cannot listen there, or forwards the address to something else;
    /// the file system's refusal.
    pub fn add_ports(&self, _lock: &VmLock, wanted: &[PortForward]) -> Result<Vec<PortState>> {
        check_forwards(wanted).map_err(|reason| self.refused(reason, Hint::Disagree))?;
        let mut ports = read(self.folder())?;
        // The supervisor has this list too.
        for port in wanted {
            place(&ports, port).map_err(|reason| self.refused(reason, Hint::Elsewhere(&port.host)))?;
        }
        if let Some(answer) = self.ask_for_ports(&Operation::AddPorts { ports: wanted.to_vec() }, Hint::Another)? {
            return Ok(answer);
        }
        let mut added = Vec::new();
        for port in wanted {
            let index =
                place(&ports, port).map_err(|reason| self.refused(reason, Hint::Unknown))?.unwrap_or(ports.len());
            if index == ports.len() {
                ports.push(port.clone());
            }
            added.push(silent(ports[index].clone()));
        }
        write(self.folder(), ports)?;
        Ok(added)
    }

    /// Removes forwards and closes their connections: all of these or, on an error, none. Returns
    /// those that were removed.
    ///
    /// # Errors
    /// [`Error::Ports`] if the VM has no such forward; the file system's refusal.
    pub fn remove_ports(&self, _lock: &VmLock, names: &[PortName]) -> Result<Vec<PortState>> {
        if let Some(answer) = self.ask_for_ports(&Operation::RemovePorts { names: names.to_vec() }, Hint::Unknown)? {
            return Ok(answer);
        }
        let ports = read(self.folder())?;
        let named = matching(&ports, names).map_err(|reason| self.refused(reason, Hint::Unknown))?;
        let (removed, kept): (Vec<_>, Vec<_>) = ports.into_iter().zip(named).partition(|(_, named)| *named);
        write(self.folder(), kept.into_iter().map(|(port, _)| port).collect())?;
        Ok(removed.into_iter().map(|(port, _)| silent(port)).collect())
    }

    /// All forwards of the VM, and whether something listens for each.
    ///
    /// # Errors
    /// The file system's refusal; [`Error::Supervisor`] if that does not answer.
    pub fn ports(&self) -> Result<Vec<PortState>> {
        match self.ask_for_ports(&Operation::Ports, Hint::Unknown)? {
            Some(answer) => Ok(answer),
            None => Ok(read(self.folder())?.into_iter().map(silent).collect()),
        }
    }

    /// Asks the supervisor. None: there is no supervisor, or not any more. `hint` is for its
    /// refusal.
    fn ask_for_ports(&self, request: &Operation, hint: Hint<'_>) -> Result<Option<Vec<PortState>>> {
        if !run::is_supervised(self.folder())? {
            return Ok(None);
        }
        match self.connect().and_then(|connection| connection.ask::<PortsAnswer>(request)) {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(reason)) => Err(self.refused(reason, hint)),
            // The last of these is what one hears that ends at this moment.
            Err(Error::GoingDown(_) | Error::NotRunning(_) | Error::Supervisor { .. }) => {
                self.wait_until_down()?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn refused(&self, reason: String, hint: Hint<'_>) -> Error {
        let name = self.name();
        let hint = match hint {
            Hint::Another => {
                format!(
                    "choose another port, or 0 for any that is free; to list forwards: banger port list --vm {name}"
                )
            }
            Hint::Disagree => "give each a port of its own, or 0 for any that is free".to_owned(),
            Hint::Elsewhere(host) => {
                let host = host.port().map_or_else(|| host.to_string(), |port| port.to_string());
                format!("to replace it: banger port remove --vm {name} {host}; or choose another port")
            }
            Hint::Unknown => format!("to list forwards: banger port list --vm {name}"),
        };
        Error::Ports { name: name.to_owned(), reason, hint }
    }
}

fn silent(forward: PortForward) -> PortState {
    PortState { forward, problem: Some(NOT_RUNNING.to_owned()) }
}
