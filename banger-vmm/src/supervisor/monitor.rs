//! Watching over a VM whose agent answers, until it is down.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banger_agent::link::{LinkError, Mux};
use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::boot::Booted;
use super::shutdown::{ask_to_shut_down, farewell, record_guest_changes};
use super::shutdown_requests::{Shutdown, ShutdownRequests};
use super::socket::LEAVING;
use super::state::{RunningVmm, State};
use super::ways::Way;
use super::{StartReport, blocking};
use crate::activity::LastActivity;
use crate::backend::{Vmm, VmmEvent};
use crate::error::Failure;
use crate::launch::{Running, StartEvent};
use crate::run::{RunInfo, VmPhase};

/// What could not be written down, for want of space, is tried again after this long.
const NOTE_AGAIN: Duration = Duration::from_secs(1);
/// How long after the last user has left the guest's changes are counted,
const QUIET: Duration = Duration::from_secs(1);
/// and how long that may take.
const COUNT_LIMIT: Duration = Duration::from_secs(60);
/// How long the count may take in a guest that is going down.
const LAST_COUNT_LIMIT: Duration = Duration::from_secs(10);
/// How long an idle guest may take to go down.
const IDLE_PATIENCE: Duration = Duration::from_secs(30);

/// How a VM that was up ended.
pub(super) enum Ended {
    /// Somebody wanted that: there is nothing to tell.
    Stopped,
    /// Nobody did. What happened stays in `run.json`, for the next command to find.
    Crashed,
    /// The command that it was for ended: nobody will want it again.
    Abandoned,
}

/// What it takes to watch over a VM.
pub(super) struct Monitor<'a> {
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
    /// What changed in the guest was counted when nobody could change it any more.
    counted: Arc<AtomicBool>,
    /// One count at a time, so that an older one never comes last.
    counting: Arc<tokio::sync::Mutex<()>>,
    /// The guest's changes are counted, and there is nothing else to wait for.
    finished: Arc<Notify>,
}

impl<'a> Monitor<'a> {
    pub(super) fn new(folder: &'a Path, info: RunInfo, state: &'a Arc<State>) -> Self {
        Monitor {
            folder,
            info,
            state,
            deadline: None,
            stopping: false,
            lost: false,
            noted: true,
            counted: Arc::default(),
            counting: Arc::default(),
            finished: Arc::default(),
        }
    }

