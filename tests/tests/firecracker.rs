//! VMs on real Firecracker: banger itself, its supervisor, and the real agent, with a guest that any
//! KVM can run.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use banger_tests::firecracker_guests::{AtBoot, FirecrackerGuest, GuestPort};
use banger_tests::inspect::send;
use banger_tests::{Home, Output, Repository, eventually, shared_kernel};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The guest of the only VM in this home.
fn guest(home: &Home) -> FirecrackerGuest {
    FirecrackerGuest::of(&home.vm())
}

fn status(repository: &Repository<'_>) -> Value {
    repository.run(["status", "--json"]).ok().document()["vm"].clone()
}

/// Deletes the VM: nothing is left of it.
#[track_caller]
fn assert_nothing_is_left(repository: &Repository<'_>) {
    let home = repository.home;
    repository.run(["delete", "--force"]).ok();
    eventually("the end of all processes", || home.nothing_runs());
    assert!(home.leftovers().is_empty() && home.vms().is_empty(), "{:?} {:?}", home.leftovers(), home.vms());
}

/// Bytes of all kinds, the same each time.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A command in the VM that says `up`, and then runs until its input ends.
fn until_its_input_ends(repository: &Repository<'_>) -> std::process::Child {
    let mut command = repository.banger();
    command.args(["-q", "--", "sh", "-c", "echo up; cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    let read = child.stdout.as_mut().unwrap().read_exact(&mut up);
    if read.is_err() || &up != b"up\n" {
        panic!("{up:?}: {:?}", child.wait_with_output());
    }
    child
}

/// What became of a command whose VM ended. Its input is open until then.
fn cut(mut child: std::process::Child) -> Output {
    let _input = child.stdin.take();
    child.wait_with_output().unwrap().into()
}

#[test]
fn vm_lives_and_is_deleted() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let output = repository.sh("cat README; git status --short; echo kept >/root/kept").ok();
    assert_eq!(output.text(), "a repository\n", "{}", output.stderr);
    let running = status(&repository);
    assert_eq!((&running["backend"], &running["accelerator"]), (&"firecracker".into(), &"kvm".into()), "{running}");
    assert_eq!((&running["backend_choice"], &running["backend_reason"]), (&"firecracker".into(), &Value::Null));
    let shown = repository.run(["vm", "show", "--json", running["name"].as_str().unwrap()]).ok().document();
    assert_eq!(shown["vm"]["backend"], "firecracker", "{shown}");

    repository.write("README", "changed\n");
    assert_eq!(repository.sh("cat README /root/kept").ok().text(), "changed\nkept\n");
    repository.run(["stop"]).ok();
    home.assert_at_rest();
    assert_eq!(status(&repository)["state"], "stopped");
    assert_eq!(repository.sh("cat README /root/kept").ok().text(), "changed\nkept\n");
    repository.run(["restart"]).ok();
    assert_eq!(repository.sh("cat README /root/kept").ok().text(), "changed\nkept\n");
    assert_nothing_is_left(&repository);
}

#[test]
fn streams_and_exit_codes_pass() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    for (script, expected) in [("exit 7", 7), ("kill -TERM $$", 143), ("true", 0)] {
        assert_eq!(repository.sh(script).status, expected, "{script}");
    }
    let output = repository.sh("echo out; echo err >&2; exit 3");
    assert_eq!((output.status, output.text().as_str()), (3, "out\n"));
    assert!(output.stderr.contains("err\n"), "{}", output.stderr);
    assert_eq!(repository.run(["--", "no-such-program"]).status, 127);
    let all = bytes(3 << 20);
    assert!(repository.with_input(["--", "cat"], &all).ok().stdout == all);
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let run = |number| {
            scope.spawn({
                let repository = &repository;
                move || repository.sh(&format!("sleep 0.1; echo {number}")).ok().text()
            })
        };
        (0..4).map(run).collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outputs, ["0\n", "1\n", "2\n", "3\n"]);
}

