//! Finding the disks and the agent's port among the virtio devices.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOCTTY, O_NONBLOCK, VMADDR_CID_ANY};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen, socket};

use super::BootError;
use super::uevent::Uevents;
use crate::boot_config::{AgentDevice, DiskConfig, DiskNaming, DiskRole};
use crate::guest::AgentPort;

/// What drivers sysfs shows, built in or loaded, by the names of their modules.
const BUS: (&str, &str) = ("virtio_mmio", "bus/platform/drivers/virtio-mmio");
const DRIVERS: [(&str, &str); 2] = [BUS, ("virtio_blk", "bus/virtio/drivers/virtio_blk")];
/// What driver of an agent's device sysfs shows, by the names of their modules.
const SERIAL_DRIVER: (&str, &str) = ("virtio_console", "bus/virtio/drivers/virtio_console");
const VSOCK_DRIVER: (&str, &str) = ("vmw_vsock_virtio_transport", "bus/virtio/drivers/vmw_vsock_virtio_transport");
/// What drivers of the network card sysfs shows, by the names of their modules.
const NETWORK_DRIVERS: [(&str, &str); 2] = [BUS, ("virtio_net", "bus/virtio/drivers/virtio_net")];
/// What file systems /proc/filesystems lists.
const FILESYSTEMS: [&str; 2] = ["ext4", "overlay"];

/// Makes sure that the kernel has what every boot needs, so that nothing is waited for that cannot
/// appear.
pub(super) fn check_drivers(agent: &AgentDevice) -> Result<(), BootError> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let filesystems = missing_filesystems(&known);
    complain_of(missing_drivers(Path::new("/sys"), &drivers(agent)).chain(filesystems).collect())
}

/// The drivers that a boot with this device needs.
fn drivers(agent: &AgentDevice) -> Vec<(&'static str, &'static str)> {
    let of_agent = match agent {
        AgentDevice::VirtioSerial(_) => SERIAL_DRIVER,
        AgentDevice::Vsock(_) => VSOCK_DRIVER,
    };
    DRIVERS.into_iter().chain([of_agent]).collect()
}

/// Makes sure that the kernel has what a network card needs.
pub(super) fn check_network_drivers() -> Result<(), BootError> {
    complain_of(missing_drivers(Path::new("/sys"), &NETWORK_DRIVERS).collect())
}

fn complain_of(missing: Vec<&str>) -> Result<(), BootError> {
    if missing.is_empty() { Ok(()) } else { Err(BootError::NoDrivers(missing.join(", "))) }
}

