//! From a Firecracker's start to that of its guest.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use banger_agent::boot_config::AGENT_PORT;
use banger_agent::net::NetMode;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::api::{Action, ApiError, Client, Request, SnapshotLoadParams, Version};
use super::jailer::Jailer;
use super::process::Process;
use super::run_directory::{API_SOCKET, LOG, RunDirectory, VSOCK_SOCKET};
use super::{machine, snapshot};
use crate::backend::vmm::for_tokio;
use crate::backend::vsock::VsockConnector;
use crate::backend::{Launched, SocketPair, VmDefinition, Vmm, VmmEvent};
use crate::confinement::{self, ConfinedCommand, Jail, Rules};
use crate::error::{Failure, IoContext};
use crate::kvm;
use crate::network::{self, NetworkProgram};

/// How long Firecracker may take until its API answers. It takes some 20 ms.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);
/// How long one that closed a connection may take to end, so that its end says why it did.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// What a system's libraries are in, for a Firecracker that is not linked statically, and what
/// finds them: ld.so(8). Those of Nix and Guix link to their stores by whole paths.
const LIBRARIES: [&str; 7] =
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache"];

/// The programs that it takes to run a VM.
pub(super) struct Host<'a> {
    pub(super) firecracker: &'a Path,
    /// What runs it as another user, if that is wanted.
    pub(super) jailer: Option<&'a Jailer>,
    /// The binary `banger-vmm`, as the launcher that confines.
    pub(super) launcher: &'a Path,
    /// For a VM with a network.
    pub(super) network: Option<NetworkProgram>,
}

/// Starts a Firecracker, and in it the VM; with `snapshot`, one that goes on from there.
pub(super) async fn start(host: Host<'_>, vm: &VmDefinition, snapshot: Option<&Path>) -> Result<Launched, Failure> {
    let program = host.firecracker;
    let kernel = machine::kernel(vm)?;
    let mut links = machine::links(vm, kernel);
    links.extend(snapshot.map(snapshot::links).transpose()?.into_iter().flatten());
    let vm_directory = vm.disk.parent().unwrap_or(Path::new("/"));
    // In a jail, the files themselves are mounted there.
    let made: &[_] = if host.jailer.is_some() { &[] } else { &links };
    let directory = Arc::new(RunDirectory::create(vm_directory, made)?);
    // Before Firecracker, which opens it without waiting.
    let log = directory.open_log()?;
    let console = SocketPair::new(program)?;
    let agent = VsockConnector::new(&directory.path().join(VSOCK_SOCKET), AGENT_PORT)?;

    let files = links.iter().map(|(_, file)| file.clone());
    let command = ConfinedCommand {
        program: program.to_owned(),
        arguments: arguments(vm, host.jailer.is_some()),
        directory: directory.path().to_owned(),
        rules: rules(program, vm, files, &directory),
        jail: host.jailer.map(|jailer| jail(jailer, vm, &links)),
        descriptors: Vec::new(),
        stdin: Stdio::null(),
        stdout: OwnedFd::from(console.theirs).into(),
        stderr: Stdio::piped(),
        network: host.network,
    };
    let confined = confinement::launch(host.launcher, command).await?;
    let (pid, confinement) = (confined.pid, confined.confinement.clone());

    let (sender, events) = mpsc::channel(16);
    let (commands, told) = mpsc::channel(16);
    let (lines, mut log_lines) = watch::channel(());
    let (console, process) = {
        let ours = for_tokio(console.ours).at("talk to", program)?;
        let client = Client::new(directory.short_path(API_SOCKET));
        Process::new(confined, log, ours, client, Arc::clone(&directory))
    };
    let client = process.client.clone();
    tokio::spawn(process.drive(told, lines, sender));
    let said = Arc::new(OnceLock::new());
    let mut vmm = Vmm::new(pid, events, commands).of_version(Arc::clone(&said));
    let configured = async {
        listening(&client, &mut log_lines).await?;
        let version = client.version().await?;
        let _ = said.set(version.to_string());
        for call in calls(vm, version, snapshot.is_some())? {
            client.call(&call).await?;
        }
        Ok(())
    };
    let configured = tokio::select! {
        configured = configured => configured,
        failure = ended(&mut vmm) => Err(Refusal::Failure(failure)),
    };
    let Err(refusal) = configured else {
        return Ok(Launched {
            vmm,
            confinement: Some(confinement),
            agent: Box::new(agent),
            console: Box::new(console),
        });
    };
    drop(console);
    let failure = match refusal {
        Refusal::Failure(failure) => failure,
        Refusal::Api(error @ ApiError::Refused { .. }) => error.into(),
        // A Firecracker that does not answer may be on its way to its end, which says more.
        Refusal::Api(error) => timeout(END_PATIENCE, ended(&mut vmm)).await.unwrap_or_else(|_| error.into()),
    };
    vmm.kill().await;
    Err(failure)
}

