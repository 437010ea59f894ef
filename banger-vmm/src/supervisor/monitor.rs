//! Watching over a VM whose agent answers, until it is down.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banger_agent::boot_config::GuestIdentity;
use banger_agent::link::{LinkError, Mux};
use futures::FutureExt;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::boot::{Booted, greet};
use super::shutdown::{ask_to_shut_down, farewell, record_guest_changes};
use super::shutdown_requests::{Shutdown, ShutdownRequests};
use super::snapshot::{self, Action, Job, Outcome, Request, Source, Target};
use super::socket::LEAVING;
use super::state::{RunningVmm, State};
use super::ways::Way;
use super::{StartReport, blocking};
use crate::activity::LastActivity;
use crate::backend::{AgentConnector, Vmm, VmmEvent};
use crate::error::{Failure, FailureKind};
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

/// How long the agent may take to answer on another link after a snapshot,
const RELINK_LIMIT: Duration = Duration::from_secs(5);
/// and how often it is asked: the guest may take the first link for one of those that were cut.
const RELINK_ATTEMPTS: usize = 2;

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
    /// What the VM was started with.
    source: Arc<Source>,
    /// What a client has asked for, while it is carried out.
    job: Option<Job>,
    /// The guest's processors stand still.
    paused: bool,
    /// The agent's link; none: the agent cannot answer for now, as the VM is paused, or about to be.
    answering: watch::Sender<Option<Mux>>,
}

/// What is wanted of a VM that is up.
pub(super) struct Wishes<'a> {
    pub(super) shutdown: &'a mut ShutdownRequests,
    pub(super) actions: &'a mut mpsc::Receiver<Request>,
}

/// The agent's link, as it is.
struct Link {
    mux: Mux,
    /// Ends with the link; none: it has ended.
    driver: Option<JoinHandle<LinkError>>,
    connector: Box<dyn AgentConnector>,
    identity: GuestIdentity,
}

