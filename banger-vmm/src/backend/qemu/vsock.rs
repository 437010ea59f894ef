//! QEMU with a machine that looks like Firecracker's, for tests: the agent listens at a vsock port,
//! no disk has a serial, and the guest can leave the machine only by a reset.
//!
//! The vsock device is vhost-device-vsock's, a process beside QEMU.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use banger_agent::boot_config::{AGENT_PORT, AgentDevice, DiskNaming};
use futures::future::{BoxFuture, LocalBoxFuture};
use nix::fcntl::OFlag;
use nix::unistd::{dup3, getpid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{Qemu, command_line, spawn};
use crate::backend::vsock::VsockConnector;
use crate::backend::{AgentConnector, AgentStream, Backend, BootPolicy, Launched, VmDefinition};
use crate::error::{Failure, IoContext, Result};
use crate::host::die_with;
use crate::kvm::Accelerator;
use crate::record::BackendKind;

/// What vhost-device-vsock has in the VM's folder, and its sockets there: QEMU's, and the one of
/// Firecracker's protocol.
const FOLDER: &str = "run";
const DEVICE_SOCKET: &str = "vhost.sock";
const SOCKET: &str = "v.sock";
/// How long vhost-device-vsock may take to make them.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);

/// How long it is left alone once the guest's driver has begun to set it up, and how often that is
/// looked for. vhost-device-vsock 0.3.0 ends its worker, without a word, at a connection that comes
/// between the guest's memory and its queues.
const SET_UP: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A QEMU, and the vhost-device-vsock at this path.
pub(crate) struct VsockQemu {
    pub(crate) qemu: Qemu,
    pub(crate) device: PathBuf,
}

impl Backend for VsockQemu {
    fn kind(&self) -> BackendKind {
        BackendKind::Qemu
    }

    fn name(&self) -> &'static str {
        "QEMU"
    }

    fn boot_policy(&self, accelerator: Accelerator) -> BootPolicy {
        self.qemu.boot_policy(accelerator)
    }

    fn check(&self, vm: &VmDefinition) -> Result<(), Failure> {
        self.qemu.check(vm)
    }

    fn launch<'a>(
        &'a self,
        vm: &'a VmDefinition,
        accelerator: Accelerator,
        snapshot: Option<&'a Path>,
    ) -> LocalBoxFuture<'a, Result<Launched, Failure>> {
        Box::pin(async move {
            if snapshot.is_some() {
                return Err(Failure::new("vhost-device-vsock cannot go on from a snapshot"));
            }
            let folder = vm.disk.with_file_name(FOLDER);
            let (daemon, device) = self.start_device(&folder).await?;
            let connector = VsockConnector::new(&folder.join(SOCKET), AGENT_PORT)?;
            let mut plan = self.qemu.plan(vm, accelerator, None).await?;
            plan.arguments = like_firecracker(plan.arguments, vm);
            // The arguments name the descriptor, which leads to the device from now on.
            let mut agent = OwnedFd::from(plan.agent.theirs);
            dup3(&device, &mut agent, OFlag::O_CLOEXEC).map_err(io::Error::from).at("talk to", &self.device)?;
            plan.agent.theirs = agent.into();
            let launched = spawn(plan)?;
            Ok(Launched { agent: Box::new(DeviceConnector { connector, daemon, is_set_up: false }), ..launched })
        })
    }

    fn version(&self) -> LocalBoxFuture<'_, Result<String, Failure>> {
        self.qemu.version()
    }
}

