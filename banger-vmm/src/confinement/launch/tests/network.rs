//! What a guest reaches through a launcher's tap: the VMM is this test binary, with a network stack
//! of its own.

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant as Moment};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, Medium, TunTapInterface};
use smoltcp::socket::{dns, tcp};
use smoltcp::time::{Duration as Span, Instant};
use smoltcp::wire::{DnsQueryType, EthernetAddress, IpAddress, IpCidr};
use tokio::time::sleep;

use banger_agent::net::NetInterface;

use super::*;
use crate::network::devices::open_tap;
use crate::network::{self, DEVICE, NetworkSupport, TAP, USER_NETWORK};
use crate::program::Programs;

/// This module's tests, for the test binary.
const MODULE: &str = "confinement::launch::tests::network";
/// How long a guest waits for an answer.
const PATIENCE: Span = Span::from_secs(5);

#[test]
fn guest_of_root_reaches_the_internet_and_not_the_hosts_loopback() {
    on_host_with_internet("guest_of_root_reaches_the_internet_and_not_the_hosts_loopback", || {
        run(async |host| reaches_the_internet(&host, supported(&host)).await);
    });
}

#[test]
fn guest_of_ordinary_user_reaches_the_internet_and_not_the_hosts_loopback() {
    on_host_with_internet("guest_of_ordinary_user_reaches_the_internet_and_not_the_hosts_loopback", || {
        become_ordinary_user();
        run(async |host| {
            let slirp4netns = supported(&host);
            reaches_the_internet(&host, slirp4netns).await;
            let pasta = Programs::new(PATH).find("pasta", "passt").unwrap();
            reaches_the_internet(&host, NetworkProgram::Pasta(pasta)).await;
        });
    });
}

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Runs a test as root on a host with an internet. Who is no root becomes one in a user namespace.
fn on_host_with_internet(test: &str, check: impl FnOnce()) {
    if geteuid().is_root() {
        internet::enter();
        return check();
    }
    let mut inner = Command::new("unshare");
    inner.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
    let status = inner.args(["--exact", "--nocapture", &format!("{MODULE}::{test}")]).status().unwrap();
    assert!(status.success());
}

/// What this host is found to connect a VM with.
fn supported(host: &Host) -> NetworkProgram {
    match network::support(&launcher(host.directory.path()), &Programs::new(PATH)) {
        NetworkSupport::Works(program) => program,
        unusable @ NetworkSupport::Unusable { .. } => panic!("{unusable:?}"),
    }
}

async fn reaches_the_internet(host: &Host, program: NetworkProgram) {
    let name = program.name();
    let test = test_binary(host.directory.path());
    let guest = format!("{MODULE}::guest");
    let arguments = ["--ignored", "--exact", "--nocapture", &guest].map(OsString::from).into();
    let mut command = ConfinedCommand { program: test.clone(), arguments, ..host.shell("") };
    command.rules.readable.push(test);
    command.rules.devices.push(DEVICE.into());
    command.network = Some(program);
    let output = host.output(command).await;
    assert!(output.status.success(), "{name}: {output:?}");
    let said = fs::read_to_string(host.path("vms/own/run/said")).unwrap();
    assert_eq!(said, "name: internet\naddress: internet\nhost's loopback: nothing, []\n", "{name}");
}

/// What a test's supervisor is to run its VM with: a directory.
const SUPERVISED: &str = "BANGER_TEST_SUPERVISED";

#[test]
fn nothing_outlives_a_supervisor_of_root_that_is_killed_at_any_moment() {
    on_host_with_internet("nothing_outlives_a_supervisor_of_root_that_is_killed_at_any_moment", || {
        nothing_outlives_a_supervisor();
    });
}

#[test]
fn nothing_outlives_a_supervisor_of_an_ordinary_user_that_is_killed_at_any_moment() {
    on_host_with_internet("nothing_outlives_a_supervisor_of_an_ordinary_user_that_is_killed_at_any_moment", || {
        become_ordinary_user();
        nothing_outlives_a_supervisor();
    });
}

