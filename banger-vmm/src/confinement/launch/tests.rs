//! What a program that a launcher has started can do, tried by one: as this user, and where this is
//! root, as an ordinary one too.

mod internet;
mod network;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::time::Duration;

use banger_util::process::Process;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use tempfile::TempDir;
use tokio::time::timeout;

use super::super::Gap;
use super::*;

/// Each check is a test as this user, and one as an ordinary user.
macro_rules! checks {
    ($($name:ident)*) => {
        mod as_this_user {
            $(#[test] fn $name() { super::run(super::$name) })*
        }
        mod as_ordinary_user {
            $(#[test] fn $name() { super::become_ordinary_user(); super::run(super::$name) })*
        }
    };
}

checks! {
    only_named_files_are_there
    read_only_files_stay_and_directories_take_sockets
    it_is_alone_in_its_pid_namespace
    sockets_lead_nowhere
    it_has_no_privileges_variables_or_leaked_descriptors
    it_inherits_what_it_is_given
    launcher_ends_with_the_status_of_the_vmm
    vmm_dies_with_its_launcher
    failures_name_what_is_missing
}

/// nobody(5).
const NOBODY: u32 = 65534;

fn become_ordinary_user() {
    if !geteuid().is_root() {
        return;
    }
    // Each test is a process of its own.
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).unwrap();
    setresgid(gid, gid, gid).unwrap();
    setresuid(uid, uid, uid).unwrap();
}

fn run(check: impl AsyncFnOnce(Host)) {
    // The launcher dies with the thread that starts it: all is on this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(check(Host::new()));
}

/// Files as a user has them, with a VM's among them.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Host {
        let directory = tempfile::tempdir().unwrap();
        for file in ["home/.ssh/id_ed25519", "vms/own/disk", "vms/own/vm.json", "vms/other/disk", "images/rootfs"] {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        fs::create_dir(directory.path().join("vms/own/run")).unwrap();
        symlink("../disk", directory.path().join("vms/own/run/disk")).unwrap();
        Host { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A shell that runs a script in the VM's run directory.
    fn shell(&self, script: &str) -> ConfinedCommand {
        let system = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"].into_iter().map(PathBuf::from);
        ConfinedCommand {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), self.directory.path().into()],
            directory: self.path("vms/own/run"),
            rules: Rules {
                readable: system.chain([self.path("images/rootfs")]).collect(),
                writable: vec![self.path("vms/own/disk")],
                devices: vec!["/dev/null".into()],
                directories: vec![self.path("vms/own/run")],
                network: false,
            },
            jail: None,
            descriptors: Vec::new(),
            stdin: Stdio::null(),
            stdout: Stdio::piped(),
            stderr: Stdio::piped(),
            network: None,
        }
    }

    async fn launch(&self, command: ConfinedCommand) -> Result<Confined, Failure> {
        launch(&launcher(self.directory.path()), command).await
    }

    /// What a script says, and complains of.
    async fn run(&self, script: &str) -> Output {
        self.output(self.shell(script)).await
    }

    /// What a script of Python's says, and complains of.
    async fn python(&self, script: &str, argument: &str) -> Output {
        let arguments = ["-c", script, argument].map(OsString::from).into();
        self.output(ConfinedCommand { program: "/usr/bin/python3".into(), arguments, ..self.shell("") }).await
    }

    async fn output(&self, command: ConfinedCommand) -> Output {
        self.launch(command).await.unwrap().child.wait_with_output().await.unwrap()
    }
}

fn text(output: &Output) -> (&str, &str) {
    (str::from_utf8(&output.stdout).unwrap(), str::from_utf8(&output.stderr).unwrap())
}

/// The binary `banger-vmm`, where an ordinary user may run it.
fn launcher(directory: &Path) -> PathBuf {
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("banger-vmm");
    let installed =
        || Path::new(&std::env::var_os("BANGER_TEST_DIST").expect("BANGER_TEST_DIST")).join("lib/banger/banger-vmm");
    let copy = directory.join("banger-vmm");
    if !copy.exists() {
        fs::copy(if built.exists() { built } else { installed() }, &copy).unwrap();
    }
    copy
}

