//! A command in the guest on this process's own standard streams, terminal and signals.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_agent::protocol::exec::{Exec, STDERR, STDOUT};
use banger_vmm::Vm;
use nix::libc;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::ports::AutoPorts;
use super::stdio::{Writer, read_stdin};
use super::terminal::{self, RawMode};
use super::watch;
use crate::error::{CommandError, ErrorKind, TIMED_OUT};
use crate::output::ui::Ui;
use crate::output::units;
use crate::sync::Watch;
use crate::vm::guest_command::{CommandEvent, GuestCommand};
use crate::vm::post_mortem;

/// After a signal that should end the command: how long until it is given up. The guest kills it
/// before.
const PATIENCE: Duration = Duration::from_secs(15);

/// Before this process stops: how long it waits for a guest to take what is sent.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How a command's run ended.
pub(super) enum Outcome {
    /// With this exit status.
    Status(u8),
    /// The reader of its output went away: this process is to end as SIGPIPE would end it.
    BrokenPipe,
}

/// Runs `exec` on the VM's agent to its end. Standard streams are this process's own. With `ports`,
/// those that something begins to listen at meanwhile are forwarded. `watch` goes on until then.
///
/// # Errors
/// If the command cannot be started, or the connection breaks.
pub(super) fn run(
    vm: &Vm,
    exec: Exec,
    timeout: Option<Duration>,
    ports: bool,
    mut watch: Option<Watch>,
    ui: &Ui,
) -> Result<Outcome, CommandError> {
    let stream = vm.connect_agent()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CommandError::new(format!("cannot watch a command: {error}")))?;
    let outcome = runtime.block_on(async {
        // Before the command, which may be quick to listen.
        let ports = if ports { Some(AutoPorts::new(vm).await) } else { None };
        let session = Session::start(stream, exec).await?;
        let forwarding = async {
            match ports {
                Some(Ok(ports)) => ports.forward(ui).await,
                // The command may have no need of them.
                Some(Err(error)) => ui.warning(&format!("no ports are forwarded: {error}")),
                None => {}
            }
            std::future::pending().await
        };
        let watching = async {
            if let Some(watch) = &mut watch {
                watch::follow_beside(watch, ui).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            outcome = session.follow(timeout, vm, ui) => outcome,
            outcome = forwarding => outcome,
            outcome = watching => outcome,
        }
    });
    // Standard input's thread may wait for what is never typed.
    runtime.shutdown_background();
    outcome
}

struct Session {
    command: GuestCommand,
    raw: Option<RawMode>,
}

/// The signals that are handled while a command runs.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
    window: Signal,
    stop: Signal,
}

impl Signals {
    /// With a terminal, Ctrl-Z is the guest's.
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            window: signal(SignalKind::window_change())?,
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
        })
    }

    /// The next signal that arrives.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.hang_up.recv() => libc::SIGHUP,
            _ = self.quit.recv() => libc::SIGQUIT,
            _ = self.window.recv() => libc::SIGWINCH,
            _ = self.stop.recv() => libc::SIGTSTP,
        }
    }
}

impl Session {
    async fn start(stream: UnixStream, exec: Exec) -> Result<Session, CommandError> {
        let wants_terminal = exec.tty.is_some();
        let mut session = Session { command: GuestCommand::spawn_on(stream, exec).await?, raw: None };
        if wants_terminal {
            let raw = RawMode::enter();
            session.raw = Some(raw.map_err(|error| CommandError::new(format!("cannot use the terminal: {error}")))?);
        }
        Ok(session)
    }

