//! Firecracker as its jailer runs it. These tests are root's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::unistd::{Uid, User};

use super::*;

/// A user of every Debian whose group has another number.
const USER: &str = "games";
const FILES: [&str; 4] = ["disk.ext4", "base", "initrd", "modules"];

fn jailed() -> Home {
    let home = Home::new();
    assert!(Uid::effective().is_root(), "the jailer needs root");
    let programs = std::env::var_os("BANGER_TEST_FIRECRACKER").unwrap();
    let programs = Programs::new(programs).with_jailer_user(Some(USER.to_owned()));
    Home { backend: backend(&programs), ..private(home) }
}

/// Has nobody but root read the files of a home.
fn private(home: Home) -> Home {
    for file in FILES {
        fs::set_permissions(home.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    home
}

/// The processes in whose namespaces something of this home is mounted.
fn processes(home: &Home) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let name = home.directory.path().file_name().unwrap().to_str().unwrap();
    let sees = |pid: &i32| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(3).is_some_and(|root| root.contains(name)))
    };
    processes.filter(sees).collect()
}

async fn wait_until_nothing_is_left(home: &Home) {
    let gone = async {
        while !processes(home).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{:?}", processes(home)));
    assert_files_are_roots(home);
}

fn assert_files_are_roots(home: &Home) {
    for file in FILES {
        let found = fs::metadata(home.path(file)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 0, 0o600), "{file}");
    }
}

