//! Starting a supervisor, and following what it reports.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf, absolute};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend;
use crate::error::{Error, Failure, FailureKind, IoContext, Result};
use crate::kvm::{Accelerator, AcceleratorChoice};
use crate::ports::PortForward;
use crate::program::Programs;
use crate::record::BackendKind;
use crate::wire::AgentInfo;

/// No report is longer, in bytes.
const MAX_REPORT: u64 = 64 << 10;

/// What a VM is started with, besides what its record says.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The binary `banger-vmm`.
    pub supervisor: PathBuf,
    /// The kernel, as QEMU's `-kernel` takes it.
    pub kernel: PathBuf,
    /// The kernel as an ELF file, which is what Firecracker takes; None: only QEMU can run it.
    pub vmlinux: Option<PathBuf>,
    /// What [`crate::initramfs::ensure`] made.
    pub initramfs: PathBuf,
    /// The image: an ext4 file system, never written.
    pub base: PathBuf,
    /// The kernel's modules: an ext4 file system, never written.
    pub modules: Option<PathBuf>,
    /// What is to run the guest's instructions.
    pub accelerator: AcceleratorChoice,
    /// How long the guest may take until its agent answers; None for 120 s under TCG and 30 s under
    /// KVM.
    pub boot_timeout: Option<Duration>,
    /// The Firecracker to use; None for the one that is found where programs are looked for.
    pub firecracker: Option<PathBuf>,
    /// The user whom Firecracker's jailer is to become, which needs root; None: it is not used.
    pub jailer_user: Option<String>,
    /// The directory of a snapshot ([`crate::Vm::snapshot`]) to go on from; None to boot. The VM's
    /// disks are replaced by the snapshot's. It is an error if what would run the VM differs from
    /// what ran it then: backend and its version, accelerator, processors, memory, network, kernel
    /// or image; nothing is changed in that case.
    pub restore: Option<PathBuf>,
}

/// What happens while a VM starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum StartEvent {
    /// The VMM starts.
    Booting {
        /// The VMM's name.
        backend: String,
        /// What runs the guest's instructions.
        accelerator: Accelerator,
        /// Why it is not the fast one, if it is not and nobody asked for that.
        fallback: Option<String>,
        /// Why it is not Firecracker, if it is not and nobody asked for that.
        #[serde(default)]
        reason: Option<String>,
    },
    /// A port of the host that shall lead into the VM does not.
    NotForwarded {
        /// Which.
        forward: PortForward,
        /// Why not, in words.
        problem: String,
    },
    /// The agent answers: the VM is started. The last event of a start that succeeds.
    Ready(Running),
    /// The last event of a start that fails; [`crate::Vm::start`] returns it as its error.
    Failed(Failure),
}

/// A VM that came up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What runs the VM.
    pub backend: BackendKind,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The agent, as it introduced itself.
    pub agent: AgentInfo,
}

/// What a supervisor is told on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) folder: PathBuf,
    pub(crate) host: PathBuf,
    /// Where the supervisor looks for the backend's program.
    pub(crate) programs: Programs,
    pub(crate) kernel: PathBuf,
    #[serde(default)]
    pub(crate) vmlinux: Option<PathBuf>,
    pub(crate) initramfs: PathBuf,
    pub(crate) base: PathBuf,
    pub(crate) modules: Option<PathBuf>,
    pub(crate) accelerator: AcceleratorChoice,
    pub(crate) boot_timeout: Option<Duration>,
    #[serde(default)]
    pub(crate) restore: Option<PathBuf>,
}

/// Spawns the supervisor of the VM in `folder`, and follows it until the VM has started or failed to.
pub(crate) fn start(
    name: &str,
    folder: &Path,
    host: &Path,
    programs: &Programs,
    options: &StartOptions,
    mut on_event: impl FnMut(StartEvent),
) -> Result<Running> {
    let launch = Launch {
        folder: folder.to_owned(),
        host: host.to_owned(),
        programs: programs
            .clone()
            .with_firecracker(options.firecracker.clone())
            .with_jailer_user(options.jailer_user.clone()),
        kernel: options.kernel.clone(),
        vmlinux: options.vmlinux.clone(),
        initramfs: options.initramfs.clone(),
        base: options.base.clone(),
        modules: options.modules.clone(),
        accelerator: options.accelerator,
        boot_timeout: options.boot_timeout,
        // The supervisor has another working directory.
        restore: options.restore.as_deref().map(|path| absolute(path).at("find", path)).transpose()?,
    };
    // A missing file is said here, by its name, and not by QEMU.
    let files = [&launch.kernel, &launch.initramfs, &launch.base].into_iter();
    for file in files.chain(&launch.modules).chain(&launch.vmlinux) {
        File::open(file).at("open", file)?;
    }
    let launch = serde_json::to_vec(&launch).map_err(|error| Error::Supervisor {
        name: name.to_owned(),
        reason: format!("cannot tell it what to start: {error}"),
    })?;

    let mut command = Command::new(&options.supervisor);
    // No variable of the caller's: supervisor and VMM live longer than the command, need none, and
    // some are secrets. The name is for those who look at the list of processes.
    command.env_clear().arg(name).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().at("run", &options.supervisor)?;
    // The supervisor forks, so that it is nobody's child: what is waited for here is gone at once.
    let (stdin, reports) = (child.stdin.take(), child.stdout.take());
    let told = stdin.expect("was asked for").write_all(&launch);
    child.wait().at("run", &options.supervisor)?;
    told.at("run", &options.supervisor)?;

    let mut reports = BufReader::new(reports.expect("was asked for"));
    let fail = |failure| Err(Error::Boot { name: name.to_owned(), failure });
    loop {
        let mut line = Vec::new();
        let read =
            reports.by_ref().take(MAX_REPORT).read_until(b'\n', &mut line).at("read from", &options.supervisor)?;
        if read == 0 {
            return fail(
                Failure::new("its supervisor died").with_hint("run it again; if it stays so, look at the system's log"),
            );
        }
        let event: StartEvent = serde_json::from_slice(&line).map_err(|error| Error::Supervisor {
            name: name.to_owned(),
            reason: format!("it reports what is not understood: {error}"),
        })?;
        match event {
            StartEvent::Failed(failure) if failure.kind == FailureKind::ProgramMissing => {
                // QEMU is what every VM can be run by.
                return backend::find(BackendKind::Qemu, programs).map_or_else(Err, |_| fail(failure));
            }
            StartEvent::Failed(failure) => return fail(failure),
            StartEvent::Ready(ref running) => {
                let running = running.clone();
                on_event(event);
                return Ok(running);
            }
            StartEvent::Booting { .. } | StartEvent::NotForwarded { .. } => on_event(event),
        }
    }
}
