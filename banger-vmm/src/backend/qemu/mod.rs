//! QEMU's `microvm` vm.

mod command_line;
mod installation;
mod process;
mod qmp;
mod session;
mod snapshot;
mod tsc;
#[cfg(feature = "vsock")]
pub(crate) mod vsock;

use std::ffi::OsString;
use std::future::pending;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use banger_agent::link;
use banger_agent::net::{NetMode, NetPlan};
use futures::future::LocalBoxFuture;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Uid, getpid};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use super::vmm::for_tokio;
use super::{AgentStream, Backend, BootPolicy, Launched, SingleConnection, SocketPair, VmDefinition, Vmm};
use crate::confinement::Rules;
use crate::error::{Error, Failure, IoContext, Result};
use crate::host::die_with;
use crate::kvm::{self, Accelerator};
use crate::network;
use crate::program::Programs;
use crate::record::BackendKind;
use command_line::Descriptors;
use process::Process;
use snapshot::Incoming;

/// The QEMU at this path.
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
}

/// User networking (slirp), with the addresses that QEMU gives it by default.
pub(crate) const USER_NETWORK: NetPlan = NetPlan {
    mode: NetMode::User,
    interface: Some(network::USER_NETWORK),
    // The host, as a guest with user networking sees it: router and loopback in one.
    //
    // Trap: QEMU gives no way to forbid that but `restrict=on`, which forbids everything
    // (libslirp's `disable_host_loopback` is not an option of QEMU's).
    host_alias: Some(network::USER_NETWORK.gateway),
};

/// For a guest whose instructions are translated: what guards against the speculation of a real
/// processor guards nothing here, and to zero each page twice is what writing files spends most of
/// its time on.
const TRANSLATED: &str = "mitigations=off init_on_alloc=0";

impl Backend for Qemu {
    fn kind(&self) -> BackendKind {
        BackendKind::Qemu
    }

    fn name(&self) -> &'static str {
        "QEMU"
    }

    fn boot_policy(&self, accelerator: Accelerator) -> BootPolicy {
        let seconds = Duration::from_secs;
        match accelerator {
            Accelerator::Kvm => BootPolicy { limit: seconds(30), retry_after: None },
            // Two translated processors now and then disagree about code that the kernel patches
            // while they run it ("Oops: int3"), or wait for each other without end.
            Accelerator::Tcg => BootPolicy { limit: seconds(120), retry_after: Some(seconds(40)) },
        }
    }

    fn check(&self, _: &VmDefinition) -> Result<(), Failure> {
        Ok(())
    }

    fn launch<'a>(
        &'a self,
        vm: &'a VmDefinition,
        accelerator: Accelerator,
        snapshot: Option<&'a Path>,
    ) -> LocalBoxFuture<'a, Result<Launched, Failure>> {
        Box::pin(async move { Ok(spawn(self.plan(vm, accelerator, snapshot).await?)?) })
    }

    fn version(&self) -> LocalBoxFuture<'_, Result<String, Failure>> {
        Box::pin(installation::version(&self.program))
    }
}

/// What will be run for a VM. Nothing runs yet.
#[derive(Debug)]
struct Plan {
    program: PathBuf,
    /// All arguments but the program's name. They name QEMU's ends of the sockets by their
    /// descriptors.
    arguments: Vec<OsString>,
    /// The files, devices and networks that QEMU may use.
    rules: Rules,
    /// Carries the bytes of the agent's device.
    agent: SocketPair,
    /// Carries what the guest writes on its serial console.
    console: SocketPair,
    /// Carries what the supervisor tells QEMU, and QEMU's answers and events.
    qmp: SocketPair,
    /// The state that QEMU begins with, for one that goes on from a snapshot.
    incoming: Option<Incoming>,
}

