//! QEMU's `microvm` machine.

mod command_line;
mod installation;
mod process;
mod qmp;
mod tsc;

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use banger_agent::net::{NetInterface, NetMode, NetPlan};
use futures::future::LocalBoxFuture;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Uid, getpid};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use super::{Backend, Launched, Machine, Vmm, die_with, ours};
use crate::confinement::Rules;
use crate::error::{Error, IoContext, Result};
use crate::kvm::{self, Accelerator};
use command_line::Descriptors;

/// The QEMU at this path.
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
}

/// User networking (slirp), with the addresses that QEMU gives it by default.
pub(crate) const USER_NETWORK: NetPlan = NetPlan {
    mode: NetMode::User,
    interface: Some(NetInterface {
        address: Ipv4Addr::new(10, 0, 2, 15),
        prefix: 24,
        gateway: HOST,
        dns: Ipv4Addr::new(10, 0, 2, 3),
    }),
    // Trap: QEMU gives no way to forbid that but `restrict=on`, which forbids everything
    // (libslirp's `disable_host_loopback` is not an option of QEMU's).
    host_alias: Some(HOST),
};
/// The host, as a guest with user networking sees it: router and loopback in one.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// For a guest whose instructions are translated: what guards against the speculation of a real
/// processor guards nothing here, and to zero each page twice is what writing files spends most of
/// its time on.
const TRANSLATED: &str = "mitigations=off init_on_alloc=0";

impl Backend for Qemu {
    fn name(&self) -> &'static str {
        "QEMU"
    }

    fn launch<'a>(&'a self, machine: &'a Machine, accelerator: Accelerator) -> LocalBoxFuture<'a, Result<Launched>> {
        Box::pin(self.start(machine, accelerator))
    }
}

impl Qemu {
    async fn start(&self, machine: &Machine, accelerator: Accelerator) -> Result<Launched> {
        // Socket pairs, so that nothing has a name on disk that would be left behind.
        let pair = || StdUnixStream::pair().at("make a socket for", &self.program);
        let ((agent, its_agent), (console, its_console), (qmp, its_qmp)) = (pair()?, pair()?, pair()?);
        let descriptors =
            Descriptors { agent: its_agent.as_raw_fd(), console: its_console.as_raw_fd(), qmp: its_qmp.as_raw_fd() };

        let mut kernel_parameters = command_line::kernel_parameters(machine);
        if accelerator == Accelerator::Tcg {
            kernel_parameters = format!("{kernel_parameters} {} {TRANSLATED}", tsc::kernel_parameters().await);
        }

        let rules = self.rules(machine, accelerator).prepare().at("confine", &self.program)?;
        let confinement = rules.confinement().clone();
        let mut command = Command::new(&self.program);
        // No variable of the user's: QEMU needs none, and some are secrets.
        command.env_clear();
        command.args(command_line::arguments(machine, accelerator, &kernel_parameters, &descriptors));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let theirs = [OwnedFd::from(its_agent), its_console.into(), its_qmp.into()];
        let supervisor = getpid();
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe {
            command.pre_exec(move || {
                rules.apply()?;
                die_with(supervisor)?;
                for descriptor in &theirs {
                    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(|source| Error::Vmm { path: self.program.clone(), source })?;
        // With the command go this end's copies of QEMU's descriptors: when QEMU dies, reading from
        // ours ends.
        drop(command);

        let pid = child.id().map_or(0, u32::cast_signed);
        let (sender, events) = mpsc::channel(16);
        let (quit, quit_asked) = oneshot::channel();
        let qmp = ours(qmp).at("talk to", &self.program)?;
        tokio::spawn(process::drive(child, qmp, quit_asked, sender));
        Ok(Launched {
            vmm: Vmm::new(pid, events, quit),
            confinement: Some(confinement),
            agent: ours(agent).at("talk to", &self.program)?,
            console: ours(console).at("talk to", &self.program)?,
        })
    }

    /// What QEMU may do to run `machine`.
    fn rules(&self, machine: &Machine, accelerator: Accelerator) -> Rules {
        let network = machine.net.mode == NetMode::User;
        let mut readable = installation::readable(&self.program);
        readable.extend([&machine.kernel, &machine.initramfs, &machine.base].into_iter().cloned());
        readable.extend(machine.modules.clone());
        readable.push("/dev/urandom".into());
        readable.extend(network.then(|| installation::name_servers(Uid::effective().is_root())).flatten());
        // It probes how files are locked on that.
        let mut devices = vec!["/dev/null".into()];
        devices.extend((accelerator == Accelerator::Kvm).then(|| kvm::DEVICE.into()));
        let writable = [&machine.disk].into_iter().chain(&machine.workspace).cloned().collect();
        Rules { readable, writable, devices, network }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::{fs, process};

    use super::*;
    use crate::VmRecord;
    use crate::backend::net_plan;
    use crate::confinement::{Confinement, Gap};

    /// What a program says, and complains of, under the rules of a VM with this network.
    fn under_the_rules(net: NetMode, folder: &Path, program: &str, argument: &Path) -> (String, String) {
        let qemu = Qemu { program: "/usr/bin/qemu-system-x86_64".into() };
        let mut record = VmRecord::new("vm", "image", "kernel", 0);
        record.net = net;
        let machine = Machine {
            net: net_plan(&record),
            record,
            kernel: folder.join("kernel"),
            initramfs: folder.join("initramfs"),
            base: folder.join("base"),
            disk: folder.join("disk"),
            workspace: None,
            modules: None,
        };
        let rules = qemu.rules(&machine, Accelerator::Tcg).prepare().unwrap();
        let mut command = process::Command::new(program);
        command.env_clear().arg(argument);
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe { command.pre_exec(move || rules.apply()) };
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).into()
    }

    #[test]
    fn qemu_starts_and_reads_what_it_needs_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kernel", "initramfs", "base", "disk", "other"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let under = |net, program, argument: &Path| under_the_rules(net, folder.path(), program, argument);
        let (version, complaint) = under(NetMode::None, "/usr/bin/qemu-system-x86_64", Path::new("--version"));
        assert!(version.starts_with("QEMU emulator version"), "{complaint}");
        for name in ["kernel", "initramfs", "base", "disk"] {
            assert_eq!(under(NetMode::None, "cat", &folder.path().join(name)), (name.to_owned(), String::new()));
        }
        // Name servers are read by who has a network.
        let servers = Path::new("/etc/resolv.conf");
        if let Ok(text) = fs::read_to_string(servers) {
            assert_eq!(under(NetMode::User, "cat", servers), (text, String::new()));
        }
        if Confinement::of_kernel().missing.contains(&Gap::Files) {
            return;
        }
        for path in [folder.path().join("other"), servers.to_owned(), "/etc/passwd".into(), "/proc/self/environ".into()]
        {
            let (read, complaint) = under(NetMode::None, "cat", &path);
            assert!(read.is_empty() && complaint.contains("Permission denied"), "{}: {complaint}", path.display());
        }
    }
}
