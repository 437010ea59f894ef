//! The process that runs a VM, from its plan to its end.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::confinement::{Confinement, Rules};
use crate::error::{Failure, IoContext, Result};

/// What will be run for a VM. Nothing runs yet.
#[derive(Debug)]
pub(crate) struct VmmPlan {
    pub(crate) program: PathBuf,
    /// All arguments but the program's name. They may name the VMM's ends of the sockets by their
    /// descriptors.
    pub(crate) arguments: Vec<OsString>,
    /// The files, devices and networks that the VMM may use; `None`: nothing confines it.
    pub(crate) rules: Option<Rules>,
    /// Carries the bytes of the agent's device.
    pub(crate) agent: SocketPair,
    /// Carries what the guest writes on its serial console.
    pub(crate) console: SocketPair,
    /// Carries what the supervisor tells the VMM, and the VMM's answers and events.
    pub(crate) control: Option<SocketPair>,
}

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

/// Between fork and exec: has this process die with its supervisor. It makes only system calls that
/// signal-safety(7) allows.
pub(super) fn die_with(supervisor: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Had the supervisor died before that, nobody would tell this process.
    if getppid() == supervisor { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
}

/// What can carry an agent's link.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The bytes that go to and come from an agent.
pub(crate) type AgentStream = Box<dyn Transport>;

/// A VMM that was started, with its connections.
pub(crate) struct Launched {
    /// Its process.
    pub(crate) vmm: Vmm,
    /// What confines it; none: nothing does.
    pub(crate) confinement: Option<Confinement>,
    /// Completes when the agent has opened its device. Of a VMM that cannot connect any more it
    /// never does: [`Vmm::events`] tell why.
    pub(crate) agent: BoxFuture<'static, AgentStream>,
    /// What the guest writes on its serial console. Ends with the VMM.
    pub(crate) console: Box<dyn AsyncRead + Send + Unpin>,
}

/// A VMM's process. Dropping it kills it.
pub(crate) struct Vmm {
    pub(crate) pid: i32,
    /// What happens; [`VmmEvent::Exited`] is the last.
    pub(crate) events: mpsc::Receiver<VmmEvent>,
    quit: Option<oneshot::Sender<()>>,
}

impl Vmm {
    /// `quit` is answered by a [`VmmEvent::Exited`]; when it is closed, by killing the VMM first.
    pub(crate) fn new(pid: i32, events: mpsc::Receiver<VmmEvent>, quit: oneshot::Sender<()>) -> Self {
        Vmm { pid, events, quit: Some(quit) }
    }

    /// Ends the VMM at once, but with what it has of the disk written.
    pub(crate) fn quit(&mut self) {
        if let Some(quit) = self.quit.take() {
            // A VMM that is gone already does not listen.
            let _ = quit.send(());
        }
    }

    /// Kills the VMM, and returns when it is gone.
    pub(crate) async fn kill(mut self) {
        drop(self.quit.take());
        while self.events.recv().await.is_some() {}
    }
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
