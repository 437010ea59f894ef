//! Ports of this machine that lead into a VM.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use banger_tests::{Home, Repository, eventually};

/// A guest's stand-in for a server, at a TCP port and a Unix socket: it reads to the end of what
/// comes, and then sends back that it has heard so much, and all of it.
const SERVER: &str = r#"cat >/root/serve.pl <<'END'
use IO::Socket::INET; use IO::Socket::UNIX;
my $unix = shift @ARGV eq "unix";
unlink "/run/served.sock" if $unix;
my $s = $unix ? IO::Socket::UNIX->new(Local => "/run/served.sock", Listen => 32)
    : IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 7000, ReuseAddr => 1, Listen => 32);
die "cannot listen: $!" unless $s;
$SIG{CHLD} = "IGNORE";
print "up\n"; close STDOUT;
while (my $c = $s->accept) {
    if (fork) { close $c; next }
    my $all = "";
    while (sysread $c, my $some, 65536) { $all .= $some }
    print $c "heard ", length $all, "\n", $all; close $c; exit;
}
END
for kind in tcp unix; do { perl /root/serve.pl $kind 2>/root/serve.log </dev/null & } | head -n 1; done"#;

/// Bytes of all kinds, the same each time.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Sends all, says that it is all, and reads all.
macro_rules! exchange {
    ($stream:expr, $sent:expr) => {{
        let mut stream = $stream;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all($sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        heard
    }};
}

/// Whether what was sent had been taken by then does not matter.
#[track_caller]
fn assert_ended(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        read => panic!("it has not ended: {read:?}"),
    }
}

fn answer_to(sent: &[u8]) -> Vec<u8> {
    [format!("heard {}\n", sent.len()).as_bytes(), sent].concat()
}

fn serve(repository: &Repository<'_>, options: &[&str]) -> String {
    let mut command = repository.banger();
    command.env("BANGER_IDLE_TIMEOUT", "1h").args(options).args(["--", "sh", "-c", SERVER]);
    let output = banger_tests::Output::from(command.output().unwrap()).ok();
    assert_eq!(output.text(), "up\nup\n");
    output.stderr
}

fn ports(repository: &Repository<'_>) -> serde_json::Value {
    repository.run(["port", "list", "--json"]).ok().document()["ports"].clone()
}

/// The local addresses of sockets that listen at `port`, as proc_net_tcp(5) has them.
fn listening_at(port: u16) -> Vec<String> {
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let local = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, state) = (fields.next()?.to_owned(), fields.nth(1)?);
        (state == "0A" && address.ends_with(&format!(":{port:04X}"))).then_some(address)
    };
    tables.iter().flat_map(|table| table.lines().filter_map(local)).collect()
}

#[test]
fn forwards_of_ports_and_sockets_work_whenever_vm_runs() {
    let home = Home::new();
    let repository = home.repository("r");
    assert!(repository.run(["port", "list"]).stderr.contains("has no VM"));

    // Chosen by the system, and said.
    let said = serve(&repository, &["--publish", "0:7000"]);
    let all = ports(&repository);
    let port = u16::try_from(all[0]["host_port"].as_u64().unwrap()).unwrap();
    assert!(port > 0 && said.contains(&format!("127.0.0.1:{port} leads to 7000")), "{said}");
    assert_eq!(all[0]["guest"], "7000");
    assert!(all[0]["listening"] == true && all[0]["problem"].is_null(), "{all}");
    let socket = home.path().join("s");
    let forward = format!("{}:/run/served.sock", socket.display());
    let added = repository.run(["port", "add", &forward, "0:7001"]).ok();
    assert_eq!(added.text().lines().next(), socket.to_str());
    let other = added.text().lines().nth(1).unwrap().parse::<SocketAddr>().unwrap();
    // Adding a forward again returns the one that is there.
    assert_eq!(repository.run(["port", "add", "0:7000"]).ok().text(), format!("127.0.0.1:{port}\n"));

    connections(port, &socket);
    // Nothing but loopback: 0100007F is 127.0.0.1.
    assert_eq!(listening_at(port), [format!("0100007F:{port:04X}")]);
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err());
    // Nobody listens there in the guest.
    let mut refused = TcpStream::connect(other).unwrap();
    assert_ended(&mut refused);

    refusals(&repository, port);
    restart(&repository, port, &socket, other);
    use_by_connections(&repository, port);
    by_themselves(&repository);

    // What is removed is gone, with its connections.
    let mut open = TcpStream::connect(("127.0.0.1", port)).unwrap();
    open.write_all(b"open").unwrap();
    repository.run(["port", "remove", &port.to_string(), socket.to_str().unwrap()]).ok();
    assert_ended(&mut open);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err() && !socket.exists());
    assert_eq!(ports(&repository).as_array().unwrap().len(), 1);
    repository.run(["delete", "--force"]).ok();
    assert!(home.processes().is_empty() && home.vms().is_empty());
}