async fn only_named_files_are_there(host: Host) {
    let confined = host.launch(host.shell("read forever </dev/stdin; sleep 60")).await.unwrap();
    let listed = |path: &str| -> Vec<String> {
        let path = format!("/proc/{}/root{path}", confined.pid);
        let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let top = host.directory.path().components().nth(1).unwrap().as_os_str().to_str().unwrap();
    let mut expected = ["bin", "dev", "etc", "lib", "lib64", "usr", top];
    expected.sort_unstable();
    assert_eq!(listed("/"), expected);
    assert_eq!((listed("/dev"), listed("/etc")), (vec!["null".to_owned()], vec!["ld.so.cache".to_owned()]));
    let directory = host.directory.path().to_str().unwrap();
    assert_eq!(listed(directory), ["images", "vms"]);
    assert_eq!(listed(&format!("{directory}/vms")), ["own"]);
    assert_eq!(listed(&format!("{directory}/vms/own")), ["disk", "run"]);

    // By their former paths, and by the links in the run directory.
    let output = host.run("cat disk \"$0/images/rootfs\"; pwd; ls /proc /sys /tmp \"$0/home\"").await;
    let (said, complaint) = text(&output);
    assert_eq!(said, format!("contentcontent{directory}/vms/own/run\n"), "{complaint}");
    assert_eq!(complaint.matches("No such file or directory").count(), 3 + usize::from(top != "tmp"), "{complaint}");
}

async fn read_only_files_stay_and_directories_take_sockets(host: Host) {
    let output = host
        .run("echo x >\"$0/images/rootfs\"; touch /new \"$0/new\" \"$0/vms/own/new\"; chmod 666 \"$0/images/rootfs\"")
        .await;
    let (_, complaint) = text(&output);
    assert_eq!(complaint.lines().count(), 5, "{complaint}");
    assert_eq!(fs::read(host.path("images/rootfs")).unwrap(), b"content");
    assert!(!host.path("vms/own/new").exists() && !host.path("new").exists());

    let bind = "import os, socket; s = socket.socket(socket.AF_UNIX); s.bind('s'); s.listen(); open('file', 'w').write('new'); \
                os.ftruncate(os.open('file', os.O_RDWR), 1); open('disk', 'r+').write('written')";
    let output = host.python(bind, "").await;
    assert_eq!(text(&output), ("", ""));
    assert_eq!(fs::read(host.path("vms/own/run/file")).unwrap(), b"n");
    assert_eq!(fs::read(host.path("vms/own/disk")).unwrap(), b"written");
    assert!(host.path("vms/own/run/s").exists());
    // What is there cannot be replaced: the supervisor trusts its own links.
    let output = host.run("rm disk; mv s t; ln -s /etc link").await;
    assert_eq!(text(&output).1.lines().count(), 3, "{}", text(&output).1);
    assert!(host.path("vms/own/run/disk").is_symlink());

    // The mounts do without Landlock.
    let confined = host.launch(host.shell("sleep 60")).await.unwrap();
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", confined.pid)).unwrap();
    let options = |path: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(path));
        line.unwrap_or_else(|| panic!("{path}: {mounts}")).split(' ').nth(5).unwrap().to_owned()
    };
    for path in ["/", "/usr", host.path("images/rootfs").to_str().unwrap()] {
        let options = options(path);
        assert!(options.starts_with("ro,nosuid,nodev"), "{path}: {options}");
    }
    for path in ["vms/own/disk", "vms/own/run"] {
        let options = options(host.path(path).to_str().unwrap());
        assert!(options.starts_with("rw,nosuid,nodev,noexec"), "{path}: {options}");
    }
}

async fn it_is_alone_in_its_pid_namespace(host: Host) {
    let signal = "import os, sys\nprint(os.getpid())\nos.kill(int(sys.argv[1]), 0)";
    let output = host.python(signal, &getpid().to_string()).await;
    let (said, complaint) = text(&output);
    assert_eq!(said, "1\n");
    assert!(complaint.contains("No such process"), "{complaint}");
}

