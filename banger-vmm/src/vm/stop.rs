//! Stopping a VM.

use std::time::{Duration, Instant};

use banger_util::process::Signal;

use super::Vm;
use crate::error::{Error, Result};
use crate::run::{self, RunInfo};
use crate::wire::Operation;

/// What a supervisor needs to leave after its VMM is gone.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);
/// What a supervisor may take besides that to see that the VM is unused, and to count the guest's
/// changes.
const COUNT_PATIENCE: Duration = Duration::from_secs(15);
/// What an orderly shutdown that somebody else has asked for may take.
const DOWN_PATIENCE: Duration = Duration::from_secs(60);

/// How a VM was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// By its supervisor; or it was down already.
    Down,
    /// By killing its supervisor, which did not answer.
    Killed,
}

impl Vm {
    /// Waits until nothing of a VM runs that is going down.
    ///
    /// # Errors
    /// [`Error::Supervisor`] if it does not go.
    pub fn wait_until_down(&self) -> Result<()> {
        run::wait_until_unsupervised(&self.name, &self.folder, DOWN_PATIENCE)
    }

    /// Shuts the VM down: in order, or by force after `timeout`; a supervisor that does not answer
    /// even then is killed. Returns when nothing of the VM runs any more. Stopping a stopped VM is
    /// no error.
    ///
    /// # Errors
    /// [`Error::Supervisor`] if it does not go.
    pub fn stop(&self, timeout: Duration) -> Result<Stopped> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.request_stop(&Operation::Stop { timeout_ms, if_unused: false }, timeout + EXIT_PATIENCE)
    }

    /// Stops a VM that nobody uses, at once. Before that, the guest's changes are counted, so that
    /// [`Vm::last_activity`] knows them.
    ///
    /// # Errors
    /// [`Error::InUse`] if the VM is in use; [`Error::Supervisor`] if it does not go.
    pub fn stop_unused(&self) -> Result<Stopped> {
        self.request_stop(&Operation::Stop { timeout_ms: 0, if_unused: true }, EXIT_PATIENCE + COUNT_PATIENCE)
    }

    fn request_stop(&self, request: &Operation, limit: Duration) -> Result<Stopped> {
        let start = Instant::now();
        // Another command may start the VM again meanwhile: that supervisor is none of this one's
        // business.
        let supervisor = RunInfo::read(&self.folder)?;
        match self.connect().and_then(|connection| connection.within(limit).ask(request)) {
            // One whose VM has just died goes without an answer.
            Ok(()) | Err(Error::NotRunning(_) | Error::Supervisor { .. }) => {}
            Err(error) => return Err(error),
        }
        let patience = if start.elapsed() < limit { EXIT_PATIENCE } else { Duration::ZERO };
        match run::wait_until_unsupervised(&self.name, &self.folder, patience) {
            Err(Error::Supervisor { .. }) => self.kill_supervisor(supervisor),
            waited => waited.map(|()| Stopped::Down),
        }
    }

    /// Ends the supervisor of a VM that should be down; the VMM goes with it.
    fn kill_supervisor(&self, supervisor: Option<RunInfo>) -> Result<Stopped> {
        if let Some(supervisor) = supervisor {
            supervisor.signal(Signal::KILL)?;
        }
        run::wait_until_unsupervised(&self.name, &self.folder, EXIT_PATIENCE)?;
        Ok(Stopped::Killed)
    }
}
