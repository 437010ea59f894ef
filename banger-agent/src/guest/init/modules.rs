//! The kernel modules that the boot itself needs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::BootError;
use super::devices::{BALLOON_DEVICE, ENTROPY_DEVICE, has_device};
use crate::boot_config::AgentDevice;

/// With any of its "ignore" flags the kernel does not check the module's signature, an RSA
/// operation that costs an emulated CPU 15 ms per module. The modules come from where the kernel
/// itself comes from; should they not fit it, the versions of their symbols tell.
const UNVERIFIED: ModuleInitFlags = ModuleInitFlags::MODULE_INIT_IGNORE_VERMAGIC;

/// Those of the network card, by the names that the kernel gives them.
const NETWORK: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// Those that only guests with this device of the agent's need.
const SERIAL: [&str; 1] = ["virtio_console"];
const VSOCK: [&str; 3] = ["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];
/// Those of devices that a VM may lack, and their IDs. A guest with a virtio-serial port has been
/// up without them ever since, and each costs an emulated CPU some 20 ms.
const OPTIONAL: [(&str, u32); 2] = [("virtio_rng", ENTROPY_DEVICE), ("virtio_balloon", BALLOON_DEVICE)];

/// Files of modules, by what they are for, each in the order of their dependencies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Modules {
    /// What comes before all others, and may be needed by any.
    pub(super) shared: Vec<PathBuf>,
    /// The network card's.
    pub(super) network: Vec<PathBuf>,
    /// All others.
    pub(super) other: Vec<PathBuf>,
}

impl Modules {
    /// The modules in `folder` that a guest with this device of the agent's may need. Their names
    /// begin with numbers, in the order of their dependencies. The host decompressed them.
    pub(super) fn find(folder: &Path, agent: &AgentDevice) -> Result<Modules, BootError> {
        let mut names: Vec<OsString> = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(BootError::io("read", folder))?;
        names.sort();
        let mut modules = Modules::default();
        for name in names {
            let path = folder.join(&name);
            let name = module_name(&path);
            let is_needed = match agent {
                AgentDevice::VirtioSerial(_) => {
                    !VSOCK.contains(&&*name) && OPTIONAL.iter().all(|(module, _)| *module != name)
                }
                AgentDevice::Vsock(_) => !SERIAL.contains(&&*name),
            };
            if !is_needed {
                continue;
            }
            let list = match NETWORK.contains(&&*name) {
                true => &mut modules.network,
                false if modules.network.is_empty() => &mut modules.shared,
                false => &mut modules.other,
            };
            list.push(path);
        }
        Ok(modules)
    }
}

/// The kernel's name of the module in this file.
fn module_name(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
    name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').to_owned()
}

/// Whether the VM has the device that this module is for, as far as that is known, by what `sys`
/// shows.
fn has_use(path: &Path, sys: &Path) -> bool {
    let name = module_name(path);
    OPTIONAL.iter().find(|(module, _)| *module == name).is_none_or(|(_, id)| has_device(sys, *id))
}

/// Loads modules one after the other, but for those of devices that the VM lacks.
pub(super) fn load(modules: &[PathBuf]) -> Result<(), BootError> {
    for path in modules {
        if !has_use(path, Path::new("/sys")) {
            continue;
        }
        let module = File::open(path).map_err(BootError::io("open", path))?;
        match finit_module(&module, c"", UNVERIFIED) {
            // EEXIST: loaded already, or built into this kernel.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(BootError::io("load", path)(errno.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_config::AGENT_PORT;

    #[test]
    fn modules_up_to_the_network_are_shared() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["04-overlay.ko", "00-virtio_mmio.ko", "01-net-failover.ko", "03-virtio_net.ko"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |list: &[PathBuf]| -> Vec<_> {
            list.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        let modules = Modules::find(folder.path(), &AgentDevice::Vsock(AGENT_PORT)).unwrap();
        assert_eq!(names(&modules.shared), ["00-virtio_mmio.ko"]);
        assert_eq!(names(&modules.network), ["01-net-failover.ko", "03-virtio_net.ko"]);
        assert_eq!(names(&modules.other), ["04-overlay.ko"]);
    }

    #[test]
    fn modules_of_the_other_device_of_the_agent_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            "00-virtio_mmio.ko",
            "01-virtio_console.ko",
            "02-vsock.ko",
            "03-vmw_vsock_virtio_transport_common.ko",
            "04-vmw_vsock_virtio_transport.ko",
            "05-virtio-rng.ko",
            "06-virtio_balloon.ko",
        ];
        for name in all {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = |agent| {
            let modules = Modules::find(folder.path(), &agent).unwrap();
            let names = modules.shared.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(found(AgentDevice::VirtioSerial("banger.0".to_owned())), all[..2]);
        assert_eq!(found(AgentDevice::Vsock(AGENT_PORT)), [&all[..1], &all[2..]].concat());
    }

    #[test]
    fn module_of_a_device_that_the_vm_lacks_has_no_use() {
        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("bus/virtio/devices/virtio3");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("device"), "0x0004\n").unwrap();
        let has_use = |name| has_use(Path::new(name), sys.path());
        assert!(has_use("/modules/05-virtio-rng.ko") && has_use("/modules/00-virtio_mmio.ko"));
        assert!(!has_use("/modules/06-virtio_balloon.ko"));
    }
}
