//! A guest that is a process of this host: the real agent in namespaces of its own, for tests that
//! kill one hundreds of times. What it keeps is a folder beside the VM's disks, which stay as they
//! were made.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use futures::future::LocalBoxFuture;
use nix::unistd::getpid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use super::{Backend, Launched, Machine, Vmm, VmmEvent, die_with, ours};
use crate::error::{Failure, IoContext, Result};
use crate::file;
use crate::kvm::Accelerator;

/// What the guest keeps, in the VM's folder.
const FOLDER: &str = "guest";

/// Guests of this program: `banger-agent-process`.
pub(crate) struct Process {
    pub(crate) agent: PathBuf,
}

impl Backend for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn launch<'a>(&'a self, machine: &'a Machine, _: Accelerator) -> LocalBoxFuture<'a, Result<Launched>> {
        Box::pin(async { self.start(machine) })
    }
}

impl Process {
    fn start(&self, machine: &Machine) -> Result<Launched> {
        let folder = machine.disk.with_file_name(FOLDER);
        file::create_folder(&folder)?;
        let pair = || StdUnixStream::pair().at("make a socket for", &self.agent);
        let ((agent, its_agent), (console, its_console)) = (pair()?, pair()?);
        let error = its_console.try_clone().at("make a socket for", &self.agent)?;
        let mut command = Command::new(&self.agent);
        command.arg(&folder).arg(&machine.record.hostname).args(machine.record.ephemeral.then_some("volatile"));
        command.env_clear().stdin(OwnedFd::from(its_agent)).stdout(OwnedFd::from(its_console));
        command.stderr(OwnedFd::from(error)).kill_on_drop(true);
        let supervisor = getpid();
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe { command.pre_exec(move || die_with(supervisor)) };
        let child = command.spawn().at("run", &self.agent)?;
        // With the command go this end's copies of the guest's descriptors.
        drop(command);
        let pid = child.id().map_or(0, u32::cast_signed);
        let (sender, events) = mpsc::channel(16);
        let (quit, quit_asked) = oneshot::channel();
        tokio::spawn(drive(child, quit_asked, sender));
        Ok(Launched {
            vmm: Vmm::new(pid, events, quit),
            // It is a guest, in namespaces of its own, for tests.
            confinement: None,
            agent: ours(agent).at("talk to", &self.agent)?,
            console: ours(console).at("talk to", &self.agent)?,
        })
    }
}

/// Reports what happens to the guest until it is gone. It is killed when nobody can ask it to quit
/// any more.
async fn drive(mut child: Child, quit: oneshot::Receiver<()>, events: mpsc::Sender<VmmEvent>) {
    // The port is open from the start. Whoever does not listen is about to drop the VMM.
    let _ = events.send(VmmEvent::AgentPort { open: true }).await;
    let status = tokio::select! {
        // There is nothing that it would have to write out.
        _ = quit => {
            let _ = child.start_kill();
            child.wait().await
        }
        status = child.wait() => status,
    };
    if status.as_ref().is_ok_and(ExitStatus::success) {
        let _ = events.send(VmmEvent::PoweredOff).await;
    }
    let how = match status {
        Ok(status) => status.signal().map_or_else(|| status.to_string(), |signal| format!("signal: {signal}")),
        Err(error) => error.to_string(),
    };
    let _ = events.send(VmmEvent::Exited(Failure::new(format!("the guest's process ended ({how})")))).await;
}
