//! Signals while a VM is made for a command: who ends that before the command has begun wants no VM
//! that nobody has been in.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use banger_vmm::Vm;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::CommandError;
use crate::output::ui::die_of;

/// How often a VM is stopped that may be started at this moment.
const AGAIN_MS: u8 = 100;

/// Takes the signals that would end this process, for as long as it is there.
pub(super) struct Interruption {
    shared: Arc<Shared>,
    /// Closed when nothing is to be waited for any more.
    end: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    before: SigSet,
}

#[derive(Default)]
struct Shared {
    vm: Mutex<Option<Vm>>,
    /// The one that has come; 0: none.
    signal: AtomicI32,
}

impl Interruption {
    /// From now on, in this thread and those that it starts.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn watch() -> Result<Interruption, CommandError> {
        let watch = || -> io::Result<Interruption> {
            let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
            let taken: SigSet = signals.into_iter().filter(|signal| !is_ignored(*signal)).collect();
            let file = SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
            let (reader, end) = io::pipe()?;
            let shared = Arc::new(Shared::default());
            let before = taken.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
            let thread = std::thread::spawn({
                let shared = Arc::clone(&shared);
                move || shared.wait(&file, &reader)
            });
            Ok(Interruption { shared, end: Some(end), thread: Some(thread), before })
        };
        watch().map_err(|error| CommandError::new(format!("cannot watch for signals: {error}")))
    }

    /// There is a VM now: with a signal, it is stopped, so that whatever is done with it fails.
    ///
    /// # Errors
    /// If one has come already.
    pub(super) fn made(&self, vm: &Vm) -> Result<(), CommandError> {
        *self.shared.vm() = Some(vm.clone());
        match self.shared.signal.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(CommandError::new("a signal came before the VM was started")),
        }
    }

    /// The signal that has come, if one has: this process is to end as it would. None is taken any
    /// more.
    pub(super) fn end(mut self) -> Option<Signal> {
        self.stop();
        Signal::try_from(self.shared.signal.load(Ordering::SeqCst)).ok()
    }

    fn stop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has no reason to panic, and what it knows is shared.
            let _ = thread.join();
            let _ = self.before.thread_set_mask();
        }
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn vm(&self) -> std::sync::MutexGuard<'_, Option<Vm>> {
        self.vm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, signals: &SignalFd, end: &impl AsFd) {
        let mut again = PollTimeout::NONE;
        loop {
            let mut ready =
                [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(end.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, again) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(_) => return,
            }
            if ready[1].revents().is_some_and(|events| !events.is_empty()) {
                return;
            }
            if let Ok(Some(info)) = signals.read_signal()
                && let Ok(signal) = Signal::try_from(info.ssi_signo as i32)
            {
                let is_second = self.signal.swap(signal as i32, Ordering::SeqCst) != 0;
                // Who cannot wait, or has nothing to lose.
                if is_second || self.vm().is_none() {
                    die_of(signal);
                }
                again = AGAIN_MS.into();
            }
            if self.signal.load(Ordering::SeqCst) != 0
                && let Some(vm) = self.vm().clone()
            {
                // One that does not run yet is stopped the next time.
                let _ = vm.stop(Duration::ZERO);
            }
        }
    }
}

/// Whether whoever started this process wants it to be deaf to the signal, as nohup(1) does.
pub(super) fn is_ignored(signal: Signal) -> bool {
    // SAFETY: sigaction without a new action only fills in the old one, which zeros are a value of.
    let action = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal as i32, std::ptr::null(), &raw mut action) == 0).then_some(action)
    };
    action.is_some_and(|action| action.sa_sigaction == libc::SIG_IGN)
}
