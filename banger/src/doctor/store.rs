//! Checks of what banger stores: images, kernels and VMs, and of the disk that they are on.

use std::path::{Path, PathBuf};

use banger_image::Store;
use banger_vmm::{VmRecord, VmState, printable};
use nix::sys::statvfs::statvfs;

use super::Check;
use crate::config::{DEFAULT_KERNEL, Settings};
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::output::units::{bytes, count};
use crate::store::catalog::catalog;
use crate::store::images::Images;
use crate::store::kernels::Kernels;
use crate::vm::machine::Machines;
use crate::vm::ownership;

/// Free space, in bytes, below which a check warns, and below which it fails: the image with
/// everything takes 1.3 GB, and twice that while it is built.
const LITTLE: u64 = 8 << 30;
const TOO_LITTLE: u64 = 1 << 30;

/// Checks that no other user may write to what banger stores.
pub(super) fn permissions(paths: &Paths) -> Check {
    const NAME: &str = "permissions";
    match paths.check() {
        Ok(()) => Check::ok(NAME, format!("nobody else may write to {}", paths.data.display())),
        Err(error) => Check::fail(NAME, error.message).with_fix(error.hints.join("; ")),
    }
}

/// Checks that banger may write to its directories, and that their disk has free space.
pub(super) fn space(paths: &Paths) -> Check {
    const NAME: &str = "disk";
    let there = existing(&paths.data);
    if !there.is_dir() {
        return Check::fail(NAME, format!("`{}` is no folder, and banger keeps everything below it", there.display()))
            .with_fix("set HOME or XDG_DATA_HOME to a folder");
    }
    let free = match statvfs(&there) {
        Ok(found) => found.blocks_available().saturating_mul(found.fragment_size()),
        Err(error) => return Check::fail(NAME, format!("{}: {error}", there.display())),
    };
    let found = format!("{} free for {}", bytes(free), paths.data.display());
    let writable = nix::unistd::access(&there, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK);
    if let Err(error) = writable {
        return Check::fail(NAME, format!("banger may not write to {}: {}", there.display(), error.desc()))
            .with_fix("make it yours, or set XDG_DATA_HOME to a folder that is");
    }
    let fix = "banger prune, banger image prune; banger du shows what takes the room";
    match free {
        ..TOO_LITTLE => Check::fail(NAME, found).with_fix(fix),
        TOO_LITTLE..LITTLE => Check::warn(NAME, found).with_fix(fix),
        _ => Check::ok(NAME, found),
    }
}

/// The nearest existing ancestor of a path, which may not be a directory.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Whether image and kernel of a new VM are in the store, so that nothing has to be built.
pub(super) fn has_all(settings: &Settings, paths: &Paths, ui: &Ui) -> bool {
    let image = Images::new(paths, ui).store().image(&Images::store_name(settings.image()));
    let kernel = image.ok().flatten().map(|image| image.manifest.kernel);
    kernel.is_some_and(|kernel| Kernels::new(paths, ui).store().kernel(&kernel).is_ok_and(|kernel| kernel.is_some()))
}

/// Checks that the image of a new VM is in the store or can be pulled, and that stored images can
/// be read.
pub(super) fn images(settings: Option<&Settings>, paths: &Paths, ui: &Ui) -> Check {
    const NAME: &str = "images";
    let images = Images::new(paths, ui);
    let Some(settings) = settings else {
        return Check::warn(NAME, "the configuration does not say which is wanted");
    };
    let default = settings.image();
    let look = || -> Result<Check, CommandError> {
        let here = images.names()?;
        let found = count(here.len() as u64, "image is here", "images are here");
        Ok(match images.is_to_be_had(default)? {
            _ if here.iter().any(|name| name == default) => {
                Check::ok(NAME, format!("{found}, `{default}` for new VMs too"))
            }
            true => Check::ok(NAME, format!("{found}; `{default}` for new VMs comes when it is first wanted")),
            false => {
                Check::fail(NAME, format!("`{default}`, which new VMs are made from, is neither here nor in a catalog"))
                    .with_fix("banger config get default_image_name; banger image list")
            }
        })
    };
    look().unwrap_or_else(|error| Check::fail(NAME, error.message).with_fix(error.hints.join("; ")))
}

