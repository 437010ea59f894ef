//! Real Firecracker, with guests of a few instructions that every KVM runs.
//!
//! The directory that has the program is named by `BANGER_TEST_FIRECRACKER`; without it, or without
//! KVM, these tests are ignored.

mod jailer;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::*;
use crate::backend::{Vmm, VmmEvent, net_plan};
use crate::error::FailureKind;
use crate::record::VmRecord;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a guest does when it has said its text.
#[derive(Clone, Copy)]
enum End {
    GoesOn,
    Resets,
    TripleFault,
    GoesWhereKvmCannotFollow,
}

/// The directory of a VM, with the files that it is made of.
struct Home {
    directory: TempDir,
    backend: Firecracker,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        for (name, length) in [("initrd", 4096), ("base", 1 << 20), ("disk.ext4", 1 << 20), ("modules", 1 << 20)] {
            fs::File::create(directory.path().join(name)).unwrap().set_len(length).unwrap();
        }
        let programs = std::env::var_os("BANGER_TEST_FIRECRACKER").expect("BANGER_TEST_FIRECRACKER is set");
        Home { directory, backend: backend(&Programs::new(programs)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A VM whose guest says `text` and then ends, or not.
    fn vm(&self, text: &str, end: End) -> VmDefinition {
        let kernel = self.path("vmlinux");
        let mut cc = Command::new("cc");
        cc.args(["-nostdlib", "-static", "-no-pie", "-Wl,-N,-Ttext=0x200000,--build-id=none,--no-warn-rwx-segments"]);
        cc.arg(format!("-DTEXT={text:?}")).arg(format!("-DEND={}", end as u32)).arg("-o").arg(&kernel);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/firecracker.S");
        assert!(cc.arg(source).status().unwrap().success());
        let mut record = VmRecord::new("vm", "image", "kernel", 0);
        (record.memory_mib, record.cpus, record.net) = (64, 1, NetMode::None);
        VmDefinition {
            net: net_plan(record.net, BackendKind::Firecracker),
            record,
            kernel: self.path("vmlinuz"),
            vmlinux: Some(kernel),
            initramfs: self.path("initrd"),
            base: self.path("base"),
            disk: self.path("disk.ext4"),
            workspace: None,
            modules: Some(self.path("modules")),
        }
    }

    async fn launch(&self, vm: &VmDefinition) -> Result<Launched, Failure> {
        timeout(PATIENCE, self.backend.launch(vm, Accelerator::Kvm, None)).await.expect("it takes some milliseconds")
    }

    /// The failure of a launch, after which nothing runs.
    async fn refused(&self, vm: &VmDefinition) -> Failure {
        let failure = self.launch(vm).await.err().expect("it is refused");
        self.assert_nothing_runs();
        failure
    }

    fn assert_nothing_runs(&self) {
        assert_eq!(self.processes(), Vec::<i32>::new());
    }

    async fn wait_until_nothing_runs(&self) {
        let gone = async {
            while !self.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("it is killed");
    }

    /// The processes that have the run directory as theirs.
    fn processes(&self) -> Vec<i32> {
        let run = self.path("run");
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        processes.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path == run)).collect()
    }
}

/// A backend with the launcher that was built with this test.
fn backend(programs: &Programs) -> Firecracker {
    let launcher = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("banger-vmm");
    Firecracker { launcher, ..Firecracker::find(programs).unwrap() }
}

/// Reads a console until `text` is on it.
async fn wait_for(console: &mut (dyn AsyncRead + Send + Unpin), text: &str) {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert_ne!(console.read_buf(&mut read).await.unwrap(), 0, "the console ended: {read:?}");
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("`{text}` does not come"));
}

/// Reads what a paused guest has written before.
async fn drain(console: &mut (dyn AsyncRead + Send + Unpin)) {
    while timeout(Duration::from_millis(300), console.read_buf(&mut Vec::new())).await.is_ok() {}
}

