//! What the supervisor's tasks share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use banger_agent::link::{Mux, MuxStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::usage::{Usage, User};
use crate::activity::LastActivity;
use crate::error::{Failure, FailureKind};
use crate::host;
use crate::kvm::Accelerator;
use crate::wire::{AgentInfo, Status};

/// Clients that may be connected at a time: a command that runs is two of them. How many have a
/// stream is the link's to limit.
pub(super) const MAX_CLIENTS: usize = 128;

/// The agent has this long to take one more stream.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// How far the VM is, for those who want to talk to its agent.
#[derive(Clone)]
pub(super) enum AgentPhase {
    Booting,
    Up(Mux),
    /// There is no agent, and will be none.
    Down(Failure),
}

/// What a supervisor says of its VMM once the agent answers: fields of [`Status`].
pub(super) struct RunningVmm<'a> {
    pub(super) backend: &'a str,
    pub(super) accelerator: Accelerator,
    pub(super) reason: Option<String>,
    pub(super) pid: i32,
    pub(super) agent: AgentInfo,
}

/// Shared by the task that runs the VM, which alone changes it, and those that serve clients.
pub(super) struct State {
    /// The VM's.
    pub(super) folder: PathBuf,
    phase: watch::Sender<AgentPhase>,
    status: Mutex<Status>,
    started: Instant,
    /// Who uses the VM.
    pub(super) usage: Usage,
    /// A client holds a permit.
    pub(super) clients: Arc<Semaphore>,
}

impl State {
    pub(super) fn new(folder: &Path, pid: i32, idle_timeout_ms: u64) -> Self {
        let status = Status {
            backend: String::new(),
            reason: None,
            accelerator: None,
            pid,
            vmm_pid: None,
            uptime_ms: 0,
            agent: None,
            failed: None,
            clients: 0,
            memory_bytes: 0,
            going_down: false,
            paused: false,
        };
        State {
            folder: folder.to_owned(),
            phase: watch::Sender::new(AgentPhase::Booting),
            status: Mutex::new(status),
            started: Instant::now(),
            usage: Usage::new(idle_timeout_ms),
            clients: Arc::new(Semaphore::new(MAX_CLIENTS)),
        }
    }

    /// The agent answers.
    pub(super) fn up(&self, mux: Mux, running: RunningVmm<'_>) {
        let RunningVmm { backend, accelerator, reason, pid, agent } = running;
        let mut status = self.lock();
        backend.clone_into(&mut status.backend);
        status.accelerator = Some(accelerator);
        status.reason = reason;
        status.vmm_pid = Some(pid);
        status.agent = Some(agent);
        drop(status);
        self.usage.restart();
        self.phase.send_replace(AgentPhase::Up(mux));
    }

    /// The agent answers on another link: the VMM has cut the former one.
    pub(super) fn relinked(&self, mux: Mux) {
        self.phase.send_replace(AgentPhase::Up(mux));
    }

    /// The VM is paused, or goes on.
    pub(super) fn set_paused(&self, paused: bool) {
        self.lock().paused = paused;
    }

    /// The VM goes down in order. Streams that are open may come to their end, if they are fast;
    /// there are no new ones.
    pub(super) fn leave(&self) {
        self.phase.send_replace(AgentPhase::Down(Failure::going_down()));
    }

    /// One more user. From the first one since it was made on, the count of the guest's changes is
    /// not to be believed.
    pub(super) fn enter(&self) -> User {
        if !self.usage.is_touched() {
            // Who is here already counts. On a disk that is full this succeeds too.
            let _ = LastActivity::forget_changes(&self.folder);
        }
        self.usage.enter()
    }

    /// Completes when nobody can use the VM any more.
    pub(super) async fn is_down(&self) {
        // The sender is in `self`.
        let _ = self.phase.subscribe().wait_for(|phase| matches!(phase, AgentPhase::Down(_))).await;
    }

    /// Why nobody can use the VM any more, if that is so.
    pub(super) fn failure(&self) -> Option<Failure> {
        match &*self.phase.borrow() {
            AgentPhase::Down(failure) => Some(failure.clone()),
            AgentPhase::Booting | AgentPhase::Up(_) => None,
        }
    }

    /// Whether a VM may stop that is to stop only if it is unused. One that boots is somebody's.
    pub(super) fn may_stop(&self) -> bool {
        match &*self.phase.borrow() {
            AgentPhase::Booting => false,
            AgentPhase::Up(_) => self.usage.is_unused(),
            AgentPhase::Down(_) => true,
        }
    }

    /// The agent is lost, or was never there.
    pub(super) fn down(&self, failure: Failure) {
        self.lock().failed = Some(failure.message.clone());
        self.phase.send_replace(AgentPhase::Down(failure.of_kind(FailureKind::VmFailed)));
    }

    /// The phase after [`AgentPhase::Booting`].
    pub(super) async fn booted(&self) -> AgentPhase {
        let mut phase = self.phase.subscribe();
        let booted = phase.wait_for(|phase| !matches!(phase, AgentPhase::Booting)).await;
        booted.map_or_else(|_| AgentPhase::Down(Failure::new("the VM is going down")), |phase| phase.clone())
    }

    /// A stream to the agent, when that answers.
    ///
    /// # Errors
    /// Why there is no agent; or it takes no more streams.
    pub(super) async fn open_stream(&self) -> Result<MuxStream, Failure> {
        let mux = match self.booted().await {
            AgentPhase::Up(mux) => mux,
            AgentPhase::Down(failure) => return Err(failure),
            AgentPhase::Booting => unreachable!("that is what was waited for"),
        };
        match timeout(STREAM_PATIENCE, mux.open()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Failure::new(error.to_string())),
            Err(_) => Err(Failure::new("the guest's agent takes no more streams")
                .with_hint("wait for some command in the VM to end")),
        }
    }

    pub(super) fn status(&self) -> Status {
        let mut status = self.lock().clone();
        status.uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // The one who asks is a client too.
        status.clients = (MAX_CLIENTS - self.clients.available_permits()).saturating_sub(1);
        status.going_down = self.failure().is_some_and(|failure| failure.kind == FailureKind::GoingDown);
        status.memory_bytes = status.vmm_pid.map_or(0, host::resident_bytes);
        status
    }

    /// Waits for the clients to have been told.
    pub(super) async fn clients_gone(&self) {
        // The semaphore is never closed.
        let _ = self.clients.acquire_many(MAX_CLIENTS as u32).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use banger_agent::protocol::sync::GuestOnly;

    use super::*;

    #[test]
    fn recorded_unsynced_count_is_cleared_by_next_user() {
        let folder = tempfile::tempdir().unwrap();
        let counted = || LastActivity::read(folder.path()).unwrap().unwrap().guest_only.is_some();
        let count = || LastActivity::now(Some(GuestOnly::default())).write(folder.path()).unwrap();
        let state = State::new(folder.path(), 1, 0);
        count();
        let first = state.enter();
        assert!(!counted());
        drop(first);
        state.usage.look();
        count();
        assert!(counted());
        let _second = state.enter();
        assert!(!counted());
    }
}
