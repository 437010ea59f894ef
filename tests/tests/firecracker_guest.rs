//! What the tests of VMs on Firecracker stand on, without banger: the guest, and the relay to an
//! agent.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use banger_tests::firecracker_guests::{AtBoot, FirecrackerGuest, GuestPort, firecracker_binary, guest};
use banger_tests::{Home, eventually};
use serde_json::{Value, json};

/// Firecracker, run by hand in a directory as that of a VM. Killed when dropped.
struct ByHand {
    vm: PathBuf,
    process: Child,
}

impl ByHand {
    /// Firecracker without a guest.
    fn new(home: &Home) -> ByHand {
        let vm = home.data().join("vms/by-hand");
        let _ = fs::remove_dir_all(vm.join("run"));
        fs::create_dir_all(vm.join("run")).unwrap();
        let console = fs::File::create(vm.join("console.log")).unwrap();
        let mut command = Command::new(firecracker_binary());
        command.args(["--api-sock", "api.sock", "--level", "Off"]).current_dir(vm.join("run"));
        let process = command.stdin(Stdio::null()).stdout(console).stderr(Stdio::null()).spawn().unwrap();
        eventually("Firecracker's API", || UnixStream::connect(vm.join("run/api.sock")).is_ok());
        ByHand { vm, process }
    }

    /// Starts this guest.
    fn boot(&self, at_boot: AtBoot, drives: &[Value]) {
        self.put("/boot-source", &json!({ "kernel_image_path": guest(at_boot), "boot_args": "some words" }));
        for drive in drives {
            self.put(&format!("/drives/{}", drive["drive_id"].as_str().unwrap()), drive);
        }
        self.put("/vsock", &json!({ "guest_cid": 3, "uds_path": "v.sock" }));
        self.put("/actions", &json!({ "action_type": "InstanceStart" }));
    }

    fn put(&self, path: &str, body: &Value) {
        self.call("PUT", path, body);
    }

    fn call(&self, method: &str, path: &str, body: &Value) {
        let mut stream = BufReader::new(UnixStream::connect(self.vm.join("run/api.sock")).unwrap());
        let body = body.to_string();
        let head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
        let mut status = String::new();
        stream.read_line(&mut status).unwrap();
        assert!(status.starts_with("HTTP/1.1 204"), "{method} {path} {body}: {status}");
    }

    fn guest(&self) -> FirecrackerGuest {
        FirecrackerGuest::of(&self.vm)
    }

    /// Waits for the end of Firecracker.
    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end of Firecracker", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Bytes of which no part is like another, by xorshift64.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Greets as a supervisor does, and returns the answer.
fn greet(guest: &FirecrackerGuest) -> (UnixStream, Value) {
    let stream = guest.connect(GuestPort::Agent).expect("the relay listens");
    let mut reader = BufReader::new(stream);
    let hello = json!({ "nonce": "n1", "version": "test", "protocol": 1, "clock_ns": 0 });
    write!(reader.get_mut(), "\nbanger {hello}\n").unwrap();
    let mut line = String::new();
    while !line.starts_with("banger ") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0);
    }
    let answer = serde_json::from_str(line.strip_prefix("banger ").unwrap()).unwrap();
    (reader.into_inner(), answer)
}

#[test]
fn guest_prints_what_it_is_given() {
    let home = Home::with_firecracker_guests();
    let disk = home.data().join("images/test-guest/rootfs.ext4");
    let drive = |id: &str, read_only: bool, cache: &str| json!({ "drive_id": id, "path_on_host": disk, "is_root_device": false, "is_read_only": read_only, "cache_type": cache });
    let mut by_hand = ByHand::new(&home);
    by_hand.boot(AtBoot::PowerOff, &[drive("one", true, "Unsafe"), drive("two", false, "Writeback")]);
    assert_eq!(by_hand.wait().code(), Some(0));
    let printed = by_hand.guest().printed();
    assert!(printed[0].starts_with("command line: some words virtio_mmio.device="), "{printed:#?}");
    assert_eq!(printed[1], "initrd: 0 bytes");
    let is_disk = |line: &str, properties: &str| {
        line.contains(&format!(" {properties} sectors=2048 ")) && line.ends_with(" ext4 label=the-base")
    };
    assert!(is_disk(&printed[2], "read-only") && is_disk(&printed[3], "writable flush"), "{printed:#?}");
    assert!(printed[4].starts_with("device 19 ") && printed[4].ends_with(" cid=3"), "{printed:#?}");
    assert_eq!(&printed[5..], ["off"]);
}