async fn sockets_lead_nowhere(host: Host) {
    let path = host.path("bus");
    let _bus = UnixListener::bind(&path).unwrap();
    let name = format!("banger-test-{}", getpid());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let connect = "import socket, sys\n\
                   for address in [sys.argv[1] + '/bus', '\\0' + sys.argv[1].split('/')[-1]]:\n  \
                     try: socket.socket(socket.AF_UNIX).connect(address)\n  \
                     except OSError as e: print(type(e).__name__)\n\
                   for family in [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK]:\n  \
                     try: socket.socket(family, socket.SOCK_RAW)\n  \
                     except OSError as e: print(type(e).__name__)\n";
    let connect = connect.replace("sys.argv[1].split('/')[-1]", &format!("'{name}'"));
    let output = host.python(&connect, host.directory.path().to_str().unwrap()).await;
    let (said, complaint) = text(&output);
    let of_names: Vec<_> = said.lines().collect();
    assert_eq!(of_names[0], "FileNotFoundError", "{complaint}");
    // Another namespace has no such name; Landlock may say no before that.
    assert!(["ConnectionRefusedError", "PermissionError"].contains(&of_names[1]), "{said}");
    assert_eq!(of_names[2..], ["PermissionError"; 5], "{complaint}");
}

async fn it_has_no_privileges_variables_or_leaked_descriptors(host: Host) {
    // As a library of C would leave one open.
    let leaked = File::open(host.path("home/.ssh/id_ed25519")).unwrap();
    fcntl(&leaked, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    // A shell that starts a process blocks signals for that time.
    let confined = host.launch(ConfinedCommand { stdin: Stdio::piped(), ..host.shell("read line") }).await.unwrap();
    let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", confined.pid)).unwrap();
    let (status, limits) = (of("status"), of("limits"));
    let line = |start: &str| {
        let line = status.lines().chain(limits.lines()).find_map(|line| line.strip_prefix(start)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!([line("NoNewPrivs:"), line("Seccomp:"), line("Max core file size")], ["1", "2", "0"]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "SigBlk:"] {
        assert_eq!(line(set), "0".repeat(16), "{set}");
    }
    assert_eq!(of("environ"), "");
    let files = fs::read_dir(format!("/proc/{}/fd", confined.pid)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["0", "1", "2"]);
    let namespaces = ["user", "mnt", "net", "ipc", "uts", "pid"];
    let link = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in namespaces {
        assert_ne!(link(&confined.pid.to_string(), name), link("self", name));
    }
    assert_eq!(confined.confinement.namespaces.len(), namespaces.len());
    assert_eq!(confined.confinement.missing, []);
}

async fn it_inherits_what_it_is_given(host: Host) {
    let file = OwnedFd::from(File::open(host.path("home/.ssh/id_ed25519")).unwrap());
    let command = host.shell(&format!("cat <&{}", file.as_raw_fd()));
    let output = host.output(ConfinedCommand { descriptors: vec![file], ..command }).await;
    assert_eq!(text(&output), ("content", ""));
}

async fn launcher_ends_with_the_status_of_the_vmm(host: Host) {
    for code in [0, 1, 37, 255] {
        let mut confined = host.launch(host.shell(&format!("exit {code}"))).await.unwrap();
        assert_eq!(confined.child.wait().await.unwrap().code(), Some(code));
    }
    let output = host.python("import ctypes; ctypes.string_at(0)", "").await;
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV));
    let mut confined = host.launch(host.shell("sleep 60; :")).await.unwrap();
    // The first process of a pid namespace has no default actions.
    kill(Pid::from_raw(confined.pid), Signal::SIGTERM).unwrap();
    assert!(timeout(Duration::from_millis(100), confined.child.wait()).await.is_err());
    confined.kill();
    assert_eq!(confined.child.wait().await.unwrap().signal(), Some(libc::SIGKILL));
    assert!(Process::open(confined.pid).unwrap().is_none(), "the VMM is gone before its launcher");
}

async fn vmm_dies_with_its_launcher(host: Host) {
    let mut confined = host.launch(host.shell("sleep 60; :")).await.unwrap();
    let vmm = Process::open(confined.pid).unwrap().unwrap();
    confined.child.start_kill().unwrap();
    assert!(has_ended(vmm, 5000));
}

fn has_ended(process: Process, milliseconds: u16) -> bool {
    let process = OwnedFd::from(process);
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], milliseconds).unwrap() == 1
}

