//! The kernel modules that the boot itself needs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::BootError;

/// With any of its "ignore" flags the kernel does not check the module's signature, an RSA
/// operation that costs an emulated CPU 15 ms per module. The modules come from where the kernel
/// itself comes from; should they not fit it, the versions of their symbols tell.
const UNVERIFIED: ModuleInitFlags = ModuleInitFlags::MODULE_INIT_IGNORE_VERMAGIC;

/// Those of the network card, by the names that the kernel gives them.
const NETWORK: [&str; 3] = ["failover", "net_failover", "virtio_net"];

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
    /// The modules in `folder`. Their names begin with numbers, in the order of their dependencies.
    /// The host decompressed them.
    pub(super) fn find(folder: &Path) -> Result<Modules, BootError> {
        let mut names: Vec<OsString> = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(BootError::io("read", folder))?;
        names.sort();
        let mut modules = Modules::default();
        for name in names {
            let (path, name) = (folder.join(&name), name.to_string_lossy().replace('-', "_"));
            let is_of_network = NETWORK.iter().any(|module| {
                name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_') == format!("{module}.ko")
            });
            let list = match is_of_network {
                true => &mut modules.network,
                false if modules.network.is_empty() => &mut modules.shared,
                false => &mut modules.other,
            };
            list.push(path);
        }
        Ok(modules)
    }
}

/// Loads modules one after the other.
pub(super) fn load(modules: &[PathBuf]) -> Result<(), BootError> {
    for path in modules {
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

    #[test]
    fn modules_up_to_the_network_are_shared() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["04-overlay.ko", "00-virtio_mmio.ko", "01-net-failover.ko", "03-virtio_net.ko"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |list: &[PathBuf]| -> Vec<_> {
            list.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        let modules = Modules::find(folder.path()).unwrap();
        assert_eq!(names(&modules.shared), ["00-virtio_mmio.ko"]);
        assert_eq!(names(&modules.network), ["01-net-failover.ko", "03-virtio_net.ko"]);
        assert_eq!(names(&modules.other), ["04-overlay.ko"]);
    }
}
