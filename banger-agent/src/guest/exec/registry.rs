//! The commands that run, by id.
//!
//! A command's life is not its stream's. The registry follows each command to its end on a task of
//! its own; a stream is attached to it, and may end first. What becomes of the command then is
//! decided in one place: [`Registry::stream_ended`].

use std::collections::BTreeMap;
use std::future::pending;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::libc;
use nix::unistd::Pid;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::process::{Event, Process};
use super::pty;
use super::spawn::signal_group;
use crate::protocol::exec::{Exit, Size};

/// After INT, TERM or HUP from the host, or the end of the stream: how long until everything that
/// the command started is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Names a command. No other command gets the same id while the agent lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ExecId(u64);

/// The commands that run. A command that has ended is removed.
#[derive(Default)]
pub(in crate::guest) struct Registry(Mutex<Commands>);

#[derive(Default)]
struct Commands {
    last: u64,
    running: BTreeMap<ExecId, Controls>,
}

/// How a running command is reached.
struct Controls {
    /// The process group of the command itself.
    group: Pid,
    terminal: Option<Arc<OwnedFd>>,
    /// Starts the grace period.
    ending: Arc<Notify>,
}

/// What a stream that is attached to a command learns of it.
pub(super) struct Attached {
    pub(super) id: ExecId,
    /// The process id of the command itself.
    pub(super) pid: Pid,
    /// Notified when the command was stopped at its terminal.
    pub(super) stopped: Arc<Notify>,
    /// How it ended.
    pub(super) exit: oneshot::Receiver<Exit>,
}

impl Registry {
    /// Takes over a command that was started, and follows it to its end.
    pub(super) fn add(self: &Arc<Self>, process: Process) -> Attached {
        let (ending, stopped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let pid = process.group;
        let controls = Controls { group: pid, terminal: process.terminal.clone(), ending: Arc::clone(&ending) };
        let id = {
            let mut commands = self.commands();
            commands.last += 1;
            let id = ExecId(commands.last);
            commands.running.insert(id, controls);
            id
        };
        let (report, exit) = oneshot::channel();
        let (registry, stops) = (Arc::clone(self), Arc::clone(&stopped));
        tokio::spawn(async move {
            let exit = follow(process, &ending, &stops).await;
            registry.commands().running.remove(&id);
            // Nobody listens any more once the stream is gone.
            let _ = report.send(exit);
        });
        Attached { id, pid, stopped, exit }
    }

    /// Sends a signal to the command's process group. INT, TERM and HUP are meant to end the
    /// command: everything that it started is killed after the grace period of 5 s. A command that
    /// has ended gets nothing.
    pub(super) fn signal(&self, id: ExecId, signal: i32) {
        if let Some(command) = self.commands().running.get(&id) {
            command.signal(signal);
        }
    }

    /// Tells the command's terminal, if it has one, its size.
    pub(super) fn resize(&self, id: ExecId, size: Size) {
        if let Some(terminal) = self.commands().running.get(&id).and_then(|command| command.terminal.as_ref()) {
            pty::resize(terminal.as_raw_fd(), size);
        }
    }

    /// What becomes of a command whose stream ends before it does: it is hung up. The process group
    /// gets HUP, and everything that the command started is killed after the grace period of 5 s.
    pub(super) fn stream_ended(&self, id: ExecId) {
        if let Some(command) = self.commands().running.get(&id) {
            command.signal(libc::SIGHUP);
            // A command that was stopped could not act on the signal.
            signal_group(command.group, libc::SIGCONT);
        }
    }

    fn commands(&self) -> MutexGuard<'_, Commands> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Controls {
    fn signal(&self, signal: i32) {
        signal_group(self.group, signal);
        if matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGHUP) {
            self.ending.notify_one();
        }
    }
}

/// Waits for a command's end, and tells when it is stopped. Once `ending` is notified, the grace
/// period runs; after it, everything that the command started is killed.
async fn follow(mut process: Process, ending: &Notify, stopped: &Notify) -> Exit {
    let mut deadline = None;
    loop {
        let grace = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            event = process.next() => match event {
                Event::Ended(exit) => {
                    if let Some(deadline) = deadline {
                        process.kill_the_rest_at(deadline);
                    }
                    return exit;
                }
                Event::Stopped => stopped.notify_one(),
            },
            () = ending.notified() => {
                deadline.get_or_insert(Instant::now() + GRACE);
            }
            () = grace => {
                deadline = None;
                process.kill();
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use tokio::time::timeout;

    use super::*;
    use crate::guest::exec::process::{self, Process};
    use crate::guest::exec::spawn::{Spawned, Streams};

    /// A shell script that runs, in a process group of its own, as the user of the test.
    pub(in crate::guest::exec) async fn script(script: &str) -> (Process, process::Stdio) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let streams = Streams::Pipes {
            stdin: child.stdin.take().unwrap().into(),
            stdout: child.stdout.take().unwrap().into(),
            stderr: child.stderr.take().unwrap().into(),
        };
        Process::new(Spawned { child, streams, cgroup: None }).await.unwrap()
    }

    impl Registry {
        pub(in crate::guest::exec) fn running(&self) -> Vec<ExecId> {
            self.commands().running.keys().copied().collect()
        }
    }

    #[tokio::test]
    async fn command_that_ended_is_removed_and_its_id_not_given_again() {
        let registry = Arc::<Registry>::default();
        let (lasting, _stdio) = script("exec sleep 100").await;
        let lasting = registry.add(lasting);
        let mut ids = vec![lasting.id];
        for code in 0..3 {
            let (process, _stdio) = script(&format!("exit {code}")).await;
            let command = registry.add(process);
            assert_eq!(registry.running(), [lasting.id, command.id]);
            assert_eq!(command.exit.await, Ok(Exit::Code(code)));
            assert_eq!(registry.running(), [lasting.id]);
            assert!(!ids.contains(&command.id), "{:?} again", command.id);
            ids.push(command.id);
        }
        registry.signal(lasting.id, libc::SIGTERM);
        assert_eq!(lasting.exit.await, Ok(Exit::Signal(libc::SIGTERM as u8)));
        assert_eq!(registry.running(), []);
        // Nothing is left to be told.
        registry.signal(lasting.id, libc::SIGTERM);
        registry.stream_ended(lasting.id);
    }

    #[tokio::test]
    async fn stream_that_ends_hangs_up_a_command_even_if_it_was_stopped() {
        let registry = Arc::<Registry>::default();
        let (process, _stdio) = script("exec sleep 100").await;
        let command = registry.add(process);
        registry.signal(command.id, libc::SIGSTOP);
        registry.stream_ended(command.id);
        assert_eq!(command.exit.await, Ok(Exit::Signal(libc::SIGHUP as u8)));
    }

    #[tokio::test(start_paused = true)]
    async fn command_that_ignores_the_hang_up_is_killed_after_the_grace_period() {
        let registry = Arc::<Registry>::default();
        let (process, mut stdio) = script("trap '' HUP; echo; exec sleep 100").await;
        stdio.outputs[0].1.read(&mut [0; 1]).await.unwrap();
        let mut command = registry.add(process);
        // What is not meant to end a command starts no clock.
        registry.signal(command.id, libc::SIGCONT);
        assert!(timeout(Duration::from_secs(3600), &mut command.exit).await.is_err());
        let start = Instant::now();
        registry.stream_ended(command.id);
        assert_eq!(command.exit.await, Ok(Exit::Signal(libc::SIGKILL as u8)));
        assert!((GRACE..GRACE * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}
