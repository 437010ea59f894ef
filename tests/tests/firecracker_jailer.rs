//! VMs on real Firecracker that its jailer runs as an ordinary user. They are root's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use banger_tests::firecracker_guests::{FirecrackerGuest, firecracker_binary};
use banger_tests::inspect::send;
use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, User};

/// A user of every Debian whose group has another number.
const USER: &str = "games";

fn jailed() -> Home {
    let home = Home::with_firecracker_guests();
    home.configure(&format!("jailer_user = \"{USER}\"\n"));
    home
}

fn comm(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The processes in whose namespaces a VM's files are mounted one by one: the VMM, its launcher, and
/// the first of its pid namespace. The guest's agents, which are in namespaces too, are none.
fn in_jails(home: &Home) -> Vec<Pid> {
    let vms = format!("{}/.local/share/banger/vms/", home.path().file_name().unwrap().to_str().unwrap());
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let sees = |pid: &i32| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(3).is_some_and(|root| root.contains(&vms)))
    };
    let is_ours = |pid: &Pid| !comm(*pid).contains("banger-agent");
    pids.filter(sees).map(Pid::from_raw).filter(is_ours).collect()
}

fn vmm(home: &Home) -> Option<Pid> {
    in_jails(home).into_iter().find(|pid| comm(*pid) == "firecracker")
}

fn supervisor(home: &Home) -> Option<Pid> {
    home.processes().into_iter().find(|pid| comm(*pid).starts_with("banger-vmm"))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// All that a VM keeps is root's, and nobody else's to read, whether the VM runs or not.
#[track_caller]
fn assert_all_is_roots(home: &Home) {
    let images = home.data().join("images/test-guest");
    for path in home.vms().iter().flat_map(|vm| files(vm)).chain(files(&images)) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{}", path.display());
        // What the guest's agents keep is made by these tests.
        let is_a_vms = !path.starts_with(&images) && !path.ends_with("guest");
        assert!(!is_a_vms || metadata.permissions().mode() & 0o077 == 0, "{}", path.display());
    }
}

#[track_caller]
fn assert_nothing_runs(home: &Home) {
    eventually("the end of all processes", || home.nothing_runs() && in_jails(home).is_empty());
    assert_all_is_roots(home);
}

#[test]
fn jailed_vm_lives_and_is_deleted() {
    let home = jailed();
    let repository = home.repository("r");
    let output = repository.sh("cat README; echo kept >/root/kept").ok();
    assert_eq!(output.text(), "a repository\n", "{}", output.stderr);
    let user = User::from_name(USER).unwrap().unwrap();
    let running = repository.run(["status", "--json"]).ok().document()["vm"].clone();
    assert_eq!(running["confinement"]["user"], user.uid.as_raw(), "{running}");
    assert_eq!(running["confinement"]["missing"], serde_json::json!([]), "{running}");
    let shown = repository.run(["status"]).ok().text();
    assert!(shown.contains(&format!("the jailer (user id {})", user.uid)), "{shown}");

    let firecracker = vmm(&home).expect("it runs");
    let process = fs::metadata(format!("/proc/{firecracker}")).unwrap();
    assert_eq!((process.uid(), process.gid()), (user.uid.as_raw(), user.gid.as_raw()));
    assert_eq!(in_jails(&home).len(), 3, "{:?}", in_jails(&home).into_iter().map(comm).collect::<Vec<_>>());
    assert_all_is_roots(&home);
    // It has read the disks, which only root may read.
    let printed = FirecrackerGuest::of(&home.vm()).printed();
    assert!(printed.iter().any(|line| line.ends_with(" ext4 label=the-base")), "{printed:#?}");
    assert_eq!(printed.iter().filter(|line| line.contains(" writable flush ")).count(), 2, "{printed:#?}");

    repository.run(["stop"]).ok();
    home.assert_at_rest();
    assert_nothing_runs(&home);
    repository.run(["restart"]).ok();
    assert_eq!(repository.sh("cat /root/kept").ok().text(), "kept\n");
    // The same disks without the jailer, and with it again.
    for text in ["", "jailer_user = \"games\"\n"] {
        repository.run(["stop"]).ok();
        home.configure(text);
        assert_eq!(repository.sh("cat /root/kept").ok().text(), "kept\n");
        let process = fs::metadata(format!("/proc/{}", vmm(&home).unwrap())).unwrap();
        assert_eq!(process.uid(), if text.is_empty() { 0 } else { user.uid.as_raw() });
    }
    repository.run(["delete", "--force"]).ok();
    assert_nothing_runs(&home);
    assert!(home.leftovers().is_empty() && home.vms().is_empty(), "{:?} {:?}", home.leftovers(), home.vms());
}

