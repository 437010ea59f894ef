//! What a guest learns from its host before there is a link: the `banger.` words of the kernel
//! command line.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::net::NetInterface;

/// The vsock port that an agent listens at. Below 1024, a process of the guest needs
/// CAP_NET_BIND_SERVICE to take it: vsock(7).
pub const AGENT_PORT: u32 = 1000;

/// Everything that one boot of a guest is told. As text, it is a part of the kernel command line,
/// which x86 limits to 2048 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootConfig {
    /// `banger.hostname=`, `banger.machine_id=` and `banger.net=`: who the guest is.
    pub identity: GuestIdentity,
    /// `banger.volatile`: nothing on the disk outlives this boot, so nothing needs to be synced.
    pub volatile: bool,
    /// `banger.agent=`: where the agent meets the host.
    pub agent: AgentDevice,
    /// `banger.disks=`: the disks, and how to tell them apart.
    pub disks: DiskConfig,
}

/// What a guest is called, and how it reaches other machines. A copy of a VM differs from the
/// VM in this alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestIdentity {
    /// The host name: 1 to 64 of A-Z, a-z, 0-9, `-` and `.`, see `hostname(7)`.
    pub hostname: String,
    /// 32 lower-case hexadecimal digits, see `machine-id(5)`; `None` to keep the image's.
    #[serde(default)]
    pub machine_id: Option<String>,
    /// The configuration of `eth0`; `None` for a guest that has a loopback interface only.
    #[serde(default)]
    pub net: Option<NetInterface>,
}

/// The device on which a guest's agent meets its host. As text: the kind of device, a colon, and
/// which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentDevice {
    /// `virtio-serial`: the virtio-serial port of this name.
    VirtioSerial(String),
    /// `vsock`: this port of the guest's vsock device, to which the host connects.
    Vsock(u32),
}

/// The disks of a VM. As text: how they are told apart, a colon, and the attached disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// How the guest tells the disks apart.
    pub naming: DiskNaming,
    /// The attached disks in the order of their attachment. The guest waits for each. A disk that
    /// is not among them is used if it is there, as hosts of earlier versions list none.
    pub attached: Vec<DiskRole>,
}

/// How a guest tells its disks apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskNaming {
    /// `serial`: the serial of each virtio-blk device is the name of the disk's role.
    Serial,
    /// `order`: the attached disks are `vda`, `vdb` and so on, in this order.
    Order,
}

/// What a disk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRole {
    /// The image, read-only and shared between VMs. Every VM has it.
    Base,
    /// The VM's own disk. Every VM has it.
    Disk,
    /// What the workspace comes on.
    Workspace,
    /// The kernel's modules, read-only and shared between VMs.
    Modules,
}

impl DiskNaming {
    /// The naming's name on the kernel command line.
    pub fn name(self) -> &'static str {
        match self {
            DiskNaming::Serial => "serial",
            DiskNaming::Order => "order",
        }
    }
}

impl DiskRole {
    /// The role's name on the kernel command line.
    pub fn name(self) -> &'static str {
        match self {
            DiskRole::Base => "base",
            DiskRole::Disk => "disk",
            DiskRole::Workspace => "workspace",
            DiskRole::Modules => "modules",
        }
    }
}

impl fmt::Display for BootConfig {
    /// Writes the words of the kernel command line, separated by spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GuestIdentity { hostname, machine_id, net } = &self.identity;
        write!(f, "banger.hostname={hostname}")?;
        if let Some(id) = machine_id {
            write!(f, " banger.machine_id={id}")?;
        }
        if let Some(net) = net {
            write!(f, " banger.net={net}")?;
        }
        write!(f, " banger.agent={} banger.disks={}", self.agent, self.disks)?;
        if self.volatile {
            f.write_str(" banger.volatile")?;
        }
        Ok(())
    }
}

impl fmt::Display for AgentDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgentDevice::VirtioSerial(name) => write!(f, "virtio-serial:{name}"),
            AgentDevice::Vsock(port) => write!(f, "vsock:{port}"),
        }
    }
}

impl fmt::Display for DiskConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<_> = self.attached.iter().map(|role| role.name()).collect();
        write!(f, "{}:{}", self.naming.name(), roles.join(","))
    }
}
