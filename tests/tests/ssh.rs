//! OpenSSH's own programs in VMs, by name.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banger_tests::registry::{self, Layout};
use banger_tests::{Home, Output, Repository, eventually};

/// A guest's stand-in for a server: answers each connection with what it says first, as HTTP. It
/// says where it listens.
const SERVER: &str = r#"perl -MIO::Socket::INET -e '
    my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 0, Listen => 9) or die;
    open my $f, ">", "/run/port"; print $f $s->sockport; close $f; rename "/run/port", "/run/server";
    while (my $c = $s->accept) { my $l = <$c>; print $c "HTTP/1.0 200 OK\r\n\r\nheard $l"; close $c }
' >/dev/null 2>&1 </dev/null &"#;

/// ssh as it is configured for the VM of a repository.
struct Ssh<'a> {
    home: &'a Home,
    config: PathBuf,
    /// The VM's name as a host.
    host: String,
}

impl<'a> Ssh<'a> {
    fn new(repository: &Repository<'a>) -> Ssh<'a> {
        let home = repository.home;
        let config = home.path().join("ssh.config");
        fs::write(&config, repository.run(["ssh-config"]).ok().stdout).unwrap();
        let names = repository.run(["list", "--quiet"]).ok().text();
        Ssh { home, config, host: format!("{}.banger", names.trim()) }
    }

    /// ssh, scp or sftp with these options.
    fn program(&self, name: &str, options: &[&str]) -> Command {
        let mut command = self.home.command(name);
        command.arg("-F").arg(&self.config).args(["-o", "BatchMode=yes"]).args(options);
        command
    }

    fn run(&self, options: &[&str], line: &str) -> Output {
        self.program("ssh", options).arg(&self.host).arg(line).output().unwrap().into()
    }

    fn with_input(&self, options: &[&str], line: &str, input: &[u8]) -> Output {
        with_input(self.program("ssh", options).arg(&self.host).arg(line), input)
    }

    fn place(&self, path: &str) -> String {
        format!("{}:{path}", self.host)
    }
}

fn with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // Who does not read all of it is no failure.
    let feeding = std::thread::spawn(move || _ = stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output.into()
}

/// Bytes of all kinds, the same each time.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn openssh_reaches_vms_by_name() {
    let home = Home::new();
    let repository = home.repository("r");
    repository.run(["--", "sh", "-c", SERVER]).ok();
    // A guest without a server of its own gets no key.
    repository.run(["ssh", "--", "test", "!", "-e", "/root/.ssh/authorized_keys"]).ok();
    let ssh = Ssh::new(&repository);