/// Checks that the kernel of a new VM is in the store or can be pulled, and that stored kernels can
/// be read.
pub(super) fn kernels(paths: &Paths, ui: &Ui) -> Check {
    const NAME: &str = "kernels";
    match Kernels::new(paths, ui).names() {
        Ok(here) if here.iter().any(|name| name == DEFAULT_KERNEL) => Check::ok(NAME, here.join(", ")),
        Ok(_) => Check::ok(NAME, format!("`{DEFAULT_KERNEL}` comes when it is first wanted")),
        Err(error) => Check::fail(NAME, error.message).with_fix(error.hints.join("; ")),
    }
}

/// Checks that VMs match their records, and that killed processes have left nothing.
pub(super) fn vms(fix: bool, paths: &Paths, ui: &Ui) -> Check {
    const NAME: &str = "vms";
    let (machines, images) = (Machines::new(paths, ui), Images::new(paths, ui));
    let look = || -> Result<Check, CommandError> {
        let (mut running, mut broken, mut abandoned) = (0u64, Vec::new(), 0u64);
        let all = machines.all()?;
        for vm in &all {
            match (vm.record(), vm.state()) {
                (Err(error), _) | (_, Err(error)) => broken.push(format!("`{}`: {error}", vm.name())),
                (_, Ok(VmState::Failed { reason })) => broken.push(format!("`{}` has failed: {reason}", vm.name())),
                (Ok(record), Ok(state)) => {
                    broken.extend(missing(&record, &images, paths, ui).map(|what| format!("`{}`: {what}", vm.name())));
                    running += u64::from(matches!(state, VmState::Running { .. } | VmState::Starting));
                    abandoned += u64::from(ownership::is_abandoned(vm, &record));
                }
            }
        }
        if !broken.is_empty() {
            let found = printable(broken.join("; ").as_bytes());
            return Ok(Check::fail(NAME, found).with_fix("banger stop NAME, and banger logs NAME for what it said; banger delete NAME if nothing in it is needed"));
        }
        let found = format!("{}, {running} running", count(all.len() as u64, "VM", "VMs"));
        let leftovers = machines.store().leftovers()?.len() + Store::new(&paths.data).leftovers()?.len();
        if leftovers > 0 || abandoned > 0 {
            let left = count(leftovers as u64 + abandoned, "thing", "things");
            return Ok(Check::warn(NAME, format!("{found}; commands that were killed have left {left}")).fix_if(
                fix,
                || {
                    machines.sweep();
                    machines.store().sweep()?;
                    Store::new(&paths.data).sweep()?;
                    Ok(format!("{found}; removed {left} that killed commands had left"))
                },
            ));
        }
        Ok(Check::ok(NAME, found))
    };
    look().unwrap_or_else(|error| Check::fail(NAME, error.message).with_fix(error.hints.join("; ")))
}

/// What a VM needs to start and is missing, as text: its image, or its kernel.
fn missing(record: &VmRecord, images: &Images<'_>, paths: &Paths, ui: &Ui) -> Option<String> {
    let is_there = |found: banger_image::Result<bool>| found.unwrap_or(false);
    if !is_there(images.store().image(&record.image).map(|image| image.is_some())) {
        return Some(format!("its image `{}` is not there any more, or cannot be read", record.image));
    }
    let kernels = images.kernels();
    let is_here = is_there(kernels.store().kernel(&record.kernel).map(|kernel| kernel.is_some()));
    // One of a catalog comes again by itself.
    let gone = !is_here && catalog(paths, ui).is_ok_and(|catalog| !catalog.kernels.contains_key(&record.kernel));
    gone.then(|| format!("its kernel `{}` is neither here nor in a catalog", record.kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directory_is_judged_by_its_nearest_ancestor() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        // A home that is a file.
        std::fs::write(folder.path().join("a"), "").unwrap();
        assert_eq!(existing(&folder.path().join("a/b")), folder.path().join("a"));
    }
}