/// Firecracker is told what the VM's record says, and in the order that the agent goes by.
#[test]
fn guest_sees_the_devices_of_its_vm() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.run(["--memory", "256M", "--", "true"]).ok();
    let printed = guest(&home).printed();
    let line = |start: &str| printed.iter().find_map(|line| line.strip_prefix(start)).expect(start).to_owned();
    let command_line = line("command line: ");
    for word in ["console=ttyS0", "pci=off", "banger.agent=vsock:1000", "banger.disks=order:base,disk,workspace"] {
        assert!(command_line.split(' ').any(|part| part == word), "{word}: {command_line}");
    }
    // Firecracker's own default, which would forbid modules, was replaced.
    assert!(!command_line.contains("nomodule") && !command_line.contains("root="), "{command_line}");
    let initrd: u64 = line("initrd: ").strip_suffix(" bytes").unwrap().parse().unwrap();
    assert!(initrd > 100_000, "{initrd}");

    let disks: Vec<_> = printed.iter().filter(|line| line.starts_with("device 2 ")).collect();
    let sectors = |file: &str| fs::metadata(home.vm().join(file)).unwrap().len() / 512;
    let [base, disk, workspace] = &disks[..] else { panic!("{printed:#?}") };
    assert!(base.contains(" read-only sectors=2048 ") && base.ends_with(" ext4 label=the-base"), "{base}");
    // What the guest flushes is to reach the host's disk.
    for (line, file) in [(disk, "disk.ext4"), (workspace, "workspace.ext4")] {
        assert!(line.contains(&format!(" writable flush sectors={} ", sectors(file))), "{line}");
    }
    assert!(line("device 19 ").ends_with(" cid=3"), "{printed:#?}");
    // The entropy device, and no network, which this VM has not.
    line("device 4 ");
    assert!(!printed.iter().any(|line| line.starts_with("device 1 ")), "{printed:#?}");

    // What nobody keeps need not reach the host's disk.
    let mut command = repository.banger();
    command.args(["--rm", "-q", "--", "sh", "-c", "echo up; cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let ephemeral = home.vms().into_iter().find(|vm| vm.join("owner.lock").exists()).unwrap();
    let printed = FirecrackerGuest::of(&ephemeral).printed();
    assert!(printed.iter().any(|line| line.contains(" writable ")), "{printed:#?}");
    assert!(!printed.iter().any(|line| line.contains(" flush ")), "{printed:#?}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn network_card_is_a_tap_with_the_address_of_the_user_network() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let output: Output = repository.banger().env("BANGER_NET", "user").args(["--", "true"]).output().unwrap().into();
    output.ok();
    let printed = guest(&home).printed();
    let card = printed.iter().find(|line| line.starts_with("device 1 ")).unwrap_or_else(|| panic!("{printed:#?}"));
    // The address that QEMU gives by default.
    assert!(card.ends_with(" mac=52:54:00:12:34:56"), "{card}");
    // Network devices come behind the disks: `build_microvm_for_boot` of Firecracker's builder.rs.
    let at = |start: &str| printed.iter().rposition(|line| line.starts_with(start)).unwrap();
    assert!(at("device 2 ") < at("device 1 ") && at("device 1 ") < at("device 19 "), "{printed:#?}");
}

/// Firecracker itself says which limits its devices have.
#[test]
fn devices_have_the_rate_limits_of_the_configuration() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let sh = |iops: &str| {
        let mut command = repository.banger();
        command.envs([("BANGER_NET", "user"), ("BANGER_DISK_IOPS", iops), ("BANGER_NET_BANDWIDTH", "5M")]);
        Output::from(command.args(["--", "true"]).output().unwrap()).ok()
    };
    // An odd number of MiB, of which each disk gets half.
    repository.write("banger.toml", "disk_bandwidth = \"25M\"\n");
    assert!(!sh("100").stderr.contains("no effect"));
    let limits = json!({ "disk_iops": 100, "disk_bandwidth": 25 << 20, "net_bandwidth": 5 << 20 });
    let running = status(&repository);
    assert_eq!((&running["backend"], &running["limits"]), (&"firecracker".into(), &limits), "{running}");
    let shown = repository.run(["status"]).ok().text();
    assert!(shown.contains("disks 100 operations/s, disks 25M/s, network 5M/s\n"), "{shown}");

    let assert_devices = |bandwidth: u64, iops: u64| {
        let config = configuration(&guest(&home));
        let drives = config["drives"].as_array().unwrap();
        let bucket = |size: u64| json!({ "size": size, "one_time_burst": null, "refill_time": 1000 });
        let half = json!({ "bandwidth": bucket(bandwidth), "ops": bucket(iops) });
        for (disk, expected) in [("base", &Value::Null), ("disk", &half), ("workspace", &half)] {
            let drive = drives.iter().find(|drive| drive["drive_id"] == disk).unwrap();
            assert_eq!(drive["rate_limiter"], *expected, "{config:#}");
        }
        let card = &config["network-interfaces"][0];
        for direction in ["rx_rate_limiter", "tx_rate_limiter"] {
            assert_eq!(card[direction], json!({ "bandwidth": bucket(5 << 20), "ops": null }), "{config:#}");
        }
    };
    assert_devices(25 << 19, 50);
    // A VM that runs gets other limits when it starts again.
    let output = sh("40");
    assert!(output.stderr.contains("rate limits: changes take effect when the VM starts again"), "{output:?}");
    assert!(!sh("40").stderr.contains("take effect"));
    assert_devices(25 << 19, 50);
    repository.run(["stop"]).ok();
    sh("40");
    assert_devices(25 << 19, 20);
    // The most and the least that may be written.
    repository.run(["stop"]).ok();
    repository.write("banger.toml", "disk_bandwidth = \"1T\"\n");
    sh("1");
    assert_devices(1 << 39, 1);
}

/// The configuration that Firecracker says it has.
fn configuration(guest: &FirecrackerGuest) -> Value {
    let mut stream = BufReader::new(UnixStream::connect(guest.run_directory().join("api.sock")).unwrap());
    stream.get_mut().write_all(b"GET /vm/config HTTP/1.1\r\n\r\n").unwrap();
    let (mut line, mut length) = (String::new(), 0);
    while stream.read_line(&mut line).unwrap() > 2 {
        if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn ports_lead_into_the_vm() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let server = "perl -MIO::Socket::INET -e '
        my $s = IO::Socket::INET->new(LocalAddr => q(127.0.0.1), LocalPort => 7000, Listen => 9) or die; print qq(up\\n); close STDOUT;
        while (my $c = $s->accept) { my $l = <$c>; print $c \"heard $l\"; close $c }' </dev/null 2>/dev/null & sleep 0.3";
    let mut command = repository.banger();
    command.env("BANGER_IDLE_TIMEOUT", "1h").args(["--publish", "0:7000", "--", "sh", "-c", server]);
    Output::from(command.output().unwrap()).ok();
    let all = repository.run(["port", "list", "--json"]).ok().document()["ports"].clone();
    let port = u16::try_from(all[0]["host_port"].as_u64().unwrap()).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert_eq!(answer, "heard hello\n");
}

#[test]
fn ssh_reaches_the_vm() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    let config = home.path().join("ssh.config");
    fs::write(&config, repository.run(["ssh-config"]).ok().stdout).unwrap();
    let name = repository.run(["list", "--quiet"]).ok().text();
    let mut ssh = home.command("ssh");
    repository.banger().get_envs().for_each(|(name, value)| _ = value.map(|value| ssh.env(name, value)));
    ssh.arg("-F").arg(&config).args(["-o", "BatchMode=yes"]).arg(format!("{}.banger", name.trim()));
    let output = Output::from(ssh.arg("echo through; exit 5").output().unwrap());
    assert_eq!((output.status, output.text().as_str()), (5, "through\n"), "{}", output.stderr);
}

#[test]
fn idle_vm_stops_and_next_command_starts_it() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let run = |time: &str, script: &str| {
        let mut command = repository.banger();
        command.env("BANGER_IDLE_TIMEOUT", time).args(["--", "sh", "-c", script]);
        Output::from(command.output().unwrap()).ok()
    };
    run("1s", "echo kept >/root/kept; sleep 2");
    eventually("the idle VM's end", || home.nothing_runs());
    home.assert_at_rest();
    assert_eq!(run("1h", "cat /root/kept").text(), "kept\n");
}

/// How the next command finds a VM whose guest ended by itself, while a command ran in it.
#[test]
fn guest_that_ends_is_started_again_by_the_next_command() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.sh("echo kept >/root/kept").ok();
    for port in [GuestPort::PowerOff, GuestPort::TripleFault, GuestPort::Restart] {
        let child = until_its_input_ends(&repository);
        assert!(guest(&home).connect(port).is_none());
        let output = cut(child);
        assert_eq!(output.status, 125, "{port:?}: {output:?}");
        assert!(output.stderr.contains("banger: error: "), "{port:?}: {output:?}");
        eventually("the end of the VM's processes", || home.nothing_runs());
        assert_eq!(repository.sh("cat /root/kept").ok().text(), "kept\n", "{port:?}");
    }
    assert_nothing_is_left(&repository);
}

