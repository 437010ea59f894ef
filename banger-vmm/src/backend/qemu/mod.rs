//! QEMU's `microvm` machine.

mod command_line;
mod process;
mod qmp;
mod tsc;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::getpid;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use super::{Backend, Launched, Machine, Vmm, die_with, kernel_command_line, ours};
use crate::error::{IoContext, Result};
use crate::kvm::Accelerator;
use command_line::Descriptors;

/// The QEMU at this path.
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
}

/// For a guest whose instructions are translated: what guards against the speculation of a real processor guards nothing here, and
/// to zero each page twice is what writing files spends most of its time on.
const TRANSLATED: &str = "mitigations=off init_on_alloc=0";

impl Backend for Qemu {
    fn name(&self) -> &'static str {
        "QEMU"
    }

    fn launch(&self, machine: &Machine, accelerator: Accelerator) -> Result<Launched> {
        // Socket pairs, so that nothing has a name on disk that would be left behind.
        let pair = || StdUnixStream::pair().at("make a socket for", &self.program);
        let ((agent, its_agent), (console, its_console), (qmp, its_qmp)) = (pair()?, pair()?, pair()?);
        let descriptors =
            Descriptors { agent: its_agent.as_raw_fd(), console: its_console.as_raw_fd(), qmp: its_qmp.as_raw_fd() };

        let mut kernel_parameters = kernel_command_line(&machine.record);
        if accelerator == Accelerator::Tcg {
            kernel_parameters = format!("{kernel_parameters} {} {TRANSLATED}", tsc::kernel_parameters());
        }

        let mut command = Command::new(&self.program);
        command.args(command_line::arguments(machine, accelerator, &kernel_parameters, &descriptors));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let theirs = [OwnedFd::from(its_agent), its_console.into(), its_qmp.into()];
        let supervisor = getpid();
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows, and no allocation.
        unsafe {
            command.pre_exec(move || {
                die_with(supervisor)?;
                for descriptor in &theirs {
                    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        let child = command.spawn().at("run", &self.program)?;
        // With the command go this end's copies of QEMU's descriptors: when QEMU dies, reading from ours ends.
        drop(command);

        let pid = child.id().map_or(0, u32::cast_signed);
        let (sender, events) = mpsc::channel(16);
        let (quit, quit_asked) = oneshot::channel();
        let qmp = ours(qmp).at("talk to", &self.program)?;
        tokio::spawn(process::drive(child, qmp, quit_asked, sender));
        Ok(Launched {
            vmm: Vmm::new(pid, events, quit),
            agent: ours(agent).at("talk to", &self.program)?,
            console: ours(console).at("talk to", &self.program)?,
        })
    }
}