async fn failures_name_what_is_missing(host: Host) {
    let missing = host.path("images/vmm");
    let command = |program: PathBuf| ConfinedCommand { program, ..host.shell("") };
    let mut script = command(host.path("images/script"));
    fs::write(&script.program, "#!/bin/cat").unwrap();
    fs::set_permissions(&script.program, fs::Permissions::from_mode(0o755)).unwrap();
    script.rules.readable = vec![script.program.clone()];
    for (failure, expected) in [
        (host.launch(command(missing.clone())).await.err().unwrap(), "No such file"),
        (host.launch(command(host.path("images/rootfs"))).await.err().unwrap(), "Permission denied"),
        // It is there on the host.
        (host.launch(command(host.path("banger-vmm"))).await.err().unwrap(), "No such file"),
        (host.launch(ConfinedCommand { directory: missing, ..host.shell("") }).await.err().unwrap(), "No such file"),
        (host.launch(script).await.err().unwrap(), "it is a script or needs shared libraries"),
    ] {
        assert!(failure.message.contains("cannot run") && failure.message.contains(expected), "{failure:?}");
    }
    let nowhere = launch(Path::new("/nonexistent/banger-vmm"), host.shell("")).await.err().unwrap();
    assert!(nowhere.message.contains("cannot run /nonexistent/banger-vmm"), "{nowhere:?}");
    let other = launch(Path::new("/bin/true"), host.shell("")).await.err().unwrap();
    assert!(other.message.contains("its launcher ended (exit status: 0)"), "{other:?}");
}

/// The namespace that the inner part of the next test has none of, or `all`.
const LIMITED: &str = "BANGER_TEST_LIMITED";

#[test]
fn what_a_host_has_no_namespaces_for_is_reported() {
    let test = std::env::current_exe().unwrap();
    for (limited, setting, and) in [
        ("user", "user", ""),
        ("mount", "mnt", ""),
        ("network", "net", ""),
        ("ipc", "ipc", ""),
        ("uts", "uts", ""),
        ("pid", "pid", ""),
        ("all", "user", "setpriv --inh-caps=-all --bounding-set=-all -- "),
    ] {
        let script = format!(
            "echo 0 >/proc/sys/user/max_{setting}_namespaces && exec {and}\"$0\" --ignored --exact --nocapture \"$1\""
        );
        let mut inner = std::process::Command::new("unshare");
        inner.args(["-Ur", "sh", "-c", &script]).arg(&test).env(LIMITED, limited);
        let output = inner.arg("confinement::launch::tests::vmm_runs_with_limited_namespaces").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{limited}: {said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Part of the test above, in a user namespace with limits of its own.
#[test]
#[ignore = "runs in another test"]
fn vmm_runs_with_limited_namespaces() {
    let Ok(limited) = std::env::var(LIMITED) else { return };
    run(async move |host: Host| {
        let mut confined = host.launch(host.shell("cat disk")).await.unwrap();
        let mut said = String::new();
        confined.child.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "content");
        let Confinement { namespaces, missing, landlock_abi, user: _ } = &confined.confinement;
        let names: Vec<_> = namespaces.iter().map(|namespace| namespace.name()).collect();
        let mut expected = vec!["user", "mount", "network", "ipc", "uts", "pid"];
        expected.retain(|name| limited != "all" && *name != limited);
        assert_eq!(names, expected);
        let gaps: &[Gap] = match limited.as_str() {
            "mount" => &[Gap::FileNames, Gap::UnixSockets],
            "pid" => &[Gap::Processes],
            "all" => &[Gap::FileNames, Gap::Processes, Gap::UnixSockets],
            _ => &[],
        };
        // Where Landlock is older, more is missing.
        assert!(landlock_abi.is_none_or(|abi| abi < 6) || missing == gaps, "{missing:?}");

        let network = Some(NetworkProgram::Slirp4netns("/usr/bin/slirp4netns".into()));
        let connected = host.launch(ConfinedCommand { network, ..host.shell("") }).await;
        if ["network", "all"].contains(&limited.as_str()) {
            let failure = connected.err().unwrap();
            assert!(failure.message.starts_with("cannot connect the VM to a network: "), "{failure:?}");
            assert!(failure.hint.is_some());
        }
    });
}
