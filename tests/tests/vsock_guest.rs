//! Guests on machines that look like Firecracker's: the agent listens at a vsock port, no disk has
//! a serial, and the only way out is a reset. What such a guest does is the same as elsewhere, and
//! the tests of that run on these machines as well: see `scripts/test`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BULK: usize = 64 << 20;

/// What the guest's devices are. A shell assertion a line; the first that fails is printed.
const DEVICES: &str = r#"
    check() { "$@" >/dev/null 2>&1 || { echo "failed: $*"; exit 1; }; }
    check grep -q 'banger.agent=vsock:1000 banger.disks=order:base,disk,workspace,modules' /proc/cmdline
    check sh -c '! ls /dev/vport*'
    check sh -c '! grep . /sys/block/vd*/serial'
    check test "$(cat /sys/block/vda/ro) $(cat /sys/block/vdb/ro) $(cat /sys/block/vdc/ro)" = "1 0 0"
    check sh -c 'lsmod | grep -q ^vmw_vsock_virtio_transport'
    check sh -c 'lsmod | grep -q ^virtio_rng'
    check sh -c '! lsmod | grep -q ^virtio_balloon'
    check modprobe dummy
    check sh -c 'ip -br address show eth0 | grep -q 10.0.2.15'
"#;

/// Processes of the guest that would be the agent, or speak to it over the guest's loopback. One
/// that cannot connect says so, and not what it heard.
const OTHERS: &str = r#"
    modprobe vsock_loopback || exit 9
    cat >/tmp/vsock.pl <<'EOF'
        use Socket;
        my ($what, $port) = @ARGV;
        my $address = pack("SSLLCx3", 40, 0, $port, $what eq "connect" ? 1 : 0xffffffff, 0);
        socket(my $s, 40, SOCK_STREAM, 0) or die "socket: $!";
        if ($what eq "bind") {
            bind($s, $address) or die "bind: $!";
            exit;
        }
        connect($s, $address) or die "connect: $!";
        $SIG{PIPE} = "IGNORE";
        syswrite($s, "\nbanger {\"nonce\":\"n\",\"version\":\"0\",\"protocol\":1,\"clock_ns\":0}\n");
        sysread($s, my $heard, 4096);
        print "heard: $heard\n";
EOF
    perl /tmp/vsock.pl connect 1000
    perl /tmp/vsock.pl bind 1000
    setpriv --reuid=65534 --clear-groups perl /tmp/vsock.pl bind 1001
    setpriv --reuid=65534 --clear-groups perl /tmp/vsock.pl bind 2000
    true
"#;

/// Reboots some seconds after the end of the process that the file names, as soon as there is one.
const REBOOT: &str = "
    until test -s /run/waiting; do sleep 0.1; done
    while xargs kill -0 </run/waiting 2>/dev/null; do sleep 0.1; done
    sleep 5
    systemctl reboot
";

#[test]
fn agent_at_a_vsock_port_serves_all_that_others_do() {
    let home = Home::with_vsock_guests();
    let repository = home.repository("vsock");
    repository.write("large", vec![7; 3 << 20]);
    repository.run(["--memory", "1G", "--", "true"]).ok();
    assert_eq!(repository.sh(DEVICES).ok().text(), "");
    repository.assert_same_files();

    let every_byte: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    assert!(repository.with_input(["-q", "--", "cat"], &every_byte).ok().stdout == every_byte);
    for (script, status) in [("exit 255", 255), ("kill -9 $$", 137)] {
        assert_eq!(repository.sh(script).status, status, "{script}");
    }
    signal_arrives(&repository);

    // Out through a reader that is slow at first, and in.
    let made = "head -c 67108864 /dev/urandom >/root/bulk && b2sum </root/bulk";
    let digest = repository.run(["-q", "--", "sh", "-c", made]).ok().text();
    let bulk = read_slowly(repository.banger().args(["-q", "--", "cat", "/root/bulk"]));
    assert_eq!((bulk.len(), b2sum(&home, &bulk)), (BULK, digest.clone()));
    let received = repository.with_input(["-q", "--", "b2sum"], &bulk).ok();
    assert_eq!(received.text(), digest);

    parallel_streams(&repository);

    let others = repository.sh(OTHERS);
    assert_eq!(others.text(), "heard: \n", "{}", others.stderr);
    let refusals: Vec<_> = others.stderr.lines().filter(|line| line.starts_with("bind: ")).collect();
    assert_eq!(refusals.len(), 2, "{}", others.stderr);
    assert!(refusals[0].contains("Address already in use") && refusals[1].contains("Permission denied"));

    // The sync after them is an incremental one; then the VM stops in order, and starts again.
    repository.write("added", "later\n");
    assert_eq!(repository.run(["-q", "--", "cat", "added"]).ok().text(), "later\n");
    repository.sh("echo kept >/root/kept").ok();
    repository.run(["stop"]).ok();
    assert!(!home.vm().join("run.json").exists(), "it ended in order");
    assert_eq!(repository.run(["-q", "--", "cat", "/root/kept"]).ok().text(), "kept\n");
    eventually("the system is up", || repository.run(["--ready", "system", "--", "true"]).status == 0);

    // The guest goes by a reset whatever was meant, and says which it was. Without a word, it is a
    // crash.
    let ends =
        [("systemctl poweroff", None), ("systemctl reboot", None), ("echo c >/proc/sysrq-trigger", Some("reset"))];
    for (command, reason) in ends {
        let _ = repository.sh(&format!("{command}; sleep 60"));
        eventually("the VM is down", || !is_supervised(&home));
        let left = fs::read_to_string(home.vm().join("run.json")).ok();
        match reason {
            None => assert_eq!(left, None, "{command}"),
            Some(reason) => assert!(left.as_ref().is_some_and(|left| left.contains(reason)), "{command}: {left:?}"),
        }
        // systemctl needs the system up; after the crash nothing does.
        let ready = if reason.is_none() { "system" } else { "agent" };
        repository.run(["--ready", ready, "--", "true"]).ok();
    }
}

