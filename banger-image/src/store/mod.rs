//! The user's images and kernels: `<data>/images/<name>` and `<data>/kernels/<name>`.

pub(crate) mod atomic_dir_store;
mod images;
pub(crate) mod kernels;
pub(crate) mod pull;
pub(crate) mod register;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use fs_err as fs;

use self::atomic_dir_store::AtomicDirStore;
use crate::error::{Error, Result};
use crate::kernel::{BOOT_MODULES, MODULES, VMLINUX, VMLINUZ};
use crate::kind::Kind;
use crate::manifest::{self, ImageManifest, KernelManifest};
use crate::name;
use crate::progress::Progress;

/// An image in the store, ready to be used as a read-only disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name of its directory. For a pulled image this differs from its name, which is in the
    /// manifest: a later pull under this name makes another directory.
    pub name: String,
    /// The directory.
    pub dir: PathBuf,
    /// The root file system: a raw ext4 disk.
    pub rootfs: PathBuf,
    /// Its manifest.
    pub manifest: ImageManifest,
}

/// A kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel's name.
    pub name: String,
    /// The directory.
    pub dir: PathBuf,
    /// The kernel image as it came, a bzImage or an ELF: what QEMU loads.
    pub vmlinuz: PathBuf,
    /// The uncompressed kernel, an ELF: what Firecracker loads. `None` if an earlier version of
    /// banger made this, until [`Store::upgrade_kernel`] adds it.
    pub vmlinux: Option<PathBuf>,
    /// Files of the modules for the initramfs, uncompressed, in the order to load them.
    pub boot_modules: Vec<PathBuf>,
    /// A raw ext4 disk with `<release>/…`, to be mounted at `/lib/modules`.
    pub modules_disk: Option<PathBuf>,
    /// Its manifest.
    pub manifest: KernelManifest,
}

/// The images and kernels of a data directory.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) images: AtomicDirStore,
    pub(crate) kernels: AtomicDirStore,
}

impl Store {
    /// The store in the directory `data_dir`, which is created when something is stored.
    #[must_use]
    pub fn new(data_dir: &Path) -> Store {
        Store {
            images: AtomicDirStore::new(data_dir.join("images")),
            kernels: AtomicDirStore::new(data_dir.join("kernels")),
        }
    }

    /// Directories that killed processes have left incomplete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn leftovers(&self) -> Result<Vec<PathBuf>> {
        Ok([self.images.leftovers()?, self.kernels.leftovers()?].concat())
    }

    /// Removes what [`Store::leftovers`] finds. Storing something also removes its own leftovers.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sweep(&self) -> Result<()> {
        self.images.sweep()?;
        self.kernels.sweep()
    }

    /// The image `name`; `None` if it is not there or not complete.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::Damaged`], [`Error::Io`].
    pub fn image(&self, name: &str) -> Result<Option<Image>> {
        name::check(Kind::Image, name)?;
        // A pulled image's name leads to what was pulled last.
        let name = self.images.resolve(name);
        let dir = self.images.path_of(&name);
        let Some(manifest) = manifest::read::<ImageManifest>(&dir)? else { return Ok(None) };
        let rootfs = dir.join("rootfs.ext4");
        if !has_length(&rootfs, manifest.rootfs_bytes) {
            return Ok(None);
        }
        Ok(Some(Image { name, dir, rootfs, manifest }))
    }

    /// The kernel `name`; `None` if it is not there or not complete.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::Damaged`], [`Error::Io`].
    pub fn kernel(&self, name: &str) -> Result<Option<Kernel>> {
        name::check(Kind::Kernel, name)?;
        let dir = self.kernels.path_of(name);
        let Some(manifest) = manifest::read::<KernelManifest>(&dir)? else { return Ok(None) };
        let vmlinuz = dir.join(VMLINUZ);
        if !has_length(&vmlinuz, manifest.vmlinuz_bytes) {
            return Ok(None);
        }
        let vmlinux =
            manifest.vmlinux_bytes.and_then(|bytes| Some(dir.join(VMLINUX)).filter(|path| has_length(path, bytes)));
        let boot_modules = manifest.boot_modules.iter().map(|module| dir.join(BOOT_MODULES).join(module)).collect();
        let modules_disk = Some(dir.join(MODULES)).filter(|disk| disk.is_file());
        Ok(Some(Kernel { name: name.to_owned(), dir, vmlinuz, vmlinux, boot_modules, modules_disk, manifest }))
    }
}

