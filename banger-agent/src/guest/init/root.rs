//! The guest's root: an overlay of the shared image and this VM's disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};

use super::BootError;
use super::devices::Disks;
use super::filesystems::{create_folder, mount_from, mount_new};
use super::tree::Tree;
use crate::guest::disks::{DISK_OPTIONS, fill_disk};
use crate::guest::paths::{REPOSITORIES, WORKSPACE};

/// Where the root is put together.
pub(super) const NEW_ROOT: &str = "/newroot";

const BASE: &str = "/base";
const DISK: &str = "/disk";
const MODULES: &str = "/modules-disk";

/// Container engines keep overlays of their own here, and an overlay cannot be the upper layer of
/// another: these come from the ext4 itself.
const NOT_LAYERED: [&str; 4] = ["docker", "containerd", "containers", "buildkit"];

/// Mounts the root at [`NEW_ROOT`] and returns the agent's own folder on the disk.
pub(super) fn mount(disks: &Disks, volatile: bool) -> Result<OwnedFd, BootError> {
    for folder in [BASE, DISK, NEW_ROOT] {
        create_folder(Path::new(folder), 0o755)?;
    }
    // The base is shared by many VMs: not even its journal may be replayed.
    mount_ext4(&disks.base, BASE, MsFlags::MS_RDONLY, "noload")?;
    mount_ext4(&disks.disk, DISK, MsFlags::MS_NOATIME, DISK_OPTIONS)?;
    fill_disk(&disks.disk, Path::new(DISK));

    let agent = Path::new("/disk/agent");
    create_folder(agent, 0o700)?;
    clear_unsynced(Path::new(DISK))?;
    create_folder(Path::new("/disk/upper"), 0o755)?;
    create_folder(Path::new("/disk/work"), 0o755)?;
    // redirect_dir: without it, renaming a folder of the image fails with EXDEV.
    let mut options = "lowerdir=/base,upperdir=/disk/upper,workdir=/disk/work,redirect_dir=on".to_owned();
    if volatile {
        options.push_str(",volatile");
    }
    mount_new("overlay", Path::new(NEW_ROOT), "overlay", MsFlags::empty(), &options)?;

    let tree = Tree::open(Path::new(NEW_ROOT))?;
    tree.create_folder("/tmp", 0o1777)?;
    bind_not_layered(&tree)?;
    prepare_workspaces(disks)?;
    let agent = File::open(agent).map_err(BootError::io("open", agent))?;
    // The overlay, the binds and the open folder hold on to the file systems; the guest has no
    // use for the mounts.
    detach(BASE)?;
    detach(DISK)?;
    Ok(agent.into())
}

/// Empties the layer of an ephemeral VM that did not come up the first time, whose files may be there
/// in part. Linux mounts none that was mounted `volatile` and not unmounted since, which a directory
/// tells it ("Volatile mount" in its Documentation/filesystems/overlayfs.rst).
fn clear_unsynced(disk: &Path) -> Result<(), BootError> {
    if !disk.join("work/work/incompat/volatile").exists() {
        return Ok(());
    }
    for name in ["upper", "work"] {
        let folder = disk.join(name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(BootError::io("clear", &folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The workspace is on no overlay either, where each file is twice as dear to create. It has a disk
/// of its own, which the agent mounts once there is something on it, or a folder on the VM's disk,
/// as additional ones have. The agent shows them where the host wants them.
fn prepare_workspaces(disks: &Disks) -> Result<(), BootError> {
    create_folder(Path::new(WORKSPACE), 0o700)?;
    if disks.workspace.is_none() {
        bind_from_disk("workspace", WORKSPACE)?;
    }
    create_folder(Path::new(REPOSITORIES), 0o700)?;
    bind_from_disk("repositories", REPOSITORIES)
}

fn bind_from_disk(name: &str, place: &str) -> Result<(), BootError> {
    let source = format!("{DISK}/{name}");
    create_folder(Path::new(&source), 0o700)?;
    mount_from(&source, Path::new(place), MsFlags::MS_BIND)
}

fn bind_not_layered(tree: &Tree) -> Result<(), BootError> {
    if !tree.is_folder("/var/lib") {
        return Ok(());
    }
    for name in NOT_LAYERED {
        let source = format!("{DISK}/unlayered/{name}");
        create_folder(Path::new(&source), 0o710)?;
        let place = tree.create_folder(&format!("/var/lib/{name}"), 0o710)?;
        mount_from(&source, &place.path(), MsFlags::MS_BIND)?;
    }
    Ok(())
}

/// Binds each kernel release of the modules disk where `modprobe` looks for it. An image without
/// `/lib` has no `modprobe` either.
pub(super) fn add_modules(disks: &Disks, tree: &Tree) -> Result<(), BootError> {
    let Some(device) = disks.modules.as_deref().filter(|_| tree.is_folder("/lib")) else {
        return Ok(());
    };
    let folder = Path::new(MODULES);
    create_folder(folder, 0o755)?;
    mount_ext4(device, MODULES, MsFlags::MS_RDONLY, "noload")?;
    for entry in fs::read_dir(folder).map_err(BootError::io("read", folder))? {
        let release = entry.map_err(BootError::io("read", folder))?.file_name();
        let release = release.to_string_lossy();
        if release == "lost+found" {
            continue;
        }
        let place = tree.create_folder(&format!("/lib/modules/{release}"), 0o755)?;
        mount_from(&format!("{MODULES}/{release}"), &place.path(), MsFlags::MS_BIND)?;
    }
    detach(MODULES)
}

fn mount_ext4(device: &Path, place: &str, flags: MsFlags, options: &str) -> Result<(), BootError> {
    let device = device.to_string_lossy();
    mount_new(&device, Path::new(place), "ext4", flags, options)
}

fn detach(place: &str) -> Result<(), BootError> {
    umount2(place, MntFlags::MNT_DETACH).map_err(BootError::system("detach a mount"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_of_volatile_mount_that_was_not_unmounted_is_emptied() {
        let disk = tempfile::tempdir().unwrap();
        let files = || ["upper/etc", "work/work", "agent"].map(|name| disk.path().join(name).exists());
        for name in ["upper/etc", "work/work/incompat", "agent"] {
            fs::create_dir_all(disk.path().join(name)).unwrap();
        }
        clear_unsynced(disk.path()).unwrap();
        assert_eq!(files(), [true, true, true]);

        fs::create_dir(disk.path().join("work/work/incompat/volatile")).unwrap();
        clear_unsynced(disk.path()).unwrap();
        assert_eq!(files(), [false, false, true]);
        clear_unsynced(disk.path()).unwrap();
    }
}