impl VsockQemu {
    /// Starts a device that dies with the supervisor, and connects to it.
    async fn start_device(&self, folder: &Path) -> Result<(Child, StdUnixStream)> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => DirBuilder::new().mode(0o700).create(folder),
        }
        .at("make", folder)?;
        let mut command = Command::new(&self.device);
        command.args(["--vm", &format!("guest-cid=3,socket={DEVICE_SOCKET},uds-path={SOCKET}")]);
        command.current_dir(folder).env_clear().kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let supervisor = getpid();
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe { command.pre_exec(move || die_with(supervisor)) };
        let daemon = command.spawn().at("run", &self.device)?;
        let directory = File::open(folder).at("open", folder)?;
        let socket = format!("/proc/self/fd/{}/{DEVICE_SOCKET}", directory.as_raw_fd());
        let deadline = Instant::now() + DEVICE_PATIENCE;
        loop {
            match StdUnixStream::connect(&socket) {
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(5)).await,
                connected => return Ok((daemon, connected.at("connect to", &folder.join(DEVICE_SOCKET))?)),
            }
        }
    }
}

/// The way to an agent through a device, which ends with this.
struct DeviceConnector {
    connector: VsockConnector,
    daemon: Child,
    is_set_up: bool,
}

impl DeviceConnector {
    /// Waits until the guest's driver has set the device up, whose memory is mapped by then.
    async fn set_up(&mut self) {
        let Some(pid) = self.daemon.id() else { return };
        let maps = format!("/proc/{pid}/maps");
        while !self.is_set_up {
            sleep(LOOK_EVERY).await;
            self.is_set_up = std::fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("/memfd:"));
            if self.is_set_up {
                sleep(SET_UP).await;
            }
        }
    }
}

impl AgentConnector for DeviceConnector {
    fn connect(&mut self) -> BoxFuture<'_, AgentStream> {
        Box::pin(async {
            self.set_up().await;
            self.connector.connect().await
        })
    }

    fn can_connect_again(&self) -> bool {
        self.connector.can_connect_again()
    }

    fn is_cut_by_snapshots(&self) -> bool {
        self.connector.is_cut_by_snapshots()
    }
}

/// QEMU's arguments for `vm`, with the machine changed into one that looks like Firecracker's.
fn like_firecracker(arguments: Vec<OsString>, vm: &VmDefinition) -> Vec<OsString> {
    let told = vm.boot_config(AgentDevice::VirtioSerial(command_line::AGENT_PORT.to_owned()), DiskNaming::Serial);
    let tell = vm.boot_config(AgentDevice::Vsock(AGENT_PORT), DiskNaming::Order);
    let mut changed: Vec<OsString> = Vec::new();
    for argument in arguments {
        let Some(text) = argument.to_str() else {
            changed.push(argument);
            continue;
        };
        if text.starts_with("microvm,") {
            // A device in another process needs the guest's memory.
            let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", vm.record.memory_mib);
            changed.push(format!("{text},memory-backend=memory").into());
            changed.extend(["-object".into(), memory.into()]);
        } else if text.starts_with("virtio-serial-device,") {
            changed.push("vhost-user-vsock-device,chardev=agent".into());
        } else if text.starts_with("virtserialport,") {
            changed.pop();
        } else if let Some((disk, _)) = text.split_once(",serial=") {
            changed.push(disk.into());
        } else {
            changed.push(text.replace(&told.to_string(), &tell.to_string()).into());
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::qemu::tests::definition;

    #[tokio::test]
    async fn machine_has_nothing_that_firecracker_lacks() {
        let qemu = Qemu { program: "/opt/qemu/bin/qemu-system-x86_64".into() };
        let vm = definition(banger_agent::net::NetMode::None, Path::new("/vm"));
        let plan = qemu.plan(&vm, Accelerator::Tcg, None).await.unwrap();
        let before = plan.arguments.join("\n".as_ref()).into_string().unwrap();
        let after = like_firecracker(plan.arguments, &vm).join("\n".as_ref()).into_string().unwrap();
        for (word, stays) in
            [("serial=", false), ("virtio-serial", false), ("virtserialport", false), ("reboot=t", true)]
        {
            assert!(before.contains(word) && after.contains(word) == stays, "{word}: {after}");
        }
        for word in ["vhost-user-vsock-device", "share=on", "banger.agent=vsock:1000 banger.disks=order:base,disk"] {
            assert!(!before.contains(word) && after.contains(word), "{word}: {after}");
        }
    }
}
