//! As much of QMP as a supervisor needs: QEMU's docs/interop/qmp-spec.

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

use crate::backend::VmmEvent;
use crate::error::Failure;

/// The commands, each to be sent as a line.
pub(super) const ENTER_COMMAND_MODE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
pub(super) const QUIT: &[u8] = b"{\"execute\":\"quit\"}\n";

/// No message is longer, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// What QEMU says: one of these fields is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    /// The first message: what QEMU is.
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    event: Option<String>,
    data: Value,
    /// Of the command that is answered, if it had one.
    id: Option<u64>,
    error: Option<QmpError>,
    #[serde(rename = "return")]
    returned: Value,
}

#[derive(Debug, Deserialize)]
struct Greeting {
    version: Version,
}

#[derive(Debug, Deserialize)]
struct Version {
    qemu: Triple,
}

#[derive(Debug, Deserialize)]
struct Triple {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Debug, Deserialize)]
struct QmpError {
    desc: String,
}

/// What a message tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// QEMU is of this version.
    Greeting(String),
    /// The answer to the command of this number: what it returns, or QEMU's words of refusal.
    Answer(u64, Result<Value, String>),
    /// The guest's agent has opened its port.
    AgentOpened,
    /// The guest's processors were stopped: as a command wanted, or since QEMU gives up on it.
    Stopped,
    /// A migration, which is how QEMU calls it to write a guest's state or to read it, is this far.
    Migration(MigrationStatus),
    /// Something that happens to VMMs of every kind.
    Vmm(VmmEvent),
}

/// How far a migration is: QEMU's `MigrationStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MigrationStatus {
    /// There is none, or it goes on.
    Active,
    Completed,
    /// Failed, or cancelled.
    Failed,
}

impl Message {
    /// What the message tells about the VM, if anything.
    pub(super) fn event(self) -> Option<Event> {
        if let Some(Greeting { version: Version { qemu: Triple { major, minor, micro } } }) = self.greeting {
            return Some(Event::Greeting(format!("{major}.{minor}.{micro}")));
        }
        if let Some(id) = self.id {
            return Some(Event::Answer(id, self.error.map_or(Ok(self.returned), |error| Err(error.desc))));
        }
        match self.event.as_deref() {
            Some("VSERPORT_CHANGE") if self.data.get("open") == Some(&Value::Bool(true)) => Some(Event::AgentOpened),
            Some("STOP") => Some(Event::Stopped),
            Some("MIGRATION") => Some(Event::Migration(match self.data.get("status").and_then(Value::as_str)? {
                "completed" => MigrationStatus::Completed,
                "failed" | "cancelled" => MigrationStatus::Failed,
                _ => MigrationStatus::Active,
            })),
            _ => self.vmm_event().map(Event::Vmm),
        }
    }

    fn vmm_event(self) -> Option<VmmEvent> {
        if let Some(error) = self.error {
            return stuck(format!("QEMU refused a command: {}", error.desc));
        }
        let text = |field: &str| self.data.get(field).and_then(Value::as_str);
        match self.event.as_deref()? {
            "VSERPORT_CHANGE" => (self.data.get("open") == Some(&Value::Bool(false))).then_some(VmmEvent::AgentClosed),
            "SHUTDOWN" => match text("reason")? {
                "guest-shutdown" => Some(VmmEvent::PoweredOff),
                "guest-reset" | "guest-panic" => Some(VmmEvent::Reset),
                _ => None,
            },
            "GUEST_PANICKED" => Some(VmmEvent::Reset),
            // Comes before STOP, and says why.
            "BLOCK_IO_ERROR" if self.data.get("nospace") == Some(&Value::Bool(true)) => {
                let hint = "free some disk space, then stop the VM; the next command starts it anew";
                let failure =
                    Failure::new("this machine's disk is full: the VM's disk cannot grow, so the guest was stopped");
                Some(VmmEvent::Stuck(failure.with_hint(hint)))
            }
            "BLOCK_IO_ERROR" if text("action") == Some("stop") => {
                stuck(format!("a disk of the VM failed: {}", text("reason").unwrap_or("I/O error")))
            }
            _ => None,
        }
    }
}

fn stuck(message: impl Into<String>) -> Option<VmmEvent> {
    Some(VmmEvent::Stuck(Failure::new(message)))
}

/// Reads messages until QEMU closes the socket, or says what is none.
pub(super) async fn read(qmp: impl AsyncRead + Unpin, messages: mpsc::Sender<Message>) {
    let mut qmp = BufReader::new(qmp);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut qmp).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(read) if read > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        let Ok(message) = serde_json::from_slice(&line) else { return };
        if messages.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Option<Event> {
        serde_json::from_str::<Message>(line).unwrap().event()
    }

    #[test]
    fn qmp_events_are_parsed() {
        let open =
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"VSERPORT_CHANGE","data":{"open":true,"id":""}}"#;
        assert_eq!(event(open), Some(Event::AgentOpened));
        assert_eq!(event(&open.replace("true", "false")), Some(Event::Vmm(VmmEvent::AgentClosed)));
        let shutdown =
            |reason| event(&format!(r#"{{"event":"SHUTDOWN","data":{{"guest":true,"reason":"{reason}"}}}}"#));
        assert_eq!(shutdown("guest-shutdown"), Some(Event::Vmm(VmmEvent::PoweredOff)));
        assert_eq!(shutdown("guest-reset"), Some(Event::Vmm(VmmEvent::Reset)));
        assert_eq!(shutdown("host-qmp-quit"), None);
        let full =
            r#"{"event":"BLOCK_IO_ERROR","data":{"action":"stop","nospace":true,"reason":"No space left on device"}}"#;
        assert!(matches!(event(full), Some(Event::Vmm(VmmEvent::Stuck(Failure { hint: Some(_), .. })))));
        assert_eq!(event(r#"{"event":"STOP"}"#), Some(Event::Stopped));
        let migration = |status| event(&format!(r#"{{"event":"MIGRATION","data":{{"status":"{status}"}}}}"#));
        assert_eq!(migration("setup"), Some(Event::Migration(MigrationStatus::Active)));
        assert_eq!(migration("completed"), Some(Event::Migration(MigrationStatus::Completed)));
        assert_eq!(migration("cancelled"), Some(Event::Migration(MigrationStatus::Failed)));
        assert_eq!(event(r#"{"return":{"a":1},"id":3}"#), Some(Event::Answer(3, Ok(serde_json::json!({"a": 1})))));
        let refused = r#"{"id":4,"error":{"class":"GenericError","desc":"no"}}"#;
        assert_eq!(event(refused), Some(Event::Answer(4, Err("no".into()))));
        let greeting = r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}"#;
        assert_eq!(event(greeting), Some(Event::Greeting("7.2.22".into())));
        assert!(matches!(
            event(r#"{"error":{"class":"GenericError","desc":"no"}}"#),
            Some(Event::Vmm(VmmEvent::Stuck(_)))
        ));
        for nothing in [r#"{"return":{}}"#, r#"{"event":"MIGRATION"}"#, r#"{"event":"VSERPORT_CHANGE"}"#, "{}"] {
            assert_eq!(event(nothing), None);
        }
    }

    #[tokio::test]
    async fn invalid_qmp_input_closes_the_reader() {
        let endless = vec![b'x'; 1 << 20];
        for input in [&endless[..], b"[[[[\n", b"{\"event\":1}\n", b"\xff\n", b"{}"] {
            let (sender, mut messages) = mpsc::channel(1);
            read(input, sender).await;
            assert!(messages.recv().await.is_none());
        }
    }
}
