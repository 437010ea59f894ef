//! Finding the disks and the agent's port among the virtio devices.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOCTTY, O_NONBLOCK};

use super::BootError;
use super::uevent::Uevents;
use crate::boot_config::{AgentDevice, DiskConfig, DiskNaming, DiskRole};

/// What drivers sysfs shows, built in or loaded, by the names of their modules.
const BUS: (&str, &str) = ("virtio_mmio", "bus/platform/drivers/virtio-mmio");
const DRIVERS: [(&str, &str); 3] =
    [BUS, ("virtio_console", "bus/virtio/drivers/virtio_console"), ("virtio_blk", "bus/virtio/drivers/virtio_blk")];
/// What drivers of the network card sysfs shows, by the names of their modules.
const NETWORK_DRIVERS: [(&str, &str); 2] = [BUS, ("virtio_net", "bus/virtio/drivers/virtio_net")];
/// What file systems /proc/filesystems lists.
const FILESYSTEMS: [&str; 2] = ["ext4", "overlay"];

/// Makes sure that the kernel has what every boot needs, so that nothing is waited for that cannot
/// appear.
pub(super) fn check_drivers() -> Result<(), BootError> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let filesystems = missing_filesystems(&known);
    complain_of(missing_drivers(Path::new("/sys"), &DRIVERS).chain(filesystems).collect())
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

/// Opens the agent's device, non-blocking.
pub(super) fn open_agent_device(device: &AgentDevice, uevents: &Uevents) -> Result<OwnedFd, BootError> {
    match device {
        AgentDevice::VirtioSerial(name) => open_virtio_serial(name, uevents),
        AgentDevice::Vsock(_) => Err(BootError::Setting(format!("banger.agent={device}"))),
    }
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
        let missing = |drivers| missing_drivers(sys.path(), drivers).collect::<Vec<_>>();
        assert_eq!(missing(&DRIVERS), ["virtio_mmio", "virtio_console", "virtio_blk"]);
        for (_, path) in DRIVERS {
            fs::create_dir_all(sys.path().join(path)).unwrap();
        }
        assert_eq!((missing(&DRIVERS), missing(&NETWORK_DRIVERS)), (vec![], vec!["virtio_net"]));
        let missing = |known: &'static str| missing_filesystems(known).collect::<Vec<_>>();
        assert_eq!(missing("nodev\tproc\n\tvfat\n"), ["ext4", "overlay"]);
        assert_eq!(missing("nodev\toverlay\n\text3\n"), ["ext4"]);
        assert_eq!(missing("nodev\toverlay\n\text4\n"), [""; 0]);
    }
}
