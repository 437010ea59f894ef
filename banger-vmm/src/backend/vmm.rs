//! The process that runs a VM, and the connections to it.

use std::future::pending;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::confinement::Confinement;
use crate::error::{Failure, IoContext, Result};

/// A connection between the supervisor and a VMM, without a name on disk that would be left behind.
#[derive(Debug)]
pub(crate) struct SocketPair {
    /// The supervisor's end.
    pub(crate) ours: StdUnixStream,
    /// The end that the VMM inherits. Closed on exec, unless the backend keeps it.
    pub(crate) theirs: StdUnixStream,
}

impl SocketPair {
    /// A socket pair for `program`, which the error names.
    pub(crate) fn new(program: &Path) -> Result<SocketPair> {
        let (ours, theirs) = StdUnixStream::pair().at("make a socket for", program)?;
        Ok(SocketPair { ours, theirs })
    }
}

/// Makes the supervisor's end of a socket pair one for tokio.
pub(super) fn for_tokio(stream: StdUnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// What can carry an agent's link.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The bytes that go to and come from an agent.
pub(crate) type AgentStream = Box<dyn Transport>;

/// Reaches a guest's agent.
pub(crate) trait AgentConnector: Send {
    /// Completes when the agent is there to be greeted, with a connection to it. Called again, it
    /// makes another connection, for a guest whose last one was cut; of a device that has only one,
    /// or of a VMM that cannot connect any more, it never completes then: [`Vmm::events`] tell why.
    fn connect(&mut self) -> BoxFuture<'_, AgentStream>;

    /// Whether another connection can be made where one has failed.
    fn can_connect_again(&self) -> bool;

    /// Whether a connection is of no use any more once the VMM was told to write a snapshot: its
    /// guest forgets it, and neither end hears of that.
    fn is_cut_by_snapshots(&self) -> bool;
}

/// An agent with one connection, which there is once a future completes.
pub(crate) struct SingleConnection(Option<BoxFuture<'static, AgentStream>>);

impl SingleConnection {
    /// Of this connection.
    pub(crate) fn new(connection: impl Future<Output = AgentStream> + Send + 'static) -> Self {
        SingleConnection(Some(connection.boxed()))
    }
}

impl AgentConnector for SingleConnection {
    fn connect(&mut self) -> BoxFuture<'_, AgentStream> {
        self.0.take().unwrap_or_else(|| pending().boxed())
    }

    fn can_connect_again(&self) -> bool {
        false
    }

    fn is_cut_by_snapshots(&self) -> bool {
        false
    }
}

/// A VMM that was started, with its connections.
pub(crate) struct Launched {
    /// Its process.
    pub(crate) vmm: Vmm,
    /// What confines it; none: nothing does.
    pub(crate) confinement: Option<Confinement>,
    /// The way to the guest's agent.
    pub(crate) agent: Box<dyn AgentConnector>,
    /// What the guest writes on its serial console. Ends with the VMM.
    pub(crate) console: Box<dyn AsyncRead + Send + Unpin>,
}

/// A VMM's process. Dropping it kills it.
pub(crate) struct Vmm {
    /// The process id, as the supervisor sees it.
    pub(crate) pid: i32,
    /// What happens; [`VmmEvent::Exited`] is the last.
    pub(crate) events: mpsc::Receiver<VmmEvent>,
    commands: Option<mpsc::Sender<VmmCommand>>,
    version: Arc<OnceLock<String>>,
}

/// What a VMM is told, in this order. When nobody can tell it anything any more, it is killed.
pub(crate) enum VmmCommand {
    /// End at once, but with what there is of the disk written.
    Quit,
    /// Stop the guest's processors.
    Pause(Done),
    /// Have them go on.
    Resume(Done),
    /// Write the state of the paused guest to new files in this directory.
    Snapshot(PathBuf, Done),
}

/// Told when a [`VmmCommand`] was carried out, or why it was not.
pub(crate) type Done = oneshot::Sender<Result<(), Failure>>;

impl Vmm {
    /// `commands` are carried out by who sends `events`.
    pub(crate) fn new(pid: i32, events: mpsc::Receiver<VmmEvent>, commands: mpsc::Sender<VmmCommand>) -> Self {
        Vmm { pid, events, commands: Some(commands), version: Arc::default() }
    }

    /// A VMM that has said, or is about to say, which version it is.
    pub(crate) fn of_version(self, version: Arc<OnceLock<String>>) -> Self {
        Vmm { version, ..self }
    }

    /// Which version it says it is, as [`super::Backend::version`] has it; none: it has not said.
    pub(crate) fn version(&self) -> Option<&str> {
        self.version.get().map(String::as_str)
    }

    /// Ends the VMM at once, but with what it has of the disk written. [`VmmEvent::Exited`] answers
    /// this.
    pub(crate) fn quit(&mut self) {
        if let Some(commands) = self.commands.take() {
            // A VMM that is gone already does not listen. One that is behind is killed.
            let _ = commands.try_send(VmmCommand::Quit);
        }
    }

    /// Kills the VMM, and returns when it is gone.
    pub(crate) async fn kill(mut self) {
        drop(self.commands.take());
        while self.events.recv().await.is_some() {}
    }

    /// The means to pause it, and to write snapshots, while its events are waited for.
    ///
    /// # Errors
    /// It was told to end.
    pub(crate) fn control(&self) -> Result<VmmControl, Failure> {
        self.commands.clone().map(VmmControl).ok_or_else(going_down)
    }
}

/// Pauses a VMM, and has it write snapshots. While there is one, dropping the [`Vmm`]'s own end does
/// not kill it.
#[derive(Clone)]
pub(crate) struct VmmControl(mpsc::Sender<VmmCommand>);

impl VmmControl {
    /// Stops the guest's processors. A guest that is paused stays so.
    ///
    /// # Errors
    /// The VMM's refusal; or it ended.
    pub(crate) async fn pause(&self) -> Result<(), Failure> {
        self.tell(VmmCommand::Pause).await
    }

    /// Has the processors of a paused guest go on.
    ///
    /// # Errors
    /// The VMM's refusal; or it ended.
    pub(crate) async fn resume(&self) -> Result<(), Failure> {
        self.tell(VmmCommand::Resume).await
    }

    /// Writes the state of a paused guest to new files in `directory`, without the disks. On
    /// failure, and if the returned future is dropped, the directory has none of them.
    ///
    /// # Errors
    /// The VMM's refusal, as for a full disk; or it ended.
    pub(crate) async fn snapshot(&self, directory: &Path) -> Result<(), Failure> {
        self.tell(|done| VmmCommand::Snapshot(directory.to_owned(), done)).await
    }

    async fn tell(&self, command: impl FnOnce(Done) -> VmmCommand) -> Result<(), Failure> {
        let (done, answer) = oneshot::channel();
        self.0.send(command(done)).await.map_err(|_| going_down())?;
        answer.await.map_err(|_| going_down())?
    }
}

fn going_down() -> Failure {
    Failure::new("the VMM is going down")
}

/// What happens to a VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VmmEvent {
    /// The agent's end of its connection was closed, as far as the VMM can tell.
    AgentClosed,
    /// The guest switched itself off.
    PoweredOff,
    /// The guest reset itself, as a kernel that panics does. The VMM ends.
    Reset,
    /// The VMM can not go on with the guest.
    Stuck(Failure),
    /// The VMM's process ended.
    Exited(Failure),
}
