//! A kernel that the user has built, or has from elsewhere.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::format::KernelFile;
use super::{BOOT_MODULES, BuiltKernel, MODULES, VMLINUZ, modules};
use crate::error::{Error, Result};
use crate::ext4::{Metadata, Options, Timestamp, Writer};
use crate::progress::Progress;

/// What every boot needs of a kernel, built in or as a module: the bus, the agent's pipe, the disks
/// and their file system; the network card comes behind these, and what is needed last behind it.
pub(crate) const BOOT: [&str; 6] = ["virtio_mmio", "virtio_console", "virtio_blk", "ext4", "virtio_net", "overlay"];
/// What Firecracker's devices need beside these, and a kernel for QEMU may lack.
pub(crate) const FIRECRACKER: [&str; 5] =
    ["vsock", "vmw_vsock_virtio_transport_common", VSOCK_TRANSPORT, "virtio_rng", "virtio_balloon"];
/// The driver of virtio's vsock, which the agent's connection needs under Firecracker.
pub(crate) const VSOCK_TRANSPORT: &str = "vmw_vsock_virtio_transport";
/// Links of `make modules_install` to the folders of the machine that built the modules.
const OF_THE_BUILD: [&[u8]; 2] = [b"build", b"source"];
/// Folders within folders that are followed: the kernel's own have less than ten.
const MAX_DEPTH: usize = 64;

/// Copies a kernel and its modules, if there are any, into the folder `dir`, having made sure that
/// they belong together and that a VM can boot with them.
pub(crate) fn import(
    kernel: &Path,
    modules: Option<&Path>,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<BuiltKernel> {
    let file = KernelFile::read(kernel)?;
    let folder = match (modules, file.release()) {
        (Some(modules), Some(release)) => Some((of_release(modules, release)?, release)),
        (Some(_), None) => {
            let reason = "the kernel does not say its release, so nothing tells whether they are its own".into();
            return Err(Error::Modules { reason });
        }
        (None, _) => None,
    };

    progress.phase("copying the kernel");
    let vmlinuz = dir.join(VMLINUZ);
    let mut source = std::fs::File::open(kernel).map_err(Error::of_input(kernel))?;
    io::copy(&mut source, &mut fs::File::create_new(&vmlinuz)?)?;
    // What was looked at may have been replaced since.
    let copied = KernelFile::read(&vmlinuz)?;
    if copied.banner != file.banner {
        return Err(Error::NoKernel { path: kernel.to_owned(), reason: "it changes".into() });
    }
    let boot_modules = match folder {
        None => None,
        Some((folder, release)) => {
            progress.phase("copying the modules");
            let disk = fs::OpenOptions::new().read(true).write(true).create_new(true).open(dir.join(MODULES))?;
            let options = Options::image().derived_from(format!("modules of {release}").as_bytes());
            let mut disk = Writer::new(disk.into_file(), options)?;
            add(&mut disk, &folder, release.as_bytes(), 0)?;
            let boot_modules = modules::extract(&mut disk, release, &BOOT, &FIRECRACKER, &dir.join(BOOT_MODULES))?;
            disk.finish()?;
            Some(boot_modules)
        }
    };
    BuiltKernel::new(copied, boot_modules, dir, kernel, progress)
}

/// The folder with the modules of a release: `folder` if it has the release's name, as in
/// `/lib/modules`, or the one of that name in it.
fn of_release(folder: &Path, release: &str) -> Result<PathBuf> {
    let folder = folder.canonicalize().map_err(Error::of_input(folder))?;
    let below = folder.join(release);
    if folder.file_name().is_some_and(|name| name == release) {
        Ok(folder)
    } else if below.is_dir() {
        Ok(below)
    } else {
        let name = folder.display();
        let reason = match folder.join("modules.dep").exists() {
            true => format!("`{name}` is not named after the kernel's release, {release}, so it is of another one"),
            false => format!("`{name}` has none of the kernel's release, {release}"),
        };
        Err(Error::Modules { reason })
    }
}

/// Adds what is in `folder` below `path`, as root's. No link is followed.
fn add(disk: &mut Writer, folder: &Path, path: &[u8], depth: usize) -> Result<()> {
    let strange = |what: &str| Error::Modules { reason: format!("`{}` {what}", folder.display()) };
    if depth == MAX_DEPTH {
        return Err(strange("is too deep"));
    }
    disk.directory(path, metadata(&fs::symlink_metadata(folder)?))?;
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let is_link = entry.file_type()?.is_symlink();
        if depth == 0 && is_link && OF_THE_BUILD.contains(&name.as_bytes()) {
            continue;
        }
        let inside = [path, b"/", name.as_bytes()].concat();
        let there = entry.metadata()?;
        if there.is_dir() {
            add(disk, &entry.path(), &inside, depth + 1)?;
        } else if is_link {
            let target = fs::read_link(entry.path())?;
            disk.symlink(&inside, metadata(&there), target.as_os_str().as_bytes())?;
        } else if there.is_file() {
            disk.file(&inside, metadata(&there), &mut fs::File::open(entry.path())?)?;
        } else {
            return Err(strange("has what is neither file, folder nor link"));
        }
    }
    Ok(())
}

