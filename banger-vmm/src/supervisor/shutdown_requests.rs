//! Who wants the VM to go down: clients, a signal, and the end of the command that it is for.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use super::state::State;
use crate::error::Failure;
use crate::wire::{self, SupervisorFrame};

/// How long a guest may take to go down when a signal asks for it.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(30);

/// A client that wants the VM to stop, and to be told when it has.
pub(super) struct StopRequest {
    pub(super) timeout: Duration,
    /// See [`Operation::Stop`].
    pub(super) if_unused: bool,
    pub(super) client: UnixStream,
}

/// How a VM is to go down.
pub(super) struct Shutdown {
    /// How long the guest may take for it.
    pub(super) patience: Duration,
    /// The guest's changes are counted, however short that time is: the VM is unused.
    pub(super) counts: bool,
}

/// All who want the VM to go down.
pub(super) struct ShutdownRequests {
    stops: mpsc::Receiver<StopRequest>,
    terminate: Signal,
    owner: Pin<Box<dyn Future<Output = ()>>>,
    /// The command that the VM is for has ended.
    pub(super) abandoned: bool,
    /// Clients that are told when the VM has gone down.
    pub(super) waiting: Vec<UnixStream>,
    state: Arc<State>,
}

impl ShutdownRequests {
    /// `stops` are those of clients, `terminate` is the signal, and `owner` completes when the
    /// command that the VM is for has ended.
    pub(super) fn new(
        stops: mpsc::Receiver<StopRequest>,
        terminate: Signal,
        owner: Pin<Box<dyn Future<Output = ()>>>,
        state: Arc<State>,
    ) -> Self {
        ShutdownRequests { stops, terminate, owner, abandoned: false, waiting: Vec::new(), state }
    }

    /// Waits for the next one who wants the VM to go down. Until the caller waits for something
    /// else, a VM that was to be unused stays so.
    pub(super) async fn next(&mut self) -> Shutdown {
        let patience = loop {
            tokio::select! {
                Some(stop) = self.stops.recv() => {
                    if stop.if_unused && !self.state.may_stop() {
                        // A fresh socket's buffer takes it at once.
                        let _ = stop.client.try_write(&wire::frame(&SupervisorFrame::<()>::Error(Failure::in_use())));
                        continue;
                    }
                    self.waiting.push(stop.client);
                    return Shutdown { patience: stop.timeout, counts: stop.if_unused };
                }
                _ = self.terminate.recv() => break SIGNAL_PATIENCE,
                () = &mut self.owner, if !self.abandoned => {
                    self.abandoned = true;
                    break Duration::ZERO;
                }
            }
        };
        Shutdown { patience, counts: false }
    }
}
