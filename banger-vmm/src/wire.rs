//! What commands and supervisors say to each other on a VM's socket.
//!
//! One operation is one connection. The command sends one frame, a [`Request`]; the supervisor
//! answers with one, a [`Reply`]. After [`Request::Agent`] and its reply the connection carries the
//! bytes of one stream to the agent. A frame is a 32-bit big-endian length and that many bytes of
//! JSON.

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::kvm::Accelerator;
use crate::ports::{PortForward, PortName, PortState};

/// The socket's name in the VM's folder.
pub(crate) const SOCKET: &str = "s";
/// The most bytes a request may have.
pub(crate) const MAX_REQUEST: usize = 32 << 10;
/// The most bytes a reply may have: it may quote the console.
pub(crate) const MAX_REPLY: usize = 64 << 10;

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// A stream to the agent.
    Agent {
        /// Who only looks is no user: the VM may stop for being idle meanwhile.
        #[serde(default)]
        only_look: bool,
    },
    /// A [`Status`].
    Status,
    /// The client uses the VM until it closes the connection; meanwhile, the VM is not idle.
    /// Answered at once.
    Use {
        /// See [`crate::VmRecord::idle_timeout_ms`]; from now on.
        idle_timeout_ms: u64,
    },
    /// Shut down, in order until the time is up. Answered when the VMM is gone.
    Stop {
        timeout_ms: u64,
        /// Refuse if the VM is in use, and count the guest's changes before the VM goes down.
        #[serde(default)]
        if_unused: bool,
    },
    /// Listen at these ports of the host too. Answered with a [`PortsAnswer`] of them, as are the
    /// others.
    AddPorts { ports: Vec<PortForward> },
    /// Not at these any more.
    RemovePorts { names: Vec<PortName> },
    /// How all are.
    Ports,
}

/// Of the ports that it was about; or why nothing was done, in words.
pub(crate) type PortsAnswer = Result<Vec<PortState>, String>;

/// A supervisor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply<T> {
    Ok(T),
    Error(Failure),
}

/// How a VM is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The VMM that runs it.
    pub backend: String,
    /// What runs the guest's instructions; none before the VMM was started.
    pub accelerator: Option<Accelerator>,
    /// The supervisor.
    pub pid: i32,
    /// The VMM's process.
    pub vmm_pid: Option<i32>,
    /// Milliseconds since the supervisor started.
    pub uptime_ms: u64,
    /// The agent; none while the guest boots.
    pub agent: Option<AgentInfo>,
    /// Why the agent is lost, if it is.
    pub failed: Option<String>,
    /// Clients of the supervisor, besides the one that asks.
    pub clients: usize,
    /// What the VMM takes of the host's memory, in bytes.
    pub memory_bytes: u64,
    /// Whether the VM is going down in order.
    #[serde(default)]
    pub going_down: bool,
}

/// The agent, as it introduced itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// From the guest kernel's start to the agent's first word, in milliseconds of the guest's
    /// clock.
    pub guest_boot_ms: u64,
    /// From the VMM's start to the agent's first word, in milliseconds of the host's clock.
    pub boot_ms: u64,
}

/// A frame's bytes.
pub(crate) fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    let json = serde_json::to_vec(message).expect("messages have a JSON form");
    let mut frame = u32::try_from(json.len()).expect("messages are short").to_be_bytes().to_vec();
    frame.extend(json);
    frame
}