/// Modes and times; whoever has built the modules is nobody in the guest.
fn metadata(there: &std::fs::Metadata) -> Metadata {
    let nanoseconds = u32::try_from(there.mtime_nsec()).unwrap_or_default();
    Metadata {
        mode: (there.permissions().mode() & 0o755) as u16,
        mtime: Timestamp { seconds: there.mtime(), nanoseconds },
        ..Metadata::default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::kernel::format::fixtures::bz_image;
    use crate::kernel::modules::tests::module;
    use crate::progress::Silent;

    const RELEASE: &str = "6.12.1-mine";

    /// A folder with a kernel and a folder of modules, all but one of which are built in.
    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("bzImage");
        fs::write(&kernel, bz_image(&format!("{RELEASE} (me) #1"))).unwrap();
        let modules = folder.path().join("lib/modules").join(RELEASE);
        fs::create_dir_all(modules.join("kernel/fs")).unwrap();
        fs::write(modules.join("modules.dep"), "kernel/fs/overlay.ko.zst:\n").unwrap();
        let builtin = BOOT[..5].iter().map(|name| format!("kernel/{name}.ko\n")).collect::<String>();
        fs::write(modules.join("modules.builtin"), builtin).unwrap();
        fs::write(modules.join("kernel/fs/overlay.ko.zst"), zstd::encode_all(&module(RELEASE)[..], 3).unwrap())
            .unwrap();
        symlink("/usr/src/linux", modules.join("build")).unwrap();
        (folder, kernel, modules)
    }

    fn import_to(dir: &str, place: &Path, kernel: &Path, modules: Option<&Path>) -> Result<BuiltKernel> {
        let dir = place.join(dir);
        fs::create_dir(&dir).unwrap();
        import(kernel, modules, &dir, &Silent)
    }

    #[test]
    fn import_copies_kernel_and_decompresses_boot_modules() {
        let (place, kernel, modules) = place();
        let place = place.path();
        let built = import_to("whole", place, &kernel, Some(&modules)).unwrap();
        assert_eq!((built.release.as_deref(), built.version.as_str()), (Some(RELEASE), "6.12.1-mine (me) #1"));
        assert_eq!(built.boot_modules, ["00-overlay.ko"]);
        assert_eq!(fs::read(place.join("whole/boot/00-overlay.ko")).unwrap(), module(RELEASE));
        assert_eq!(fs::read(place.join("whole/vmlinuz")).unwrap(), fs::read(&kernel).unwrap());
        let disk = ext4_view::Ext4::load_from_path(place.join("whole/modules.ext4")).unwrap();
        let path = |name: &str| format!("/{RELEASE}/{name}");
        assert_eq!(disk.read(path("modules.dep").as_str()).unwrap(), fs::read(modules.join("modules.dep")).unwrap());
        assert!(disk.exists(path("kernel/fs/overlay.ko.zst").as_str()).unwrap());
        assert!(disk.symlink_metadata(path("build").as_str()).is_err());
        // The folder that it is in does as well, and a kernel may have no modules.
        import_to("parent", place, &kernel, modules.parent()).unwrap();
        assert!(import_to("none", place, &kernel, None).unwrap().boot_modules.is_empty());
    }

    #[test]
    fn import_refuses_mismatched_or_broken_modules() {
        let (place, kernel, modules) = place();
        let place = place.path();
        let error = |dir: &str| match import_to(dir, place, &kernel, Some(&modules)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{dir}"),
        };
        fs::write(modules.join("kernel/fs/overlay.ko.zst"), zstd::encode_all(&module("6.12.2")[..], 3).unwrap())
            .unwrap();
        assert!(error("other").contains("is for 6.12.2, and the kernel is 6.12.1-mine"));
        fs::write(modules.join("kernel/fs/overlay.ko.zst"), "junk").unwrap();
        assert!(error("junk").contains("cannot be decompressed"));
        fs::remove_file(modules.join("kernel/fs/overlay.ko.zst")).unwrap();
        assert!(error("gone").contains("which is not there"));
        fs::write(modules.join("modules.builtin"), "kernel/ext4.ko\n").unwrap();
        fs::write(modules.join("modules.dep"), "").unwrap();
        let missing = error("missing");
        assert!(
            missing.contains("`virtio_mmio`, `virtio_console`, `virtio_blk`, `virtio_net`, `overlay`"),
            "{missing}"
        );
        fs::remove_file(modules.join("modules.dep")).unwrap();
        assert!(error("undepped").contains("depmod"));

        let other = place.join("6.12.2");
        fs::rename(&modules, &other).unwrap();
        fs::write(other.join("modules.dep"), "").unwrap();
        let renamed = import_to("renamed", place, &kernel, Some(&other)).map(drop).unwrap_err();
        assert!(renamed.to_string().contains("of another one"), "{renamed}");
        let nowhere = place.join("nowhere");
        for (dir, kernel, modules) in [("unread", &nowhere, None), ("alone", &kernel, Some(&*nowhere))] {
            let error = import_to(dir, place, kernel, modules).map(drop).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot open `{}`: No such file", nowhere.display())), "{error}");
        }
        let elsewhere = import_to("elsewhere", place, &kernel, Some(&place.join("lib"))).map(drop).unwrap_err();
        assert!(elsewhere.to_string().contains("has none of the kernel's release"), "{elsewhere}");
    }
}
