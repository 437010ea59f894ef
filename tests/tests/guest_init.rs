//! What a command finds in its guest.

use std::io::Write;
use std::net::TcpListener;
use std::time::SystemTime;

use banger_tests::Home;

#[test]
fn guest_boots_into_a_complete_system() {
    let home = Home::new();
    let repository = home.repository("My_Repo");
    // The first command runs long before systemd is up; what it writes to /tmp stays there.
    let script = "echo early >/tmp/early; cat /proc/1/comm; umask; cat /proc/self/oom_score_adj; hostname; \
        grep -c . /etc/machine-id; id -un; date +%s; cat /etc/resolv.conf; ulimit -n; pwd";
    let output = repository.run(["--memory", "512M", "--", "sh", "-c", script]).ok();
    let lines: Vec<_> = output.stdout.split(|&byte| byte == b'\n').map(String::from_utf8_lossy).collect();
    assert_eq!(lines[1..6], ["0022", "0", "my-repo", "1", "root"], "{}", output.text());
    let guest: u64 = lines[6].parse().unwrap();
    let host = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(guest.abs_diff(host) <= 2, "the guest's clock: {guest}, the host's: {host}");
    assert_eq!(lines[7], "nameserver 10.0.2.3");

    let output = repository.run(["--ready", "system", "--", "systemctl", "is-system-running"]).ok();
    assert_eq!(output.text(), "running\n", "{}", output.stderr);
    // A shell assertion a line; the first that fails is printed.
    let checks = r#"
        check() { "$@" >/dev/null 2>&1 || { echo "failed: $*"; exit 1; }; }
        check test "$(cat /tmp/early)" = early
        check test "$(cat /proc/1/comm)" = systemd
        check test -z "$(systemctl --failed --no-legend)"
        mounted() { findmnt -no FSTYPE "$1"; }
        check test "$(mounted /dev/shm)" = tmpfs
        check test "$(mounted /sys/fs/cgroup)" = cgroup2
        check test "$(mounted /dev/pts)" = devpts
        check test "$(mounted /)" = overlay
        check sh -c 'echo >/dev/shm/x && rm /dev/shm/x'
        check sh -c 'ip -br address show lo | grep -q 127.0.0.1'
        check sh -c 'ip -br address show eth0 | grep -q 10.0.2.15'
        check modprobe dummy
        # Nobody but the agent speaks to the host as the agent.
        check sh -c 'ls /dev/vport* && ! cat /dev/vport*'
        check sh -c 'lsmod | grep -q ^autofs4'
        check test ! -e /var/log/journal
        check sh -c 'journalctl -q -n1 | grep -q .'
        check grep -q my-repo /etc/hosts
        agent=$(grep -l '^@banger-agent' /proc/[0-9]*/comm | head -1)
        check test "$(cat "${agent%comm}oom_score_adj")" = -1000
    "#;
    let output = repository.sh(checks);
    assert_eq!((output.status, output.text().as_str()), (0, ""), "{}", output.stderr);

    // A hog is killed, and the agent is not.
    let output = repository.sh("echo 1000 >/proc/self/oom_score_adj; tail /dev/zero");
    assert_eq!(output.status, 128 + 9, "{}", output.stderr);
    assert_eq!(repository.run(["-q", "--", "echo", "alive"]).ok().text(), "alive\n");

    // What a command leaves behind goes on.
    repository.sh("nohup sleep 86400 >/dev/null 2>&1 & echo $! >/root/pid").ok();
    repository.sh("kill $(cat /root/pid)").ok();
}

#[test]
fn full_guest_disk_is_reported_and_can_be_freed() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["--", "true"]).ok();
    // All but a few blocks, without writing them: of the workspace's disk, and of the other.
    let fill = "for disk in /root/repo /root; do \
        fallocate -l $(($(stat -fc '%a*%S' $disk) - 65536)) $disk/hog && ! head -c 10M /dev/zero >$disk/rest || exit 1; done";
    repository.write(".gitignore", "hog\nrest\n");
    repository.sh(fill).ok();
    // More than the agent keeps room for.
    repository.write("large", vec![b'x'; 64 << 20]);
    let output = repository.run(["--", "echo", "run"]).ok();
    assert_eq!(output.text(), "run\n");
    assert!(output.stderr.contains("disk is full") && output.stderr.contains("banger vm exec"), "{}", output.stderr);
    repository.sh("rm hog rest /root/hog /root/rest").ok();
    let output = repository.sh("wc -c <large").ok();
    assert_eq!(output.text(), format!("{}\n", 64 << 20));
    assert!(!output.stderr.contains("full"), "{}", output.stderr);
    repository.run(["delete", "--force"]).ok();
    assert!(home.vms().is_empty());
}

#[test]
fn guest_network_follows_net_option() {
    let home = Home::new();
    let repository = home.repository("r");
    // A service on the host's loopback, whose answer is known.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhost"));
        }
    });
    let output = repository.run(["--rm", "--net", "none", "--", "ls", "/sys/class/net"]).ok();
    assert_eq!(output.text(), "lo\n");
    let script = format!(
        "apt-get update -qq -o Acquire::Languages=none && apt-cache policy hello | grep -c Candidate; curl -sm 5 http://10.0.2.2:{port}/; true"
    );
    let output = repository.sh(&script).ok();
    // With QEMU's user networking the host's loopback is at 10.0.2.2: docs/architecture.md.
    assert_eq!(output.text(), "1\nhost", "{}", output.stderr);
}
