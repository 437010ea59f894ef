//! The life of a VM: who dies with whom, what is left behind, and what the next command makes of
//! it.

use std::fs;
use std::process::{Child, Command, Stdio};

use banger_tests::inspect::{allocated, peak_memory, send};
use banger_tests::{Home, Output, Repository, banger_binary, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Starts a command that writes a file, says so, and then goes on for ever.
fn endless(repository: &Repository<'_>) -> Child {
    // A file of an earlier one would let the caller kill this one before its command has begun:
    // then banger starts the VM and the command again, and nothing ends.
    repository.run(["-q", "--", "rm", "-f", "started"]).ok();
    let script = "date >/root/written; echo $$ >/root/pid; touch started; exec sleep 86400";
    let child = repository.banger().args(["--", "sh", "-c", script]).stderr(Stdio::piped()).spawn().unwrap();
    let started = || repository.run(["-q", "--", "test", "-e", "started"]).status == 0;
    eventually("the command's start", started);
    child
}

fn end(child: Child) -> Output {
    child.wait_with_output().unwrap().into()
}

#[test]
fn next_command_recovers_from_killed_processes() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.sh("echo kept >/root/kept").ok();

    // The command's own process: what it ran is hung up, and the VM goes on.
    let child = endless(&repository);
    let (supervisor, _) = home.supervisor_and_vmm();
    send(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    end(child);
    let gone = || repository.sh("! kill -0 $(cat /root/pid)").status == 0;
    eventually("the end of the command in the guest", gone);
    assert_eq!(home.supervisor_and_vmm().0, supervisor);

    // The VMM, under a command.
    let child = endless(&repository);
    let (_, vmm) = home.supervisor_and_vmm();
    send(vmm, Signal::SIGKILL);
    let output = end(child);
    assert_eq!(output.status, 125, "{output:?}");
    eventually("the supervisor's end", || home.processes().is_empty());
    let output = repository.run(["--", "cat", "/root/kept"]).ok();
    assert_eq!(output.text(), "kept\n");
    assert_eq!(output.stderr.matches("starting the VM again").count(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("QEMU ended (signal: 9"), "{}", output.stderr);

    // The supervisor, under a command: QEMU goes with it.
    let child = endless(&repository);
    let (supervisor, _) = home.supervisor_and_vmm();
    send(supervisor, Signal::SIGKILL);
    assert_eq!(end(child).status, 125);
    eventually("QEMU's end", || home.processes().is_empty());
    // The socket and the note that it left are still there, and in nobody's way.
    assert!(home.vm().join("s").exists() && home.vm().join("run.json").exists());
    let output = repository.sh("cat /root/kept; sleep 1 & exit 3");
    assert_eq!((output.status, output.text().as_str()), (3, "kept\n"), "{}", output.stderr);
    assert!(output.stderr.contains("its supervisor was killed: starting the VM again"), "{}", output.stderr);

    // The socket: the supervisor makes another when a command finds none.
    let (supervisor, _) = home.supervisor_and_vmm();
    fs::remove_file(home.vm().join("s")).unwrap();
    let output = repository.run(["--", "cat", "/root/kept"]).ok();
    assert_eq!((output.text().as_str(), home.supervisor_and_vmm().0), ("kept\n", supervisor), "{}", output.stderr);
    assert!(output.stderr.contains("was gone: its supervisor has made another"), "{}", output.stderr);
    fs::remove_file(home.vm().join("s")).unwrap();
    assert_eq!(repository.run(["cp", ":/root/kept", "-"]).ok().status, 0);

    // A supervisor that does not do anything any more is killed by who stops the VM.
    send(supervisor, Signal::SIGSTOP);
    let output = repository.run(["stop", "--force"]).ok();
    assert!(output.stderr.contains("did not answer, and was killed"), "{}", output.stderr);
    eventually("QEMU's end", || home.processes().is_empty());
    assert_eq!(repository.sh("cat /root/kept").ok().text(), "kept\n");

    // SIGTERM is an orderly stop.
    let (supervisor, _) = home.supervisor_and_vmm();
    send(supervisor, Signal::SIGTERM);
    eventually("the supervisor's end", || home.processes().is_empty());
    home.assert_at_rest();
    assert_clean(&home);
}

/// The guest has unmounted its disk: its journal has nothing to replay.
#[track_caller]
fn assert_clean(home: &Home) {
    let output =
        Command::new("dumpe2fs").env("LC_ALL", "C").arg("-h").arg(home.vm().join("disk.ext4")).output().unwrap();
    let header = String::from_utf8_lossy(&output.stdout);
    assert!(header.contains("Filesystem state:         clean"), "{header}");
    assert!(!header.contains("needs_recovery"), "{header}");
}

#[test]
fn vm_is_small_private_and_confined() {
    let home = Home::new();
    // One that needs no folder of the session's, few descriptors, and a path that no socket could
    // have.
    let long = format!("{}/repo", "long".repeat(40));
    let repository = home.repository(&long);
    let data = home.path().join("d".repeat(120));
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(home.data(), data.join("banger")).unwrap();
    let run = |script: &str| -> Output {
        let mut command = home.command("sh");
        command.args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]).arg(banger_binary());
        command.args(["--", "sh", "-c", script]).current_dir(&repository.root).env("XDG_DATA_HOME", &data);
        command.env("AWS_SECRET_ACCESS_KEY", "hunter2");
        command.output().unwrap().into()
    };
    let first = run("cat /etc/machine-id; echo work >/root/work").ok().text();
    assert_eq!(first.trim().len(), 32);
    let disk = home.vm().join("disk.ext4");
    run("sync").ok();
    assert!(allocated(&disk) <= 8 << 20, "a fresh disk takes {} KiB", allocated(&disk) >> 10);

    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let all = fs::read_dir(home.vm()).unwrap().flatten().map(|entry| entry.path());
    for path in all.chain([home.vm(), home.data().join("vms")]) {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{} is open to others", path.display());
        assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
    }

    // Nothing of the caller's environment stays with it, and QEMU is confined.
    let (supervisor, qemu) = home.supervisor_and_vmm();
    for pid in [supervisor, qemu] {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/environ")).unwrap(), "");
    }
    let confinement = repository.run(["status", "--json"]).ok().document()["vm"]["confinement"].clone();
    assert!(confinement["landlock_abi"].is_u64() && confinement["missing"] == serde_json::json!([]), "{confinement}");
    assert!(repository.run(["status"]).ok().text().contains("seccomp, Landlock (version "));

    // Traffic in both directions does not make the supervisor grow.
    let output =
        repository.with_input(["--", "sh", "-c", "wc -c; head -c 50000000 /dev/zero"], &vec![b'x'; 20_000_000]);
    assert_eq!(output.stdout.len(), "20000000\n".len() + 50_000_000, "{}", output.stderr);
    let (supervisor, _) = home.supervisor_and_vmm();
    assert!(peak_memory(supervisor) < 10 << 20, "{} KiB", peak_memory(supervisor) >> 10);

    assert!(repository.run(["stop"]).ok().stderr.contains("stopped"));
    home.assert_at_rest();
    assert_clean(&home);
    assert_eq!(repository.run(["stop"]).ok().stderr.matches("does not run").count(), 1);
    let again = run("cat /etc/machine-id /root/work").ok();
    assert_eq!(again.text(), format!("{first}work\n"));
    assert!(!again.stderr.contains("again"), "an orderly stop is no news: {}", again.stderr);
    repository.run(["delete", "--force"]).ok();
    assert!(home.vms().is_empty());
}