/// The drivers that are missing by what `sys` shows.
fn missing_drivers(sys: &Path, drivers: &[(&'static str, &str)]) -> impl Iterator<Item = &'static str> {
    drivers.iter().filter(|(_, path)| !sys.join(path).exists()).map(|(name, _)| *name)
}

/// The file systems that are missing by a list as in /proc/filesystems.
fn missing_filesystems(known: &str) -> impl Iterator<Item = &'static str> {
    let is_known = |name: &&str| known.lines().any(|line| line.split_whitespace().last() == Some(*name));
    FILESYSTEMS.into_iter().filter(move |name| !is_known(name))
}

/// The block devices of a VM, by their roles.
pub(super) struct Disks {
    /// See [`DiskRole::Base`].
    pub(super) base: PathBuf,
    /// See [`DiskRole::Disk`].
    pub(super) disk: PathBuf,
    /// See [`DiskRole::Workspace`]; `None` if the host did not attach it.
    pub(super) workspace: Option<PathBuf>,
    /// See [`DiskRole::Modules`]; `None` if the host did not attach it.
    pub(super) modules: Option<PathBuf>,
}

impl Disks {
    /// Waits for the disks that the host has attached.
    ///
    /// # Errors
    /// [`BootError::NoDevice`] for one that does not appear, [`BootError::WrongDisk`] for one that
    /// is not what it was attached as.
    pub(super) fn find(config: &DiskConfig, uevents: &Uevents) -> Result<Self, BootError> {
        match config.naming {
            DiskNaming::Serial => Disks::find_by_serial(&config.attached, uevents),
            DiskNaming::Order => Disks::find_by_order(&config.attached, uevents),
        }
    }

    fn find_by_serial(attached: &[DiskRole], uevents: &Uevents) -> Result<Self, BootError> {
        let device = |role: DiskRole| named("/sys/block", "serial", role.name());
        let required =
            |role: DiskRole| uevents.wait_for(&format!("the disk with the serial `{}`", role.name()), || device(role));
        // All disks are probed in one pass, so one that is not listed is there by now as well.
        let optional = |role| match attached.contains(&role) {
            true => required(role).map(Some),
            false => Ok(device(role)),
        };
        Ok(Disks {
            base: required(DiskRole::Base)?,
            disk: required(DiskRole::Disk)?,
            workspace: optional(DiskRole::Workspace)?,
            modules: optional(DiskRole::Modules)?,
        })
    }

    fn find_by_order(attached: &[DiskRole], uevents: &Uevents) -> Result<Self, BootError> {
        let find = |role: DiskRole| {
            let Some(name) = name_by_order(attached, role) else { return Ok(None) };
            let node = Path::new("/dev").join(&name);
            let attribute = Path::new("/sys/block").join(&name).join("ro");
            let is_read_only = uevents.wait_for(&format!("the disk {name}, `{}`,", role.name()), || {
                let text = fs::read_to_string(&attribute).ok().filter(|_| node.exists())?;
                Some(text.trim_end() != "0")
            })?;
            check_access(&name, role, is_read_only)?;
            Ok(Some(node))
        };
        let missing = |role: DiskRole| move || BootError::NoDevice(format!("the disk `{}`", role.name()));
        Ok(Disks {
            base: find(DiskRole::Base)?.ok_or_else(missing(DiskRole::Base))?,
            disk: find(DiskRole::Disk)?.ok_or_else(missing(DiskRole::Disk))?,
            workspace: find(DiskRole::Workspace)?,
            modules: find(DiskRole::Modules)?,
        })
    }
}

/// The kernel's name of the virtio-blk device that was attached with this role.
fn name_by_order(attached: &[DiskRole], role: DiskRole) -> Option<String> {
    let letter = ('a'..='z').nth(attached.iter().position(|attached| *attached == role)?)?;
    Some(format!("vd{letter}"))
}

/// Makes sure that a disk can be written if and only if one with its role can: in another order,
/// the guest would write to what it shares with others.
fn check_access(name: &str, role: DiskRole, is_read_only: bool) -> Result<(), BootError> {
    let role_is_read_only = matches!(role, DiskRole::Base | DiskRole::Modules);
    match role_is_read_only == is_read_only {
        true => Ok(()),
        false => Err(BootError::WrongDisk {
            name: name.to_owned(),
            role: role.name(),
            access: if is_read_only { "read-only" } else { "writable" },
        }),
    }
}

/// Opens the agent's device.
pub(super) fn open_agent_device(device: &AgentDevice, uevents: &Uevents) -> Result<AgentPort, BootError> {
    match device {
        AgentDevice::VirtioSerial(name) => open_virtio_serial(name, uevents).map(AgentPort::Pipe),
        AgentDevice::Vsock(port) => listen_on_vsock(*port, uevents).map(AgentPort::Vsock),
    }
}

/// Listens at this vsock port, which nobody else can from here on.
fn listen_on_vsock(port: u32, uevents: &Uevents) -> Result<OwnedFd, BootError> {
    uevents.wait_for("the vsock device", || has_device(Path::new("/sys"), VSOCK_DEVICE).then_some(()))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)
        .map_err(BootError::system("make a vsock socket"))?;
    bind(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, port))
        .map_err(BootError::system("take the agent's vsock port"))?;
    listen(&socket, Backlog::MAXCONN).map_err(BootError::system("listen at the agent's vsock port"))?;
    Ok(socket)
}

/// The virtio device IDs of what a VM may lack (virtio specification, section 5).
pub(super) const ENTROPY_DEVICE: u32 = 4;
pub(super) const BALLOON_DEVICE: u32 = 5;
const VSOCK_DEVICE: u32 = 19;

