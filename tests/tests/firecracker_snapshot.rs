//! VMs on real Firecracker that are paused, written to snapshots, and go on from them.

use std::fs;
use std::path::{Path, PathBuf};

use banger_tests::Home;
use banger_vmm::{AcceleratorChoice, Programs, StartOptions, StorePaths, Vm, VmStore};

fn only_vm(home: &Home) -> Vm {
    let paths = StorePaths {
        vms: home.data().join("vms"),
        host: home.data().join("host"),
        cache: home.path().join(".cache/banger"),
    };
    let store = VmStore::new(paths, Programs::new(std::env::var_os("PATH").unwrap()));
    store.list().unwrap().pop().unwrap()
}

/// What the command line starts such a VM with, and the snapshot.
fn from(home: &Home, snapshot: &Path) -> StartOptions {
    let variable = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let kernel = home.data().join("kernels/test-guest");
    let initramfs = fs::read_dir(home.path().join(".cache/banger/initramfs")).unwrap();
    let is_made = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cpio");
    StartOptions {
        supervisor: variable("BANGER_TEST_DIST").join("lib/banger/banger-vmm"),
        kernel: kernel.join("vmlinuz"),
        vmlinux: Some(kernel.join("vmlinux")),
        initramfs: initramfs.map(|entry| entry.unwrap().path()).find(is_made).unwrap(),
        base: home.data().join("images/test-guest/rootfs.ext4"),
        modules: None,
        accelerator: AcceleratorChoice::Kvm,
        boot_timeout: None,
        firecracker: Some(variable("BANGER_TEST_FIRECRACKER").join("firecracker")),
        jailer_user: None,
        restore: Some(snapshot.to_owned()),
    }
}

/// Firecracker cuts all connections of a VM that goes on from a snapshot: the agent is greeted anew.
#[test]
fn vm_serves_commands_after_a_pause_after_a_snapshot_and_from_it() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let serves = |what: &str| {
        let output = repository.sh("echo served");
        assert_eq!((output.status, output.text().as_str()), (0, "served\n"), "{what}: {}", output.stderr);
    };
    serves("a VM that was booted");
    let vm = only_vm(&home);
    vm.pause().unwrap();
    assert!(vm.status().unwrap().paused);
    vm.resume().unwrap();
    assert!(!vm.status().unwrap().paused);
    serves("a VM that was paused");

    let snapshot = home.path().join("snapshot");
    vm.snapshot(&snapshot).unwrap();
    assert!(!vm.status().unwrap().paused);
    serves("a VM that a snapshot was made of");

    vm.pause().unwrap();
    vm.snapshot(&home.path().join("snapshot of a paused VM")).unwrap();
    assert!(vm.status().unwrap().paused);
    vm.resume().unwrap();
    serves("a VM that was paused when a snapshot was made of it");

    // A snapshot that cannot be kept cuts the agent's link as well.
    vm.snapshot(&snapshot).unwrap_err();
    serves("a VM that has its snapshot already");
    repository.run(["stop"]).ok();

    for _ in 0..2 {
        vm.start(&vm.lock().unwrap(), &from(&home, &snapshot), |_| ()).unwrap();
        serves("a VM that goes on from a snapshot");
        let console = fs::read_to_string(vm.folder().join("console.log")).unwrap();
        assert!(console.contains("the host has cut all connections"), "{console}");
        assert!(!console.contains("command line"), "it has booted: {console}");
        repository.run(["stop"]).ok();
        home.assert_at_rest();
    }
    // The snapshot is nobody's but the user's.
    assert!(snapshot.join("snapshot.json").exists());
    serves("a VM that is booted anew");
}

#[test]
fn snapshot_that_does_not_fit_on_the_disk_leaves_nothing_and_the_vm_goes_on() {
    let home = Home::with_firecracker_guests_on_small_disk(64 << 20);
    let repository = home.repository("r");
    repository.sh("echo served").ok();
    let vm = only_vm(&home);
    let before = names(&vm.folder().join("run"));
    let place = home.path().join("snapshot");
    let error = vm.snapshot(&place).unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert!(!vm.status().unwrap().paused);
    assert_eq!(repository.sh("echo served").ok().text(), "served\n");
    assert_eq!(names(&vm.folder().join("run")), before);
    let is_of_snapshot = |name: &String| name.contains("snapshot");
    assert!(!names(home.path()).iter().any(is_of_snapshot), "{:?}", names(home.path()));
    repository.run(["delete", "--force"]).ok();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}
