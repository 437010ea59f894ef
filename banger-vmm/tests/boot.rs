//! Real VMs whose guests misbehave: how they start, end and are reported.

mod real_vm;

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use banger_vmm::{Accelerator, AcceleratorChoice, Confinement, Error, StartEvent, Vm, VmState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use real_vm::{Home, ONE_VM_AT_A_TIME, PATIENCE, wait_for};

fn start_fails(home: &Home, name: &str) -> Error {
    let vm = home.vm(name);
    let error = home.start(&vm).unwrap_err();
    assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });
    assert_no_trace(&vm);
    error
}

fn assert_no_trace(vm: &Vm) {
    for name in ["s", "run.json"] {
        assert!(!vm.folder().join(name).exists(), "{name} is left");
    }
    assert!(processes_of(vm).is_empty(), "processes are left");
}

/// What a process has open.
fn descriptors(pid: i32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// Processes that have the VM's disk open.
fn processes_of(vm: &Vm) -> Vec<i32> {
    let disk = vm.folder().join("disk.ext4");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.filter(|&pid| descriptors(pid).contains(&disk)).collect()
}

/// Checks what the host says of a supervisor and a QEMU that run.
#[track_caller]
fn assert_confined(vm: &Vm, supervisor: i32, qemu: i32) {
    let read = |pid: i32, name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let field = |pid: i32, file: &str, start: &str| {
        let all = read(pid, file);
        let line = all.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{start}: {all}"));
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert!(std::env::vars_os().next().is_some());
    for pid in [supervisor, qemu] {
        assert_eq!(read(pid, "environ"), "", "the caller's variables are nobody else's");
        assert_eq!(field(pid, "status", "NoNewPrivs:"), "1");
        assert_eq!(field(pid, "limits", "Max core file size"), "0");
    }
    // QEMU's own filter, and banger's.
    assert_eq!([field(qemu, "status", "Seccomp:"), field(qemu, "status", "Seccomp_filters:")], ["2", "2"]);
    assert_eq!([field(qemu, "status", "CapPrm:"), field(qemu, "status", "CapEff:")], ["0000000000000000"; 2]);

    // It has open what it was given, and what it made itself.
    let given = ["disk.ext4", "workspace.ext4"].map(|name| vm.folder().join(name));
    let made = ["socket:[", "pipe:[", "anon_inode:", "/memfd:"];
    for file in descriptors(qemu) {
        let name = file.to_string_lossy();
        let is_made = made.iter().any(|start| name.starts_with(start));
        let is_image = name.ends_with("/base") || name.starts_with("/dev/null") || name.starts_with("/dev/urandom");
        assert!(is_made || is_image || given.contains(&file), "QEMU has {name} open");
    }
    // Three that it inherits, and of the agent's and the console's none more.
    let inherited = descriptors(qemu).iter().filter(|file| file.to_string_lossy().starts_with("socket:[")).count();
    assert_eq!(inherited, 3, "{:?}", descriptors(qemu));
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn vm_starts_stops_and_leaves_nothing() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    // A path longer than the 107 bytes of a socket's, with what QEMU takes for its own.
    let home = Home::in_folder(tempfile::tempdir().unwrap(), &format!("{}/a,b c", "long".repeat(40)));
    let vm = home.vm("behaves");
    assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });

    // What `x=$(banger …)` gives its children: a pipe whose reader waits for every copy of it to be
    // closed.
    let (_reader, writer) = nix::unistd::pipe().unwrap();
    let inherited = fs::read_link(format!("/proc/self/fd/{}", writer.as_raw_fd())).unwrap();
    let mut events = Vec::new();
    let running = vm.start(&vm.lock().unwrap(), &home.options, |event| events.push(event)).unwrap();
    assert_eq!((running.accelerator, running.agent.version.as_str()), (Accelerator::Tcg, "test"));
    assert!(matches!(&events[..], [StartEvent::Booting { fallback: None, .. }, StartEvent::Ready(_)]), "{events:?}");

    let VmState::Running { pid, confinement, .. } = vm.state().unwrap() else { panic!("{:?}", vm.state()) };
    assert_eq!(confinement, Some(Confinement::of_kernel()));
    let status = vm.status().unwrap();
    assert_confined(&vm, pid, status.vmm_pid.unwrap());
    assert_eq!((status.pid, status.failed.as_deref(), status.clients), (pid, None, 0));
    let resident = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let resident: u64 = resident.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(resident * 4096 < 10 << 20, "the supervisor takes {} KiB", resident * 4);
    assert!(!descriptors(pid).contains(&inherited), "the pipe of the command that started it is open");
    assert!(matches!(home.store.delete("behaves"), Err(Error::Running(_))));
    assert_eq!(home.start(&vm).unwrap(), running);

    vm.stop(PATIENCE).unwrap();
    assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });
    assert_no_trace(&vm);
    assert!(vm.console_tail(100).unwrap().iter().any(|line| line == "a guest that behaves"));
    assert!(matches!(vm.status(), Err(Error::NotRunning(_))));
    vm.stop(PATIENCE).unwrap();
    home.store.delete("behaves").unwrap();
    assert!(home.store.list().unwrap().is_empty());
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn failed_boot_shows_console_and_leaves_nothing() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let mut home = Home::new();
    let error = start_fails(&home, "panics");
    assert!(error.to_string().contains("panicked"), "{error}");
    assert!(error.console_tail().iter().any(|line| line.contains("Kernel Offset")), "{:?}", error.console_tail());

    let error = start_fails(&home, "powers-off");
    assert!(error.to_string().contains("switched itself off"), "{error}");

    let error = start_fails(&home, "babbles");
    assert!(error.to_string().contains("does not speak banger's protocol"), "{error}");

    home.options.boot_timeout = Some(Duration::from_secs(10));
    for name in ["hangs", "keeps-silent"] {
        let error = start_fails(&home, name);
        assert!(error.to_string().contains("did not"), "{error}");
        assert!(
            error.console_tail().iter().any(|line| line == &format!("a guest that {name}")),
            "{:?}",
            error.console_tail()
        );
    }
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn qemu_failure_is_quoted() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let mut home = Home::new();
    home.options.kernel = home.options.base.clone();
    let error = start_fails(&home, "behaves");
    assert!(error.to_string().contains("QEMU ended"), "{error}");
    home.options.kernel = "/no/such/kernel".into();
    let error = start_fails(&home, "behaves-2");
    assert!(error.to_string().contains("/no/such/kernel"), "{error}");
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn flooded_console_log_stays_bounded() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("shouts");
    home.start(&vm).unwrap();
    vm.stop(PATIENCE).unwrap();
    let size = |name: &str| fs::metadata(vm.folder().join(name)).unwrap().size();
    assert!(size("console.log") + size("console.log.1") <= 1 << 20);
    assert!(vm.console_tail(50).unwrap().iter().any(|line| line == "^[[2Jthe last word"));
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn lost_agent_fails_the_vm_until_it_is_stopped() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    for name in ["drops-the-port", "breaks-the-mux"] {
        let vm = home.vm(name);
        home.start(&vm).unwrap();
        let mut stream = vm.connect_agent().ok();
        wait_for("the failure", || matches!(vm.state().unwrap(), VmState::Failed { .. }));
        // Who was connected is let go, and who comes is told.
        stream.iter_mut().for_each(|stream| _ = stream.read_to_end(&mut Vec::new()));
        assert!(matches!(vm.connect_agent(), Err(Error::Refused { .. })));
        assert!(vm.status().unwrap().failed.is_some());
        vm.stop(PATIENCE).unwrap();
        assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });
        assert_no_trace(&vm);
    }
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn stubborn_guest_is_killed_on_stop() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("is-stubborn");
    home.start(&vm).unwrap();
    vm.stop(Duration::from_millis(500)).unwrap();
    assert_no_trace(&vm);
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn killed_supervisor_takes_qemu_down_and_is_reported() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("behaves");
    home.start(&vm).unwrap();
    kill(Pid::from_raw(vm.status().unwrap().pid), Signal::SIGKILL).unwrap();
    wait_for("QEMU's end", || processes_of(&vm).is_empty());
    // A process that exits shows no descriptors in /proc before the kernel has closed them, the
    // lock among them.
    wait_for("the supervisor's end", || matches!(vm.state().unwrap(), VmState::Stopped { .. }));
    assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: Some("its supervisor was killed".into()) });
    assert!(matches!(vm.connect_agent(), Err(Error::NotRunning(_))));

    let unfinished = vm.folder().join("run.json.12345678");
    fs::write(&unfinished, "{").unwrap();
    home.start(&vm).unwrap();
    assert!(!unfinished.exists());
    let status = vm.status().unwrap();
    kill(Pid::from_raw(status.vmm_pid.unwrap()), Signal::SIGKILL).unwrap();
    wait_for("the supervisor's end", || matches!(vm.state().unwrap(), VmState::Stopped { .. }));
    let VmState::Stopped { crash: Some(crash) } = vm.state().unwrap() else { panic!("{:?}", vm.state()) };
    assert!(crash.contains("signal: 9"), "{crash}");

    home.start(&vm).unwrap();
    kill(Pid::from_raw(vm.status().unwrap().pid), Signal::SIGTERM).unwrap();
    wait_for("the end", || vm.state().unwrap() == VmState::Stopped { crash: None });
    assert_no_trace(&vm);
}

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn kvm_is_used_if_it_works_and_failure_is_remembered() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let mut home = Home::new();
    home.options.accelerator = AcceleratorChoice::Auto;
    let vm = home.vm("behaves");
    let start = || {
        let mut events = Vec::new();
        let running = vm.start(&vm.lock().unwrap(), &home.options, |event| events.push(event)).unwrap();
        vm.stop(PATIENCE).unwrap();
        events.retain(|event| matches!(event, StartEvent::Booting { .. }));
        (running.accelerator, events)
    };
    let (accelerator, first) = start();
    let (again, second) = start();
    assert_eq!((again, second.len()), (accelerator, 1), "{first:?} {second:?}");
    let StartEvent::Booting { fallback, .. } = &second[0] else { unreachable!("nothing else is kept") };
    // On this machine KVM works, or a reason why not is given.
    assert_eq!(fallback.is_some(), accelerator == Accelerator::Tcg, "{fallback:?}");
}