#[test]
fn ctrl_alt_del_ends_the_vm() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let child = until_its_input_ends(&repository);
    call_api(&guest(&home), "PUT", "/actions", &json!({ "action_type": "SendCtrlAltDel" }));
    assert_eq!(cut(child).status, 125);
    eventually("the end of the VM's processes", || home.nothing_runs());
    assert!(guest(&home).printed().contains(&"Ctrl-Alt-Del".to_owned()), "{:?}", guest(&home).printed());
    repository.run(["--", "true"]).ok();
}

/// Calls Firecracker's API past the supervisor.
fn call_api(guest: &FirecrackerGuest, method: &str, path: &str, body: &Value) {
    let mut stream = BufReader::new(UnixStream::connect(guest.run_directory().join("api.sock")).unwrap());
    let body = body.to_string();
    let request = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut status = String::new();
    stream.read_line(&mut status).unwrap();
    assert!(status.starts_with("HTTP/1.1 204"), "{method} {path}: {status}");
}

#[test]
fn guest_that_hangs_is_stopped() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.sh("echo kept >/root/kept").ok();
    // Firecracker neither takes nor closes the connection: its guest does not ask for anything.
    let _asked = guest(&home).ask(GuestPort::Halt);
    eventually("the guest's halt", || guest(&home).printed().last().is_some_and(|line| line == "halt"));
    let start = Instant::now();
    repository.run(["stop", "--force"]).ok();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    eventually("the end of the VM's processes", || home.nothing_runs());
    assert_eq!(repository.sh("cat /root/kept").ok().text(), "kept\n");
}