#[test]
fn damaged_vm_state_files_are_detected() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    repository.run(["stop"]).ok();
    let file = |name: &str| home.vm().join(name);
    let record = fs::read(file("vm.json")).unwrap();

    for (content, message) in [
        (&b""[..], "vm.json is damaged"),
        (b"{\"format_version\": 1, \"name\"", "vm.json is damaged"),
        (b"{\"format_version\": 999}", "has format 999"),
    ] {
        fs::write(file("vm.json"), content).unwrap();
        for command in [&["--", "true"][..], &["status"]] {
            let output: Output = repository.banger().args(command).output().unwrap().into();
            assert_eq!(output.status, 125);
            assert!(output.stderr.contains(message) && output.stderr.contains("hint: "), "{}", output.stderr);
        }
    }
    fs::write(file("vm.json"), record).unwrap();

    // A note of a supervisor that is not there, with the pid of a process that is; and a socket
    // that nobody serves.
    let bystander = std::process::id();
    let note = format!(
        r#"{{"format_version":1,"pid":{bystander},"start_time":1,"boot_id":"x","backend":"QEMU","started":1,"phase":{{"phase":"starting"}}}}"#
    );
    fs::write(file("run.json"), note).unwrap();
    drop(std::os::unix::net::UnixListener::bind(file("s")).unwrap());
    fs::write(file("run.json.0123abcd"), "{").unwrap();
    fs::write(file(".run.json.0123ab"), "{").unwrap();
    assert!(repository.run(["status"]).ok().text().contains("stopped"));
    let output = repository.run(["--", "echo", "fine"]).ok();
    assert_eq!(output.text(), "fine\n");
    assert!(output.stderr.contains("this machine went down under it"), "{}", output.stderr);
    repository.run(["stop", "--force"]).ok();
    home.assert_at_rest();

    // A VM that cannot be read can be deleted.
    fs::write(file("vm.json"), "").unwrap();
    fs::write(file("run.json"), "half").unwrap();
    repository.run(["delete", "--force"]).ok();
    assert!(home.vms().is_empty());
}