/// What happens until the VMM is gone; somebody follows the console.
async fn events(launched: Launched) -> Vec<VmmEvent> {
    let Launched { mut vmm, mut console, .. } = launched;
    let following = tokio::spawn(async move { console.read_to_end(&mut Vec::new()).await });
    let mut all = Vec::new();
    let collecting = async {
        while let Some(event) = vmm.events.recv().await {
            all.push(event);
        }
    };
    timeout(PATIENCE, collecting).await.expect("the VMM ends");
    following.await.unwrap().unwrap();
    all
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn guest_starts_and_leaves_nothing_when_it_is_ended() {
    let home = Home::new();
    let vm = home.vm("up\n", End::GoesOn);
    // Three times in the same directory: what an earlier one left, as a socket, is no obstacle.
    for how in ["quit", "kill", "drop"] {
        let start = Instant::now();
        let Launched { mut vmm, mut console, .. } = home.launch(&vm).await.unwrap();
        wait_for(&mut *console, "up\n").await;
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(home.processes(), [vmm.pid]);
        assert!(home.path("run/v.sock").exists());
        match how {
            "quit" => {
                vmm.quit();
                let Some(VmmEvent::Exited(failure)) = vmm.events.recv().await else { panic!("it ended otherwise") };
                assert!(failure.message.contains("signal: 9"), "{failure:?}");
            }
            "kill" => vmm.kill().await,
            _ => {
                drop(vmm);
                // Its end is awaited by nobody but the console.
                timeout(PATIENCE, console.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
                home.wait_until_nothing_runs().await;
            }
        }
        home.assert_nothing_runs();
    }
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn console_and_log_tell_how_a_guest_ended() {
    let home = Home::new();
    for (text, end, expected) in [
        ("[    1.5] reboot: Power down\r\n", End::Resets, Some(VmmEvent::PoweredOff)),
        ("[    1.5] reboot: Restarting system\r\n", End::Resets, Some(VmmEvent::Reset)),
        ("[    1.5] Kernel panic - not syncing: no init\r\n", End::Resets, Some(VmmEvent::Reset)),
        ("[    1.5] reboot: Power down\r\n", End::TripleFault, Some(VmmEvent::PoweredOff)),
        ("hello\n", End::TripleFault, Some(VmmEvent::Reset)),
        ("hello\n", End::Resets, None),
    ] {
        let launched = home.launch(&home.vm(text, end)).await.unwrap();
        let mut all = events(launched).await;
        let Some(VmmEvent::Exited(failure)) = all.pop() else { panic!("{all:?}") };
        assert_eq!(all, Vec::from_iter(expected), "{text}");
        assert!(failure.message.contains("did not say why"), "{failure:?}");
        home.assert_nothing_runs();
    }
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn guest_that_kvm_cannot_run_is_unfit_whatever_the_exit_status() {
    let home = Home::new();
    let vm = home.vm("[    1.5] reboot: Power down\r\n", End::GoesWhereKvmCannotFollow);
    for _ in 0..4 {
        // It may end before the call that starts it is answered.
        let failure = match home.launch(&vm).await {
            Ok(launched) => {
                let all = events(launched).await;
                let [VmmEvent::Exited(failure)] = &all[..] else { panic!("{all:?}") };
                failure.clone()
            }
            Err(failure) => failure,
        };
        assert_eq!(failure.kind, FailureKind::KvmUnfit, "{failure:?}");
        home.assert_nothing_runs();
    }
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn firecracker_that_is_killed_is_reported() {
    let home = Home::new();
    let launched = home.launch(&home.vm("up\n", End::GoesOn)).await.unwrap();
    kill(Pid::from_raw(launched.vmm.pid), Signal::SIGKILL).unwrap();
    let all = events(launched).await;
    let [VmmEvent::Exited(failure)] = &all[..] else { panic!("{all:?}") };
    assert!(failure.message.starts_with("Firecracker ended (signal: 9 (SIGKILL))"), "{failure:?}");
    home.assert_nothing_runs();
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn refusals_of_the_api_are_shown_as_they_are() {
    let home = Home::new();
    let vm = |change: &dyn Fn(&mut VmDefinition)| {
        let mut vm = home.vm("up\n", End::GoesOn);
        change(&mut vm);
        vm
    };
    let not_elf = home.path("base");
    let missing = home.path("missing");
    let directory = snapshot_directory(&home, "directory");
    let refusals: [(VmDefinition, &str, &str); 7] = [
        (vm(&|vm| vm.vmlinux = Some(not_elf.clone())), "PUT /actions", "Invalid Elf magic number"),
        (vm(&|vm| vm.vmlinux = Some(missing.clone())), "PUT /boot-source", "No such file or directory"),
        (vm(&|vm| vm.initramfs = missing.clone()), "PUT /boot-source", "No such file or directory"),
        (vm(&|vm| vm.base = missing.clone()), "PUT /drives/base", "No such file or directory"),
        (vm(&|vm| vm.disk = directory.clone()), "PUT /drives/disk", "Is a directory"),
        (vm(&|vm| vm.record.cpus = 33), "PUT /machine-config", "vCPU"),
        (vm(&|vm| vm.record.memory_mib = 0), "PUT /machine-config", "memory size"),
    ];
    for (vm, call, reason) in refusals {
        let failure = home.refused(&vm).await;
        let start = format!("Firecracker refused `{call}`: ");
        assert!(failure.message.starts_with(&start) && failure.message.contains(reason), "{failure:?}");
        assert_eq!(failure.hint.is_some(), reason.contains("Elf"), "{failure:?}");
    }
}

/// Has a program that says that it is Firecracker, and then does this, take its place.
fn take_place(home: &mut Home, what: u32) {
    let program = home.path("impostor");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Werror", "-static"]).arg(format!("-DWHAT={what}")).arg("-o").arg(&program);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/impostor.c");
    assert!(cc.arg(source).status().unwrap().success());
    home.backend = backend(&Programs::new("").with_firecracker(Some(program)));
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn impostor_at_the_api_is_refused_and_killed() {
    let mut home = Home::new();
    let vm = home.vm("up\n", End::GoesOn);
    take_place(&mut home, 0);
    let failure = home.refused(&vm).await;
    // It depends on whether its bytes come before the request was sent.
    let reasons =
        ["answer to `GET /version` is invalid: ", "`GET /version`: operation was canceled: received unexpected"];
    assert!(reasons.iter().any(|reason| failure.message.contains(reason)), "{failure:?}");
    take_place(&mut home, 1);
    let failure = home.refused(&vm).await;
    assert_eq!(failure.message, "Firecracker ended (exit status: 3): what am I");
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn cancelled_launch_leaves_nothing() {
    let mut home = Home::new();
    let vm = home.vm("up\n", End::GoesOn);
    take_place(&mut home, 2);
    let launching = home.backend.launch(&vm, Accelerator::Kvm, None);
    assert!(timeout(Duration::from_millis(500), launching).await.is_err());
    home.wait_until_nothing_runs().await;
}

/// A VM that goes on from a snapshot of another, in a directory of its own.
async fn restore(home: &Home, vm: &VmDefinition, snapshot: &Path) -> Result<Launched, Failure> {
    timeout(PATIENCE, home.backend.launch(vm, Accelerator::Kvm, Some(snapshot))).await.unwrap()
}

fn snapshot_directory(home: &Home, name: &str) -> PathBuf {
    let directory = home.path(name);
    fs::create_dir(&directory).unwrap();
    directory
}

async fn start(home: &Home, vm: &VmDefinition) -> (Vmm, Box<dyn AsyncRead + Send + Unpin>) {
    let Launched { vmm, mut console, .. } = home.launch(vm).await.unwrap();
    wait_for(&mut *console, "up\n").await;
    (vmm, console)
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn paused_guest_goes_on_here_and_from_its_snapshot_elsewhere() {
    let home = Home::new();
    let vm = home.vm("up\n", End::GoesOn);
    let (vmm, mut console) = start(&home, &vm).await;
    let first = snapshot_directory(&home, "first");
    vmm.control().unwrap().pause().await.unwrap();
    vmm.control().unwrap().snapshot(&first).await.unwrap();
    drain(&mut *console).await;
    vmm.control().unwrap().resume().await.unwrap();
    wait_for(&mut *console, ".").await;

    // Beside it, in another directory, with copies of its disks.
    let elsewhere = Home::new();
    let copy = elsewhere.vm("another\n", End::GoesOn);
    let Launched { vmm: restored, console: mut its_console, .. } = restore(&elsewhere, &copy, &first).await.unwrap();
    let mut begin = [0; 16];
    timeout(PATIENCE, its_console.read_exact(&mut begin)).await.unwrap().unwrap();
    assert_eq!(begin, [b'.'; 16], "it goes on, and does not begin again");

    // It can be written again, while its memory is that of the first.
    let second = snapshot_directory(&elsewhere, "second");
    restored.control().unwrap().pause().await.unwrap();
    let memory = |directory: &Path| fs::read(directory.join(snapshot::MEMORY)).unwrap().len();
    restored.control().unwrap().snapshot(&second).await.unwrap();
    assert_eq!((memory(&first), memory(&second)), (64 << 20, 64 << 20));
    drop(its_console);
    restored.kill().await;
    elsewhere.assert_nothing_runs();
    let names = |directory: &Path| {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&second), [snapshot::MEMORY, snapshot::STATE]);
    drop(console);
    vmm.kill().await;
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn failed_snapshot_leaves_no_file_and_a_guest_that_goes_on() {
    let home = Home::new();
    let vm = home.vm("up\n", End::GoesOn);
    let (vmm, mut console) = start(&home, &vm).await;
    let target = snapshot_directory(&home, "target");
    assert_eq!(vmm.version(), Some(&*home.backend.version().await.unwrap()));

    let failure = vmm.control().unwrap().snapshot(&target).await.unwrap_err();
    assert!(failure.message.starts_with("Firecracker refused `PUT /snapshot/create`: "), "{failure:?}");
    assert!(failure.message.contains("running"), "{failure:?}");
    assert!(fs::read_dir(&target).unwrap().next().is_none());

    vmm.control().unwrap().pause().await.unwrap();
    // A file that does not take the memory.
    symlink("/dev/full", home.path("run/new.memory")).unwrap();
    let failure = vmm.control().unwrap().snapshot(&target).await.unwrap_err();
    assert!(failure.message.starts_with("Firecracker refused `PUT /snapshot/create`: "), "{failure:?}");
    // A directory that does not exist, and one that has a snapshot.
    let failure = vmm.control().unwrap().snapshot(&home.path("nowhere")).await.unwrap_err();
    assert!(failure.message.contains("nowhere/firecracker.state: No such file"), "{failure:?}");
    fs::write(target.join(snapshot::MEMORY), "precious").unwrap();
    let failure = vmm.control().unwrap().snapshot(&target).await.unwrap_err();
    assert!(failure.message.contains("exists"), "{failure:?}");
    assert_eq!(fs::read(target.join(snapshot::MEMORY)).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    for name in ["new.state", "new.memory"] {
        assert!(home.path("run").join(name).symlink_metadata().is_err(), "{name} is left");
    }

    // One that nobody waits for: the next command is carried out when it is gone again.
    fs::remove_file(target.join(snapshot::MEMORY)).unwrap();
    let control = vmm.control().unwrap();
    assert!(timeout(Duration::from_millis(1), control.snapshot(&target)).await.is_err());
    drain(&mut *console).await;
    control.resume().await.unwrap();
    assert!(fs::read_dir(&target).unwrap().next().is_none());
    wait_for(&mut *console, ".").await;
    drop((console, control));
    vmm.kill().await;
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn damaged_snapshot_is_an_error_and_nothing_runs() {
    let home = Home::new();
    let vm = home.vm("up\n", End::GoesOn);
    let (vmm, console) = start(&home, &vm).await;
    let snapshot = snapshot_directory(&home, "snapshot");
    vmm.control().unwrap().pause().await.unwrap();
    vmm.control().unwrap().snapshot(&snapshot).await.unwrap();
    drop(console);
    vmm.kill().await;
    let state = snapshot.join(snapshot::STATE);
    let mut bytes = fs::read(&state).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&state, bytes).unwrap();
    let failure = restore(&home, &vm, &snapshot).await.err().unwrap();
    assert!(failure.message.starts_with("Firecracker refused `PUT /snapshot/load`: "), "{failure:?}");
    home.assert_nothing_runs();
    fs::remove_file(state).unwrap();
    let failure = restore(&home, &vm, &snapshot).await.err().unwrap();
    assert!(failure.message.contains("No such file"), "{failure:?}");
    home.assert_nothing_runs();
}