#[test]
fn guest_that_ends_while_it_boots_is_a_clear_error() {
    for (at_boot, reason) in [
        (AtBoot::PowerOff, "switched itself off before its agent answered"),
        (AtBoot::TripleFault, "reset itself, before its agent answered"),
        (AtBoot::Halt, "did not answer within 2 s"),
    ] {
        let home = Home::with_firecracker_guests_that(at_boot);
        let repository = home.repository("r");
        let mut command = repository.banger();
        let output = Output::from(command.env("BANGER_BOOT_TIMEOUT", "2s").args(["--", "true"]).output().unwrap());
        assert_eq!((output.status, output.text().as_str()), (125, ""), "{at_boot:?}: {}", output.stderr);
        assert!(output.stderr.contains(reason), "{at_boot:?}: {}", output.stderr);
        // What the guest said last is shown.
        assert!(output.stderr.contains("guest: "), "{at_boot:?}: {}", output.stderr);
        assert_nothing_is_left(&repository);
    }
}

#[test]
fn vm_recovers_from_killed_supervisor_and_vmm() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.sh("echo kept >/root/kept; sync").ok();
    for kills_vmm in [false, true] {
        let child = until_its_input_ends(&repository);
        let (supervisor, vmm) = home.supervisor_and_vmm();
        send(if kills_vmm { vmm } else { supervisor }, Signal::SIGKILL);
        let output = cut(child);
        assert_eq!(output.status, 125, "{output:?}");
        eventually("the end of the VM's processes", || home.nothing_runs());
        let next = repository.sh("cat /root/kept").ok();
        assert_eq!(next.text(), "kept\n", "{}", next.stderr);
    }
    assert_nothing_is_left(&repository);
}

#[test]
fn leftovers_in_the_run_directory_are_no_obstacle() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    repository.run(["stop"]).ok();
    let run = guest(&home).run_directory();
    let precious = home.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    type Leave<'a> = &'a dyn Fn();
    let name = |name: &str| run.join(name);
    let other = std::cell::RefCell::new(None);
    let leaves: [(&str, Leave<'_>); 5] = [
        ("sockets of a Firecracker that was killed", &|| {
            // The relay takes the last for Firecracker's, and would make the first itself.
            for socket in ["v.sock_6000", "api.sock", "v.sock"] {
                drop(UnixListener::bind(name(socket)).unwrap());
            }
        }),
        ("directories in their place", &|| {
            for path in ["api.sock", "v.sock", "log"] {
                fs::create_dir_all(name(path).join("sub")).unwrap();
            }
        }),
        ("a socket of another process", &|| {
            *other.borrow_mut() = Some(UnixListener::bind(name("v.sock")).unwrap());
        }),
        ("links to somebody's file", &|| {
            for link in ["api.sock", "v.sock", "log", "disk.ext4", "vmlinux"] {
                std::os::unix::fs::symlink(&precious, name(link)).unwrap();
            }
        }),
        ("a file instead of the directory", &|| {
            fs::remove_dir_all(&run).unwrap();
            fs::write(&run, "").unwrap();
        }),
    ];
    for (what, leave) in leaves {
        let _ = fs::remove_dir_all(&run);
        fs::create_dir(&run).unwrap();
        leave();
        let output = repository.run(["--", "true"]);
        assert_eq!(output.status, 0, "{what}: {}", output.stderr);
        assert!(fs::symlink_metadata(name("v.sock")).unwrap().file_type().is_socket(), "{what}");
        repository.run(["stop"]).ok();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{what}");
    }
}