    // Keys are the user's alone, and one that was made is used again.
    let folder = home.path().join(".config/banger/ssh");
    for (path, mode) in [("", 0o700), ("id_ed25519", 0o600), ("host_ed25519", 0o600)] {
        assert_eq!(fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
    assert_eq!(fs::read(&ssh.config).unwrap(), repository.run(["ssh-config"]).ok().stdout);

    commands(&ssh);
    files(&ssh);
    connections(&ssh, &repository);
    forwards_of_the_users_configuration(&ssh, &repository);
    editor(&ssh);
    refusals(&ssh, &repository);
    use_and_start(&ssh, &repository);
}

fn commands(ssh: &Ssh<'_>) {
    let output = ssh.run(&[], "echo out; echo err >&2; pwd; id -un; exit 42");
    assert_eq!((output.status, output.text().as_str()), (42, "out\n/root\nroot\n"), "{}", output.stderr);
    // Nobody is asked anything, and nothing is said besides.
    assert_eq!(output.stderr, "err\n");
    let input = bytes(3_000_000);
    assert!(ssh.with_input(&[], "cat", &input).ok().stdout == input);
    // More than all buffers hold, both ways at once.
    let much = input.repeat(20);
    assert!(ssh.with_input(&[], "cat", &much).ok().stdout == much);
    assert_eq!(ssh.with_input(&[], "exec head -c 3", &input).ok().stdout, &input[..3]);
    // A login shell, which takes its commands from the pipe.
    let shell = with_input(ssh.program("ssh", &["-T"]).arg(&ssh.host), b"shopt -q login_shell && echo login; exit 5\n");
    assert_eq!((shell.status, shell.text().as_str()), (5, "login\n"), "{}", shell.stderr);
    let tty = ssh.run(&["-tt"], "test -t 0 && test -t 1 && echo $TERM; exit 6");
    assert_eq!((tty.status, tty.text().as_str()), (6, "xterm-256color\r\n"), "{}", tty.stderr);
    // A signal has no status: this is what ssh makes of it.
    assert_eq!(ssh.run(&[], "kill -KILL $$").status, 255);
    assert_eq!(ssh.run(&["-o", "SetEnv=LC_A=b"], "echo $LC_A-$SSH_AUTH_SOCK").ok().text(), "b-\n");
    let other = ssh.program("ssh", &["-l", "games"]).arg(&ssh.host).arg("id").output().unwrap();
    assert!(String::from_utf8_lossy(&other.stdout).contains("not available"), "{other:?}");
    let nobody: Output = ssh.program("ssh", &["-l", "nope"]).arg(&ssh.host).arg("id").output().unwrap().into();
    assert_eq!(nobody.status, 255);
    assert!(nobody.stderr.contains("no user `nope`"), "{}", nobody.stderr);
    // What a client leaves behind is hung up on.
    let mut left =
        ssh.program("ssh", &[]).arg(&ssh.host).arg("echo $$; exec sleep 1000").stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = [0; 16];
    let count = left.stdout.take().unwrap().read(&mut pid).unwrap();
    let pid = String::from_utf8_lossy(&pid[..count]).trim().to_owned();
    left.kill().unwrap();
    left.wait().unwrap();
    eventually("the command's end", || ssh.run(&[], &format!("! kill -0 {pid} 2>/dev/null")).status == 0);
}

fn files(ssh: &Ssh<'_>) {
    let host = ssh.home.path().join("files");
    let odd = OsStr::from_bytes(b"odd \xff\n'name'");
    fs::create_dir_all(host.join("tree/below")).unwrap();
    fs::write(host.join("tree/below").join(odd), bytes(100_000)).unwrap();
    fs::write(host.join("tree/run"), "x").unwrap();
    fs::set_permissions(host.join("tree/run"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("run", host.join("tree/link")).unwrap();
    let big = bytes(20_000_000);
    fs::write(host.join("big"), &big).unwrap();
    let at = |name: &str| host.join(name).to_str().unwrap().to_owned();

    let copy = |from: &str, to: &str| {
        Output::from(ssh.program("scp", &["-q", "-p", "-r"]).args([from, to]).output().unwrap()).ok()
    };
    copy(&at("tree"), &ssh.place("copied"));
    copy(&at("big"), &ssh.place("~/copied/big"));
    assert_eq!(
        ssh.run(&[], "stat -c %a copied/run; ls -d /root/copied/below").ok().text(),
        "751\n/root/copied/below\n"
    );
    copy(&ssh.place("copied"), &at("back"));
    assert!(fs::read(host.join("back/big")).unwrap() == big);
    assert!(fs::read(host.join("back/below").join(odd)).unwrap() == bytes(100_000));
    let missing: Output = ssh.program("scp", &["-q"]).args([&ssh.place("/no/such"), &at("x")]).output().unwrap().into();
    assert_eq!(missing.status, 1);
    assert!(missing.stderr.contains("No such file"), "{}", missing.stderr);

    let batch = format!(
        "mkdir /srv/s\ncd /srv/s\nput {big} a\nrename a b\nln -s b c\nchmod 600 b\nls -l\ndf\nget c {back}\nrm b\n-rm b\nrm c\ncd ..\nrmdir s\n-ls s\n",
        big = at("big"),
        back = at("sftp")
    );
    let output = with_input(ssh.program("sftp", &["-b", "-"]).arg(&ssh.host), batch.as_bytes()).ok();
    assert!(fs::read(host.join("sftp")).unwrap() == big);
    let text = output.text();
    assert!(text.contains("-rw-------    1 0        0        20000000 "), "{text}");
    assert!(text.contains("lrwxrwxrwx") && text.contains("%Capacity"), "{text}");
    assert!(output.stderr.contains("No such file") && output.stderr.contains("not found"), "{}", output.stderr);

    // The image has no rsync: this machine's own goes there, with all that it is linked with.
    let own = host.join("rsync");
    fs::create_dir(&own).unwrap();
    fs::copy("/usr/bin/rsync", own.join("rsync")).unwrap();
    let linked = Output::from(ssh.home.command("ldd").arg("/usr/bin/rsync").output().unwrap()).ok().text();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        fs::copy(library, own.join(Path::new(library).file_name().unwrap())).unwrap();
    }
    copy(&at("rsync"), &ssh.place("/opt"));
    let program = "/opt/rsync/ld-linux-x86-64.so.2 --library-path /opt/rsync /opt/rsync/rsync";
    let shell = format!("ssh -F {}", ssh.config.display());
    let rsync = |from: &str, to: &str| {
        let mut command = ssh.home.command("rsync");
        command.args(["-a", "--stats", "--delete", "-e", &shell, "--rsync-path", program, from, to]);
        Output::from(command.output().unwrap()).ok().text()
    };
    rsync(&format!("{}/", at("tree")), &ssh.place("/srv/synced"));
    assert!(rsync(&format!("{}/", at("tree")), &ssh.place("/srv/synced")).contains("files transferred: 0"));
    rsync(&ssh.place("/srv/synced/"), &at("again"));
    assert_eq!(fs::read_link(host.join("again/link")).unwrap(), Path::new("run"));
    assert!(fs::read(host.join("again/below").join(odd)).unwrap() == bytes(100_000));
}

/// A connection that many commands share, until dropped.
struct Master {
    socket: String,
    process: Child,
}

impl Master {
    fn new(ssh: &Ssh<'_>, name: &str, options: &[&str]) -> Master {
        let socket = ssh.home.path().join(name).to_str().unwrap().to_owned();
        let mut command = ssh.program("ssh", &["-M", "-N", "-S", &socket, "-o", "ExitOnForwardFailure=yes"]);
        let process = command.args(options).arg(&ssh.host).spawn().unwrap();
        eventually("the master", || ssh.run(&["-S", &socket, "-O", "check"], "").status == 0);
        Master { socket, process }
    }

    fn run(&self, ssh: &Ssh<'_>, line: &str) -> Output {
        // Without a configuration there is no way but this one.
        let mut command = ssh.home.command("ssh");
        command.args(["-F", "/dev/null", "-S", &self.socket, "-o", "ProxyCommand=false", &ssh.host, line]);
        command.output().unwrap().into()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // These fail only when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says `words` to a socket, ends its own side, and hears the rest.
fn converse(socket: &str, words: &str) -> String {
    let mut connection = UnixStream::connect(socket).unwrap();
    connection.write_all(words.as_bytes()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    connection.read_to_string(&mut heard).unwrap();
    heard
}

fn connections(ssh: &Ssh<'_>, repository: &Repository<'_>) {
    let port = ssh.run(&[], "cat /run/server").ok().text();
    let at = |name: &str| ssh.home.path().join(name).to_str().unwrap().to_owned();
    // What the guest is to find: answers each connection once it has ended its side.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = service.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in service.incoming() {
            let mut connection = connection.unwrap();
            let mut heard = String::new();
            connection.read_to_string(&mut heard).unwrap();
            write!(connection, "here: {heard}").unwrap();
        }
    });
    let socks = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap().port().to_string();
    let (local, remote) = (format!("{}:localhost:{port}", at("local")), format!("/run/remote:{here}"));
    let unix = format!("{}:/run/remote", at("unix"));
    let options = ["-L", &local, "-L", &unix, "-R", &remote, "-D", &socks];
    let master = Master::new(ssh, "master", &options);

    let in_parallel: Vec<_> = std::thread::scope(|scope| {
        let one = |number: usize| master.run(ssh, &format!("sleep 0.1; echo {number}")).ok().text();
        let all: Vec<_> = (0..8).map(|number| scope.spawn(move || one(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(in_parallel, (0..8).map(|number| format!("{number}\n")).collect::<Vec<_>>());

    // As many as one likes, one after another.
    let many = "for i in $(seq 70); do ssh -F /dev/null -S $0 -o ProxyCommand=false $1 true || exit; done";
    Output::from(ssh.home.command("sh").args(["-c", many, &master.socket, &ssh.host]).output().unwrap()).ok();

    let heard = converse(&at("local"), "one\n");
    assert!(heard.ends_with("heard one\n"), "{heard}");
    // Through the guest and back, each side ending by itself.
    assert_eq!(converse(&at("unix"), "round"), "here: round");
    let proxy = format!("socks5h://127.0.0.1:{socks}");
    let url = format!("http://localhost:{port}/x");
    let fetched: Output = ssh.home.command("curl").args(["-s", "-x", &proxy, &url]).output().unwrap().into();
    assert_eq!(fetched.ok().text(), "heard GET /x HTTP/1.1\r\n");

    // A port of the guest's own choice, and no longer than it is wanted.
    let control = |operation: &str, remote: &str| -> Output {
        let mut command = ssh.program("ssh", &["-S", &master.socket, "-O", operation, "-R", remote]);
        command.arg(&ssh.host).output().unwrap().into()
    };
    let chosen = control("forward", &format!("0:{here}")).ok().text().trim().to_owned();
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{chosen} && echo tcp >&3 && perl -e 'open F, \">&=3\"; shutdown F, 1' && cat <&3"
    );
    assert_eq!(master.run(ssh, &ask).ok().text(), "here: tcp\n");
    // As it was asked for: ssh knows the port itself.
    control("cancel", &format!("0:{here}")).ok();
    eventually("the port's end", || master.run(ssh, &ask).status != 0);
    // Where something is already.
    let taken = control("forward", &format!("{port}:{here}"));
    assert!(taken.stderr.contains("forwarding failed"), "{}", taken.stderr);
    // Nobody is there: the client hears the end, and the connection goes on.
    let nowhere = format!("{}:127.0.0.1:1", at("nowhere"));
    let forward = ["-S", &master.socket, "-O", "forward", "-L", &nowhere];
    Output::from(ssh.program("ssh", &forward).arg(&ssh.host).output().unwrap()).ok();
    assert_eq!(converse(&at("nowhere"), ""), "");
    master.run(ssh, "true").ok();

    drop(master);
    eventually("the socket's end", || repository.run(["-q", "--", "test", "!", "-e", "/run/remote"]).status == 0);
    let agent = Agent::new(ssh.home);
    let listed = ssh.program("ssh", &["-A"]).env("SSH_AUTH_SOCK", &agent.socket).arg(&ssh.host).arg(ASK_AGENT).output();
    assert_eq!(Output::from(listed.unwrap()).ok().text(), "12\n");
    assert_eq!(ssh.run(&[], "ls -d /tmp/banger-ssh-* 2>/dev/null").text(), "");
}

/// Asks an agent for its keys, and prints the number of the answer: SSH_AGENT_IDENTITIES_ANSWER is
/// 12.
const ASK_AGENT: &str = r#"perl -MIO::Socket::UNIX -e '
    my $s = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) or die; print $s pack("NC", 1, 11); $s->flush;
    read $s, my $answer, 5; print((unpack "NC", $answer)[1], "\n")'"#;

/// The user's own agent.
struct Agent {
    socket: PathBuf,
    process: Child,
}

impl Agent {
    fn new(home: &Home) -> Agent {
        let socket = home.path().join("agent");
        let process = home.command("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        eventually("the agent", || socket.exists());
        Agent { socket, process }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // These fail only when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Has ssh forward all that it can to every host, as a user's own configuration may: `included`
/// comes first there.
fn forward_everything(home: &Home, included: &Path) -> PathBuf {
    let path = home.path().join("user.config");
    let all = "ForwardAgent yes\n    ForwardX11 yes\n    Tunnel yes\n    RemoteForward /run/leak localhost:1";
    fs::write(&path, format!("Include {}\nHost *\n    {all}\n", included.display())).unwrap();
    path
}

fn forwards_of_the_users_configuration(ssh: &Ssh<'_>, repository: &Repository<'_>) {
    let config = forward_everything(ssh.home, &ssh.config);
    let agent = Agent::new(ssh.home);
    let with = |options: &[&str], line: &str| -> Output {
        let mut command = ssh.home.command("ssh");
        command.arg("-F").arg(&config).args(["-o", "BatchMode=yes"]).args(options).arg(&ssh.host).arg(line);
        command.env("SSH_AUTH_SOCK", &agent.socket).output().unwrap().into()
    };
    assert_eq!(with(&[], "echo $SSH_AUTH_SOCK").ok().text(), "\n");
    assert_eq!(with(&["-A"], ASK_AGENT).ok().text(), "12\n");

    // ssh finds the user's own by passwd(5), so this one is named to it.
    let script = format!("#!/bin/sh\nPATH=${{PATH#*:}} exec ssh -F {} \"$@\"\n", config.display());
    ssh.home.program("ssh", script, 0o755);
    let banger_ssh = |words: &[&str]| -> Output {
        let mut command = repository.with_plugins();
        command.arg("ssh").args(words).env("SSH_AUTH_SOCK", &agent.socket).output().unwrap().into()
    };
    ssh.run(&[], "rm -f /run/leak").ok();
    assert_eq!(banger_ssh(&["--", "echo $SSH_AUTH_SOCK; ls /run/leak 2>&1 | grep -c cannot"]).ok().text(), "\n1\n");
    assert_eq!(banger_ssh(&["-A", "--", ASK_AGENT]).ok().text(), "12\n");
}

#[test]
fn ssh_forwards_for_all_hosts_do_not_apply_to_vms() {
    let home = Home::new();
    let repository = home.repository("r");
    let own = home.path().join("ssh.config");
    fs::write(&own, repository.run(["ssh-config"]).ok().stdout).unwrap();
    let config = forward_everything(&home, &own);
    let values = |words: &[&str]| -> Vec<String> {
        let output: Output = home.command("ssh").arg("-G").arg("-F").arg(&config).args(words).output().unwrap().into();
        let wanted = ["forwardagent ", "forwardx11 ", "tunnel ", "localforward ", "dynamicforward ", "proxycommand "];
        let lines: Vec<_> = output.text().lines().map(str::to_owned).collect();
        lines.into_iter().filter(|line| wanted.iter().any(|name| line.starts_with(name))).collect()
    };
    let has = |words: &[&str], expected: &[&str]| {
        let values = values(words);
        for line in expected {
            assert!(values.iter().any(|value| value == line), "{words:?}: `{line}` is not in {values:#?}");
        }
    };
    has(&["vm.banger"], &["forwardagent no", "forwardx11 no", "tunnel false"]);
    has(&["other.host"], &["forwardagent yes", "forwardx11 yes"]);
    let asked = ["-A", "-X", "-L", "1:h:2", "-D", "3", "vm.banger"];
    has(&asked, &["forwardagent yes", "forwardx11 yes", "localforward 1 [h]:2", "dynamicforward 3"]);

    // A name is a word for the shell of ProxyCommand, whatever is in it.
    for name in ["$(>mark)", "`>mark`", "x;>mark", "x|cat>mark"] {
        let mut command = home.command("ssh");
        command.arg("-F").arg(&own).args(["-o", "BatchMode=yes", "-o", &format!("HostName={name}"), "vm.banger"]);
        let output: Output = command.current_dir(home.path()).output().unwrap().into();
        assert!(output.status == 255 && !home.path().join("mark").exists(), "{output:?}");
    }
    // What would end its quotes is no VM's. Clients since 9.6 take no such name at all.
    assert!(!values(&["x';true;'.banger"]).iter().any(|line| line.starts_with("proxycommand")));
}

/// What VS Code does: finds out about the machine by a shell's standard input, brings its server in
/// an archive, and talks to it through a connection that stays.
fn editor(ssh: &Ssh<'_>) {
    let probe = "uname -sm; echo $HOME; command -v bash tar; id -u; echo done\n";
    let socks = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap().port().to_string();
    let mut command = ssh.program("ssh", &["-T", "-D", &socks, "-o", "ConnectTimeout=15"]);
    let mut child = command.arg(&ssh.host).arg("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(probe.as_bytes()).unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        line
    };
    assert_eq!(
        std::iter::from_fn(|| Some(line())).take(6).collect::<String>(),
        "Linux x86_64\n/root\n/usr/bin/bash\n/usr/bin/tar\n0\ndone\n"
    );
    let server = ssh.home.path().join("server");
    fs::create_dir(&server).unwrap();
    fs::write(server.join("payload"), bytes(5_000_000)).unwrap();
    let archive = ssh.home.command("tar").arg("-C").arg(&server).args(["-cz", "."]).output().unwrap();
    let unpack = "mkdir -p ~/.vscode-server && tar -xz -C ~/.vscode-server && md5sum <~/.vscode-server/payload";
    let sum = ssh.with_input(&[], unpack, &archive.stdout).ok().text();
    assert_eq!(sum, with_input(&mut ssh.home.command("md5sum"), &bytes(5_000_000)).ok().text());
    // The connection is still there, and reaches what was started meanwhile.
    stdin.write_all(b"cat /run/server; echo\n").unwrap();
    let port = line();
    let (proxy, url) = (format!("socks5h://127.0.0.1:{socks}"), format!("http://127.0.0.1:{}/", port.trim()));
    let fetched: Output = ssh.home.command("curl").args(["-s", "-x", &proxy, &url]).output().unwrap().into();
    assert_eq!(fetched.ok().text(), "heard GET / HTTP/1.1\r\n");
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

fn refusals(ssh: &Ssh<'_>, repository: &Repository<'_>) {
    let key = ssh.home.path().join("other");
    registry::run(ssh.home.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let mut config = fs::read_to_string(&ssh.config).unwrap();
    let own = config.lines().find(|line| line.contains("IdentityFile")).unwrap().to_owned();
    config = config.replace(&own, &format!("    IdentityFile {}", key.display()));
    let other = ssh.home.path().join("other.config");
    fs::write(&other, config).unwrap();
    let with_other = || -> Output {
        let mut command = ssh.home.command("ssh");
        command.arg("-F").arg(&other).args(["-o", "BatchMode=yes", &ssh.host, "true"]).output().unwrap().into()
    };
    let refused = with_other();
    assert_eq!(refused.status, 255);
    assert!(refused.stderr.contains("Permission denied (publickey)"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("ssh/id_ed25519`") && refused.stderr.contains("print it anew"),
        "{}",
        refused.stderr
    );
    // It is the user's once the configuration says so.
    ssh.home.configure(&format!("ssh_key_path = \"{}\"\n", key.display()));
    with_other().ok();
    ssh.home.configure("");
    // The configuration's variables, of the repository too.
    repository.write("banger.toml", "[env]\nOF_REPOSITORY = \"two words\"\n");
    assert_eq!(ssh.run(&[], "echo $OF_REPOSITORY").ok().text(), "two words\n");

    let unknown: Output = ssh.program("ssh", &[]).args(["nope.banger", "true"]).output().unwrap().into();
    assert_eq!(unknown.status, 255);
    assert!(unknown.stderr.contains("there is no VM named `nope`"), "{}", unknown.stderr);

    // One that says nothing is in nobody's way, and goes with its client.
    let proxy = || {
        let mut command = repository.banger();
        command.args(["ssh-proxy", &ssh.host]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut stalled = proxy().spawn().unwrap();
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"SSH-2.0-x\r\n\xff\xff\xff\xff\x00", &bytes(300_000)] {
        let output = with_input(&mut proxy(), garbage);
        assert!([0, 125].contains(&output.status), "{output:?}");
        assert!(output.stdout.starts_with(b"SSH-2.0-banger\r\n"));
    }
    let lost = proxy().stdin(Stdio::null()).output().unwrap();
    assert_eq!(lost.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&lost.stderr).contains("ssh-config"), "{lost:?}");
    ssh.run(&[], "true").ok();
    assert!(stalled.try_wait().unwrap().is_none());
    drop(stalled.stdin.take());
    eventually("the stalled client's end", || stalled.try_wait().unwrap().is_some());

    let plugin = repository.run(["ssh", "--", "echo", "by", "plugin"]).ok();
    assert_eq!(plugin.text(), "by plugin\n");
    let (name, _) = ssh.host.split_once('.').unwrap();
    assert_eq!(repository.run(["ssh", &format!("games@{name}"), "--", "true"]).status, 1);
}

fn use_and_start(ssh: &Ssh<'_>, repository: &Repository<'_>) {
    let boot = |output: Output| output.ok().text();
    let master = Master::new(ssh, "idle", &[]);
    repository.banger().env("BANGER_IDLE_TIMEOUT", "1s").args(["-q", "--", "true"]).status().unwrap();
    let first = boot(master.run(ssh, "cat /proc/sys/kernel/random/boot_id"));
    // Nothing to wait for: it shall not happen.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(boot(master.run(ssh, "cat /proc/sys/kernel/random/boot_id")), first);
    drop(master);
    eventually("the idle VM's end", || repository.run(["list"]).ok().text().contains("stopped"));
    // The next connection starts it.
    assert_ne!(boot(ssh.run(&[], "cat /proc/sys/kernel/random/boot_id")), first);
}

#[test]
fn ssh_and_sftp_work_without_guest_shell() {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    layout.add("bare");
    layout.insert("bare", Path::new("/bin/busybox"), "/bin/busybox");
    let repository = home.repository("r");
    repository.run(["image", "pull", &layout.source("bare"), "--name", "bare"]).ok();
    repository.run(["--image", "bare", "--", "busybox", "true"]).ok();
    let ssh = Ssh::new(&repository);
    // Words alone need none; what does says so.
    assert_eq!(ssh.run(&[], "busybox echo two words").ok().text(), "two words\n");
    for line in ["echo $HOME", "busybox true; busybox true"] {
        let output = ssh.run(&[], line);
        assert_eq!(output.status, 127, "{line}");
        assert!(output.stderr.contains("has no shell"), "{}", output.stderr);
    }
    assert_eq!(ssh.run(&[], "nope").status, 127);
    let login: Output = ssh.program("ssh", &["-T"]).arg(&ssh.host).output().unwrap().into();
    assert_eq!(login.status, 127);
    // Files need nothing at all.
    let file = home.path().join("file");
    fs::write(&file, bytes(1_000_000)).unwrap();
    let scp = |from: &str, to: &str| Output::from(ssh.program("scp", &["-q"]).args([from, to]).output().unwrap()).ok();
    scp(file.to_str().unwrap(), &ssh.place("there"));
    let back = home.path().join("back");
    scp(&ssh.place("there"), back.to_str().unwrap());
    assert!(fs::read(back).unwrap() == bytes(1_000_000));
}
