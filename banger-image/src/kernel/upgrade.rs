//! A stored kernel of an earlier version of banger, which has no uncompressed kernel and not the
//! modules for Firecracker.

use std::path::Path;

use ext4_view::Ext4;

use super::format::KernelFile;
use super::import::FIRECRACKER;
use super::{BOOT_MODULES, BuiltKernel, MODULES, VMLINUZ, modules};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Adds to the kernel in `dir`, whose files for the boot are `boot_modules`, what a new one has. No
/// file that is there changes, so VMs may use it meanwhile.
pub(crate) fn upgrade(dir: &Path, boot_modules: &[String], progress: &dyn Progress) -> Result<BuiltKernel> {
    let vmlinuz = dir.join(VMLINUZ);
    let file = KernelFile::read(&vmlinuz)?;
    let disk = dir.join(MODULES);
    if !disk.is_file() {
        return BuiltKernel::new(file, None, dir, &vmlinuz, progress);
    }
    progress.phase("reading the modules");
    let unreadable = |error| Error::Modules { reason: format!("`{}` cannot be read: {error}", disk.display()) };
    let mut tree = Ext4::load_from_path(&disk).map_err(unreadable)?;
    // Each is behind what it needs, so these keep their names.
    let former: Vec<String> = boot_modules.iter().map(|file| modules::name_of_file(file)).collect();
    let release = file.release().unwrap_or_default().to_owned();
    let found = modules::extract(&mut tree, &release, &former, &FIRECRACKER, &dir.join(BOOT_MODULES))?;
    BuiltKernel::new(file, Some(found), dir, &vmlinuz, progress)
}