#[test]
fn run_directory_that_leads_elsewhere_is_replaced() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    repository.run(["stop"]).ok();
    let (run, elsewhere) = (guest(&home).run_directory(), home.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("precious"), "").unwrap();
    let _ = fs::remove_dir_all(&run);
    std::os::unix::fs::symlink(&elsewhere, &run).unwrap();
    let output = repository.run(["--", "true"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    let left: Vec<_> = fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["precious"]);
}

#[test]
fn commands_at_once_share_one_vm() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    for _ in 0..3 {
        let outputs: Vec<_> = std::thread::scope(|scope| {
            let run = |number| {
                scope.spawn({
                    let repository = &repository;
                    move || repository.sh(&format!("echo {number}"))
                })
            };
            (0..2).map(run).collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (number, output) in outputs.into_iter().enumerate() {
            assert_eq!(output.ok().text(), format!("{number}\n"));
        }
        assert_eq!(home.processes_named(&["firecracker"]).len(), 1);
        repository.run(["stop"]).ok();
    }
    assert_nothing_is_left(&repository);
}

#[test]
fn kernel_that_is_no_elf_is_a_clear_error() {
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let kernel = home.data().join("kernels/test-guest/vmlinux");
    // Of the same length: another one is not taken for this kernel's.
    fs::write(&kernel, vec![b'x'; fs::metadata(&kernel).unwrap().len() as usize]).unwrap();
    let output = repository.run(["--", "true"]);
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{}", output.stderr);
    assert!(output.stderr.contains("Elf") && output.stderr.contains("hint: "), "{}", output.stderr);
    assert_nothing_is_left(&repository);

    // One that was made before banger extracted kernels.
    fs::remove_file(&kernel).unwrap();
    let output = repository.run(["--", "true"]);
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{}", output.stderr);
    assert!(output.stderr.contains("banger kernel"), "{}", output.stderr);
    assert_nothing_is_left(&repository);
}

/// A whole kernel under a KVM that cannot run one: banger goes on without KVM, says why in one line,
/// and remembers it.
#[test]
fn kvm_that_cannot_run_the_kernel_is_left_for_tcg() {
    let home = Home::new();
    let repository = home.repository("r");
    let _ = fs::remove_file(home.data().join("host"));
    let auto = |arguments: &[&str]| -> Output {
        let mut command = repository.banger();
        let firecracker = std::env::var_os("BANGER_TEST_FIRECRACKER").unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths([firecracker.into()].into_iter().chain(std::env::split_paths(&path))).unwrap();
        command.env("PATH", path).env("BANGER_NET", "none").args(arguments).output().unwrap().into()
    };
    assert!(shared_kernel().join("vmlinux").is_file(), "the shared kernel has no vmlinux");
    let output = auto(&["--", "true"]).ok();
    let running = status(&repository);
    if running["backend"] == "firecracker" {
        // This KVM is a whole one.
        assert_eq!(running["accelerator"], "kvm");
        return;
    }
    assert_eq!((&running["backend"], &running["accelerator"]), (&"qemu".into(), &"tcg".into()), "{running}");
    let why = running["backend_reason"].as_str().expect("a reason").to_owned();
    assert!(why.contains("KVM"), "{why}");
    assert_eq!(output.stderr.matches("KVM").count(), 1, "{}", output.stderr);
    let remembered = || fs::read_to_string(home.data().join("host/kvm.json")).unwrap();
    let first = remembered();
    assert!(first.contains("\"problem\""), "{first}");
    // The next VM goes by that.
    repository.run(["stop"]).ok();
    auto(&["--", "true"]).ok();
    assert_eq!(status(&repository)["backend_reason"], *why);
    assert_eq!(remembered(), first);
}
