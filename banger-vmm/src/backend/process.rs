//! A guest that is a process of this host: the real agent in namespaces of its own, for tests that
//! kill one hundreds of times. What it keeps is a folder beside the VM's disks, which stay as they
//! were made.

use std::future::ready;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use nix::unistd::getpid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use super::vmm::{die_with, for_tokio};
use super::{AgentStream, Backend, BootPolicy, Launched, SocketPair, VmDefinition, Vmm, VmmEvent, VmmPlan};
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

    fn boot_policy(&self, _: Accelerator) -> BootPolicy {
        BootPolicy { limit: Duration::from_secs(120), retry_after: None }
    }

    fn plan<'a>(&'a self, vm: &'a VmDefinition, _: Accelerator) -> LocalBoxFuture<'a, Result<VmmPlan>> {
        Box::pin(ready(self.plan_now(vm)))
    }

    fn spawn(&self, plan: VmmPlan) -> Result<Launched> {
        let VmmPlan { program, arguments, agent, console, .. } = plan;
        let error = console.theirs.try_clone().at("make a socket for", &program)?;
        let mut command = Command::new(&program);
        command.args(arguments).env_clear().stdin(OwnedFd::from(agent.theirs)).stdout(OwnedFd::from(console.theirs));
        command.stderr(OwnedFd::from(error)).kill_on_drop(true);
        let supervisor = getpid();
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe { command.pre_exec(move || die_with(supervisor)) };
        let child = command.spawn().at("run", &program)?;
        // With the command go this end's copies of the guest's descriptors.
        drop(command);
        let pid = child.id().map_or(0, u32::cast_signed);
        let (sender, events) = mpsc::channel(16);
        let (quit, quit_asked) = oneshot::channel();
        tokio::spawn(drive(child, quit_asked, sender));
        let ours = |stream| for_tokio(stream).at("talk to", &program);
        // The agent has its end open from the start.
        let agent: AgentStream = Box::new(ours(agent.ours)?);
        Ok(Launched {
            vmm: Vmm::new(pid, events, quit),
            // It is a guest, in namespaces of its own, for tests.
            confinement: None,
            agent: Box::pin(ready(agent)),
            console: Box::new(ours(console.ours)?),
        })
    }
}

impl Process {
    fn plan_now(&self, vm: &VmDefinition) -> Result<VmmPlan> {
        let folder = vm.disk.with_file_name(FOLDER);
        file::create_folder(&folder)?;
        let mut arguments = vec![folder.into_os_string(), vm.record.hostname.clone().into()];
        arguments.extend(vm.record.ephemeral.then(|| "volatile".into()));
        Ok(VmmPlan {
            program: self.agent.clone(),
            arguments,
            rules: None,
            agent: SocketPair::new(&self.agent)?,
            console: SocketPair::new(&self.agent)?,
            control: None,
        })
    }
}

/// Reports what happens to the guest until it is gone. It is killed when nobody can ask it to quit
/// any more.
async fn drive(mut child: Child, quit: oneshot::Receiver<()>, events: mpsc::Sender<VmmEvent>) {
    let status = tokio::select! {
        // There is nothing that it would have to write out.
        _ = quit => {
            let _ = child.start_kill();
            child.wait().await
        }
        status = child.wait() => status,
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