/// Whether the VM has a virtio device of this ID, by what `sys` shows.
pub(super) fn has_device(sys: &Path, id: u32) -> bool {
    let devices = fs::read_dir(sys.join("bus/virtio/devices")).into_iter().flatten().flatten();
    let id_of = |device: &Path| {
        let text = fs::read_to_string(device.join("device")).ok()?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    devices.into_iter().any(|device| id_of(&device.path()) == Some(id))
}

/// Opens a virtio-serial port. A port has one opener at a time: holding it from here on keeps every
/// other process of the guest from posing as the agent.
fn open_virtio_serial(name: &str, uevents: &Uevents) -> Result<OwnedFd, BootError> {
    let what = format!("the virtio-serial port `{name}`");
    let path = uevents.wait_for(&what, || named("/sys/class/virtio-ports", "name", name))?;
    let port: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NOCTTY | O_NONBLOCK)
        .open(&path)
        .map_err(BootError::io("open", &path))?;
    Ok(port.into())
}

/// Waits for the network interface of that name.
pub(super) fn wait_for_interface(uevents: &Uevents, name: &'static str) -> Result<(), BootError> {
    let path = Path::new("/sys/class/net").join(name);
    uevents.wait_for("the network interface `eth0`", || path.exists().then_some(()))
}

/// The device node of the entry in `class` whose `attribute` reads `value`.
fn named(class: &str, attribute: &str, value: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(class).ok()?;
    for entry in entries.flatten() {
        let read = fs::read_to_string(entry.path().join(attribute)).unwrap_or_default();
        let node = Path::new("/dev").join(entry.file_name());
        if read.trim_end() == value && node.exists() {
            return Some(node);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_config::AGENT_PORT;

    #[test]
    fn virtio_devices_are_told_apart_by_their_ids() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!has_device(sys.path(), VSOCK_DEVICE));
        for (name, id) in [("virtio0", "0x0002\n"), ("virtio1", "0x0013\n")] {
            let device = sys.path().join("bus/virtio/devices").join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("device"), id).unwrap();
        }
        assert!(has_device(sys.path(), VSOCK_DEVICE) && !has_device(sys.path(), BALLOON_DEVICE));
    }

    #[test]
    fn disks_by_order_have_the_names_that_the_kernel_counts() {
        let attached = [DiskRole::Base, DiskRole::Disk, DiskRole::Modules];
        let name = |role| name_by_order(&attached, role);
        assert_eq!(name(DiskRole::Base).as_deref(), Some("vda"));
        assert_eq!(name(DiskRole::Disk).as_deref(), Some("vdb"));
        assert_eq!(name(DiskRole::Modules).as_deref(), Some("vdc"));
        assert_eq!(name(DiskRole::Workspace), None);
    }

    #[test]
    fn disk_of_the_wrong_access_is_named_with_its_role() {
        for (role, read_only) in
            [(DiskRole::Base, true), (DiskRole::Modules, true), (DiskRole::Disk, false), (DiskRole::Workspace, false)]
        {
            check_access("vda", role, read_only).unwrap();
            let error = check_access("vda", role, !read_only).unwrap_err().to_string();
            let access = if read_only { "vda is writable" } else { "vda is read-only" };
            assert!(error.contains(role.name()) && error.contains(access), "{error}");
        }
    }

    #[test]
    fn missing_drivers_and_filesystems_are_named() {
        let sys = tempfile::tempdir().unwrap();
        let missing = |drivers: &[_]| missing_drivers(sys.path(), drivers).collect::<Vec<_>>();
        let serial = drivers(&AgentDevice::VirtioSerial("banger.0".to_owned()));
        let vsock = drivers(&AgentDevice::Vsock(AGENT_PORT));
        assert_eq!(missing(&serial), ["virtio_mmio", "virtio_blk", "virtio_console"]);
        for (_, path) in &serial {
            fs::create_dir_all(sys.path().join(path)).unwrap();
        }
        assert_eq!((missing(&serial), missing(&NETWORK_DRIVERS)), (vec![], vec!["virtio_net"]));
        assert_eq!(missing(&vsock), ["vmw_vsock_virtio_transport"]);
        let missing = |known: &'static str| missing_filesystems(known).collect::<Vec<_>>();
        assert_eq!(missing("nodev\tproc\n\tvfat\n"), ["ext4", "overlay"]);
        assert_eq!(missing("nodev\toverlay\n\text3\n"), ["ext4"]);
        assert_eq!(missing("nodev\toverlay\n\text4\n"), [""; 0]);
    }
}
