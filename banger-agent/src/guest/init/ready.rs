//! Knowing when systemd has finished booting.
//!
//! `systemctl is-system-running --wait` says `offline` when it is asked too early, and polling
//! costs a slow guest dearly. systemd itself tells the moment: as PID 1 it sends `READY=1` to the
//! `$NOTIFY_SOCKET` it was started with once its first transaction is done (`sd_notify(3)`;
//! container managers rely on it).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::watch;

use super::BootError;

/// Where systemd reports to; root's only.
pub(super) const NOTIFY_SOCKET: &str = "/run/banger/notify";

/// How long `systemctl` may take to answer.
const SYSTEMCTL_DEADLINE: Duration = Duration::from_secs(20);

/// The progress of the image's init.
#[derive(Debug)]
pub struct Boot {
    socket: Option<UnixDatagram>,
    finished: watch::Receiver<bool>,
}

/// What came of the boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemState {
    /// As `systemctl is-system-running` says: `running`, `degraded`, … There are two more:
    /// `none` where systemd is not the init, `starting` when the time was up.
    pub state: String,
    /// The units that failed.
    pub failed_units: Vec<String>,
}

impl Boot {
    /// For a guest without systemd: there is nothing to wait for.
    pub(super) fn none() -> Self {
        Boot { socket: None, finished: watch::channel(false).1 }
    }

    /// Binds the socket; systemd must find it when it starts.
    pub(super) fn listen() -> Result<Self, BootError> {
        let path = Path::new(NOTIFY_SOCKET);
        let socket = UnixDatagram::bind(path).map_err(BootError::io("listen on", path))?;
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, private).map_err(BootError::io("protect", path))?;
        Ok(Boot { socket: Some(socket), finished: watch::channel(false).1 })
    }

    /// Starts to read the reports. It must not wait until somebody asks: PID 1 would block on a
    /// full queue. The serving process calls it once, after the fork.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        let Some(socket) = self.socket.as_ref() else {
            return Ok(());
        };
        let socket = socket.try_clone()?;
        let (finish, finished) = watch::channel(false);
        self.finished = finished;
        std::thread::Builder::new().name("systemd-notify".to_owned()).stack_size(64 << 10).spawn(move || {
            let mut report = [0; 4096];
            while let Ok(length) = socket.recv(&mut report) {
                if report[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                    finish.send_replace(true);
                }
            }
        })?;
        Ok(())
    }

    /// Waits until systemd has finished its start-up, at most for `limit`.
    pub async fn system_ready(&self, limit: Duration) -> SystemState {
        if self.socket.is_none() {
            return SystemState::named("none");
        }
        let mut finished = self.finished.clone();
        let waited = tokio::time::timeout(limit, finished.wait_for(|finished| *finished)).await.is_ok();
        if !waited {
            return SystemState::named("starting");
        }
        let state = systemctl(&["is-system-running"]).await;
        let listed = systemctl(&["list-units", "--failed", "--plain", "--no-legend", "--no-pager"]).await;
        SystemState { state: state.trim().to_owned(), failed_units: first_words(&listed) }
    }
}

impl SystemState {
    fn named(state: &str) -> Self {
        SystemState { state: state.to_owned(), failed_units: Vec::new() }
    }
}

/// Its standard output; its status only repeats that in a number.
async fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(SYSTEMCTL_DEADLINE, output).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => "unknown".to_owned(),
    }
}

fn first_words(listed: &str) -> Vec<String> {
    listed.lines().filter_map(|line| line.split_ascii_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_unit_names_are_parsed() {
        let listed = "a.service loaded failed failed A thing\nb.mount loaded failed failed B\n";
        assert_eq!(first_words(listed), ["a.service", "b.mount"]);
        assert!(first_words("").is_empty());
    }
}