fn nothing_outlives_a_supervisor() {
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().to_str().unwrap();
    symlink("/usr/bin/slirp4netns", directory.path().join("slirp4netns")).unwrap();
    launcher(directory.path());
    let mut seen = 0;
    for milliseconds in (0..40).map(|step| step * 2).chain([150, 500]) {
        let mut supervisor = Command::new(test_binary(directory.path()));
        supervisor.args(["--ignored", "--exact", "--nocapture", &format!("{MODULE}::supervisor")]);
        let mut supervisor = supervisor.env(SUPERVISED, marker).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        seen = seen.max(processes_of(marker).len());
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        let deadline = Moment::now() + Duration::from_secs(10);
        while !processes_of(marker).is_empty() {
            assert!(Moment::now() < deadline, "{milliseconds} ms: {:?}", processes_of(marker));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // The supervisor, the launcher, the VMM, and what connects it.
    assert!(seen >= 4, "{seen}");
}

/// The command lines of processes that have this in them.
fn processes_of(marker: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(marker)).collect()
}

#[test]
#[ignore = "the supervisor of other tests"]
fn supervisor() {
    let Some(directory) = std::env::var_os(SUPERVISED) else { return };
    run(async move |host: Host| {
        let network = Some(NetworkProgram::Slirp4netns(Path::new(&directory).join("slirp4netns")));
        let mut command = ConfinedCommand { network, ..host.shell("sleep 60; :") };
        command.arguments.push(directory.clone());
        let _confined = launch(&launcher(Path::new(&directory)), command).await.unwrap();
        sleep(Duration::from_secs(60)).await;
    });
}

/// This test binary, where an ordinary user may run it.
fn test_binary(directory: &Path) -> PathBuf {
    let copy = directory.join("test");
    if !copy.exists() {
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    }
    copy
}

#[test]
#[ignore = "the VMM of other tests"]
fn guest() {
    // A VMM sees no /proc. Without it, this is whoever runs all tests.
    if Path::new("/proc/self").exists() {
        return;
    }
    let answers = raw::answers_of_loopback();
    let mut guest = Guest::new();
    let named = guest.resolve(internet::NAME).map(|address| guest.read(address, 80));
    let addressed = guest.read(internet::ADDRESS.into(), 80);
    let loopback = guest.read(USER_NETWORK.gateway.into(), internet::LOOPBACK_PORT);
    let named = named.unwrap_or_else(|| "no address".to_owned());
    fs::write("said", format!("name: {named}\naddress: {addressed}\nhost's loopback: {loopback}, {answers:?}\n"))
        .unwrap();
}

/// What a guest sends past its network stack.
mod raw {
    use std::io::{ErrorKind, Read, Write};
    use std::net::Ipv4Addr;
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use smoltcp::phy::{self, ChecksumCapabilities};
    use smoltcp::time::Duration as Span;
    use smoltcp::wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol,
        Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
    };

    use super::super::internet::{ADDRESS, LOOPBACK_PORT};
    use super::{TAP, USER_NETWORK, open_tap};

    const CARD: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const PORT: u16 = 40_000;
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Sends frames to addresses that a network stack keeps for itself, and says which services
    /// answer: protocol, and the address and port that the answer is from. The frames reach the
    /// other side: one like them to the internet is answered.
    pub(super) fn answers_of_loopback() -> Vec<String> {
        let mut tap = Tap(open_tap(TAP).unwrap());
        fcntl(&tap.0, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let router = tap.router();
        // pasta does not tell when it is ready.
        let deadline = Instant::now() + 3 * PATIENCE;
        let mut answers = Vec::new();
        while answers.is_empty() && Instant::now() < deadline {
            tap.write(&frame(router, IpProtocol::Tcp, ADDRESS, 80));
            answers = tap.answers(PATIENCE / 10);
        }
        assert_eq!(answers, [format!("TCP {ADDRESS}:80")]);
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::UNSPECIFIED] {
            tap.write(&frame(router, IpProtocol::Tcp, address, LOOPBACK_PORT));
            tap.write(&frame(router, IpProtocol::Udp, address, LOOPBACK_PORT));
        }
        tap.answers(PATIENCE)
    }

    struct Tap(std::fs::File);

    impl Tap {
        fn write(&mut self, frame: &[u8]) {
            self.0.write_all(frame).unwrap();
        }

        /// A frame, unless none comes until then.
        fn read(&mut self, deadline: Instant) -> Option<Vec<u8>> {
            let mut buffer = vec![0; 2000];
            loop {
                match self.0.read(&mut buffer) {
                    Ok(length) => return Some(buffer[..length].to_vec()),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                let left = deadline.checked_duration_since(Instant::now())?;
                phy::wait(self.0.as_raw_fd(), Some(Span::from_micros(left.as_micros() as u64))).unwrap();
            }
        }

        /// Who has the gateway's address.
        fn router(&mut self) -> EthernetAddress {
            let request = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Request,
                source_hardware_addr: CARD,
                source_protocol_addr: USER_NETWORK.address,
                target_hardware_addr: EthernetAddress([0; 6]),
                target_protocol_addr: USER_NETWORK.gateway,
            };
            let mut frame = ethernet(EthernetAddress::BROADCAST, EthernetProtocol::Arp, request.buffer_len());
            request.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
            // Until the other side is there, nobody answers.
            let deadline = Instant::now() + 3 * PATIENCE;
            loop {
                self.write(&frame);
                while let Some(answer) = self.read((Instant::now() + PATIENCE / 10).min(deadline)) {
                    let arp = EthernetFrame::new_unchecked(&answer[..]).ethertype() == EthernetProtocol::Arp;
                    let packet = arp.then(|| ArpRepr::parse(&ArpPacket::new_unchecked(&answer[14..])).unwrap());
                    if let Some(ArpRepr::EthernetIpv4 {
                        operation: ArpOperation::Reply, source_hardware_addr, ..
                    }) = packet
                    {
                        return source_hardware_addr;
                    }
                }
                assert!(Instant::now() < deadline, "the gateway does not answer");
            }
        }

        /// Who answers at [`PORT`], within a while.
        fn answers(&mut self, patience: Duration) -> Vec<String> {
            let deadline = Instant::now() + patience;
            let mut answers = Vec::new();
            while let Some(frame) = self.read(deadline) {
                let Ok(packet) = Ipv4Packet::new_checked(&frame[14..]) else { continue };
                let (from, payload) = (packet.src_addr(), packet.payload());
                match packet.next_header() {
                    IpProtocol::Tcp => {
                        let segment = TcpPacket::new_checked(payload).unwrap();
                        if segment.dst_port() == PORT && segment.syn() {
                            answers.push(format!("TCP {from}:{}", segment.src_port()));
                        }
                    }
                    IpProtocol::Udp => {
                        let datagram = UdpPacket::new_checked(payload).unwrap();
                        answers.push(format!("UDP {from}:{}", datagram.src_port()));
                    }
                    _ => {}
                }
            }
            answers.sort();
            answers.dedup();
            answers
        }
    }

    fn ethernet(to: EthernetAddress, ethertype: EthernetProtocol, length: usize) -> Vec<u8> {
        let mut frame = vec![0; 14 + length];
        let header = EthernetRepr { src_addr: CARD, dst_addr: to, ethertype };
        header.emit(&mut EthernetFrame::new_unchecked(&mut frame));
        frame
    }

    /// What begins a connection, or a datagram.
    fn frame(router: EthernetAddress, protocol: IpProtocol, to: Ipv4Addr, port: u16) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let from = USER_NETWORK.address;
        let segment = TcpRepr {
            src_port: PORT,
            dst_port: port,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(1),
            ack_number: None,
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let datagram = UdpRepr { src_port: PORT, dst_port: port };
        let text = b"who is there?";
        let payload_len =
            if protocol == IpProtocol::Tcp { segment.buffer_len() } else { datagram.header_len() + text.len() };
        let header = Ipv4Repr { src_addr: from, dst_addr: to, next_header: protocol, payload_len, hop_limit: 64 };
        let mut frame = ethernet(router, EthernetProtocol::Ipv4, header.buffer_len() + payload_len);
        header.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
        let payload = &mut frame[14 + header.buffer_len()..];
        match protocol {
            IpProtocol::Tcp => {
                segment.emit(&mut TcpPacket::new_unchecked(payload), &from.into(), &to.into(), &checksums);
            }
            _ => datagram.emit(
                &mut UdpPacket::new_unchecked(payload),
                &from.into(),
                &to.into(),
                text.len(),
                |payload| payload.copy_from_slice(text),
                &checksums,
            ),
        }
        frame
    }
}

