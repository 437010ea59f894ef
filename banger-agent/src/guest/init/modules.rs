//! The kernel modules that the boot itself needs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::BootError;

/// With any of its "ignore" flags the kernel does not check the module's signature, an RSA
/// operation that costs an emulated CPU 15 ms per module. The modules come from where the kernel
/// itself comes from; should they not fit it, the versions of their symbols tell.
const UNVERIFIED: ModuleInitFlags = ModuleInitFlags::MODULE_INIT_IGNORE_VERMAGIC;

/// Loads every module of `folder` in the order of their names, which is the order of their
/// dependencies. The host decompressed them.
pub(super) fn load_all(folder: &Path) -> Result<(), BootError> {
    let mut names: Vec<OsString> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(BootError::io("read", folder))?;
    names.sort();
    for name in names {
        let path = folder.join(name);
        let module = File::open(&path).map_err(BootError::io("open", &path))?;
        match finit_module(&module, c"", UNVERIFIED) {
            // EEXIST: loaded already, or built into this kernel.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(BootError::io("load", &path)(errno.into())),
        }
    }
    Ok(())
}
