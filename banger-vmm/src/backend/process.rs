//! A guest that is a process of this host: the real agent in namespaces of its own, for tests that
//! kill one hundreds of times. What it keeps is a folder beside the VM's disks, which stay as they
//! were made.

use std::future::ready;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use nix::unistd::getpid;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::vmm::for_tokio;
use super::{
    AgentStream, Backend, BootPolicy, Launched, SingleConnection, SocketPair, VmDefinition, Vmm, VmmCommand, VmmEvent,
};
use crate::error::{Failure, IoContext, Result};
use crate::file;
use crate::host::die_with;
use crate::kvm::Accelerator;
use crate::record::BackendKind;

/// What the guest keeps, in the VM's folder.
const FOLDER: &str = "guest";
const UNSUPPORTED: &str = "a guest that is a process can be neither paused nor written to a snapshot";

/// Guests of this program: `banger-agent-process`.
pub(crate) struct Process {
    pub(crate) agent: PathBuf,
}

impl Backend for Process {
    fn kind(&self) -> BackendKind {
        BackendKind::Qemu
    }

    fn name(&self) -> &'static str {
        "process"
    }

    fn boot_policy(&self, _: Accelerator) -> BootPolicy {
        BootPolicy { limit: Duration::from_secs(120), retry_after: None }
    }

    fn check(&self, _: &VmDefinition) -> Result<(), Failure> {
        Ok(())
    }

    fn launch<'a>(
        &'a self,
        vm: &'a VmDefinition,
        _: Accelerator,
        snapshot: Option<&'a Path>,
    ) -> LocalBoxFuture<'a, Result<Launched, Failure>> {
        let launched = match snapshot {
            Some(_) => Err(Failure::new(UNSUPPORTED)),
            None => self.spawn(vm).map_err(Failure::from),
        };
        Box::pin(ready(launched))
    }
}

impl Process {
    fn spawn(&self, vm: &VmDefinition) -> Result<Launched> {
        let program = &self.agent;
        let folder = vm.disk.with_file_name(FOLDER);
        file::create_folder(&folder)?;
        let (agent, console) = (SocketPair::new(program)?, SocketPair::new(program)?);
        let error = console.theirs.try_clone().at("make a socket for", program)?;
        let mut command = Command::new(program);
        command.arg(folder).arg(&vm.record.hostname).args(vm.record.ephemeral.then_some("volatile"));
        command.env_clear().stdin(OwnedFd::from(agent.theirs)).stdout(OwnedFd::from(console.theirs));
        command.stderr(OwnedFd::from(error)).kill_on_drop(true);
        let supervisor = getpid();
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe { command.pre_exec(move || die_with(supervisor)) };
        let child = command.spawn().at("run", program)?;
        // With the command go this end's copies of the guest's descriptors.
        drop(command);
        let pid = child.id().map_or(0, u32::cast_signed);
        let (sender, events) = mpsc::channel(16);
        let (commands, told) = mpsc::channel(4);
        tokio::spawn(drive(child, told, sender));
        let ours = |stream| for_tokio(stream).at("talk to", program);
        // The agent has its end open from the start.
        let agent: AgentStream = Box::new(ours(agent.ours)?);
        Ok(Launched {
            vmm: Vmm::new(pid, events, commands),
            // It is a guest, in namespaces of its own, for tests.
            confinement: None,
            agent: Box::new(SingleConnection::new(ready(agent))),
            console: Box::new(ours(console.ours)?),
        })
    }
}

/// Reports what happens to the guest until it is gone. It is killed when nobody can tell it anything
/// any more.
async fn drive(mut child: Child, mut commands: mpsc::Receiver<VmmCommand>, events: mpsc::Sender<VmmEvent>) {
    let status = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(VmmCommand::Pause(done) | VmmCommand::Resume(done) | VmmCommand::Snapshot(_, done)) => {
                    // Who does not wait for the answer needs none.
                    let _ = done.send(Err(Failure::new(UNSUPPORTED)));
                }
                // There is nothing that it would have to write out.
                Some(VmmCommand::Quit) | None => {
                    let _ = child.start_kill();
                    break child.wait().await;
                }
            },
            status = child.wait() => break status,
        }
    };
    // Whoever does not listen is about to drop the VMM.
    if status.as_ref().is_ok_and(ExitStatus::success) {
        let _ = events.send(VmmEvent::PoweredOff).await;
    }
    let how = match status {
        Ok(status) => status.signal().map_or_else(|| status.to_string(), |signal| format!("signal: {signal}")),
        Err(error) => error.to_string(),
    };
    let _ = events.send(VmmEvent::Exited(Failure::new(format!("the guest's process ended ({how})")))).await;
}