impl<'a> Monitor<'a> {
    pub(super) fn new(folder: &'a Path, info: RunInfo, state: &'a Arc<State>, source: Source) -> Self {
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
            source: Arc::new(source),
            job: None,
            paused: false,
            answering: watch::Sender::new(None),
        }
    }

    /// Reports that the VM is up, and returns when it is down.
    pub(super) async fn watch(
        mut self,
        way: &Way,
        booted: Booted,
        report: &mut StartReport,
        wishes: &mut Wishes<'_>,
    ) -> Ended {
        let Booted { mut vmm, confinement, agent, stream, connector, identity } = booted;
        way.backend.name().clone_into(&mut self.info.backend);
        self.info.confinement = confinement;
        let (mux, driver) = Mux::host(stream);
        let mut link = Link { mux: mux.clone(), driver: Some(tokio::spawn(driver)), connector, identity };
        self.answering.send_replace(Some(mux.clone()));
        self.note(VmPhase::Running {
            backend: Some(way.backend.kind()),
            accelerator: way.accelerator,
            reason: way.reason.clone(),
            agent: agent.clone(),
        })
        .await;
        self.state.up(
            mux,
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
        let mut parting = pin!(farewell(link.mux.clone()).fuse());
        let mut said = None;
        let exit = loop {
            if self.lost
                && let Some(driver) = link.driver.take()
            {
                // Commands that run would wait for ever.
                driver.abort();
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
                error = ended(&mut link.driver) => {
                    link.driver = None;
                    if !(self.job.is_some() && link.connector.is_cut_by_snapshots()) {
                        self.lose(Failure::new(error)).await;
                    }
                }
                state = &mut parting => said = Some(state),
                asked = wishes.shutdown.next() => self.stop(&asked, &mut vmm),
                Some(request) = wishes.actions.recv() => self.begin(request, &vmm),
                outcome = snapshot::ended(&mut self.job) => {
                    if self.finish(outcome, &mut link, &mut vmm).await {
                        parting.set(farewell(link.mux.clone()).fuse());
                    }
                }
                () = self.finished.notified() => vmm.quit(),
                () = self.state.usage.idle(), if self.is_up() => {
                    self.stop(&Shutdown { patience: IDLE_PATIENCE, counts: false }, &mut vmm);
                }
                () = self.state.usage.quiet(QUIET), if self.is_up() => {
                    let (mux, state, turn) = (link.mux.clone(), Arc::clone(self.state), Arc::clone(&self.counting));
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
        if let Some(mut job) = self.job.take() {
            // It has nothing to wait for any more, and removes what it has begun.
            job.cancel();
            let outcome = job.ended().await;
            job.answer(outcome.result);
        }
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
    fn stop(&mut self, asked: &Shutdown, vmm: &mut Vmm) {
        let Shutdown { mut patience, counts } = *asked;
        if self.lost {
            // Its agent is lost: there is nobody to ask.
            vmm.quit();
        } else if self.stopping && counts {
            // It goes in the time that it was given before, and is counted.
            return;
        } else if !self.stopping {
            self.state.leave();
            self.stopping = true;
            self.thaw(vmm);
            let mut answering = self.answering.subscribe();
            let counted = Arc::clone(&self.counted);
            let (turn, state) = (Arc::clone(&self.counting), Arc::clone(self.state));
            let finished = Arc::clone(&self.finished);
            tokio::spawn(async move {
                // A VM that is paused hears nothing. The sender is gone with the VM.
                let mux = answering.wait_for(Option::is_some).await.map_or(None, |mux| mux.clone());
                let Some(mux) = mux else { return };
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

    /// Whether somebody can use the VM, so that it matters that nobody does. A VM that is paused is
    /// not idle.
    fn is_up(&self) -> bool {
        !self.stopping && !self.lost && self.answering.borrow().is_some()
    }

    /// Begins what a client asks for.
    fn begin(&mut self, request: Request, vmm: &Vmm) {
        let Request { action, done } = request;
        let refusal = if self.stopping {
            Some(Failure::going_down())
        } else if self.lost {
            Some(Failure::new("the VM has failed").of_kind(FailureKind::VmFailed))
        } else if self.job.is_some() {
            Some(Failure::new("another command pauses the VM, or makes a snapshot of it").with_hint("run it again"))
        } else {
            None
        };
        match refusal {
            // Who has gone needs no answer.
            Some(failure) => drop(done.send(Err(failure))),
            None => self.start(action, Some(done), vmm),
        }
    }

    fn start(&mut self, action: Action, done: Option<oneshot::Sender<Result<(), Failure>>>, vmm: &Vmm) {
        let control = match vmm.control() {
            Ok(control) => control,
            Err(failure) => return drop(done.map(|done| done.send(Err(failure)))),
        };
        let target = Target {
            control,
            mux: self.answering.send_replace(None),
            is_paused: self.paused,
            source: Arc::clone(&self.source),
            version: vmm.version().map(str::to_owned),
        };
        self.job = Some(Job::begin(action, done, target));
    }

    /// Takes note of what came of a job, and tells who asked for it. If the guest's agent can answer
    /// again, it does by then. Returns whether it has another link.
    async fn finish(&mut self, outcome: Outcome, link: &mut Link, vmm: &mut Vmm) -> bool {
        let job = self.job.take();
        let mut result = outcome.result;
        if outcome.vmm_wrote
            && link.connector.is_cut_by_snapshots()
            && let Some(driver) = link.driver.take()
        {
            driver.abort();
        }
        self.paused = outcome.is_paused;
        if let Some(failure) = outcome.stuck {
            self.lose(Failure { message: format!("the VM cannot go on: {}", failure.message), ..failure }).await;
        }
        let relinks = !self.paused && !self.lost && link.driver.is_none();
        if relinks && let Err(failure) = self.connect_again(link, vmm).await {
            self.lose(failure.clone()).await;
            result = result.and(Err(failure));
        }
        self.state.set_paused(self.paused);
        if !self.paused || self.lost {
            // The time that it was paused for does not count.
            self.state.usage.restart();
            self.answering.send_replace(Some(link.mux.clone()));
        } else if self.stopping {
            self.thaw(vmm);
        }
        if let Some(job) = job {
            job.answer(result);
        }
        relinks
    }

    /// Has a VM go on that is paused, or about to be.
    fn thaw(&mut self, vmm: &Vmm) {
        match &self.job {
            // What comes of it leads here again.
            Some(job) => job.cancel(),
            None if self.paused => self.start(Action::Resume, None, vmm),
            None => {}
        }
    }

    /// Makes another link, where the former one was cut.
    async fn connect_again(&self, link: &mut Link, vmm: &mut Vmm) -> Result<(), Failure> {
        let mut late = Failure::new("the guest's agent did not answer after a snapshot of the VM was made");
        for _ in 0..RELINK_ATTEMPTS {
            let deadline = Instant::now() + RELINK_LIMIT;
            match greet(&mut *link.connector, vmm, link.identity.clone(), deadline, late.clone()).await {
                Ok((stream, _)) => {
                    let (mux, driver) = Mux::host(stream);
                    link.driver = Some(tokio::spawn(driver));
                    link.mux = mux.clone();
                    if !self.stopping {
                        self.state.relinked(mux);
                    }
                    return Ok(());
                }
                Err(failure) => late = failure,
            }
        }
        Err(late)
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