fn connections(port: u16, socket: &Path) {
    let tcp = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let sent = bytes(4_000_000);
    assert!(exchange!(tcp(), &sent) == answer_to(&sent));
    assert_eq!(exchange!(tcp(), b""), b"heard 0\n");
    let metadata = fs::metadata(socket).unwrap();
    assert!(metadata.file_type().is_socket() && metadata.permissions().mode() & 0o777 == 0o600);
    assert!(exchange!(UnixStream::connect(socket).unwrap(), &sent) == answer_to(&sent));
    // More at once than the VM has streams for: they take turns.
    std::thread::scope(|scope| {
        for number in 0..40 {
            scope.spawn(move || {
                let sent = bytes(1000 + number);
                assert!(exchange!(TcpStream::connect(("127.0.0.1", port)).unwrap(), &sent) == answer_to(&sent));
            });
        }
    });
}

fn refusals(repository: &Repository<'_>, port: u16) {
    let before = ports(repository);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = format!("{}:80", taken.local_addr().unwrap());
    let file = repository.root.join("README");
    let of_file = format!("{}:80", file.display());
    let elsewhere = format!("{port}:80");
    for (arguments, kind, what) in [
        (["port", "add", &occupied], "port", "in use already"),
        (["port", "add", &of_file], "port", "something else is there"),
        (["port", "add", "/nowhere/s:80"], "port", "No such file"),
        (["port", "add", &elsewhere], "port", "leads to 7000 already"),
        (["port", "add", "80"], "usage", "HOST:GUEST"),
        (["port", "remove", "1"], "port", "1 is not forwarded"),
    ] {
        let output = repository.run(["--json", arguments[0], arguments[1], arguments[2]]);
        assert_eq!(output.status, 125, "{arguments:?}");
        let error = output.document();
        assert_eq!(error["kind"], kind, "{arguments:?}: {error}");
        assert!(error["message"].as_str().unwrap().contains(what), "{arguments:?}: {error}");
    }
    // The command is not run.
    let output = repository.run(["--publish", &occupied, "--", "echo", "run"]);
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{}", output.stderr);
    assert_eq!(ports(repository), before);
    assert!(fs::read_to_string(file).is_ok());
}

