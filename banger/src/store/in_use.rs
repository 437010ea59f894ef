//! What VMs need of the stores: the image that each was made from, and the kernel that it boots.

use banger_vmm::{VmRecord, VmStore};

use crate::error::CommandError;
use crate::host::paths::Paths;

/// Knows which VMs need an image or a kernel. It looks anew each time: whoever deletes something
/// asks under the store's lock, so that no VM comes to need it meanwhile.
pub struct InUse {
    vms: VmStore,
}

impl InUse {
    /// Looks at all VMs below the user's directories.
    pub fn new(paths: &Paths) -> InUse {
        InUse { vms: paths.vm_store() }
    }

    /// The names of the VMs that were made from one of these images, by the images' directories in
    /// the store. A VM whose record cannot be read may have been.
    ///
    /// # Errors
    /// If the store of VMs cannot be read.
    pub fn by_images(&self, directories: &[String]) -> Result<Vec<String>, CommandError> {
        self.by(|record| directories.contains(&record.image))
    }

    /// The names of the VMs that boot a kernel. A VM whose record cannot be read may do so.
    ///
    /// # Errors
    /// If the store of VMs cannot be read.
    pub fn by_kernel(&self, name: &str) -> Result<Vec<String>, CommandError> {
        self.by(|record| record.kernel == name)
    }

    fn by(&self, needs: impl Fn(&VmRecord) -> bool) -> Result<Vec<String>, CommandError> {
        let vms = self.vms.list()?;
        let users = vms.iter().filter(|vm| vm.record().map_or(true, |record| needs(&record)));
        Ok(users.map(|vm| vm.name().to_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn image_and_kernel_are_in_use_by_their_vms_and_by_those_with_unreadable_records() {
        let directory = tempfile::tempdir().unwrap();
        let [data, cache] = ["data", "cache"].map(|name| directory.path().join(name));
        let paths = Paths { data, cache, home: None };
        let in_use = InUse::new(&paths);
        assert_eq!(in_use.by_kernel("six").unwrap(), Vec::<String>::new());
        for (name, image) in [("a", "debian"), ("b", "alpine")] {
            let mut record = VmRecord::new(name, image, "six", 0);
            record.disk_bytes = 256 << 20;
            paths.vm_store().create(&record).unwrap();
        }
        assert_eq!(in_use.by_images(&["debian".into(), "other".into()]).unwrap(), ["a"]);
        assert_eq!(in_use.by_kernel("six").unwrap(), ["a", "b"]);
        assert!(in_use.by_kernel("five").unwrap().is_empty());
        fs::write(paths.vms().join("b/vm.json"), "").unwrap();
        assert_eq!(in_use.by_images(&["debian".into()]).unwrap(), ["a", "b"]);
    }
}