fn listed(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn jailed_firecracker_is_an_ordinary_user_with_its_files_only() {
    let home = jailed();
    let vm = home.vm("up\n", End::GoesOn);
    let Launched { vmm, mut console, confinement, .. } = home.launch(&vm).await.unwrap();
    wait_for(&mut *console, "up\n").await;
    let user = User::from_name(USER).unwrap().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", vmm.pid)).unwrap();
    let line = |start: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Name:"), ["firecracker"]);
    assert_eq!(line("Uid:"), vec![user.uid.to_string(); 4]);
    assert_eq!(line("Gid:"), vec![user.gid.to_string(); 4]);
    assert_eq!(line("Groups:"), Vec::<String>::new());
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(line(set), ["0".repeat(16)], "{set}");
    }
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    // The launcher's filter, and Firecracker's own.
    assert_eq!(line("Seccomp_filters:"), ["2"]);
    assert_eq!(line("NSpid:").len(), 2);
    let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", vmm.pid)).unwrap();
    assert_eq!(of("environ"), "");
    let limits = of("limits");
    assert!(limits.lines().any(|line| line.starts_with("Max core file size        0 ")), "{limits}");

    let root = format!("/proc/{}/root", vmm.pid);
    let found = listed(&root);
    let expected = ["api.sock", "base.ext4", "dev", "disk.ext4", "firecracker", "firecracker.pid", "initrd", "log"];
    assert_eq!(found, [&expected[..], &["modules.ext4", "run", "v.sock", "vmlinux"]].concat());
    assert_eq!(listed(&format!("{root}/dev")), ["kvm", "net", "urandom"]);
    let mounts = of("mountinfo");
    let options = |path: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(path));
        line.unwrap_or_else(|| panic!("{path}: {mounts}")).split(' ').nth(5).unwrap().to_owned()
    };
    assert!(options("/disk.ext4").starts_with("rw,nosuid,nodev,noexec"), "{mounts}");
    assert!(options("/").starts_with("rw,nosuid,nodev,noexec"), "{mounts}");
    for file in ["/base.ext4", "/modules.ext4", "/vmlinux", "/initrd"] {
        assert!(options(file).starts_with("ro,nosuid,nodev,noexec"), "{mounts}");
    }
    assert_eq!(mounts.lines().count(), 8, "{mounts}");
    let link = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["mnt", "net", "ipc", "uts", "pid"] {
        assert_ne!(link(&vmm.pid.to_string(), name), link("self", name), "{name}");
    }
    let confinement = confinement.unwrap();
    assert_eq!((confinement.user, confinement.landlock_abi), (Some(user.uid.as_raw()), None));
    assert_eq!((confinement.namespaces.len(), confinement.missing), (5, vec![]));
    // Within, root's file is the user's. Here it is not.
    assert_eq!(fs::metadata(format!("{root}/disk.ext4")).unwrap().uid(), user.uid.as_raw());
    assert_files_are_roots(&home);

    vmm.kill().await;
    wait_until_nothing_is_left(&home).await;
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn jailed_firecracker_is_killed_and_its_end_is_told() {
    let home = jailed();
    for how in ["killed", "quit", "drop", "power-off"] {
        let end = if how == "power-off" { End::Resets } else { End::GoesOn };
        let text = "[    1.5] reboot: Power down\r\n";
        let mut launched = home.launch(&home.vm(text, end)).await.unwrap();
        match how {
            "killed" => kill(Pid::from_raw(launched.vmm.pid), Signal::SIGKILL).unwrap(),
            "quit" => launched.vmm.quit(),
            _ => {}
        }
        if how == "drop" {
            drop(launched);
        } else {
            let all = events(launched).await;
            let Some(VmmEvent::Exited(failure)) = all.last() else { panic!("{how}: {all:?}") };
            assert_eq!(failure.message.contains("signal: 9"), how != "power-off", "{how}: {failure:?}");
            assert_eq!(all.contains(&VmmEvent::PoweredOff), how == "power-off", "{how}: {all:?}");
        }
        wait_until_nothing_is_left(&home).await;
    }
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn launch_in_a_jail_that_is_cut_at_any_moment_leaves_nothing() {
    let home = jailed();
    let vm = home.vm("up\n", End::GoesOn);
    let mut has_run = 0;
    for moment in (0..120).step_by(3) {
        // The launcher is killed when nobody waits for it any more.
        let launched = timeout(Duration::from_millis(moment), home.backend.launch(&vm, Accelerator::Kvm, None)).await;
        has_run += u32::from(launched.is_ok());
        drop(launched);
        wait_until_nothing_is_left(&home).await;
    }
    assert!(has_run > 0, "the last moments are late enough");
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn snapshot_goes_on_with_a_jail_and_without() {
    let [first, without] = [jailed(), private(Home::new())];
    let vm = first.vm("up\n", End::GoesOn);
    let (vmm, mut console) = start(&first, &vm).await;
    let snapshot = snapshot_directory(&first, "snapshot");
    vmm.control().unwrap().pause().await.unwrap();
    vmm.control().unwrap().snapshot(&snapshot).await.unwrap();
    drain(&mut *console).await;
    vmm.control().unwrap().resume().await.unwrap();
    wait_for(&mut *console, ".").await;
    for file in fs::read_dir(&snapshot).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().uid(), 0);
    }
    for elsewhere in [jailed(), without] {
        let copy = elsewhere.vm("another\n", End::GoesOn);
        let Launched { vmm: restored, console: mut its, .. } = restore(&elsewhere, &copy, &snapshot).await.unwrap();
        let mut begin = [0; 16];
        timeout(PATIENCE, its.read_exact(&mut begin)).await.unwrap().unwrap();
        assert_eq!(begin, [b'.'; 16], "it goes on, and does not begin again");
        drop(restored);
        wait_until_nothing_is_left(&elsewhere).await;
    }
    drop(vmm);
    wait_until_nothing_is_left(&first).await;
}

#[tokio::test]
#[ignore = "needs BANGER_TEST_FIRECRACKER and KVM"]
async fn complaint_of_the_jailer_is_shown() {
    let home = jailed();
    let mut vm = home.vm("up\n", End::GoesOn);
    vm.record.hostname = "no_such_id".to_owned();
    let failure = home.launch(&vm).await.err().unwrap();
    assert!(failure.message.contains("Invalid instance ID"), "{failure:?}");
    wait_until_nothing_is_left(&home).await;
}