fn restart(repository: &Repository<'_>, port: u16, socket: &Path, other: SocketAddr) {
    repository.run(["stop"]).ok();
    assert!(!socket.exists() && TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(ports(repository).as_array().unwrap().iter().all(|port| port["listening"] == false));
    // What is changed meanwhile holds from the start on.
    repository.run(["port", "remove", &other.to_string()]).ok();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = format!("{}:80", taken.local_addr().unwrap());
    assert!(repository.run(["port", "add", &occupied]).ok().stderr.contains("next start"));

    let said = serve(repository, &[]);
    assert!(said.contains("nothing leads to 80 in the VM") && said.contains("in use"), "{said}");
    let listed = repository.run(["port", "ls"]).ok().text();
    assert!(listed.contains("not listening: ") && listed.lines().count() == 4, "{listed}");
    let sent = bytes(100_000);
    assert!(exchange!(TcpStream::connect(("127.0.0.1", port)).unwrap(), &sent) == answer_to(&sent));
    assert!(exchange!(UnixStream::connect(socket).unwrap(), &sent) == answer_to(&sent));
}

/// A connection is use, and who listens for one is none.
fn use_by_connections(repository: &Repository<'_>, port: u16) {
    let mut open = TcpStream::connect(("127.0.0.1", port)).unwrap();
    open.write_all(b"open").unwrap();
    let mut command = repository.banger();
    command.env("BANGER_IDLE_TIMEOUT", "1s").args(["--", "sleep", "0"]);
    banger_tests::Output::from(command.output().unwrap()).ok();
    std::thread::sleep(Duration::from_secs(3));
    assert!(!repository.home.processes().is_empty());
    drop(open);
    eventually("the end of a VM that only listens", || repository.home.processes().is_empty());
    serve(repository, &[]);
}

/// A guest's stand-in for servers that come and go: it begins to listen at each port that it is
/// told, and ends with `-PORT`. Who connects hears which it is.
const SERVERS: &str = r#"use IO::Socket::INET; my %of;
while (<STDIN>) {
    chomp; if (s/^-//) { kill 9, $of{$_}; waitpid $of{$_}, 0; next }
    my $port = $_;
    my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $port, ReuseAddr => 1, Listen => 8) or die "$port: $!";
    unless ($of{$port} = fork) { while (my $c = $s->accept) { print $c "$port\n"; close $c } }
    close $s;
}
kill 9, values %of"#;

/// What begins to listen in the guest is reached while the command runs, and no longer.
fn by_themselves(repository: &Repository<'_>) {
    let mut command = repository.banger();
    command.args(["--ports", "auto", "--", "perl", "-e", SERVERS]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // Of one that is new: where. What listened before is none, and neither is what was published.
    let mut said = |port: u16| -> u16 {
        let end = format!(" → port {port} in the guest");
        let line = lines.by_ref().find(|line| line.contains(" → port ")).expect("a line");
        let number = line.strip_prefix("banger: 127.0.0.1:").and_then(|line| line.strip_suffix(&end));
        number.unwrap_or_else(|| panic!("{port}: {line}")).parse().unwrap()
    };
    let heard = |port: u16| {
        let mut heard = String::new();
        TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| stream.read_to_string(&mut heard)).unwrap();
        heard
    };
    let free = |taken: &TcpListener| taken.local_addr().unwrap().port();
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let (same, taken) = (free(&first), free(&second));
    drop(first);

    writeln!(stdin, "{same}").unwrap();
    assert_eq!(said(same), same);
    assert_eq!(heard(same), format!("{same}\n"));
    assert_eq!(listening_at(same), [format!("0100007F:{same:04X}")]);
    writeln!(stdin, "{taken}").unwrap();
    let other = said(taken);
    assert!(other != taken && heard(other) == format!("{taken}\n"));
    writeln!(stdin, "81").unwrap();
    assert!(said(81) >= 1024);
    // It goes with its server, and comes back with it, which is not said again.
    writeln!(stdin, "-{same}").unwrap();
    eventually("the end of a forward", || TcpStream::connect(("127.0.0.1", same)).is_err());
    writeln!(stdin, "{same}").unwrap();
    eventually("its return", || TcpStream::connect(("127.0.0.1", same)).is_ok());
    assert_eq!(heard(same), format!("{same}\n"));

    // A guest that listens everywhere is heard of once.
    for port in 20_000..20_040 {
        writeln!(stdin, "{port}").unwrap();
    }
    assert!(lines.by_ref().any(|line| line.contains("more than 32 ports")));
    writeln!(stdin, "20040").unwrap();
    drop(stdin);
    assert_eq!(lines.filter(|line| line.contains("more than")).count(), 0);
    assert!(child.wait().unwrap().success());
    assert!([same, other].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()));
}
