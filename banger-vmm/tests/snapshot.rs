//! Real VMs that are paused, written to snapshots, and go on from them.

mod real_vm;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use banger_vmm::{Error, StartOptions, Stopped, Vm, VmState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use real_vm::{Home, ONE_VM_AT_A_TIME, PATIENCE, wait_for};

/// The numbers that a guest has said in this boot, each with what tells one boot from another.
fn said(vm: &Vm) -> Vec<(String, u64)> {
    let number = |line: String| {
        let (token, number) = line.strip_prefix("alive ")?.split_once(' ')?;
        Some((token.to_owned(), number.parse().ok()?))
    };
    vm.console_tail_of_boot(1000).unwrap().into_iter().filter_map(number).collect()
}

fn last(vm: &Vm) -> (String, u64) {
    wait_for("a number", || !said(vm).is_empty());
    said(vm).pop().unwrap()
}

/// Waits for the guest to say something new.
fn wait_until_it_counts(vm: &Vm) {
    let (_, before) = last(vm);
    wait_for("the next number", || last(vm).1 > before);
}

/// The number on a disk.
fn on_disk(directory: &Path) -> u64 {
    let mut text = [0; 9];
    File::open(directory.join("disk.ext4")).unwrap().read_exact_at(&mut text, 1 << 30).unwrap();
    std::str::from_utf8(&text).unwrap().trim().parse().unwrap()
}

fn from(home: &Home, snapshot: &Path) -> StartOptions {
    StartOptions { restore: Some(snapshot.to_owned()), ..home.options.clone() }
}

fn restore(home: &Home, vm: &Vm, snapshot: &Path) -> Result<(), Error> {
    vm.start(&vm.lock().unwrap(), &from(home, snapshot), |_| ()).map(drop)
}

fn kill_supervisor(vm: &Vm) {
    kill(Pid::from_raw(vm.status().unwrap().pid), Signal::SIGKILL).unwrap();
    wait_for("the supervisor's end", || matches!(vm.state().unwrap(), VmState::Stopped { .. }));
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn vm_goes_on_from_a_snapshot_with_its_memory_and_disks() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("counts");
    home.start(&vm).unwrap();
    wait_until_it_counts(&vm);

    vm.pause().unwrap();
    vm.pause().unwrap();
    assert!(vm.status().unwrap().paused);
    let (token, paused_at) = last(&vm);
    std::thread::sleep(Duration::from_secs(1));
    assert!(last(&vm).1 <= paused_at + 1, "it went on counting");
    vm.resume().unwrap();
    vm.resume().unwrap();
    assert!(!vm.status().unwrap().paused);
    wait_until_it_counts(&vm);

    let snapshot = home.path().join("a snapshot");
    vm.snapshot(&snapshot).unwrap();
    assert!(!vm.status().unwrap().paused);
    assert_eq!(names(&snapshot), ["disk.ext4", "snapshot.json", "state", "workspace.ext4"]);
    assert_eq!(fs::metadata(&snapshot).unwrap().mode() & 0o777, 0o700);
    assert!(fs::metadata(snapshot.join("disk.ext4")).unwrap().blocks() * 512 < 64 << 20, "the copy is not sparse");
    let info: serde_json::Value = serde_json::from_slice(&fs::read(snapshot.join("snapshot.json")).unwrap()).unwrap();
    assert_eq!((&info["backend"], &info["accelerator"], &info["cpus"]), (&"qemu".into(), &"tcg".into(), &2.into()));
    let kept = on_disk(&snapshot);
    for _ in 0..5 {
        wait_until_it_counts(&vm);
    }
    assert!(matches!(restore(&home, &vm, &snapshot), Err(Error::Running(_))));
    kill_supervisor(&vm);
    assert!(on_disk(vm.folder()) > kept);

    for _ in 0..2 {
        restore(&home, &vm, &snapshot).unwrap();
        wait_until_it_counts(&vm);
        let numbers = said(&vm);
        assert!(numbers.iter().all(|(other, _)| *other == token), "{numbers:?}");
        // It had written that number, or was about to say it.
        assert!((kept..=kept + 1).contains(&numbers[0].1), "{kept}: {numbers:?}");
        assert_eq!(vm.stop(PATIENCE).unwrap(), Stopped::Down);
        assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });
        assert!(on_disk(vm.folder()) > kept);
        assert_eq!(on_disk(&snapshot), kept);
    }
    home.start(&vm).unwrap();
    assert_ne!(last(&vm).0, token);
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn paused_vm_is_not_idle_and_stops_in_order() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("counts");
    home.start(&vm).unwrap();
    vm.pause().unwrap();
    drop(vm.hold(1).unwrap());
    std::thread::sleep(Duration::from_secs(2));
    assert!(vm.status().unwrap().paused);
    let snapshot = home.path().join("snapshot");
    vm.snapshot(&snapshot).unwrap();
    assert!(vm.status().unwrap().paused, "a VM that was paused stays so");
    drop(vm.hold(0).unwrap());
    assert_eq!(vm.stop(PATIENCE).unwrap(), Stopped::Down);
    assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });
    restore(&home, &vm, &snapshot).unwrap();
    wait_until_it_counts(&vm);
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn snapshot_that_does_not_fit_is_refused_and_changes_nothing() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("counts");
    home.start(&vm).unwrap();
    wait_until_it_counts(&vm);
    let snapshot = home.path().join("snapshot");
    vm.snapshot(&snapshot).unwrap();
    wait_until_it_counts(&vm);
    vm.stop(PATIENCE).unwrap();
    let disk = on_disk(vm.folder());
    let refused = |part: &str| {
        let error = restore(&home, &vm, &snapshot).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });
    };
    let record = vm.record().unwrap();
    let mut other = record.clone();
    other.cpus = 1;
    vm.set_record(&vm.lock().unwrap(), &other).unwrap();
    refused("it was made with the number of processors `2`, and not `1`");
    vm.set_record(&vm.lock().unwrap(), &record).unwrap();

    let description = snapshot.join("snapshot.json");
    let text = fs::read_to_string(&description).unwrap();
    fs::write(&description, text.replace("\"version\": \"", "\"version\": \"0.")).unwrap();
    refused("the version `0.");
    fs::write(&description, text.replace("\"tcg\"", "\"kvm\"")).unwrap();
    refused("QEMU ran the VM under KVM, and cannot now");
    fs::write(&description, "{").unwrap();
    refused("snapshot.json");
    fs::write(&description, &text).unwrap();
    assert_eq!(on_disk(vm.folder()), disk, "the VM's disk was changed");

    // What is QEMU's own is QEMU's to judge.
    let state = File::options().write(true).open(snapshot.join("state")).unwrap();
    state.write_all_at(b"changed", 4).unwrap();
    refused("load of migration failed");
    state.set_len(1 << 16).unwrap();
    refused("load of migration failed");
    home.start(&vm).unwrap();
    wait_until_it_counts(&vm);
}

