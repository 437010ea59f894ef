//! A host with an internet, both pretended in network namespaces.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::gettid;

use crate::network::DEVICE;

/// What has the name [`NAME`]. At port 80 it says [`WEB`] to all who connect.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub(super) const NAME: &str = "name.example";
pub(super) const WEB: &str = "internet";
/// A service of the host's loopback, at this port.
pub(super) const LOOPBACK_PORT: u16 = 9090;

const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Puts this thread, and the processes that it starts, on a host with an internet. It must be root,
/// if only in a user namespace. All of it goes with this process.
pub(super) fn enter() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    set_files();
    let (thread_of_internet, internet) = mpsc::channel();
    let (connect, connected) = mpsc::channel();
    let (serve, serves) = mpsc::channel();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        thread_of_internet.send(gettid()).unwrap();
        connected.recv().unwrap();
        ip("link set lo up");
        ip(&format!("addr add {ADDRESS}/32 dev lo"));
        ip(&format!("addr add {NAME_SERVER}/24 dev eth0"));
        ip("link set eth0 up");
        let names = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
        thread::spawn(move || answer(&names));
        say(TcpListener::bind((ADDRESS, 80)).unwrap(), WEB);
        serve.send(()).unwrap();
    });
    ip("link set lo up");
    ip(&format!("link add eth0 type veth peer name eth0 netns {}", internet.recv().unwrap()));
    ip("addr add 198.51.100.2/24 dev eth0");
    ip("link set eth0 up");
    ip(&format!("route add default via {NAME_SERVER}"));
    connect.send(()).unwrap();
    serves.recv().unwrap();
    say(TcpListener::bind((Ipv4Addr::LOCALHOST, LOOPBACK_PORT)).unwrap(), "loopback");
    let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, LOOPBACK_PORT)).unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 100];
        while let Ok((length, from)) = service.recv_from(&mut datagram) {
            let _ = service.send_to(&datagram[..length], from);
        }
    });

    // The host itself reaches both.
    for (address, port, expected) in [(ADDRESS, 80, WEB), (Ipv4Addr::LOCALHOST, LOOPBACK_PORT, "loopback")] {
        let mut said = String::new();
        TcpStream::connect((address, port)).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, expected);
    }
}

/// `/dev/net/tun` as hosts have it, for all users: containers often have it for root only. And the
/// host's name server.
fn set_files() {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let bind = |source, target| mount(Some(source), target, none, MsFlags::MS_BIND, none).unwrap();
    // Only the host's root may make one.
    if mknod("/mnt/tun", SFlag::S_IFCHR, Mode::empty(), makedev(10, 200)).is_ok() {
        Command::new("chmod").args(["666", "/mnt/tun"]).status().unwrap();
        bind("/mnt/tun", DEVICE);
    }
    fs::write("/mnt/resolv.conf", format!("nameserver {NAME_SERVER}\n")).unwrap();
    bind("/mnt/resolv.conf", "/etc/resolv.conf");
}

/// In this thread's network namespace.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

/// Says `text` to all who connect.
fn say(listener: TcpListener, text: &'static str) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whoever has asked may be gone.
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

/// Answers who asks for the address of [`NAME`], and no other: RFC 1035, 4.1.
fn answer(names: &UdpSocket) {
    let question = |name: &str| -> Vec<u8> {
        let labels =
            name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
        // The root, type A, class IN.
        labels.chain([0, 0, 1, 0, 1]).collect()
    };
    let known = question(NAME);
    let mut query = [0; 512];
    while let Ok((length, asker)) = names.recv_from(&mut query) {
        if query.get(12..length).is_none_or(|asked| !asked.starts_with(&known)) {
            continue;
        }
        // A response to it, with one question and one answer.
        let head = [query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        // The name is that at offset 12; type A, class IN, 60 s, 4 bytes.
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4];
        let answer = [&head[..], &known, &record, &ADDRESS.octets()].concat();
        names.send_to(&answer, asker).unwrap();
    }
}