#[test]
fn vm_survives_clock_jumps_and_host_pauses() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    let [vm] = &home.vms()[..] else { panic!("one VM") };
    let name = vm.file_name().unwrap().to_str().unwrap().to_owned();
    // The next command finds the guest's clock where the host's is, be it one that syncs or not.
    let host = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let is_on_time = |command: &[&str]| {
        let before = host();
        let output = repository.banger().args(command).args(["--", "date", "+%s.%N"]).output().unwrap();
        let there: f64 = Output::from(output).ok().text().trim().parse().unwrap();
        let after = host();
        assert!((before - 1.0..after + 1.0).contains(&there), "{command:?}: {there} is not from {before} to {after}");
    };
    for jump in ["1 hour ago", "1 hour", "2001-01-01", "2037-01-01"] {
        for command in [&["-q"][..], &["vm", "exec", "-q", &name]] {
            repository.run(["-q", "--", "date", "-s", jump]).ok();
            is_on_time(command);
        }
        repository.write("changed", jump);
        assert_eq!(repository.run(["-q", "--", "cat", "changed"]).ok().text(), jump);
    }

    // Supervisor and VMM stand still under a command.
    let script = "touch started; sleep 2; echo done";
    let child = repository.banger().args(["-q", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the command's start", || repository.run(["-q", "--", "test", "-e", "started"]).status == 0);
    let (supervisor, vmm) = home.supervisor_and_vmm();
    for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
        send(supervisor, signal);
        send(vmm, signal);
        std::thread::sleep(std::time::Duration::from_secs(4));
    }
    let output = end(child).ok();
    assert_eq!(output.text(), "done\n");
    is_on_time(&["vm", "exec", "-q", &name]);
    assert_eq!(home.supervisor_and_vmm(), (supervisor, vmm));
}

#[test]
fn accelerator_can_be_forced_and_fallback_is_reported_once() {
    let home = Home::new();
    let repository = home.repository("r");
    let with = |accelerator: &str| -> Output {
        repository.banger().env("BANGER_ACCELERATOR", accelerator).args(["--", "true"]).output().unwrap().into()
    };
    let output = with("magic");
    assert_eq!(output.status, 125);
    assert!(output.stderr.contains("BANGER_ACCELERATOR is `magic`"), "{}", output.stderr);
    let kvm_works = fs::read_to_string(home.data().join("host/kvm.json")).is_ok_and(|json| json.contains("null"));
    if !kvm_works {
        let output = with("kvm");
        assert_eq!(output.status, 125);
        assert!(output.stderr.to_lowercase().contains("kvm"), "{}", output.stderr);
        home.assert_at_rest();
    }
    let output = with("tcg").ok();
    // Whoever asks for it need not be told why.
    assert!(!output.stderr.contains("slower"), "{}", output.stderr);
}