/// A machine with a tap for its network card.
struct Guest {
    device: TunTapInterface,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Guest {
    fn new() -> Guest {
        let tap = open_tap(TAP).unwrap();
        fcntl(&tap, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        // A frame of an Ethernet with its header.
        let mut device = TunTapInterface::from_fd(tap.into_raw_fd(), Medium::Ethernet, 1514).unwrap();
        let config = Config::new(EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]).into());
        let mut interface = Interface::new(config, &mut device, Instant::now());
        let NetInterface { address, prefix, gateway, dns: _ } = USER_NETWORK;
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address.into(), prefix)).unwrap());
        interface.routes_mut().add_default_ipv4_route(gateway).unwrap();
        Guest { device, interface, sockets: SocketSet::new(Vec::new()) }
    }

    /// Waits for an answer; none: it takes too long.
    fn wait<T>(&mut self, mut answer: impl FnMut(&mut SocketSet<'static>) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Instant::now();
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            let answer = answer(&mut self.sockets);
            if answer.is_some() || now > deadline {
                return answer;
            }
            let next = self.interface.poll_at(now, &self.sockets).map_or(deadline, |next| next.min(deadline));
            phy::wait(self.device.as_raw_fd(), Some(next.max(now) - now)).unwrap();
        }
    }

    fn resolve(&mut self, name: &str) -> Option<IpAddress> {
        let socket = dns::Socket::new(&[USER_NETWORK.dns.into()], vec![None]);
        let handle = self.sockets.add(socket);
        let socket = self.sockets.get_mut::<dns::Socket>(handle);
        let query = socket.start_query(self.interface.context(), name, DnsQueryType::A).unwrap();
        let answer = self.wait(|sockets| match sockets.get_mut::<dns::Socket>(handle).get_query_result(query) {
            Err(dns::GetQueryResultError::Pending) => None,
            answer => Some(answer.ok()),
        });
        answer.flatten()?.first().copied()
    }

    /// What a service says, until it closes the connection.
    fn read(&mut self, address: IpAddress, port: u16) -> String {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1024]);
        let handle = self.sockets.add(tcp::Socket::new(buffer(), buffer()));
        // Another port for each connection.
        let local_port = 49152 + u16::try_from(self.sockets.iter().count()).unwrap();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (address, port), local_port).unwrap();
        let said = self.wait(|sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            if !matches!(socket.state(), tcp::State::CloseWait | tcp::State::Closed) {
                return None;
            }
            let mut text = vec![0; 1024];
            let length = socket.recv_slice(&mut text).unwrap_or(0);
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        });
        said.filter(|said| !said.is_empty()).unwrap_or_else(|| "nothing".to_owned())
    }
}
