//! Makes a kernel from the tree of a recipe or a bundle, or from files of this host: the kernel
//! image, the uncompressed kernel, its modules as a disk, and the modules that the initramfs loads.

mod elf;
mod format;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod import;
mod modules;
mod payload;
mod upgrade;
mod vmlinux;
mod vsock;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use banger_util::file::{AtomicFile, Durability, remove_unfinished};
use fs_err as fs;
use tar::Archive;

#[cfg(test)]
pub(crate) use self::elf::fixtures::elf;
#[cfg(test)]
pub(crate) use self::format::fixtures::{bz_image, bz_image_of};
pub(crate) use self::import::{BOOT, VSOCK_TRANSPORT, import};
#[cfg(test)]
pub(crate) use self::modules::tests::module;
pub(crate) use self::upgrade::upgrade;

use self::format::{KernelFile, KernelFormat};
use self::import::FIRECRACKER;
use self::modules::BootModules;
use self::vmlinux::{ExtractError, Payload};
use crate::archive::unpack;
use crate::error::{Error, Result};
use crate::ext4::{Options, Writer};
use crate::fetch::pinned::Pinned;
use crate::files::space::check_room;
use crate::progress::Progress;
use crate::recipe::Recipe;

/// The most that a kernel's tree may have, in bytes: one with all debug information has less.
const MAX_BYTES: u64 = 8 << 30;
/// The files of a kernel's directory.
pub(crate) const VMLINUZ: &str = "vmlinuz";
pub(crate) const VMLINUX: &str = "vmlinux";
pub(crate) const MODULES: &str = "modules.ext4";
pub(crate) const BOOT_MODULES: &str = "boot";

/// What is known of a kernel that was built in a directory, beside the files `vmlinuz`, `vmlinux`,
/// `modules.ext4` and `boot/*.ko`.
pub(crate) struct BuiltKernel {
    /// What `uname -r` prints; `None` for what is not Linux.
    pub(crate) release: Option<String>,
    /// The banner, as in `/proc/version`.
    pub(crate) version: String,
    /// Names of the files in `boot/`, in the order to load them.
    pub(crate) boot_modules: Vec<String>,
    /// Names of the modules for Firecracker that the kernel lacks.
    pub(crate) missing_modules: Vec<String>,
    /// Whether QEMU can load it.
    pub(crate) boots_in_qemu: bool,
    pub(crate) vmlinuz_bytes: u64,
    pub(crate) vmlinux_bytes: u64,
    /// In hex.
    pub(crate) vmlinuz_blake3: String,
}

impl BuiltKernel {
    /// The kernel whose `vmlinuz` in `dir` is `file`, with `vmlinux` beside it. `modules` is `None`
    /// if it came without. Errors name it `shown`.
    fn new(
        file: KernelFile,
        modules: Option<BootModules>,
        dir: &Path,
        shown: &Path,
        progress: &dyn Progress,
    ) -> Result<BuiltKernel> {
        let (vmlinuz, vmlinux) = (dir.join(VMLINUZ), dir.join(VMLINUX));
        extract_vmlinux(&file.format, dir, shown, progress)?;
        let modules = match modules {
            Some(modules) => modules,
            None if vsock::may_be_built_in(&vmlinux, &file)? => BootModules::default(),
            None => BootModules { files: Vec::new(), missing: vec![VSOCK_TRANSPORT.to_owned()] },
        };
        let vmlinuz_blake3 = blake3::Hasher::new().update_reader(fs::File::open(&vmlinuz)?)?.finalize().to_string();
        Ok(BuiltKernel {
            release: file.release().map(str::to_owned),
            boot_modules: modules.files,
            missing_modules: modules.missing,
            boots_in_qemu: file.boots_in_qemu(),
            vmlinuz_bytes: fs::metadata(&vmlinuz)?.len(),
            vmlinux_bytes: fs::metadata(&vmlinux)?.len(),
            vmlinuz_blake3,
            version: file.banner,
        })
    }
}

