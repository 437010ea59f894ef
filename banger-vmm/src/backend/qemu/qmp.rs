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
    event: Option<String>,
    data: Value,
    error: Option<QmpError>,
}

#[derive(Debug, Deserialize)]
struct QmpError {
    desc: String,
}

/// What a message tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The guest's agent has opened its port.
    AgentOpened,
    /// Something that happens to VMMs of every kind.
    Vmm(VmmEvent),
}

impl Message {
    /// What the message tells about the VM, if anything.
    pub(super) fn event(self) -> Option<Event> {
        if self.event.as_deref() == Some("VSERPORT_CHANGE") && self.data.get("open") == Some(&Value::Bool(true)) {
            return Some(Event::AgentOpened);
        }
        self.vmm_event().map(Event::Vmm)
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
            // Nobody here ever pauses a guest: it is QEMU that gave up on it.
            "STOP" => stuck("QEMU stopped the guest after an internal error"),
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
        assert!(matches!(event(r#"{"event":"STOP"}"#), Some(Event::Vmm(VmmEvent::Stuck(_)))));
        assert!(matches!(
            event(r#"{"error":{"class":"GenericError","desc":"no"}}"#),
            Some(Event::Vmm(VmmEvent::Stuck(_)))
        ));
        for nothing in [r#"{"QMP":{"version":{}}}"#, r#"{"return":{}}"#, r#"{"event":"VSERPORT_CHANGE"}"#, "{}"] {
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
