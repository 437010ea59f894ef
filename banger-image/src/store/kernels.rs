//! Kernels in the store: those of catalogs, imported ones, and what needs them.

use std::path::Path;

use super::{Kernel, Store, first_working, unknown};
use crate::catalog::{self, Catalog, KernelSource};
use crate::error::{Error, Result};
use crate::kernel::{self, BuiltKernel, VSOCK_TRANSPORT};
use crate::kind::Kind;
use crate::manifest::{self, FORMAT_VERSION, KernelManifest};
use crate::name;
use crate::progress::Progress;

/// The release of a kernel that does not say any.
const UNKNOWN_RELEASE: &str = "unknown";

/// Why Firecracker cannot boot a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FirecrackerObstacle {
    /// An earlier version of banger made the kernel, and did not extract what Firecracker loads.
    #[error("the kernel `{name}` was made by an earlier version of banger, without what Firecracker needs")]
    Outdated {
        /// The kernel.
        name: String,
    },
    /// The agent's connection needs vsock.
    #[error("the kernel `{name}` has no {VSOCK_TRANSPORT}, neither built in nor among the modules that came with it")]
    NoVsock {
        /// The kernel.
        name: String,
    },
}

impl FirecrackerObstacle {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            FirecrackerObstacle::Outdated { name } => format!("add it: banger kernel pull {name}"),
            FirecrackerObstacle::NoVsock { .. } => {
                "build a kernel with CONFIG_VIRTIO_VSOCKETS, and import it under another name".to_owned()
            }
        }
    }
}

impl Kernel {
    /// Whether the agent of a guest can be reached by vsock: the driver is built in, or among the
    /// modules for the boot. Of a kernel that is not Linux, this is taken for granted.
    #[must_use]
    pub fn supports_vsock(&self) -> bool {
        self.vmlinux.is_some() && !self.manifest.missing_modules.iter().any(|module| module == VSOCK_TRANSPORT)
    }

    /// Whether QEMU can load it: an ELF needs an entry for PVH.
    #[must_use]
    pub fn boots_in_qemu(&self) -> bool {
        !self.manifest.without_pvh
    }

    /// Why Firecracker cannot boot it; `None` if it can.
    #[must_use]
    pub fn firecracker_obstacle(&self) -> Option<FirecrackerObstacle> {
        let name = || self.name.clone();
        match self.vmlinux {
            None => Some(FirecrackerObstacle::Outdated { name: name() }),
            Some(_) if !self.supports_vsock() => Some(FirecrackerObstacle::NoVsock { name: name() }),
            Some(_) => None,
        }
    }
}