    async fn follow(mut self, limit: Option<Duration>, vm: &Vm, ui: &Ui) -> Result<Outcome, CommandError> {
        let mut signals = Signals::new().map_err(|error| CommandError::new(format!("cannot take signals: {error}")))?;
        let mut stdin = Some(read_stdin());
        let out = Writer::start();
        let (mut timed_out, mut out_of_memory) = (false, false);
        let mut timeout = limit.map(|limit| Instant::now() + limit);
        let mut patience = None;
        let at = |deadline: Option<Instant>| async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        // None: its output cannot be written any more.
        let exit = loop {
            tokio::select! {
                // A reader that is slow holds up the command, and not the signals for it.
                event = async { out.has_room().await; self.command.output.next().await } => {
                    let event = match event {
                        Ok(event) => event,
                        Err(error) => {
                            if let Some(raw) = &self.raw {
                                raw.leave_full_screen();
                            }
                            return Err(error.into());
                        }
                    };
                    let (channel, chunk) = match event {
                        CommandEvent::Stdout(chunk) => (STDOUT, chunk),
                        CommandEvent::Stderr(chunk) => (STDERR, chunk),
                        CommandEvent::Stopped => {
                            self.suspend()?;
                            continue;
                        }
                        CommandEvent::OutOfMemory => {
                            out_of_memory = true;
                            continue;
                        }
                        CommandEvent::Exited(exit) => break Some(exit),
                    };
                    if !out.write(channel, chunk).await {
                        break None;
                    }
                }
                // A guest that takes nothing holds up standard input, and nothing else. If the
                // connection is gone, the reading side says so, after what was still to be read.
                _ = self.command.input.send(), if !self.command.input.is_sent() => {}
                chunk = next_chunk(&mut stdin), if self.command.input.is_sent() => match chunk {
                    Some(chunk) => self.command.input.queue_stdin(chunk),
                    None => {
                        stdin = None;
                        self.command.input.close_stdin();
                    }
                },
                signal = signals.next() => {
                    if let Some(deadline) = self.pass_on(signal).await? {
                        patience.get_or_insert(deadline);
                    }
                }
                () = out.closed() => break None,
                () = at(timeout) => {
                    timeout = None;
                    timed_out = true;
                    patience.get_or_insert(Instant::now() + PATIENCE);
                    self.command.input.signal(libc::SIGTERM);
                }
                () = at(patience) => {
                    return Err(CommandError::new("the command does not end, and neither does the VM's agent end it")
                        .kind(ErrorKind::Agent)
                        .hint("stop the VM: banger stop --force"));
                }
            }
        };
        drop(self.raw.take());
        match (out.finish(), exit) {
            (Ok(()), Some(exit)) => {
                if let Some(time) = limit.filter(|_| timed_out) {
                    ui.status(&format!("the command was ended after {}, as `--timeout` says", units::time(time)));
                }
                if out_of_memory {
                    ui.warning(&post_mortem::out_of_memory(vm));
                }
                Ok(Outcome::Status(if timed_out { TIMED_OUT } else { exit.status() }))
            }
            (Err(error), _) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(CommandError::new(format!("cannot write the command's output: {error}")).kind((&error).into()))
            }
            _ => Ok(Outcome::BrokenPipe),
        }
    }

    /// Passes a signal on to the command. Returns when patience ends, if the signal is one that
    /// should end it.
    async fn pass_on(&mut self, signal: i32) -> Result<Option<Instant>, CommandError> {
        match signal {
            libc::SIGWINCH => {
                if let (Some(_), Some(size)) = (&self.raw, terminal::size()) {
                    self.command.input.resize(size);
                }
                Ok(None)
            }
            libc::SIGTSTP => {
                self.command.input.signal(libc::SIGSTOP);
                // Not for a guest that takes nothing.
                let _ = tokio::time::timeout(FLUSH_LIMIT, self.command.input.flush()).await;
                // On a terminal, the guest tells when it has stopped.
                if self.raw.is_none() {
                    self.suspend()?;
                }
                Ok(None)
            }
            signal => {
                self.command.input.signal(signal);
                Ok((signal != libc::SIGQUIT).then(|| Instant::now() + PATIENCE))
            }
        }
    }

    /// Stops this process as the command was stopped, and continues the command when it is
    /// continued itself.
    fn suspend(&mut self) -> Result<(), CommandError> {
        let stopped = match &self.raw {
            Some(raw) => raw.suspend(),
            None => terminal::stop_job(Pid::this()),
        };
        stopped.map_err(|error| CommandError::new(format!("cannot stop: {error}")))?;
        if let (Some(_), Some(size)) = (&self.raw, terminal::size()) {
            self.command.input.resize(size);
        }
        self.command.input.signal(libc::SIGCONT);
        Ok(())
    }
}

async fn next_chunk(stdin: &mut Option<tokio::sync::mpsc::Receiver<bytes::Bytes>>) -> Option<bytes::Bytes> {
    match stdin {
        Some(chunks) => chunks.recv().await,
        None => std::future::pending().await,
    }
}