    /// Reports that the VM is up, and returns when it is down.
    pub(super) async fn watch(
        mut self,
        way: &Way,
        booted: Booted,
        report: &mut StartReport,
        shutdown: &mut ShutdownRequests,
    ) -> Ended {
        let Booted { mut vmm, confinement, agent, stream, .. } = booted;
        way.backend.name().clone_into(&mut self.info.backend);
        self.info.confinement = confinement;
        let (mux, driver) = Mux::host(stream);
        let mut link = Some(tokio::spawn(driver));
        self.note(VmPhase::Running {
            backend: Some(way.backend.kind()),
            accelerator: way.accelerator,
            reason: way.reason.clone(),
            agent: agent.clone(),
        })
        .await;
        self.state.up(
            mux.clone(),
            RunningVmm {
                backend: way.backend.name(),
                accelerator: way.accelerator,
                reason: way.reason.clone(),
                pid: vmm.pid,
                agent: agent.clone(),
            },
        );
        report.send(&StartEvent::Ready(Running { backend: way.backend.kind(), accelerator: way.accelerator, agent }));
        report.close();

        let mut reset = None;
        let mut farewell = pin!(farewell(mux.clone()).fuse());
        let mut said = None;
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
                    Some(VmmEvent::AgentClosed) => self.lose(Failure::new("the guest's agent is gone")).await,
                    Some(VmmEvent::Stuck(failure)) => self.lose(failure).await,
                    Some(VmmEvent::PoweredOff) => self.stopping = true,
                    Some(VmmEvent::Reset) => reset = Some("the guest reset itself: a reboot, or a kernel panic".to_owned()),
                },
                error = ended(&mut link) => {
                    link = None;
                    self.lose(Failure::new(error)).await;
                }
                asked = shutdown.next() => self.stop(&asked, &mux, &mut vmm),
                state = &mut farewell => said = Some(state),
                () = self.finished.notified() => vmm.quit(),
                () = self.state.usage.idle(), if !self.stopping && !self.lost => {
                    self.stop(&Shutdown { patience: IDLE_PATIENCE, counts: false }, &mux, &mut vmm);
                }
                () = self.state.usage.quiet(QUIET), if !self.stopping && !self.lost => {
                    let (mux, state, turn) = (mux.clone(), Arc::clone(self.state), Arc::clone(&self.counting));
                    tokio::spawn(async move {
                        let _turn = turn.lock().await;
                        record_guest_changes(mux, &state, COUNT_LIMIT).await
                    });
                }
                () = sleep(NOTE_AGAIN), if !self.noted => self.write_note().await,
                () = sleep_until(self.deadline.unwrap_or_else(Instant::now)), if self.deadline.is_some() => {
                    self.deadline = None;
                    vmm.quit();
                }
            }
        };
        if !self.counted.load(Ordering::Relaxed) {
            // Not to be believed is enough: a disk that is full keeps nobody here.
            let _ = LastActivity::forget_changes(self.folder);
        }
        // What its VMM took for a reset may have been meant as an end: the guest knows better.
        if self.stopping || said.is_some() {
            self.state.leave();
            return Ended::Stopped;
        }
        self.state.down(Failure::new("the VM went down"));
        let reason = reset.unwrap_or(exit);
        self.note(VmPhase::Failed { reason }).await;
        Ended::Crashed
    }

    /// Makes the guest go down.
    fn stop(&mut self, asked: &Shutdown, mux: &Mux, vmm: &mut Vmm) {
        let Shutdown { mut patience, counts } = *asked;
        if self.lost {
            // Its agent is lost: there is nobody to ask.
            vmm.quit();
        } else if self.stopping && counts {
            // It goes in the time that it was given before, and is counted.
            return;
        } else if !self.stopping {
            self.state.leave();
            let (mux, counted) = (mux.clone(), Arc::clone(&self.counted));
            let (turn, state) = (Arc::clone(&self.counting), Arc::clone(self.state));
            let finished = Arc::clone(&self.finished);
            tokio::spawn(async move {
                // Who has no time for an orderly end has none for this either, and what still runs
                // can write until its end.
                let limit = if counts { LAST_COUNT_LIMIT } else { LAST_COUNT_LIMIT.min(patience / 2) };
                // A command that has just ended may still be on its way out.
                if !limit.is_zero() && timeout(LEAVING.min(limit), state.usage.unused()).await.is_ok() {
                    let _turn = turn.lock().await;
                    // There are no new users, so this holds.
                    state.usage.look();
                    counted.store(record_guest_changes(mux.clone(), &state, limit).await, Ordering::Relaxed);
                }
                if patience.is_zero() && counts {
                    finished.notify_one();
                } else {
                    ask_to_shut_down(mux).await;
                }
            });
            if counts {
                patience += LEAVING + LAST_COUNT_LIMIT;
            }
        }
        self.stopping = true;
        let deadline = Instant::now().checked_add(patience);
        self.deadline = [self.deadline, deadline].into_iter().flatten().min();
    }

    /// The agent will not answer any more. On its way down it need not.
    async fn lose(&mut self, failure: Failure) {
        if self.stopping || self.lost {
            return;
        }
        self.lost = true;
        // It may have more than was last seen. A disk that is full loses this note, and the end
        // makes up for it.
        let _ = LastActivity::forget_changes(self.folder);
        self.note(VmPhase::Failed { reason: failure.message.clone() }).await;
        let hint = "stop the VM; the next command starts it anew";
        self.state.down(if failure.hint.is_none() { failure.with_hint(hint) } else { failure });
    }

    async fn note(&mut self, phase: VmPhase) {
        self.info.phase = phase;
        self.write_note().await;
    }

    /// Writes the phase down. Should the disk be full, the VM is worth more than the note.
    async fn write_note(&mut self) {
        let (info, folder) = (self.info.clone(), self.folder.to_owned());
        self.noted = blocking(move || info.write(&folder)).await.is_ok();
    }
}

/// Waits for the link to end; for ever, if it has.
async fn ended(link: &mut Option<JoinHandle<LinkError>>) -> String {
    match link {
        Some(link) => link.await.map_or_else(|error| error.to_string(), |error| error.to_string()),
        None => std::future::pending().await,
    }
}