impl Store {
    /// All complete kernels, sorted by name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn kernels(&self) -> Result<Vec<Kernel>> {
        Ok(self.kernels.names()?.iter().filter_map(|name| self.kernel(name).ok().flatten()).collect())
    }

    /// The kernel `name`. If the store does not have it, it is made from the first of its sources
    /// in the catalog that works.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the catalog does not have it either; else the error of the last
    /// source.
    pub fn ensure_kernel(&self, name: &str, catalog: &Catalog, progress: &dyn Progress) -> Result<Kernel> {
        if let Some(kernel) = self.kernel(name)? {
            return Ok(kernel);
        }
        let Some(entry) = catalog.kernels.get(name) else { return Err(self.unknown_kernel(name, catalog)?) };
        first_working(&entry.sources, progress, |source| {
            let make = |dir: &Path| {
                let built = match source {
                    KernelSource::Bundle(bundle) => kernel::unpack(bundle, &entry.boot_modules, dir, progress)?,
                    KernelSource::Recipe(recipe) => {
                        kernel::build(&catalog::recipe(recipe)?, &entry.boot_modules, dir, progress)?
                    }
                };
                manifest::write(dir, &manifest_of(built, name, &entry.description, source.to_string()))
            };
            self.kernels.ensure(name, progress, || self.kernel(name), make)
        })
    }

    /// Adds what Firecracker needs to a kernel that an earlier version of banger made: the
    /// uncompressed kernel, and more modules for the boot. Its files stay as they are, and VMs may
    /// use them meanwhile. Returns it, and whether anything was added.
    ///
    /// # Errors
    /// [`Error::NotHere`]; [`Error::NoKernel`], [`Error::Modules`] if its files are damaged: then
    /// the kernel is what it was.
    pub fn upgrade_kernel(&self, name: &str, progress: &dyn Progress) -> Result<(Kernel, bool)> {
        let find = || self.kernel(name)?.map_or_else(|| Err(self.kernel_not_here(name)?), Ok);
        let there = find()?;
        if there.vmlinux.is_some() {
            return Ok((there, false));
        }
        let _lock = self.kernels.lock(name, progress)?;
        let there = find()?;
        if there.vmlinux.is_some() {
            return Ok((there, false));
        }
        let built = kernel::upgrade(&there.dir, &there.manifest.boot_modules, progress)?;
        let manifest = KernelManifest {
            boot_modules: built.boot_modules,
            vmlinux_bytes: Some(built.vmlinux_bytes),
            missing_modules: built.missing_modules,
            ..there.manifest
        };
        // From here on the new files count.
        manifest::replace(&there.dir, &manifest)?;
        Ok((find()?, true))
    }

    /// The error that the store has no kernel `name`, with the name that was probably meant.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read.
    pub fn kernel_not_here(&self, name: &str) -> Result<Error> {
        let known = self.kernels.names()?;
        if known.iter().any(|known| known == name) {
            return Ok(Error::Incomplete { kind: Kind::Kernel, name: name.to_owned() });
        }
        let nearest = name::nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        Ok(Error::NotHere { kind: Kind::Kernel, name: name.to_owned(), nearest })
    }

    /// Makes sure that an image may name this kernel: it is here, or can be made.
    pub(crate) fn check_kernel(&self, name: &str, catalog: &Catalog) -> Result<()> {
        if self.kernel(name)?.is_some() || catalog.kernels.contains_key(name) {
            return Ok(());
        }
        Err(self.unknown_kernel(name, catalog)?)
    }

    /// The error that a kernel is neither here nor in the catalog, with the one that was probably
    /// meant.
    pub(crate) fn unknown_kernel(&self, name: &str, catalog: &Catalog) -> Result<Error> {
        let here = self.kernels.names()?;
        if here.iter().any(|here| here == name) {
            return Ok(Error::Incomplete { kind: Kind::Kernel, name: name.to_owned() });
        }
        Ok(unknown(Kind::Kernel, name, catalog.kernels.keys(), &here))
    }

    /// Copies a kernel, a bzImage or a vmlinux, into the store as `name`, with the directory
    /// `modules` of its modules if it has any. Without modules it is not checked that it has all
    /// that a boot needs.
    ///
    /// # Errors
    /// [`Error::KernelName`] for a name that is taken; [`Error::NoKernel`], [`Error::Modules`],
    /// [`Error::MissingModules`] for what no VM could boot. Then nothing has changed.
    pub fn import_kernel(
        &self,
        name: &str,
        kernel: &Path,
        modules: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<Kernel> {
        name::check(Kind::Kernel, name)?;
        let taken = |reason: &str| Error::KernelName { name: name.to_owned(), reason: reason.to_owned() };
        if Catalog::embedded()?.kernels.contains_key(name) {
            return Err(taken("a kernel of the catalog has this name"));
        }
        let mut is_mine = false;
        let make = |dir: &Path| {
            let built = kernel::import(kernel, modules, dir, progress)?;
            is_mine = true;
            let source = kernel.canonicalize()?.display().to_string();
            manifest::write(dir, &manifest_of(built, name, "", source))
        };
        let imported = self.kernels.ensure(name, progress, || self.kernel(name), make)?;
        // A VM would boot another kernel than the one that it was made with.
        if is_mine { Ok(imported) } else { Err(taken("there is one of this name")) }
    }

    /// Deletes a kernel. `users` returns what else needs it, as text such as ``VM `a` ``; images
    /// that need it are looked up here.
    ///
    /// # Errors
    /// [`Error::NotHere`]; [`Error::KernelInUse`]: then nothing was deleted.
    pub fn delete_kernel<E: From<Error>>(
        &self,
        name: &str,
        users: impl FnOnce() -> std::result::Result<Vec<String>, E>,
        progress: &dyn Progress,
    ) -> std::result::Result<(), E> {
        name::check(Kind::Kernel, name)?;
        // Meanwhile no image comes to name it, and so no VM is made that would.
        let _alone = self.images.hold(true)?;
        if !self.kernels.names()?.iter().any(|there| there == name) {
            return Err(self.kernel_not_here(name)?.into());
        }
        let mut needed_by: Vec<String> =
            self.images_for(name)?.iter().map(|image| format!("image `{image}`")).collect();
        needed_by.extend(users()?);
        if !needed_by.is_empty() {
            return Err(Error::KernelInUse { name: name.to_owned(), users: needed_by }.into());
        }
        Ok(self.kernels.remove(name, progress)?)
    }

    /// The names of the images that boot with a kernel, sorted, each once.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn images_for(&self, kernel: &str) -> Result<Vec<String>> {
        let images = self.images()?.into_iter().filter(|image| image.manifest.kernel == kernel);
        let mut names: Vec<String> = images.map(|image| image.manifest.name).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// The manifest of a kernel that was made now.
fn manifest_of(built: BuiltKernel, name: &str, description: &str, source: String) -> KernelManifest {
    KernelManifest {
        format_version: FORMAT_VERSION,
        name: name.to_owned(),
        description: description.to_owned(),
        release: built.release.unwrap_or_else(|| UNKNOWN_RELEASE.to_owned()),
        version: built.version,
        source,
        created: manifest::now(),
        boot_modules: built.boot_modules,
        vmlinuz_bytes: built.vmlinuz_bytes,
        vmlinuz_blake3: built.vmlinuz_blake3,
        vmlinux_bytes: Some(built.vmlinux_bytes),
        missing_modules: built.missing_modules,
        without_pvh: !built.boots_in_qemu,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use fs_err as fs;

    use super::*;
    use crate::digest::Digest;
    use crate::kernel::{BOOT, bz_image, bz_image_of, elf, module};
    use crate::manifest::{ImageManifest, Ready};
    use crate::progress::Silent;

    fn image(store: &Store, folder: &str, kernel: &str) {
        let manifest = ImageManifest {
            format_version: FORMAT_VERSION,
            name: folder.split('.').next().unwrap().into(),
            description: String::new(),
            kernel: kernel.into(),
            ready: Ready::Agent,
            source: String::new(),
            created: 0,
            rootfs_bytes: 0,
            with_sshd: false,
            oci: None,
            anonymous: false,
            bundle: None,
        };
        let place = store.images.path_of(folder);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("rootfs.ext4"), "").unwrap();
        manifest::write(&place, &manifest).unwrap();
    }

    #[test]
    fn kernel_is_imported_once_and_deleted_when_unused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("data"));
        let file = folder.path().join("bzImage");
        fs::write(&file, bz_image("6.12.1 (me) #1")).unwrap();
        let import = |name: &str| store.import_kernel(name, &file, None, &Silent);
        let delete = |users: &[&str]| {
            let users: Vec<String> = users.iter().map(|user| (*user).to_owned()).collect();
            store.delete_kernel::<Error>("mine", || Ok(users), &Silent)
        };
        assert!(matches!(delete(&[]), Err(Error::NotHere { kind: Kind::Kernel, .. })));
        let kernel = import("mine").unwrap();
        assert_eq!((kernel.manifest.release.as_str(), kernel.modules_disk), ("6.12.1", None));
        assert_eq!(store.kernels().unwrap().len(), 1);
        assert!(matches!(import("mine"), Err(Error::KernelName { .. })));
        assert!(matches!(import("generic-6.12"), Err(Error::KernelName { .. })));
        assert!(matches!(import("../x"), Err(Error::InvalidName { .. })));
        let catalog = Catalog::embedded().unwrap();
        store.check_kernel("mine", &catalog).unwrap();
        assert_eq!(store.check_kernel("minee", &catalog).unwrap_err().hint().unwrap(), "did you mean `mine`?");
        let whole = fs::read(&kernel.vmlinuz).unwrap();
        fs::write(&kernel.vmlinuz, "cut").unwrap();
        for error in [store.check_kernel("mine", &catalog).unwrap_err(), store.kernel_not_here("mine").unwrap()] {
            assert_eq!(error.to_string(), "the kernel `mine` is incomplete: files of it are missing or cut short");
            assert!(error.hint().unwrap().contains("banger kernel delete mine"), "{error:?}");
        }
        fs::write(&kernel.vmlinuz, whole).unwrap();

        image(&store, "one.000000000001", "mine");
        image(&store, "one.000000000002", "mine");
        image(&store, "two", "generic-6.12");
        let refused = delete(&["VM `v`"]).unwrap_err().to_string();
        assert_eq!(refused, "the kernel `mine` is in use by image `one`, VM `v`");
        fs::remove_dir_all(store.images.path_of("one.000000000001")).unwrap();
        fs::remove_dir_all(store.images.path_of("one.000000000002")).unwrap();
        assert!(matches!(delete(&["VM `v`"]), Err(Error::KernelInUse { .. })));
        delete(&[]).unwrap();
        assert!(store.kernels().unwrap().is_empty() && !kernel.dir.exists());
        import("mine").unwrap();
    }

    #[test]
    fn failed_import_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("data"));
        fs::write(folder.path().join("text"), "no kernel").unwrap();
        for name in ["text", "missing", "."] {
            store.import_kernel("mine", &folder.path().join(name), None, &Silent).unwrap_err();
        }
        let left = fs::read_dir(folder.path().join("data/kernels")).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn uncompressed_kernel_is_imported_once_for_both_vmms() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("data"));
        let file = folder.path().join("vmlinux");
        let import = |name: &str, pvh: u32, text: &[u8], modules: Option<&Path>| {
            fs::write(&file, elf(pvh, text)).unwrap();
            store.import_kernel(name, &file, modules, &Silent)
        };
        let linux = b"Linux version 6.12.1 (me)\0vmw_vsock_virtio_transport\0";
        let kernel = import("linux", 18, linux, None).unwrap();
        assert!(kernel.boots_in_qemu() && kernel.supports_vsock());
        assert_eq!(kernel.firecracker_obstacle(), None);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(kernel.vmlinux.as_ref().unwrap()), inode(&kernel.vmlinuz));

        let without_vsock = import("bare", 18, b"Linux version 6.12.1 (me)\n", None).unwrap();
        let obstacle = without_vsock.firecracker_obstacle().unwrap();
        assert!(matches!(obstacle, FirecrackerObstacle::NoVsock { .. }) && !without_vsock.supports_vsock());
        assert!(obstacle.hint().contains("CONFIG_VIRTIO_VSOCKETS"));

        let other = import("other", 17, b"not Linux", None).unwrap();
        assert_eq!((other.manifest.release.as_str(), other.boots_in_qemu()), ("unknown", false));
        assert_eq!(other.firecracker_obstacle(), None);
        let error = import("another", 17, b"not Linux", Some(folder.path())).unwrap_err();
        assert!(error.to_string().contains("does not say its release"), "{error}");
    }

    #[test]
    fn kernel_whose_payload_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("data"));
        let file = folder.path().join("bzImage");
        fs::write(&file, bz_image_of("6.12.1", &[7; 100])).unwrap();
        let error = store.import_kernel("mine", &file, None, &Silent).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()) && error.contains("payload"), "{error}");
        assert_eq!(fs::read_dir(folder.path().join("data/kernels")).unwrap().count(), 0);
    }

    const RELEASE: &str = "6.12.1-ours";

    /// A kernel as a distribution's package has it, all but one of whose modules are built in: an
    /// archive of these files and `more`.
    fn tree(more: &[(&str, &[u8])]) -> Vec<u8> {
        let modules = format!("./lib/modules/{RELEASE}");
        let builtin = BOOT[..5].iter().map(|name| format!("kernel/{name}.ko\n")).collect::<String>();
        let files = [
            (format!("boot/vmlinuz-{RELEASE}"), bz_image(&format!("{RELEASE} (us) #1"))),
            (format!("{modules}/modules.dep"), b"kernel/fs/overlay.ko:\n".to_vec()),
            (format!("{modules}/modules.builtin"), builtin.into_bytes()),
            (format!("{modules}/kernel/fs/overlay.ko"), module(RELEASE)),
        ];
        let mut archive = tar::Builder::new(Vec::new());
        let more = more.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec()));
        for (path, content) in files.into_iter().chain(more) {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, &content[..]).unwrap();
        }
        zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap()
    }

    /// What comes of wanting the kernel `ours` of a catalog that names `named`, where `bytes` are.
    fn of_catalog(folder: &Path, named: &[u8], bytes: &[u8]) -> Result<Kernel> {
        fs::write(folder.join("k.tar.zst"), bytes).unwrap();
        let source = format!("{{ url = 'k.tar.zst', sha256 = '{}', size = {} }}", Digest::of(named).hex(), named.len());
        let text = format!("[kernels.ours]\ndescription = 'our own'\nsources = [{source}]\n");
        fs::write(folder.join("catalog.toml"), text).unwrap();
        let location = folder.join("catalog.toml").to_str().unwrap().parse().unwrap();
        let catalog = Catalog::embedded()?.with_team(&location, folder, &Silent)?;
        Store::new(&folder.join("data")).ensure_kernel("ours", &catalog, &Silent)
    }

    #[test]
    fn catalog_kernel_comes_with_its_modules() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = tree(&[("usr/share/doc/linux/copyright", b"text")]);
        let kernel = of_catalog(folder.path(), &bytes, &bytes).unwrap();
        let manifest = &kernel.manifest;
        assert_eq!((manifest.release.as_str(), manifest.description.as_str()), (RELEASE, "our own"));
        assert_eq!(manifest.source, format!("bundle {}", folder.path().join("k.tar.zst").display()));
        assert_eq!(fs::read(&kernel.boot_modules[0]).unwrap(), module(RELEASE));
        assert_eq!((manifest.boot_modules.len(), kernel.modules_disk.is_some()), (1, true));
        let disk = ext4_view::Ext4::load_from_path(kernel.modules_disk.unwrap()).unwrap();
        assert!(disk.exists(format!("/{RELEASE}/kernel/fs/overlay.ko").as_str()).unwrap());
        assert!(!disk.exists("/usr").unwrap());
    }

    /// Takes from a kernel what earlier versions did not make.
    fn downgrade(kernel: &Kernel, boot_modules: usize) {
        fs::remove_file(kernel.dir.join("vmlinux")).unwrap();
        let mut manifest = kernel.manifest.clone();
        for file in manifest.boot_modules.drain(boot_modules..) {
            fs::remove_file(kernel.dir.join("boot").join(file)).unwrap();
        }
        manifest.missing_modules.clear();
        manifest.vmlinux_bytes = None;
        manifest::replace(&kernel.dir, &manifest).unwrap();
    }

    #[test]
    fn kernel_of_an_earlier_version_is_upgraded_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let modules = format!("./lib/modules/{RELEASE}");
        let dep = "kernel/fs/overlay.ko:\nkernel/vsock.ko:\nkernel/vmw_vsock_virtio_transport.ko: kernel/vsock.ko\n";
        let module = module(RELEASE);
        let [dep_path, vsock, transport] = ["modules.dep", "kernel/vsock.ko", "kernel/vmw_vsock_virtio_transport.ko"]
            .map(|name| format!("{modules}/{name}"));
        let bytes = tree(&[(&dep_path, dep.as_bytes()), (&vsock, &module), (&transport, &module)]);
        let kernel = of_catalog(folder.path(), &bytes, &bytes).unwrap();
        let names = ["00-overlay.ko", "01-vsock.ko", "02-vmw_vsock_virtio_transport.ko"];
        assert_eq!(kernel.manifest.boot_modules, names);
        let missing = ["vmw_vsock_virtio_transport_common", "virtio_rng", "virtio_balloon"];
        assert_eq!(kernel.manifest.missing_modules, missing);
        assert!(kernel.supports_vsock() && kernel.firecracker_obstacle().is_none());

        let store = Store::new(&folder.path().join("data"));
        downgrade(&kernel, 1);
        let old = store.kernel("ours").unwrap().unwrap();
        assert_eq!((old.vmlinux.as_ref(), old.boot_modules.len()), (None, 1));
        let obstacle = old.firecracker_obstacle().unwrap();
        assert_eq!(obstacle.hint(), "add it: banger kernel pull ours");
        // A part of an upgrade that was killed.
        fs::write(old.dir.join(".vmlinux.x"), "half").unwrap();
        fs::write(old.dir.join("boot/01-vsock.ko"), &module).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = [inode(&old.vmlinuz), inode(&old.boot_modules[0])];
        let (upgraded, is_changed) = store.upgrade_kernel("ours", &Silent).unwrap();
        assert!(is_changed);
        assert_eq!(upgraded, kernel);
        assert_eq!([inode(&upgraded.vmlinuz), inode(&upgraded.boot_modules[0])], before);
        assert!(!old.dir.join(".vmlinux.x").exists());
        assert_eq!(store.upgrade_kernel("ours", &Silent).unwrap(), (kernel.clone(), false));
        assert!(matches!(store.upgrade_kernel("our", &Silent), Err(Error::NotHere { .. })));

        // One that was cut short is made anew, and a damaged kernel stays what it was.
        fs::write(kernel.vmlinux.as_ref().unwrap(), "short").unwrap();
        assert!(store.upgrade_kernel("ours", &Silent).unwrap().1);
        downgrade(&kernel, 1);
        let length = fs::metadata(&kernel.vmlinuz).unwrap().len();
        fs::write(&kernel.vmlinuz, vec![0; length as usize]).unwrap();
        assert!(matches!(store.upgrade_kernel("ours", &Silent), Err(Error::NoKernel { .. })));
        assert_eq!(store.kernel("ours").unwrap().unwrap(), old);
    }

    #[test]
    fn invalid_catalog_kernel_is_refused() {
        let other = module("6.12.2");
        let another = format!("boot/vmlinuz-{RELEASE}-2");
        let overlay = format!("lib/modules/{RELEASE}/kernel/fs/overlay.ko");
        let cases: [(&str, Vec<u8>, &str); 5] = [
            ("a second kernel", tree(&[(&another, b"x")]), "a second kernel"),
            ("a second release", tree(&[("lib/modules/6.12.2/modules.dep", b"")]), "one release"),
            ("another's module", tree(&[(&overlay, &other)]), "is for 6.12.2"),
            ("a text", b"no archive".to_vec(), "cannot be unpacked"),
            ("half of it", tree(&[])[..300].to_vec(), "cannot be unpacked"),
        ];
        for (name, bytes, reason) in cases {
            let folder = tempfile::tempdir().unwrap();
            let error = of_catalog(folder.path(), &bytes, &bytes).map(drop).expect_err(name).to_string();
            assert!(error.contains(reason), "{name}: {error}");
            let left =
                fs::read_dir(folder.path().join("data/kernels")).unwrap().map(|entry| entry.unwrap().file_name());
            assert_eq!(left.collect::<Vec<_>>(), [""; 0], "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let (bytes, changed) = (tree(&[]), tree(&[("etc/x", b"x")]));
        let error = of_catalog(folder.path(), &bytes, &changed).unwrap_err().to_string();
        assert!(error.contains("bytes, and should have"), "{error}");
    }
}
