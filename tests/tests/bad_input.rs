//! Machines that lack something, folders that are no workspace, disks that are full: a clear error,
//! and nothing lost.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use banger_tests::inspect::peak_memory;
use banger_tests::{Home, Output, banger_binary, eventually};
use nix::unistd::{Pid, geteuid};

/// A folder for PATH with these programs, and no others.
fn only(home: &Home, programs: &[&str]) -> PathBuf {
    let folder = home.path().join(format!("bin-{}", programs.join("-")));
    fs::create_dir(&folder).unwrap();
    for program in programs {
        let place = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|folder| Path::new(folder).join(program));
        symlink(place.iter().find(|path| path.exists()).expect("the program is installed"), folder.join(program))
            .unwrap();
    }
    folder
}

#[track_caller]
fn assert_error(output: &Output, message: &str, hint: &str) {
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{}", output.stderr);
    assert!(output.stderr.contains("banger: error: ") && output.stderr.contains(message), "{}", output.stderr);
    let hints: Vec<_> = output.stderr.lines().filter(|line| line.contains("hint: ")).collect();
    assert!(hints.iter().any(|line| line.contains(hint)), "{}", output.stderr);
}

#[test]
fn missing_program_error_names_its_package() {
    let home = Home::new();
    let repository = home.repository("r");
    let with = |path: PathBuf| -> Output {
        repository.banger().env("PATH", path).args(["--", "true"]).output().unwrap().into()
    };
    assert_error(&with(only(&home, &["git", "mke2fs"])), "`qemu-system-x86_64` was not found", "`qemu-system-x86`");
    repository.run(["delete", "--force"]).ok();

    // Without an image one has to be built.
    fs::remove_file(home.data().join("images")).unwrap();
    let output = with(only(&home, &["git", "mke2fs", "qemu-system-x86_64"]));
    assert_error(&output, "`mmdebstrap`", "install mmdebstrap");
    assert!(home.vms().is_empty());
    let images = fs::read_dir(home.data().join("images")).into_iter().flatten().flatten();
    assert!(images.map(|entry| entry.file_name()).all(|name| name.as_encoded_bytes().ends_with(b".lock")));

    let output: Output = repository.banger().args(["--image", "no-such", "--", "true"]).output().unwrap().into();
    assert_eq!(output.status, 125);
    assert!(output.stderr.contains("`no-such`") && output.stderr.contains("hint: "), "{}", output.stderr);
}

#[test]
fn unusable_repository_is_an_error_with_a_hint() {
    let home = Home::new();
    let repository = home.repository("r");
    let run = |folder: &Path| -> Output {
        let mut command = home.command(banger_binary());
        command.current_dir(folder).args(["--", "true"]).output().unwrap().into()
    };
    assert_error(&run(home.path()), "git repository", "git init");

    let bare = home.path().join("bare.git");
    repository.git(["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
    assert_error(&run(&bare), "bare", "git worktree add");

    if geteuid().is_root() {
        for path in [repository.root.clone(), repository.root.join(".git")] {
            chown(path, Some(12345), Some(12345)).unwrap();
        }
        assert_error(&run(&repository.root), "belongs to another user", "safe.directory");
    }
    assert!(home.vms().is_empty());
}

#[test]
fn full_host_disk_fails_command_without_data_loss() {
    let home = Home::new();
    let repository = home.repository("r");
    let vms = home.data().join("vms");
    fs::create_dir_all(&vms).unwrap();
    // Everything in one mount namespace, in which the VMs' folder is a small file system of its
    // own.
    let script = r#"
        vms=$1; banger=$2
        step() { echo "== $1"; shift; "$@"; echo "status $?"; }
        mount -t tmpfs -o size=64k,mode=700 tmpfs "$vms"
        step create "$banger" -- true
        ls -A "$vms"
        mount -o remount,size=40M "$vms"
        step run "$banger" -- sh -c 'echo kept >/root/kept'
        step fill "$banger" -- sh -c 'cat /dev/zero >/root/hog; sync'
        step full "$banger" -- true
        mount -o remount,size=2G "$vms"
        # The supervisor writes down what it could not before.
        until grep -q '"failed"' "$vms"/*/run.json; do sleep 0.1; done
        step freed "$banger" -- cat /root/kept
        step stop "$banger" stop --force
        step delete "$banger" delete --force
        ls -A "$vms"
    "#;
    let mut command = home.command("unshare");
    command.args(["--map-root-user", "--mount", "--", "sh", "-c", script, "sh"]).args([&vms, &banger_binary()]);
    let child = command.current_dir(&repository.root).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output: Output = child.wait_with_output().unwrap().into();
    let text = output.text();
    let step =
        |name: &str| text.split("== ").find_map(|step| step.strip_prefix(name)).expect("each step is said").to_owned();
    assert_eq!(step("create"), "\nstatus 125\n.lock\n", "{}", output.stderr);
    assert_eq!(step("run"), "\nstatus 0\n", "{}", output.stderr);
    assert_eq!(step("fill"), "\nstatus 125\n", "{}", output.stderr);
    assert!(output.stderr.contains("this machine's disk is full"), "{}", output.stderr);
    assert_eq!(step("freed"), "\nkept\nstatus 0\n", "{}", output.stderr);
    assert_eq!(step("stop"), "\nstatus 0\n", "{}", output.stderr);
    assert_eq!(step("delete"), "\nstatus 0\n.lock\n", "{}", output.stderr);
    eventually("the end of the VM's processes", || home.processes().is_empty());
}

#[test]
fn unread_output_blocks_guest_writer() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    let mut child = repository.banger().args(["-q", "--", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut vec![0; 30_000_000]).unwrap();
    // Nobody reads any more, so the guest's writer comes to a stop.
    let asleep = "read -r _ _ state _ </proc/$(pgrep -x yes)/stat; test \"$state\" = S";
    eventually("the writer's stop", || repository.run(["-q", "--", "sh", "-c", asleep]).status == 0);
    let (supervisor, _) = home.supervisor_and_vmm();
    assert!(peak_memory(supervisor) < 10 << 20, "{} KiB", peak_memory(supervisor) >> 10);
    let own = peak_memory(Pid::from_raw(child.id() as i32));
    assert!(own < 32 << 20, "{} KiB", own >> 10);
    // A signal ends it all the same.
    banger_tests::inspect::send(Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM);
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    assert_eq!(Output::from(child.wait_with_output().unwrap()).status, 128 + 15);
}
