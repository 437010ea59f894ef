//! What a watch of the working tree tells, and its end.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

use super::context::summary;
use super::interruption::is_ignored;
use crate::error::{CommandError, ErrorKind};
use crate::output::ui::Ui;
use crate::sync::{ChangeCount, SyncError, SyncReport, Watch, WatchEvent};

/// Called after a sync, with how many files travel.
type OnSync<'a> = &'a dyn Fn(&SyncReport, usize) -> Result<(), CommandError>;

/// The signals that would end this process: they are taken for as long as it lives.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// From now on, in this thread and those that it starts.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn take() -> Result<Signals, CommandError> {
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let taken: SigSet = signals.into_iter().filter(|signal| !is_ignored(*signal)).collect();
        let take = || -> nix::Result<SignalFd> {
            taken.thread_block()?;
            SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        };
        take().map(Signals).map_err(|error| failed(&error.into()))
    }
}

/// Prints what a watch tells while a command runs, whose terminal it may be.
pub(super) async fn follow_beside(watch: &mut Watch, ui: &Ui) {
    while let Some(event) = watch.next().await {
        match event {
            WatchEvent::Synced(report, _) => ui.detail(&summary(&report, None)),
            // The command has its own connection, and tells.
            WatchEvent::Ended(error) if error.kind.is_of_vm() => {}
            event => tell(event, ui),
        }
    }
}

/// Prints what a watch tells, until a signal comes, which is returned.
///
/// # Errors
/// If the watch ends before.
pub(super) fn follow(mut watch: Watch, signals: Signals, on_sync: OnSync<'_>, ui: &Ui) -> Result<Signal, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    runtime.block_on(async {
        // SAFETY: it owns its descriptor, which nobody replaces or closes before it is dropped.
        let signals = unsafe { AsyncFd::register(signals.0) }.map_err(|error| failed(&error.into()))?;
        loop {
            let event = tokio::select! {
                event = watch.next() => event,
                ready = signals.readable() => {
                    let mut ready = ready.map_err(|error| failed(&error))?;
                    let read = signals.get_ref().read_signal().map_err(|error| failed(&error.into()))?;
                    match read.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()) {
                        Some(signal) => return Ok(signal),
                        None => ready.clear_ready(),
                    }
                    continue;
                }
            };
            match event {
                Some(WatchEvent::Synced(report, files)) => {
                    ui.status(&summary(&report, None));
                    on_sync(&report, files)?;
                }
                Some(WatchEvent::Ended(error)) => return Err(error),
                Some(event) => tell(event, ui),
                None => return Err(CommandError::new("the watch of the working tree has ended")),
            }
        }
    })
}

fn tell(event: WatchEvent, ui: &Ui) {
    match event {
        WatchEvent::Synced(..) => {}
        WatchEvent::Note(text) => ui.warning(&text),
        WatchEvent::Conflicts(conflicts) => {
            let count = ChangeCount(conflicts.len() as u64);
            let error = CommandError::from(SyncError::Conflicts { count, conflicts });
            ui.warning(&format!(
                "{}: {}; not synced until that is settled: banger sync --host-wins, or --guest-wins",
                error.message,
                error.details.join(", ")
            ));
        }
        WatchEvent::Failed(error) => ui.warning(&format!("changes are not synced: {}", words(&error))),
        WatchEvent::Ended(error) => ui.warning(&format!("changes are not synced any more: {}", words(&error))),
    }
}

/// An error on one line.
fn words(error: &CommandError) -> String {
    let hints = match error.kind {
        ErrorKind::Conflict => &[][..],
        _ => &error.hints,
    };
    let details = error.details.iter().chain(hints).map(String::as_str);
    std::iter::once(error.message.as_str()).chain(details).collect::<Vec<_>>().join("; ")
}

fn failed(error: &io::Error) -> CommandError {
    CommandError::new(format!("cannot follow the working tree: {error}")).kind(error.into())
}