/// Writes the uncompressed kernel beside the `vmlinuz` in `dir`, which errors name `shown`. Whoever
/// reads the directory finds the whole file or none.
fn extract_vmlinux(format: &KernelFormat, dir: &Path, shown: &Path, progress: &dyn Progress) -> Result<()> {
    let (vmlinuz, vmlinux) = (dir.join(VMLINUZ), dir.join(VMLINUX));
    match format {
        KernelFormat::Elf { .. } => match fs::hard_link(&vmlinuz, &vmlinux) {
            // It is a link already.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        },
        KernelFormat::BzImage(place) => {
            progress.phase("extracting the kernel");
            let source = fs::File::open(&vmlinuz)?.into_file();
            let failed = |error: ExtractError| match error {
                ExtractError::Invalid(reason) => Error::NoKernel { path: shown.to_owned(), reason },
                ExtractError::Io(error) => error.into(),
            };
            let payload = Payload::read(&source, place.clone(), vmlinux::MAX_BYTES).map_err(failed)?;
            check_room("the kernel", &[(dir, payload.length())])?;
            remove_unfinished(&vmlinux)?;
            let target = AtomicFile::create(&vmlinux, 0o666)?;
            payload.extract(target.as_file()).map_err(failed)?;
            target.replace(Durability::Synced)?;
        }
    }
    Ok(())
}

/// Builds the kernel in `dir`, with `boot_modules` and what they depend on below `boot/`.
pub(crate) fn build(
    recipe: &Recipe,
    boot_modules: &[String],
    dir: &Path,
    progress: &dyn Progress,
) -> Result<BuiltKernel> {
    let scratch = dir.join("scratch");
    fs::create_dir(&scratch)?;
    let mut modules = recipe.start_image(&dir.join(MODULES))?;
    recipe.run(&scratch, progress, |stream| take(stream, dir, &mut modules))?;
    fs::remove_dir_all(&scratch)?;
    finish(modules, boot_modules, dir, progress)
}

/// Downloads the kernel into `dir`: a tree as a recipe makes it, in a compressed archive.
pub(crate) fn unpack(
    bundle: &Pinned,
    boot_modules: &[String],
    dir: &Path,
    progress: &dyn Progress,
) -> Result<BuiltKernel> {
    let wrong = |reason: String| Error::Image { what: format!("bundle {bundle}"), reason };
    // What it unpacks to is hardly less.
    check_room("the kernel", &[(dir, bundle.size)])?;
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(dir.join(MODULES))?;
    let options = Options::image().derived_from(bundle.sha256.to_string().as_bytes());
    let mut modules = Writer::new(file.into_file(), options)?;
    let too_large = || wrong(format!("it has more than {MAX_BYTES} bytes when it is unpacked"));
    bundle.unpack("the kernel", MAX_BYTES, too_large, wrong, progress, |stream| take(stream, dir, &mut modules))?;
    finish(modules, boot_modules, dir, progress)
}

/// Finishes a kernel whose image and modules were taken out of a tree, having checked that these
/// belong together and that a VM can boot with them.
fn finish(mut modules: Writer, boot_modules: &[String], dir: &Path, progress: &dyn Progress) -> Result<BuiltKernel> {
    progress.phase("writing the modules");
    let vmlinuz = dir.join(VMLINUZ);
    let file = KernelFile::read(&vmlinuz)?;
    let release = sole_folder(&modules)?;
    if file.release() != Some(&release) {
        let is = file.release().unwrap_or("of none");
        return Err(Error::Modules { reason: format!("they are of {release}, and the kernel is {is}") });
    }
    let boot_modules = modules::extract(&mut modules, &release, boot_modules, &FIRECRACKER, &dir.join(BOOT_MODULES))?;
    modules.finish()?;
    BuiltKernel::new(file, Some(boot_modules), dir, &vmlinuz, progress)
}

/// Takes `boot/vmlinuz-*` and what is below `lib/modules` out of a tree of packages.
fn take(stream: &mut dyn Read, dir: &Path, modules: &mut Writer) -> Result<()> {
    let mut found = false;
    let mut left = MAX_BYTES;
    for entry in Archive::new(stream).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let refuse = |reason: &str| Error::Archive { entry: path.display().to_string(), reason: reason.into() };
        // A file's holes are not in the stream.
        left = left.checked_sub(entry.size()).ok_or_else(|| refuse("the tree has more than 8 GiB"))?;
        if let Some(inside) = module_path(&path) {
            unpack::add(modules, &mut entry, &inside, module_path)?;
        } else if is_vmlinuz(&path) && entry.header().entry_type().is_file() {
            if found {
                return Err(refuse("a second kernel"));
            }
            io::copy(&mut entry, &mut fs::File::create_new(dir.join(VMLINUZ))?)?;
            found = true;
        }
    }
    if !found {
        return Err(Error::Archive { entry: "boot/vmlinuz-*".into(), reason: "there is no kernel".into() });
    }
    Ok(())
}

/// `./lib/modules/<rest>`, or the same below `usr`, as `<rest>`.
fn module_path(path: &Path) -> Option<PathBuf> {
    let path = unpack::relative(path)?;
    let path = path.strip_prefix("usr").unwrap_or(&path);
    path.strip_prefix("lib/modules").ok().map(Path::to_owned)
}

fn is_vmlinuz(path: &Path) -> bool {
    unpack::relative(path)
        .as_deref()
        .and_then(|path| path.strip_prefix("boot").ok()?.to_str())
        .is_some_and(|name| name.starts_with("vmlinuz-") && !name.contains('/'))
}

/// The release: the one folder that `lib/modules` holds.
fn sole_folder(modules: &Writer) -> Result<String> {
    let mut folders = modules.children(b"")?.map(|(name, _)| name);
    match (folders.next().and_then(|name| str::from_utf8(name).ok()), folders.next()) {
        (Some(release), None) => Ok(release.to_owned()),
        _ => Err(Error::Archive { entry: "lib/modules".into(), reason: "it does not hold one release".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_and_kernel_paths_are_found_with_merged_usr() {
        assert_eq!(module_path(Path::new("./lib/modules/6/a")).unwrap(), Path::new("6/a"));
        assert_eq!(module_path(Path::new("./usr/lib/modules/6/")).unwrap(), Path::new("6"));
        assert_eq!(module_path(Path::new("./usr/lib/x")), None);
        assert_eq!(module_path(Path::new("./lib/modules/../../x")), None);
        assert!(is_vmlinuz(Path::new("./boot/vmlinuz-6.12")));
        assert!(!is_vmlinuz(Path::new("./boot/config-6.12")));
        assert!(!is_vmlinuz(Path::new("./boot/vmlinuz-x/y")));
    }
}
