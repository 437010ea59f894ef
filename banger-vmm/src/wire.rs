//! What commands and supervisors send each other on a VM's socket.
//!
//! A connection is for one operation. The command sends one frame: an [`Operation`], and with it
//! the command's [`Hello`]. The supervisor sends its own hello, and then one answer. After the
//! answer to [`Operation::Agent`] the connection carries the bytes of one stream to the agent. A
//! frame is a 32-bit big-endian length in bytes, and that many bytes of JSON:
//!
//! ```text
//! command      {"hello":{"version":"0.1.0","features":[]},"op":"status"}
//! supervisor   {"hello":{"version":"0.1.0","features":["idle_timeout","restore_socket","snapshots"]}}
//!              {"ok":{…}}   or   {"error":{…}}
//! ```
//!
//! # Versions
//!
//! The hello comes with the operation, so it costs no round trip. Versions without it go on working
//! at either end:
//!
//! * A supervisor without hello passes over the field, as over every field that it does not know,
//!   and sends its answer alone. The command takes it for one without any [`Feature`].
//! * A command without hello sends the operation alone. The supervisor then sends the answer alone.
//!
//! A supervisor that serves as many clients as it can answers before it has read anything, so
//! without a hello. One that does not know an operation refuses it with
//! [`FailureKind::UnknownOperation`], and a text for commands that do not know that kind. Fields,
//! features and kinds of failures that are not known are passed over; missing ones have defaults.

use std::path::PathBuf;

use banger_agent::VERSION;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Failure, FailureKind};
use crate::kvm::Accelerator;
use crate::ports::{PortForward, PortName, PortState};

/// The socket's name in the VM's folder.
pub(crate) const SOCKET: &str = "s";
/// The most bytes of JSON in a command's frame.
pub(crate) const MAX_REQUEST: usize = 32 << 10;
/// The most bytes of JSON in a supervisor's frame: it may quote the console.
pub(crate) const MAX_REPLY: usize = 64 << 10;

/// How either end introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Hello {
    /// The version of banger.
    pub(crate) version: String,
    /// What this end can do that earlier versions with the same operations cannot.
    #[serde(deserialize_with = "known_features")]
    pub(crate) features: Vec<Feature>,
}

/// What one end can do, and the other has to know before it relies on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Feature {
    /// The supervisor stops a VM that is idle, unless it is held: [`Operation::Use`].
    IdleTimeout,
    /// The supervisor makes its socket anew for a hangup, which would end one without this feature.
    RestoreSocket,
    /// The supervisor pauses its VM and makes snapshots of it: [`Operation::Pause`],
    /// [`Operation::Resume`], [`Operation::Snapshot`].
    Snapshots,
}

impl Hello {
    /// Of a command of this version.
    pub(crate) fn of_command() -> Self {
        Hello { version: VERSION.to_owned(), features: Vec::new() }
    }

    /// Of a supervisor of this version.
    pub(crate) fn of_supervisor() -> Self {
        Hello {
            version: VERSION.to_owned(),
            features: vec![Feature::IdleTimeout, Feature::RestoreSocket, Feature::Snapshots],
        }
    }

    /// Whether the other end can do this.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }
}

/// Reads features, without those that only another version knows.
fn known_features<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Feature>, D::Error> {
    let features: Vec<serde_json::Value> = Deserialize::deserialize(deserializer)?;
    Ok(features.into_iter().filter_map(|feature| serde_json::from_value(feature).ok()).collect())
}

/// What a command asks a supervisor for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Operation {
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
    /// Stop the guest's processors, until they are to go on. A VM that is paused is not idle.
    Pause,
    /// Have the guest's processors go on.
    Resume,
    /// Write a snapshot, which will be this directory; the VM is paused meanwhile. Answered when it
    /// is complete.
    Snapshot { directory: PathBuf },
    /// Add forwards. Answered with a [`PortsAnswer`], as are the other operations on ports.
    AddPorts { ports: Vec<PortForward> },
    /// Remove forwards, and close their connections.
    RemovePorts { names: Vec<PortName> },
    /// List all forwards.
    Ports,
}

/// The forwards that an operation was about; or a sentence that says why nothing was done.
pub(crate) type PortsAnswer = Result<Vec<PortState>, String>;

/// A frame of a supervisor's: the hello, or the answer, which comes last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SupervisorFrame<T> {
    /// Only for a command that has sent one.
    Hello(Hello),
    /// What was asked for.
    Ok(T),
    /// Why there is none of it.
    Error(Failure),
}

/// A frame of a command's, as a supervisor reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandFrame {
    /// None: the command is of a version without hello.
    pub(crate) hello: Option<Hello>,
    /// What it asks for, or the refusal of what is not known.
    pub(crate) operation: Result<Operation, Failure>,
}