#[test]
fn jailed_firecracker_opens_its_tap() {
    let home = jailed();
    let repository = home.repository("r");
    let output: Output = repository.banger().env("BANGER_NET", "user").args(["--", "true"]).output().unwrap().into();
    output.ok();
    let printed = FirecrackerGuest::of(&home.vm()).printed();
    let card = printed.iter().find(|line| line.starts_with("device 1 ")).unwrap_or_else(|| panic!("{printed:#?}"));
    assert!(card.ends_with(" mac=52:54:00:12:34:56"), "{card}");
    let firecracker = vmm(&home).unwrap();
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&firecracker.to_string()), network("self"));
    // Its only other device is the loopback.
    let devices = fs::read_to_string(format!("/proc/{firecracker}/net/dev")).unwrap();
    for name in ["vm0:", "ext:"] {
        assert!(devices.contains(name), "{devices}");
    }
    repository.run(["stop"]).ok();
    assert_nothing_runs(&home);
}

/// Whoever of the three is killed, and whenever.
#[test]
fn jail_that_loses_a_process_at_any_moment_leaves_nothing() {
    let home = jailed();
    let repository = home.repository("r");
    repository.sh("echo kept >/root/kept; sync").ok();
    repository.run(["stop"]).ok();
    for moment in (10..190).step_by(20) {
        let mut command = repository.banger();
        command.args(["-q", "--", "sh", "-c", "sleep 60"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        eventually("a supervisor", || supervisor(&home).is_some());
        thread::sleep(Duration::from_millis(moment));
        let others = in_jails(&home);
        let victim = match moment % 3 {
            0 => supervisor(&home),
            index => others.get(usize::try_from(index).unwrap()).copied().or_else(|| supervisor(&home)),
        };
        victim.into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        let _ = child.kill();
        child.wait().unwrap();
        // A supervisor that was not killed is told of its VM's end.
        supervisor(&home).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        assert_nothing_runs(&home);
    }
    let output = repository.sh("cat /root/kept").ok();
    assert_eq!(output.text(), "kept\n", "{}", output.stderr);
    repository.run(["delete", "--force"]).ok();
    assert_nothing_runs(&home);
    assert!(home.leftovers().is_empty() && home.vms().is_empty(), "{:?} {:?}", home.leftovers(), home.vms());
}

fn refused(repository: &Repository<'_>, reason: &str) {
    // Firecracker's directory, with its jailer, is not on this path.
    let firecracker = repository.home.path().join("bin/firecracker");
    let mut command = repository.banger();
    command.env("PATH", "/usr/bin:/bin").env("BANGER_FIRECRACKER_BIN", firecracker).args(["--", "true"]);
    let output: Output = command.output().unwrap().into();
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{reason}: {}", output.stderr);
    assert!(output.stderr.contains(reason) && output.stderr.contains("hint: "), "{reason}: {}", output.stderr);
    assert_nothing_runs(repository.home);
}

#[test]
fn jailer_that_cannot_be_used_is_a_clear_error() {
    let home = jailed();
    let repository = home.repository("r");
    let directory = home.path().join("bin");
    fs::create_dir(&directory).unwrap();
    fs::copy(firecracker_binary(), directory.join("firecracker")).unwrap();
    refused(&repository, "`jailer` was not found on this machine");
    let jailer = directory.join("jailer");
    for (said, reason) in [
        ("Jailer v1.99.0", "is of version 1.99.0, and Firecracker of "),
        ("Something else", "is not Firecracker's jailer: `--version` says `Something else`"),
    ] {
        fs::write(&jailer, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
        fs::set_permissions(&jailer, fs::Permissions::from_mode(0o755)).unwrap();
        refused(&repository, reason);
    }
    for (user, reason) in [("nobody-at-all", "has no such user"), ("root", "has root's user or group id")] {
        home.configure(&format!("jailer_user = \"{user}\"\n"));
        refused(&repository, reason);
    }
    let doctor = repository.run(["doctor"]);
    assert!(doctor.text().contains("has root's user or group id"), "{} {}", doctor.text(), doctor.stderr);
    home.configure("");
    repository.run(["--", "true"]).ok();
}
