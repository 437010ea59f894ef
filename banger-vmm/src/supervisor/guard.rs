//! Watching over a VM whose agent answers, until it is down.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_agent::frame::{Frame, FrameCodec};
use banger_agent::link::{LinkError, Mux};
use banger_agent::protocol;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::codec::Encoder;

use super::Report;
use super::boot::Booted;
use super::life::{Ended, Shutdown};
use super::state::State;
use crate::backend::{Vmm, VmmEvent};
use crate::error::Failure;
use crate::launch::{Running, StartEvent};
use crate::run::{Phase, RunInfo};

/// What could not be written down, for want of space, is tried again after this long.
const NOTE_AGAIN: Duration = Duration::from_secs(1);

/// What it takes to watch over a VM.
pub(super) struct Guard<'a> {
    folder: &'a Path,
    info: RunInfo,
    state: &'a Arc<State>,
    /// When a guest that was asked to go down is made to.
    deadline: Option<Instant>,
    /// Somebody asked it to.
    stopping: bool,
    /// The agent is lost.
    lost: bool,
    /// The phase is written down: the next command goes by it.
    noted: bool,
}

impl<'a> Guard<'a> {
    pub(super) fn new(folder: &'a Path, info: RunInfo, state: &'a Arc<State>) -> Self {
        Guard { folder, info, state, deadline: None, stopping: false, lost: false, noted: true }
    }

    /// Reports that the VM is up, and returns when it is down.
    pub(super) async fn watch(mut self, booted: Booted, report: &mut Report, shutdown: &mut Shutdown) -> Ended {
        let Booted { mut vmm, accelerator, agent, pipe } = booted;
        let (mux, driver) = Mux::host(pipe);
        let mut link = Some(tokio::spawn(driver));
        self.note(Phase::Running { accelerator, agent: agent.clone() });
        self.state.up(mux.clone(), accelerator, vmm.pid, agent.clone());
        report.send(&StartEvent::Ready(Running { accelerator, agent }));
        report.close();

        let mut reset = None;
        let exit = loop {
            if self.lost
                && let Some(link) = link.take()
            {
                // Commands that run would wait for ever.
                link.abort();
            }
            tokio::select! {
                event = vmm.events.recv() => match event {
                    Some(VmmEvent::Exited(failure)) => break failure.message,
                    None => break "the VMM is gone".to_owned(),
                    Some(VmmEvent::AgentPort { open: true }) => {}
                    Some(VmmEvent::AgentPort { open: false }) => self.lose(Failure::new("the guest's agent is gone")),
                    Some(VmmEvent::Stuck(failure)) => self.lose(failure),
                    Some(VmmEvent::PoweredOff) => self.stopping = true,
                    Some(VmmEvent::Reset) => reset = Some("the guest reset itself: a reboot, or a kernel panic".to_owned()),
                },
                error = ended(&mut link) => {
                    link = None;
                    self.lose(Failure::new(error));
                }
                patience = shutdown.asked() => self.stop(patience, &mux, &mut vmm),
                () = sleep(NOTE_AGAIN), if !self.noted => self.write_note(),
                () = sleep_until(self.deadline.unwrap_or_else(Instant::now)), if self.deadline.is_some() => {
                    self.deadline = None;
                    vmm.quit();
                }
            }
        };
        self.state.down(Failure::new("the VM went down"));
        if self.stopping {
            return Ended::Stopped;
        }
        let reason = reset.unwrap_or(exit);
        self.note(Phase::Failed { reason });
        Ended::Crashed
    }

    /// Makes the guest go down, within `patience`.
    fn stop(&mut self, patience: Duration, mux: &Mux, vmm: &mut Vmm) {
        if self.lost {
            // Its agent is lost: there is nobody to ask.
            vmm.quit();
        } else if !self.stopping {
            tokio::spawn(ask_to_shut_down(mux.clone()));
        }
        self.stopping = true;
        let deadline = Instant::now().checked_add(patience);
        self.deadline = [self.deadline, deadline].into_iter().flatten().min();
    }

    /// The agent will not answer any more. On its way down it need not.
    fn lose(&mut self, failure: Failure) {
        if self.stopping || self.lost {
            return;
        }
        self.lost = true;
        self.note(Phase::Failed { reason: failure.message.clone() });
        let hint = "stop the VM; the next command starts it anew";
        self.state.down(if failure.hint.is_none() { failure.with_hint(hint) } else { failure });
    }

    fn note(&mut self, phase: Phase) {
        self.info.phase = phase;
        self.write_note();
    }

    /// Writes the phase down. Should the disk be full, the VM is worth more than the note.
    fn write_note(&mut self) {
        self.noted = self.info.write(self.folder).is_ok();
    }
}

/// Waits for the link to end; for ever, if it has.
async fn ended(link: &mut Option<JoinHandle<LinkError>>) -> String {
    match link {
        Some(link) => link.await.map_or_else(|error| error.to_string(), |error| error.to_string()),
        None => std::future::pending().await,
    }
}

/// Asks the agent. Whether it does is seen by the VMM's exit.
async fn ask_to_shut_down(mux: Mux) {
    let mut request = BytesMut::new();
    let encoded = FrameCodec.encode(Frame::control(&protocol::Request::Shutdown), &mut request);
    if encoded.is_err() {
        return;
    }
    if let Ok(mut stream) = mux.open().await {
        let sent = async {
            stream.write_all(&request).await?;
            stream.flush().await?;
            // The stream stays open until the agent has read it.
            stream.read(&mut [0; 64]).await
        };
        let _ = sent.await;
    }
}
