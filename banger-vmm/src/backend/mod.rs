//! What runs a VM: one trait, so that the rest does not know which.

#[cfg(feature = "process")]
pub(crate) mod process;
pub(crate) mod qemu;

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use banger_agent::boot_config::{AgentDevice, BootConfig, DiskConfig, DiskNaming, DiskRole, GuestIdentity};
use banger_agent::net::{NetMode, NetPlan};
use futures::future::LocalBoxFuture;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::confinement::Confinement;
use crate::error::{Failure, Result};
use crate::kvm::Accelerator;
use crate::record::VmRecord;

/// A machine to run.
pub(crate) struct Machine {
    pub(crate) record: VmRecord,
    /// Its network: [`net_plan`] made it.
    pub(crate) net: NetPlan,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// The image, read-only.
    pub(crate) base: PathBuf,
    /// The VM's own disk.
    pub(crate) disk: PathBuf,
    /// The disk for the workspace; none for a VM without one.
    pub(crate) workspace: Option<PathBuf>,
    /// The kernel's modules, read-only.
    pub(crate) modules: Option<PathBuf>,
}

impl Machine {
    /// The disks in the order of their attachment, each with its role and its file.
    pub(crate) fn disks(&self) -> Vec<(DiskRole, &Path)> {
        let workspace = self.workspace.iter().map(|file| (DiskRole::Workspace, &**file));
        let modules = self.modules.iter().map(|file| (DiskRole::Modules, &**file));
        [(DiskRole::Base, &*self.base), (DiskRole::Disk, &*self.disk)]
            .into_iter()
            .chain(workspace)
            .chain(modules)
            .collect()
    }

    /// What the guest is told when it boots; the two arguments are the backend's own.
    pub(crate) fn boot_config(&self, agent: AgentDevice, naming: DiskNaming) -> BootConfig {
        let VmRecord { hostname, machine_id, ephemeral, .. } = &self.record;
        BootConfig {
            identity: GuestIdentity {
                hostname: hostname.clone(),
                machine_id: Some(machine_id.clone()),
                net: self.net.interface,
            },
            volatile: *ephemeral,
            agent,
            disks: DiskConfig { naming, attached: self.disks().into_iter().map(|(role, _)| role).collect() },
        }
    }
}

/// A kind of VMM.
pub(crate) trait Backend {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Starts a VMM that dies when this thread's process does. To be polled on the main thread, in
    /// a tokio runtime.
    fn launch<'a>(&'a self, machine: &'a Machine, accelerator: Accelerator) -> LocalBoxFuture<'a, Result<Launched>>;
}

/// Between fork and exec: has this process die with its supervisor. It makes only system calls that
/// signal-safety(7) allows.
fn die_with(supervisor: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Had the supervisor died before that, nobody would tell this process.
    if getppid() == supervisor { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
}

/// This end of a socket pair, for tokio.
fn ours(stream: StdUnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// A VMM that was started, with what it says.
pub(crate) struct Launched {
    /// Its process.
    pub(crate) vmm: Vmm,
    /// What confines it; none: nothing does.
    pub(crate) confinement: Option<Confinement>,
    /// The agent's pipe.
    pub(crate) agent: UnixStream,
    /// What the guest writes on its serial console.
    pub(crate) console: UnixStream,
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
    /// Somebody in the guest opened or closed the agent's port.
    AgentPort { open: bool },
    /// The guest switched itself off.
    PoweredOff,
    /// The guest reset itself, as a kernel that panics does. The VMM ends.
    Reset,
    /// The VMM can not go on with the guest.
    Stuck(Failure),
    /// The VMM's process ended.
    Exited(Failure),
}

/// The network of a VM with this record, whenever it runs: what its VMM, its guest and the commands
/// for it go by.
pub fn net_plan(record: &VmRecord) -> NetPlan {
    match record.net {
        NetMode::User => qemu::USER_NETWORK,
        NetMode::None => NetPlan::NONE,
    }
}