#[test]
fn newest_host_that_greets_the_agent_is_served() {
    let home = Home::with_vsock_guests();
    let repository = home.repository("newest");
    repository.run(["--ready", "system", "--", "true"]).ok();
    // One that says nothing takes nobody's place.
    let silent = Link::connect(&home);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(repository.run(["-q", "--", "echo", "served"]).ok().text(), "served\n");
    // By itself, as the commands of the supervisor's link end with it: it waits for that, and then a
    // little.
    repository.run(["-q", "--", "systemd-run", "--quiet", "sh", "-c", REBOOT]).ok();
    let mut command = repository.banger();
    command.args(["-q", "--", "sh", "-c", "echo $$ >/run/waiting; echo ready; exec sleep 1000"]);
    let mut waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    waiting.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let mut newest = Link::connect(&home);
    newest.greet("n1");
    newest.ask_for_farewell();
    let cut: Output = waiting.wait_with_output().unwrap().into();
    assert!(cut.status == 125 && cut.stderr.contains("the connection to the VM's agent broke"), "{cut:?}");
    drop(silent);
    // This one is told how the guest goes.
    let heard = newest.read_until("\"reboot\"");
    assert!(!heard.contains("power_off"), "{heard}");
    drop(newest);
    eventually("the VM is down", || !is_supervised(&home));
    assert_eq!(repository.run(["-q", "--", "echo", "anew"]).ok().text(), "anew\n");
}

/// Whether the only VM's supervisor lives.
fn is_supervised(home: &Home) -> bool {
    fs::File::open(home.vm().join("supervisor.lock")).unwrap().try_lock().is_err()
}

fn signal_arrives(repository: &Repository<'_>) {
    let script = "trap 'echo got it; exit 42' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = repository.banger();
    let mut child = command.args(["-q", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let output: Output = child.wait_with_output().unwrap().into();
    assert_eq!((output.status, output.text().as_str()), (42, "got it\n"));
}

/// The output of a command whose reader lets every buffer on the way fill, time and again.
fn read_slowly(command: &mut Command) -> Vec<u8> {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let read = output.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        // Every 4 MiB, or so.
        if all.len() >> 22 != (all.len() + read) >> 22 {
            thread::sleep(Duration::from_millis(200));
        }
        all.extend_from_slice(&piece[..read]);
    }
    assert!(child.wait().unwrap().success());
    all
}

fn b2sum(home: &Home, bytes: &[u8]) -> String {
    let mut child = home.command("b2sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("b2sum runs");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    Output::from(child.wait_with_output().unwrap()).ok().text()
}

/// More streams at once than a link has.
fn parallel_streams(repository: &Repository<'_>) {
    thread::scope(|scope| {
        for number in 0..100_u8 {
            scope.spawn(move || {
                let sent = vec![number; 100_000];
                let echoed = repository.with_input(["-q", "--", "sh", "-c", "cat; sleep 2"], &sent).ok();
                assert!(echoed.stdout == sent, "{number}: {} bytes", echoed.stdout.len());
            });
        }
    });
}

/// A host's connection to the agent of the only VM, past its supervisor.
struct Link(UnixStream);

impl Link {
    fn connect(home: &Home) -> Link {
        let mut stream = UnixStream::connect(home.vm().join("run/v.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream.write_all(b"CONNECT 1000\n").unwrap();
        let mut link = Link(stream);
        assert!(link.read_until("\n").starts_with("OK "));
        link
    }

    fn greet(&mut self, nonce: &str) {
        let hello = format!("\nbanger {{\"nonce\":\"{nonce}\",\"version\":\"0\",\"protocol\":1,\"clock_ns\":0}}\n");
        self.0.write_all(hello.as_bytes()).unwrap();
        self.read_until("\nbanger {");
        assert!(self.read_until("}\n").contains(&format!("\"nonce\":\"{nonce}\"")));
    }

    /// Opens stream 1 of yamux, and sends the request.
    fn ask_for_farewell(&mut self) {
        let request = br#"{"op":"farewell"}"#;
        let frame = [&[0, 0, 0, 0, request.len() as u8], &request[..]].concat();
        let header = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, frame.len() as u8];
        self.0.write_all(&[&header[..], &frame].concat()).unwrap();
    }

    /// All up to this text, and with it.
    fn read_until(&mut self, end: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", heard.escape_ascii()));
            heard.push(byte[0]);
        }
        String::from_utf8_lossy(&heard).into_owned()
    }
}