impl CommandFrame {
    /// Reads a frame's JSON.
    pub(crate) fn parse(json: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Greeting {
            hello: Option<Hello>,
        }
        let hello = serde_json::from_slice::<Greeting>(json).ok().and_then(|greeting| greeting.hello);
        let operation = serde_json::from_slice(json).map_err(|error| {
            let hint = "the VM was started by another version of banger: stop it, and the next command starts it anew";
            Failure::new(format!("its supervisor does not know this request: {error}"))
                .of_kind(FailureKind::UnknownOperation)
                .with_hint(hint)
        });
        CommandFrame { hello, operation }
    }
}

/// How a running VM is, as its supervisor knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The name of its backend; empty before the VMM was started.
    pub backend: String,
    /// Why it is not Firecracker under KVM, if it is not and nobody asked for that.
    #[serde(default)]
    pub reason: Option<String>,
    /// What runs the guest's instructions. None: the VMM was not started yet.
    pub accelerator: Option<Accelerator>,
    /// The supervisor's process id.
    pub pid: i32,
    /// The VMM's process id. None: it was not started yet.
    pub vmm_pid: Option<i32>,
    /// Milliseconds since the supervisor started.
    pub uptime_ms: u64,
    /// The agent. None: the guest boots.
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
    /// Whether the VM is paused: [`crate::Vm::pause`].
    #[serde(default)]
    pub paused: bool,
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

/// The bytes of a command's frame: its hello, and the operation.
pub(crate) fn command_frame(operation: &Operation) -> Vec<u8> {
    #[derive(Serialize)]
    struct Greeted<'a> {
        hello: Hello,
        #[serde(flatten)]
        operation: &'a Operation,
    }
    frame(&Greeted { hello: Hello::of_command(), operation })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a supervisor without hello reads operations.
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "op", rename_all = "snake_case")]
    enum Earlier {
        Status,
        Use { idle_timeout_ms: u64 },
    }

    fn json(frame: &[u8]) -> &[u8] {
        &frame[4..]
    }

    #[test]
    fn operation_with_hello_is_read_by_supervisor_without() {
        let read = |operation| serde_json::from_slice::<Earlier>(json(&command_frame(&operation))).unwrap();
        assert_eq!(read(Operation::Status), Earlier::Status);
        assert_eq!(read(Operation::Use { idle_timeout_ms: 7 }), Earlier::Use { idle_timeout_ms: 7 });
    }

    #[test]
    fn operation_is_read_with_and_without_hello() {
        let operation = Operation::Stop { timeout_ms: 1, if_unused: true };
        let read = CommandFrame::parse(json(&command_frame(&operation)));
        assert_eq!(read, CommandFrame { hello: Some(Hello::of_command()), operation: Ok(operation) });
        let read = CommandFrame::parse(br#"{"op":"stop","timeout_ms":1}"#);
        let operation = Operation::Stop { timeout_ms: 1, if_unused: false };
        assert_eq!(read, CommandFrame { hello: None, operation: Ok(operation) });
    }

    #[test]
    fn unknown_operation_keeps_hello_and_has_kind_and_text() {
        let json = br#"{"op":"fork","of":1,"hello":{"version":"9.0","features":["fork"],"more":2}}"#;
        let read = CommandFrame::parse(json);
        assert_eq!(read.hello, Some(Hello { version: "9.0".into(), features: Vec::new() }));
        let refusal = read.operation.unwrap_err();
        assert_eq!(refusal.kind, FailureKind::UnknownOperation);
        assert!(refusal.message.starts_with("its supervisor does not know this request: unknown variant `fork`"));
        // The name that earlier versions know.
        assert_eq!(serde_json::to_value(&refusal).unwrap()["kind"], "unknown_request");
    }

    #[test]
    fn unknown_features_are_passed_over() {
        let read = |json: &str| serde_json::from_str::<Hello>(json).unwrap();
        let hello = read(r#"{"version":"9","features":["fork",{"name":"x"},"restore_socket"]}"#);
        assert!(hello.has(Feature::RestoreSocket) && !hello.has(Feature::IdleTimeout));
        assert_eq!(read("{}"), Hello::default());
        assert_eq!(read(&serde_json::to_string(&Hello::of_supervisor()).unwrap()), Hello::of_supervisor());
    }

    #[test]
    fn answers_have_the_form_that_commands_without_hello_read() {
        let answer = |answer: SupervisorFrame<u8>| serde_json::to_value(&answer).unwrap();
        assert_eq!(answer(SupervisorFrame::Ok(1)), serde_json::json!({"ok": 1}));
        let failure = answer(SupervisorFrame::Error(Failure::in_use()));
        assert_eq!(
            (&failure["error"]["message"], &failure["error"]["kind"]),
            (&"the VM is in use".into(), &"in_use".into())
        );
        assert_eq!(serde_json::to_value(SupervisorFrame::Ok(())).unwrap(), serde_json::json!({"ok": null}));
    }
}