/// Whether there is a file of that length: one that was cut short is not worth a boot.
fn has_length(path: &Path, bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
}

/// The error that the catalog has no `name`, with the one of the catalog or of `here` that was
/// probably meant.
pub(crate) fn unknown<'a>(kind: Kind, name: &str, catalog: impl Iterator<Item = &'a String>, here: &[String]) -> Error {
    let known: Vec<String> = catalog.cloned().collect();
    let nearest = name::nearest(name, known.iter().chain(here).map(String::as_str)).map(str::to_owned);
    Error::Unknown { kind, name: name.to_owned(), known, nearest }
}

/// What `make` makes of the first source that works; the error of the last one if none does.
pub(crate) fn first_working<S: Display, T>(
    sources: &[S],
    progress: &dyn Progress,
    make: impl Fn(&S) -> Result<T>,
) -> Result<T> {
    let Some((last, earlier)) = sources.split_last() else {
        return Err(Error::Catalog { what: "sources".into(), reason: "there are none".into() });
    };
    for source in earlier {
        match make(source) {
            Ok(made) => return Ok(made),
            Err(error) => {
                let text = error.to_string();
                let reason = text.lines().next().unwrap_or_default();
                progress.message(&format!("{source}: {reason}; the next source is tried"));
            }
        }
    }
    make(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::manifest::{FORMAT_VERSION, Ready};
    use crate::oci::PullOptions;
    use crate::progress::Silent;

    fn manifest() -> ImageManifest {
        ImageManifest {
            with_sshd: false,
            format_version: FORMAT_VERSION,
            name: "a".into(),
            description: String::new(),
            kernel: "k".into(),
            ready: Ready::Agent,
            source: String::new(),
            created: 0,
            rootfs_bytes: 3,
            oci: None,
            anonymous: false,
            bundle: None,
        }
    }

    #[test]
    fn unknown_image_is_an_error_and_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let catalog = Catalog::embedded().unwrap();
        let ensure = |name: &str| store.ensure_image(name, &catalog, &PullOptions::new(dir.path()), &Silent);
        let error = ensure("debian-bokworm-minimal").unwrap_err();
        assert_eq!(error.to_string(), "no image is named `debian-bokworm-minimal`");
        assert_eq!(error.hint().unwrap(), "did you mean `debian-bookworm-minimal`?");
        let hint = ensure("alpine").unwrap_err().hint().unwrap();
        assert!(hint.contains("the catalog has: ") && hint.contains("debian-bookworm-minimal"), "{hint}");
        assert!(store.ensure_kernel("../x", &catalog, &Silent).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn incomplete_image_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert_eq!(store.image("a").unwrap(), None);
        let place = dir.path().join("images/a");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("rootfs.ext4"), "abc").unwrap();
        assert_eq!(store.image("a").unwrap(), None);
        manifest::write(&place, &manifest()).unwrap();
        assert_eq!(store.image("a").unwrap().unwrap().manifest, manifest());
        let (catalog, options) = (Catalog::embedded().unwrap(), PullOptions::new(dir.path()));
        assert_eq!(store.ensure_image("a", &catalog, &options, &Silent).unwrap().rootfs, place.join("rootfs.ext4"));
        fs::write(place.join("rootfs.ext4"), "ab").unwrap();
        assert_eq!(store.image("a").unwrap(), None);
    }

    #[test]
    fn damaged_manifest_error_has_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let place = dir.path().join("images/a");
        fs::create_dir_all(&place).unwrap();
        let newer = ImageManifest { format_version: 2, ..manifest() };
        manifest::write(&place, &newer).unwrap();
        assert!(store.image("a").unwrap_err().to_string().contains("format version 2"));
        for text in ["", "{", "[]", "{\"format_version\": 1}"] {
            fs::write(place.join("manifest.json"), text).unwrap();
            let error = store.image("a").unwrap_err();
            assert!(error.hint().unwrap().contains("images/a"), "{error}");
        }
    }
}