/// A file system of a few megabytes, until dropped.
struct SmallDisk(std::path::PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
#[expect(clippy::print_stderr, reason = "a part that is skipped says so")]
fn snapshot_that_cannot_be_written_leaves_nothing_and_the_vm_goes_on() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("counts");
    home.start(&vm).unwrap();
    let refused = |place: &Path, part: &str| {
        let error = vm.snapshot(place).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(!vm.status().unwrap().paused);
        wait_until_it_counts(&vm);
    };
    let directory = home.path().join("snapshots");
    fs::create_dir(&directory).unwrap();
    fs::create_dir(directory.join("there")).unwrap();
    symlink("/tmp", directory.join("link")).unwrap();
    refused(&directory.join("there"), "something of that name exists");
    refused(&directory.join("link"), "something of that name exists");
    refused(&directory.join("none/s"), "No such file or directory");
    refused(Path::new("/sys/s"), "cannot create /sys/.s.making");
    assert_eq!(names(&directory), ["link", "there"]);
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root can mount a file system that is full");
        return;
    }
    let small = home.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&small).status().unwrap();
    assert!(mounted.success());
    let small = SmallDisk(small);
    refused(&small.0.join("s"), "No space left on device");
    assert!(names(&small.0).is_empty(), "{:?}", names(&small.0));
    // The state fits, and the disk does not.
    drop(small);
    vm.snapshot(&directory.join("s")).unwrap();
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn killed_supervisor_leaves_a_whole_snapshot_or_none() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("counts");
    let directory = home.path().join("snapshots");
    fs::create_dir(&directory).unwrap();
    let place = directory.join("s");
    let making = directory.join(".s.making");
    let mut seen = Vec::new();
    for step in
        [making.clone(), making.join("state"), making.join("disk.ext4"), making.join("snapshot.json"), place.clone()]
    {
        home.start(&vm).unwrap();
        wait_until_it_counts(&vm);
        let pid = Pid::from_raw(vm.status().unwrap().pid);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !step.exists() && !place.exists() {
                    std::thread::yield_now();
                }
                kill(pid, Signal::SIGKILL).unwrap();
            });
            let _ = vm.snapshot(&place);
        });
        wait_for("the supervisor's end", || matches!(vm.state().unwrap(), VmState::Stopped { .. }));
        let is_there = place.exists();
        seen.push(is_there);
        if is_there {
            restore(&home, &vm, &place).unwrap();
            wait_until_it_counts(&vm);
            vm.stop(PATIENCE).unwrap();
            fs::remove_dir_all(&place).unwrap();
        }
    }
    assert_eq!((seen[1], seen[4]), (false, true), "{seen:?}");
    // What dead ones have left does not stand in the way.
    home.start(&vm).unwrap();
    vm.snapshot(&place).unwrap();
    assert_eq!(names(&directory), ["s"]);
}