/// What Firecracker may do to run `vm`, which is made of `files`.
fn rules(program: &Path, vm: &VmDefinition, files: impl Iterator<Item = PathBuf>, directory: &RunDirectory) -> Rules {
    let writable: Vec<_> = [&vm.disk].into_iter().chain(&vm.workspace).cloned().collect();
    let mut readable = vec![program.to_owned()];
    readable.extend(LIBRARIES.map(PathBuf::from));
    readable.extend(files.filter(|file| !writable.contains(file)));
    let mut devices: Vec<PathBuf> = vec![kvm::DEVICE.into(), "/dev/urandom".into()];
    devices.extend((vm.net.mode == NetMode::User).then(|| network::DEVICE.into()));
    // Its network is the tap: it makes no connection.
    Rules { readable, writable, devices, directories: vec![directory.path().to_owned()], network: false }
}

/// How the jailer runs `vm`, which is made of `files`.
fn jail(jailer: &Jailer, vm: &VmDefinition, files: &[(String, PathBuf)]) -> Jail {
    let Jailer { program, user, group } = jailer.clone();
    Jail { jailer: program, user, group, id: vm.record.hostname.clone(), files: files.to_vec() }
}

/// All arguments but the program's name, and those that the jailer gives. The log has a path, so that
/// it is not on standard output, which is the guest's console.
fn arguments(vm: &VmDefinition, jailed: bool) -> Vec<OsString> {
    // The id is for people who look at the log. A host name has no characters that Firecracker
    // refuses.
    let id = ["--id", &vm.record.hostname].into_iter().filter(|_| !jailed);
    let others = ["--api-sock", API_SOCKET, "--log-path", LOG, "--show-level"];
    id.chain(others).map(OsString::from).collect()
}

/// Why a guest was not started.
enum Refusal {
    Api(ApiError),
    Failure(Failure),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Refusal::Api(error)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal::Failure(failure)
    }
}

/// Waits until the API answers: Firecracker logs what it does, and one of the first lines comes
/// when it listens.
async fn listening(client: &Client, log_lines: &mut watch::Receiver<()>) -> Result<(), Failure> {
    let listening = async {
        // Of a Firecracker that is gone there are no more lines; its end is told elsewhere.
        while log_lines.changed().await.is_ok() {
            if client.is_listening().await {
                return;
            }
        }
        std::future::pending().await
    };
    let late = |_| Failure::new(format!("Firecracker did not open its API within {} s", LISTEN_PATIENCE.as_secs()));
    timeout(LISTEN_PATIENCE, listening).await.map_err(late)
}

/// All calls that it takes to have the guest run.
fn calls(vm: &VmDefinition, version: Version, is_snapshot: bool) -> Result<Vec<Request>, Failure> {
    if is_snapshot {
        return Ok(vec![
            SnapshotLoadParams::resumed(Path::new(snapshot::STATE), Path::new(snapshot::MEMORY)).request(),
        ]);
    }
    let mut calls = machine::configuration(vm, version)?;
    calls.push(Action::InstanceStart.request());
    Ok(calls)
}

/// The failure with which the VMM ended.
async fn ended(vmm: &mut Vmm) -> Failure {
    let mut last = Failure::new("Firecracker is gone");
    while let Some(event) = vmm.events.recv().await {
        if let VmmEvent::Exited(failure) | VmmEvent::Stuck(failure) = event {
            last = failure;
        }
    }
    last
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        let hint = if message.contains("Elf") {
            Some("the VM's kernel is no ELF file: pull or import it again, see `banger kernel`")
        } else if message.contains("Cannot allocate memory") {
            Some("give the VM less memory, or free some on this machine")
        } else if message.contains("No space left on device") {
            Some("free some disk space and run it again")
        } else {
            None
        };
        Failure { hint: hint.map(str::to_owned), ..Failure::new(message) }
    }
}
