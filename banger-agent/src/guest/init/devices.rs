//! Finding the disks and the agent's port among the virtio devices.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOCTTY, O_NONBLOCK};

use super::BootError;
use super::uevent::Uevents;

/// The name of the virtio-serial port that the host listens on.
const AGENT_PORT: &str = "banger.0";

/// What drivers sysfs shows, built in or loaded, by the names of their modules.
const BUS: (&str, &str) = ("virtio_mmio", "bus/platform/drivers/virtio-mmio");
const DRIVERS: [(&str, &str); 3] =
    [BUS, ("virtio_console", "bus/virtio/drivers/virtio_console"), ("virtio_blk", "bus/virtio/drivers/virtio_blk")];
/// The same of what the network card needs.
const NETWORK_DRIVERS: [(&str, &str); 2] = [BUS, ("virtio_net", "bus/virtio/drivers/virtio_net")];
/// The same of file systems, which /proc/filesystems lists.
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

/// The block devices of a VM, by the serial that the host gave each.
#[derive(Debug)]
pub(super) struct Disks {
    /// `base`: the image, shared and read-only.
    pub(super) base: PathBuf,
    /// `disk`: what belongs to this VM.
    pub(super) disk: PathBuf,
    /// `workspace`: what the workspace comes on, if the host attached it.
    pub(super) workspace: Option<PathBuf>,
    /// `modules`: the kernel's other modules, if the host attached them.
    pub(super) modules: Option<PathBuf>,
}

impl Disks {
    /// Waits for the disks that every VM has. All of them are probed in one pass, so the optional
    /// ones are there by then as well.
    pub(super) fn find(uevents: &Uevents) -> Result<Self, BootError> {
        let base = uevents.wait_for("the disk with the serial `base`", || by_serial("base"))?;
        let disk = uevents.wait_for("the disk with the serial `disk`", || by_serial("disk"))?;
        let (workspace, modules) = (by_serial("workspace"), by_serial("modules"));
        Ok(Disks { base, disk, workspace, modules })
    }
}

/// Opens the agent's port, non-blocking. A port has one opener at a time: holding it from here
/// on keeps every other process of the guest from posing as the agent.
pub(super) fn open_agent_port(uevents: &Uevents) -> Result<OwnedFd, BootError> {
    let path = uevents
        .wait_for("the virtio-serial port `banger.0`", || named("/sys/class/virtio-ports", "name", AGENT_PORT))?;
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

fn by_serial(serial: &str) -> Option<PathBuf> {
    named("/sys/block", "serial", serial)
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
    fn drivers_that_a_kernel_lacks_are_named() {
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