#[test]
fn qemu_limits_disks_and_says_that_it_does_not_limit_the_network() {
    let home = Home::new();
    let repository = home.repository("r");
    let sh = |script: &str| -> Output {
        let mut command = repository.banger();
        command.envs([("BANGER_BACKEND", "qemu"), ("BANGER_DISK_BANDWIDTH", "4M"), ("BANGER_NET_BANDWIDTH", "5M")]);
        Output::from(command.args(["--", "sh", "-c", script]).output().unwrap()).ok()
    };
    let output = sh("cat /proc/uptime; dd if=/dev/zero of=/root/file bs=1M count=16 conv=fsync; cat /proc/uptime");
    let text = output.text();
    let up: Vec<f64> = text.split_whitespace().step_by(2).map(|seconds| seconds.parse().unwrap()).collect();
    // QEMU lets the first tenth of a second pass at once.
    assert!(up[1] - up[0] > 3.5, "{text}");
    let warning = "`net_bandwidth` has no effect: QEMU does not limit the VM's network";
    assert!(output.stderr.contains(warning), "{}", output.stderr);
    let limits = serde_json::json!({ "disk_iops": 0, "disk_bandwidth": 4 << 20, "net_bandwidth": 5 << 20 });
    assert_eq!(repository.run(["status", "--json"]).ok().document()["vm"]["limits"], limits);
    let shown = repository.run(["status"]).ok().text();
    assert!(shown.contains("disks 4M/s, network 5M/s (no effect: QEMU does not limit it)\n"), "{shown}");
    // It was said when the VM started.
    assert!(!sh("true").stderr.contains(warning));
}

#[test]
fn tcg_guest_with_kernel_panic_is_restarted_once() {
    let home = Home::new();
    let repository = home.repository("r");
    // The first time, when nothing was on the console yet, the kernel finds nothing to run. What
    // stands in for QEMU is confined as QEMU is: it sees how long the console's log is, and writes
    // nothing down.
    let wrapper = "#!/bin/sh
        for word; do
            case $word in *node-name=disk,*) disk=${word##*file.filename=};; esac
        done
        [ -s \"${disk%/*}/console.log\" ] || without=' rdinit=/none'
        for word; do
            shift
            [ \"$previous\" = -append ] && set -- \"$@\" \"$word$without\" || set -- \"$@\" \"$word\"
            previous=$word
        done
        exec qemu-system-x86_64 \"$@\"";
    home.program("qemu-system-x86_64", wrapper, 0o755);
    let mut command = repository.with_plugins();
    let output: Output = command.env("BANGER_ACCELERATOR", "tcg").args(["--", "echo", "up"]).output().unwrap().into();
    assert_eq!(output.ok().text(), "up\n");
    let console = fs::read_to_string(home.vm().join("console.log")).unwrap();
    assert_eq!(console.matches("Kernel panic - not syncing").count(), 1, "{console}");
}

#[test]
fn command_reports_vm_crash_with_its_cause() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    // What has a network does not do for who wants none.
    let refused = repository.run(["--net", "none", "--", "touch", "/root/ran"]);
    assert_eq!(refused.status, 125, "{refused:?}");
    assert!(refused.stderr.contains("has a network, and none is wanted"), "{}", refused.stderr);

    let crashed = repository.run(["--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60"]);
    assert_eq!(crashed.status, 125, "{crashed:?}");
    // The link may be seen to break first, or the guest to reset itself.
    for part in ["what became of the VM: ", "Kernel panic - not syncing: sysrq", "banger logs"] {
        assert!(crashed.stderr.contains(part), "{part}: {}", crashed.stderr);
    }
    assert_eq!(repository.run(["--", "sh", "-c", "test ! -e /root/ran; echo $?"]).ok().text(), "0\n");
}