/// Starts the QEMU of a plan.
fn spawn(plan: Plan) -> Result<Launched> {
    let Plan { program, arguments, rules, agent, console, qmp, incoming } = plan;
    let rules = rules.prepare().at("confine", &program)?;
    let confinement = rules.confinement().clone();
    let mut command = Command::new(&program);
    // No variable of the user's: QEMU needs none, and some are secrets.
    command.env_clear().args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let theirs = [agent.theirs, console.theirs, qmp.theirs];
    let inherited = theirs.iter().map(AsRawFd::as_raw_fd);
    let state = incoming.as_ref().map(|incoming| incoming.theirs.as_raw_fd());
    let inherited: Vec<_> = inherited.chain(state).collect();
    let supervisor = getpid();
    // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
    // and no allocation.
    unsafe {
        command.pre_exec(move || {
            rules.apply()?;
            die_with(supervisor)?;
            for descriptor in &inherited {
                // They are open until `spawn` returns.
                let descriptor = BorrowedFd::borrow_raw(*descriptor);
                fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(|source| Error::Vmm { path: program.clone(), source })?;
    // Without this end's copies of QEMU's descriptors, reading from ours ends when QEMU dies.
    drop((command, theirs));

    let pid = child.id().map_or(0, u32::cast_signed);
    let (sender, events) = mpsc::channel(16);
    let (commands, told) = mpsc::channel(4);
    let (opened, agent_opened) = oneshot::channel();
    let ours = |stream| for_tokio(stream).at("talk to", &program);
    let (agent, console, qmp) = (ours(agent.ours)?, ours(console.ours)?, ours(qmp.ours)?);
    let state = state.zip(incoming.map(Incoming::begin));
    let goes_on = state.is_some();
    let version = Arc::new(OnceLock::new());
    let process = Process { child, qmp, events: sender, opened, version: Arc::clone(&version) };
    tokio::spawn(process::drive(process, told, state));
    let agent = async move {
        let mut agent = agent;
        if agent_opened.await.is_err() {
            pending::<()>().await;
        }
        if goes_on {
            // A pipe that fails here fails for who greets the agent too.
            let _ = agent.write_all(&link::end_of_former_link()).await;
        }
        Box::new(agent) as AgentStream
    };
    Ok(Launched {
        vmm: Vmm::new(pid, events, commands).of_version(version),
        confinement: Some(confinement),
        agent: Box::new(SingleConnection::new(agent)),
        console: Box::new(console),
    })
}

impl Qemu {
    /// The QEMU of this host.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`] if it is not installed.
    pub(crate) fn find(programs: &Programs) -> Result<Qemu> {
        Ok(Qemu { program: programs.find("qemu-system-x86_64", "qemu-system-x86")? })
    }

    /// What will be run for `vm`.
    async fn plan(&self, vm: &VmDefinition, accelerator: Accelerator, snapshot: Option<&Path>) -> Result<Plan> {
        let pair = || SocketPair::new(&self.program);
        let (agent, console, qmp) = (pair()?, pair()?, pair()?);
        let descriptors = Descriptors {
            agent: agent.theirs.as_raw_fd(),
            console: console.theirs.as_raw_fd(),
            qmp: qmp.theirs.as_raw_fd(),
        };
        let mut kernel_parameters = command_line::kernel_parameters(vm);
        if accelerator == Accelerator::Tcg {
            kernel_parameters = format!("{kernel_parameters} {} {TRANSLATED}", tsc::kernel_parameters().await);
        }
        let mut arguments = command_line::arguments(vm, accelerator, &kernel_parameters, &descriptors);
        let incoming = snapshot.map(Incoming::open).transpose()?;
        if incoming.is_some() {
            // It is told what to begin with when it can tell how that goes.
            arguments.extend(["-incoming", "defer"].map(OsString::from));
        }
        Ok(Plan {
            program: self.program.clone(),
            arguments,
            incoming,
            rules: self.rules(vm, accelerator),
            agent,
            console,
            qmp,
        })
    }

    /// What QEMU may do to run `vm`.
    fn rules(&self, vm: &VmDefinition, accelerator: Accelerator) -> Rules {
        let network = vm.net.mode == NetMode::User;
        let mut readable = installation::readable(&self.program);
        readable.extend([&vm.kernel, &vm.initramfs, &vm.base].into_iter().cloned());
        readable.extend(vm.modules.clone());
        readable.push("/dev/urandom".into());
        readable.extend(network.then(|| installation::name_servers(Uid::effective().is_root())).flatten());
        // It probes how files are locked on that.
        let mut devices = vec!["/dev/null".into()];
        devices.extend((accelerator == Accelerator::Kvm).then(|| kvm::DEVICE.into()));
        let writable = [&vm.disk].into_iter().chain(&vm.workspace).cloned().collect();
        Rules { readable, writable, devices, network, ..Rules::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::{fs, process};

    use super::*;
    use crate::VmRecord;
    use crate::confinement::{Confinement, Gap};

    pub(super) fn definition(net: NetMode, folder: &Path) -> VmDefinition {
        let mut record = VmRecord::new("vm", "image", "kernel", 0);
        record.net = net;
        VmDefinition {
            kernel: folder.join("kernel"),
            initramfs: folder.join("initramfs"),
            base: folder.join("base"),
            disk: folder.join("disk"),
            ..VmDefinition::for_test(record, BackendKind::Qemu)
        }
    }

    /// What a program says, and complains of, under the rules of a VM with this network.
    fn under_the_rules(net: NetMode, folder: &Path, program: &str, argument: &Path) -> (String, String) {
        let qemu = Qemu { program: "/usr/bin/qemu-system-x86_64".into() };
        let vm = definition(net, folder);
        let rules = qemu.rules(&vm, Accelerator::Tcg).prepare().unwrap();
        let mut command = process::Command::new(program);
        command.env_clear().arg(argument);
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe { command.pre_exec(move || rules.apply()) };
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).into()
    }

    #[test]
    fn confined_qemu_reads_only_the_files_it_needs() {
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

    #[tokio::test]
    async fn plan_names_what_qemu_is_run_with() {
        let qemu = Qemu { program: "/opt/qemu/bin/qemu-system-x86_64".into() };
        let vm = definition(NetMode::None, Path::new("/vm"));
        let plan = qemu.plan(&vm, Accelerator::Tcg, None).await.unwrap();
        assert_eq!(plan.program, qemu.program);
        let line = plan.arguments.join(OsStr::new(" ")).into_string().unwrap();
        for (name, socket) in [("agent", &plan.agent), ("console", &plan.console), ("qmp", &plan.qmp)] {
            let chardev = format!("-chardev socket,id={name},fd={} ", socket.theirs.as_raw_fd());
            assert!(line.contains(&chardev), "{line}");
        }
        assert!(line.contains(" tsc=reliable ") && line.contains(TRANSLATED), "{line}");
        let rules = plan.rules;
        assert_eq!((rules.writable, rules.network), (vec![vm.disk], false));
        assert!(rules.readable.contains(&vm.base) && rules.readable.contains(&plan.program));
    }
}
