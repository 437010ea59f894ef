//! Real VMs for tests: QEMU under TCG, a real kernel, and guests that do what their VM's name says.
//!
//! The kernel is a folder as banger keeps them, named by `BANGER_TEST_KERNEL_DIR`; without it these
//! tests are ignored.

#![allow(dead_code, reason = "each test program uses its part")]

#[path = "../../../tests/src/qemu_fault.rs"]
mod qemu_fault;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use banger_vmm::{
    AcceleratorChoice, Error, Programs, Running, StartOptions, StorePaths, Vm, VmRecord, VmStore, initramfs,
};
use tempfile::TempDir;

/// Two emulated guests at once on a small machine take more than twice the time of one.
pub(crate) static ONE_VM_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Folders with a store of VMs, and what they are started with.
pub(crate) struct Home {
    folder: TempDir,
    pub store: VmStore,
    pub options: StartOptions,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), "")
    }

    pub(crate) fn in_folder(folder: TempDir, below: &str) -> Self {
        let root = folder.path().join(below);
        let paths = StorePaths { vms: root.join("vms"), host: root.join("host"), cache: root.join("cache") };
        fs::create_dir_all(&paths.cache).unwrap();
        let kernel = PathBuf::from(std::env::var_os("BANGER_TEST_KERNEL_DIR").expect("BANGER_TEST_KERNEL_DIR is set"));
        let mut modules: Vec<_> =
            fs::read_dir(kernel.join("boot")).unwrap().map(|entry| entry.unwrap().path()).collect();
        modules.sort();
        let base = root.join("base");
        File::create(&base).unwrap().set_len(1 << 20).unwrap();
        let options = StartOptions {
            supervisor: env!("CARGO_BIN_EXE_banger-vmm").into(),
            kernel: kernel.join("vmlinuz"),
            vmlinux: None,
            firecracker: None,
            jailer_user: None,
            initramfs: initramfs::ensure(&build_guest(folder.path()), &modules, &paths.cache).unwrap(),
            base,
            modules: None,
            accelerator: AcceleratorChoice::Tcg,
            boot_timeout: Some(PATIENCE),
            restore: None,
        };
        Home { folder, store: VmStore::new(paths, Programs::new(std::env::var_os("PATH").unwrap())), options }
    }

    /// Goes with the VMs.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A VM whose name says what its guest does.
    pub(crate) fn vm(&self, name: &str) -> Vm {
        let mut record = VmRecord::new(name, "image", "kernel", 0);
        record.memory_mib = 256;
        self.store.create(&record).unwrap()
    }

    pub(crate) fn start(&self, vm: &Vm) -> Result<Running, Error> {
        vm.start(&vm.lock().unwrap(), &self.options, |_| ())
    }
}

impl Drop for Home {
    /// A test that failed leaves no VM behind.
    fn drop(&mut self) {
        for vm in self.store.list().into_iter().flatten() {
            let _ = vm.stop(Duration::ZERO);
            let console = fs::read(vm.folder().join("console.log")).unwrap_or_default();
            qemu_fault::look_for_in(&String::from_utf8_lossy(&console));
        }
        qemu_fault::report();
    }
}

fn build_guest(folder: &Path) -> PathBuf {
    let program = folder.join("guest-init");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-o"]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.rs");
    assert!(rustc.arg(&program).arg(source).status().unwrap().success());
    program
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} did not come");
}