#[test]
fn guest_ends_in_each_way() {
    let home = Home::with_firecracker_guests();
    for (port, word) in [(GuestPort::PowerOff, "off"), (GuestPort::TripleFault, "triple fault")] {
        let mut by_hand = ByHand::new(&home);
        by_hand.boot(AtBoot::Serve, &[]);
        assert!(by_hand.guest().connect(port).is_none());
        // Nothing tells the two apart.
        assert_eq!(by_hand.wait().code(), Some(0));
        assert_eq!(by_hand.guest().printed().last().unwrap(), word);
    }
    let mut by_hand = ByHand::new(&home);
    by_hand.boot(AtBoot::Halt, &[]);
    eventually("the guest's halt", || by_hand.guest().printed().last().is_some_and(|line| line == "halt"));
    assert!(by_hand.process.try_wait().unwrap().is_none());

    let mut by_hand = ByHand::new(&home);
    by_hand.boot(AtBoot::Serve, &[]);
    assert!(by_hand.guest().echoes(b"up"));
    by_hand.put("/actions", &json!({ "action_type": "SendCtrlAltDel" }));
    assert_eq!(by_hand.wait().code(), Some(0));
    assert!(by_hand.guest().printed().contains(&"Ctrl-Alt-Del".to_owned()));
}

#[test]
fn guest_serves_several_connections_and_survives_a_snapshot() {
    let home = Home::with_firecracker_guests();
    let mut first = ByHand::new(&home);
    first.boot(AtBoot::Serve, &[]);
    let bytes = noise(2 << 20);
    std::thread::scope(|scope| {
        let echoes: Vec<_> = (0..3).map(|_| scope.spawn(|| first.guest().echoes(&bytes))).collect();
        assert!(echoes.into_iter().all(|echo| echo.join().unwrap()));
    });
    let mut open = first.guest().connect(GuestPort::Echo).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    first.call("PATCH", "/vm", &json!({ "state": "Paused" }));
    first.put("/snapshot/create", &json!({ "snapshot_path": "../state", "mem_file_path": "../memory" }));
    first.process.kill().unwrap();
    assert_eq!(first.wait().signal(), Some(9));
    assert_eq!(open.read(&mut [0]).unwrap(), 0);

    let mut second = ByHand::new(&home);
    let memory = json!({ "backend_type": "File", "backend_path": "../memory" });
    second.put("/snapshot/load", &json!({ "snapshot_path": "../state", "mem_backend": memory, "resume_vm": true }));
    assert!(second.guest().echoes(&bytes));
    let cut = "guest: vsock: the host has cut all connections\n";
    let console = || fs::read_to_string(second.vm.join("console.log")).unwrap();
    assert!(console().replace('\r', "").contains(cut), "{}", console());
    assert!(second.guest().connect(GuestPort::PowerOff).is_none());
    assert_eq!(second.wait().code(), Some(0));
}

#[test]
fn relay_gives_each_connection_an_agent() {
    let home = Home::with_firecracker_guests();
    let mut by_hand = ByHand::new(&home);
    by_hand.boot(AtBoot::Serve, &[]);
    let vm = by_hand.vm.clone();
    let agents = || {
        let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let is_agent = |process: &PathBuf| {
            let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
            line.contains("banger-agent-process") && line.contains(vm.to_str().unwrap())
        };
        all.filter(is_agent).count()
    };
    for _ in 0..2 {
        let (stream, hello) = greet(&by_hand.guest());
        assert_eq!((&hello["nonce"], &hello["protocol"]), (&"n1".into(), &1.into()));
        assert_ne!(agents(), 0);
        drop(stream);
    }
    assert!(by_hand.guest().connect(GuestPort::PowerOff).is_none());
    assert_eq!(by_hand.wait().code(), Some(0));
    eventually("the end of the agent", || agents() == 0);
    assert!(vm.join("guest/root").is_dir());
}
