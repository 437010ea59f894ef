//! What a process under these rules can do, tried by one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpid};
use tempfile::TempDir;

use super::*;

/// Files as a user has them, with a VM's among them.
struct Host {
    folder: TempDir,
    network: bool,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        for file in ["home/.ssh/id_ed25519", "vms/own/disk", "vms/own/vm.json", "vms/other/disk", "images/rootfs"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        Host { folder, network: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rules(&self) -> Rules {
        let system = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"].into_iter().map(PathBuf::from);
        Rules {
            readable: system.chain([self.path("images/rootfs")]).collect(),
            writable: vec![self.path("vms/own/disk")],
            devices: vec!["/dev/null".into()],
            network: self.network,
            ..Rules::default()
        }
    }

    /// What comes of `attempt` in a process under the rules, which then runs a program.
    fn attempt(&self, attempt: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
        Host::attempt_under(self.rules().prepare().unwrap(), attempt)
    }

    fn attempt_under(
        rules: Prepared,
        mut attempt: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let mut command = Command::new("true");
        // SAFETY: each test is a process of its own, and what it tries after the fork takes no lock
        // that another thread could hold.
        unsafe {
            command.pre_exec(move || {
                rules.apply()?;
                attempt()
            });
        }
        assert!(command.status()?.success());
        Ok(())
    }

    #[track_caller]
    fn assert_allowed(&self, attempt: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
        self.attempt(attempt).unwrap();
    }

    #[track_caller]
    fn assert_denied(&self, what: &str, attempt: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
        let result = self.attempt(attempt);
        assert!(result.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied), "{what}: {result:?}");
    }
}

/// Whether the kernel has what a test is about. One without it is told of by `banger doctor`.
fn has(gap: Gap) -> bool {
    !Confinement::of_kernel().missing.contains(&gap)
}

fn read(path: &Path) -> io::Result<()> {
    File::open(path).map(drop)
}

fn write(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

#[test]
fn confined_process_accesses_only_its_vms_files() {
    if !has(Gap::Files) {
        return;
    }
    let host = Host::new();
    let [disk, image] = ["vms/own/disk", "images/rootfs"].map(|name| host.path(name));
    host.assert_allowed(move || write(&disk).and_then(|()| read(&disk)));
    host.assert_allowed(move || read(&image));
    host.assert_allowed(|| write(Path::new("/dev/null")));
    for unreadable in ["home/.ssh/id_ed25519", "vms/own/vm.json", "vms/other/disk"] {
        let path = host.path(unreadable);
        host.assert_denied(unreadable, move || read(&path));
    }
    for unwritable in ["home/.ssh/id_ed25519", "vms/other/disk", "images/rootfs"] {
        let path = host.path(unwritable);
        host.assert_denied(unwritable, move || write(&path));
    }
    let home = host.path("home/.ssh");
    host.assert_denied("listing", move || fs::read_dir(&home).map(drop));
    let new = host.path("vms/own/new");
    host.assert_denied("making a file", move || File::create(&new).map(drop));
    let disk = host.path("vms/own/disk");
    host.assert_denied("removing a file", move || fs::remove_file(&disk));
    let environment = format!("/proc/{}/environ", getpid());
    host.assert_denied("another process's variables", move || fs::read(&environment).map(drop));
}

#[test]
fn confined_child_program_cannot_read_keys() {
    if !has(Gap::Files) {
        return;
    }
    let host = Host::new();
    let cat = |name: &str| {
        let rules = host.rules().prepare().unwrap();
        let mut command = Command::new("cat");
        command.arg(host.path(name)).stdin(Stdio::null());
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe { command.pre_exec(move || rules.apply()) };
        let output = command.output().unwrap();
        (output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(cat("images/rootfs"), (b"content".to_vec(), String::new()));
    let (stdout, stderr) = cat("home/.ssh/id_ed25519");
    assert!(stdout.is_empty() && stderr.contains("Permission denied"), "{stderr}");
}

#[test]
fn confined_process_cannot_chmod_or_truncate() {
    let host = Host::new();
    let path = host.path("home/.ssh/id_ed25519");
    let other = path.clone();
    for name in [path.clone(), host.path("vms/own/disk")] {
        host.assert_denied("chmod", move || fs::set_permissions(&name, fs::Permissions::from_mode(0o666)));
    }
    host.assert_denied("truncate", move || Ok(nix::unistd::truncate(&other, 0)?));
    assert_eq!(fs::read(path).unwrap(), b"content");
}

#[test]
fn sockets_are_denied_without_network() {
    let mut host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    host.assert_denied("TCP", move || TcpStream::connect(address).map(drop));
    host.assert_denied("UDP", move || UdpSocket::bind("127.0.0.1:0").map(drop));
    host.network = true;
    host.assert_allowed(move || TcpStream::connect(address).map(drop));
    host.assert_allowed(move || UdpSocket::bind("127.0.0.1:0").map(drop));
    // From version 4 of Landlock's interface on.
    if Confinement::of_kernel().landlock_abi.is_some_and(|abi| abi >= 4) {
        host.assert_denied("listening", move || TcpListener::bind("127.0.0.1:0").map(drop));
    }
}

#[test]
fn landlock_alone_denies_tcp_without_network() {
    if Confinement::of_kernel().landlock_abi.is_none_or(|abi| abi < 4) {
        return;
    }
    let host = Host::new();
    let Prepared { ruleset, .. } = host.rules().prepare().unwrap();
    let ruleset = ruleset.unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("true");
    // SAFETY: as above.
    unsafe {
        command.pre_exec(move || {
            prctl::set_no_new_privs()?;
            landlock::restrict(ruleset.as_raw_fd())?;
            TcpStream::connect(address).map(drop)
        });
    }
    assert_eq!(command.status().unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn unix_sockets_of_the_host_are_unreachable() {
    let mut host = Host::new();
    let path = host.path("bus");
    let _bus = UnixListener::bind(&path).unwrap();
    let name = SocketAddr::from_abstract_name(format!("banger-test-{}", getpid())).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    for network in [false, true] {
        host.network = network;
        let (path, name) = (path.clone(), name.clone());
        host.assert_denied("a socket of a path", move || UnixStream::connect(&path).map(drop));
        host.assert_denied("a socket of a name", move || UnixStream::connect_addr(&name).map(drop));
    }
}

#[test]
fn confined_process_cannot_signal_but_can_be_signalled() {
    if !has(Gap::Signals) {
        return;
    }
    let host = Host::new();
    let parent = getpid();
    host.assert_denied("a signal", move || Ok(kill(parent, None)?));

    let rules = host.rules().prepare().unwrap();
    let mut command = Command::new("sleep");
    command.arg("60");
    // SAFETY: as above.
    unsafe { command.pre_exec(move || rules.apply()) };
    let mut child = command.spawn().unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(libc::SIGTERM));
}

/// Each of these reaches another process of the user without a signal or a socket of a path.
#[test]
fn prlimit_ipc_and_datagrams_are_denied() {
    let mut host = Host::new();
    let parent = getpid().as_raw();
    let done = |result: i64| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    for network in [false, true] {
        host.network = network;
        // SAFETY: none of these calls is given memory to write to.
        unsafe {
            host.assert_denied("a limit of another process", move || {
                let limit = libc::rlimit64 { rlim_cur: 1, rlim_max: 1 };
                done(libc::prlimit64(parent, libc::RLIMIT_CPU, &limit, std::ptr::null_mut()).into())
            });
            host.assert_denied("shared memory", move || done(libc::shmget(7, 4096, libc::IPC_CREAT | 0o600).into()));
            host.assert_denied("semaphores", move || done(libc::semget(7, 1, libc::IPC_CREAT | 0o600).into()));
            host.assert_denied("messages", move || done(libc::msgget(7, libc::IPC_CREAT | 0o600).into()));
            let name = c"banger-test".as_ptr() as usize;
            host.assert_denied("messages of POSIX", move || {
                done(libc::syscall(libc::SYS_mq_open, name, libc::O_CREAT | libc::O_RDWR, 0o600, 0))
            });
        }
        host.assert_denied("datagrams", || UnixDatagram::pair().map(drop));
        // As QEMU has them.
        host.assert_allowed(|| UnixStream::pair().map(drop));
        host.assert_allowed(|| Ok(getrlimit(Resource::RLIMIT_NOFILE).map(drop)?));
    }
}

#[test]
fn confined_process_has_no_privileges_core_dumps_or_leaked_fds() {
    let host = Host::new();
    // As a library of C would leave one open.
    let leaked = File::open(host.path("home/.ssh/id_ed25519")).unwrap();
    fcntl(&leaked, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let rules = Rules { readable: vec!["/".into()], ..Rules::default() }.prepare().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ls -l /proc/self/fd; cat /proc/self/status /proc/self/limits"]);
    // SAFETY: as above.
    unsafe { command.pre_exec(move || rules.apply()) };
    let output = String::from_utf8(command.stdin(Stdio::null()).output().unwrap().stdout).unwrap();
    assert!(!output.contains("id_ed25519"), "{output}");
    let line = |start: &str| {
        let line =
            output.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{start}: {output}"));
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!([line("NoNewPrivs:"), line("Seccomp:")], ["1", "2"]);
    assert_eq!([line("CapPrm:"), line("CapEff:")], ["0000000000000000"; 2]);
    assert_eq!(line("Max core file size"), "0");
}

#[test]
fn missing_kernel_features_are_reported() {
    assert_eq!(Confinement::with(None).missing, [Gap::Files, Gap::Signals]);
    assert_eq!(Confinement::with(Some(2)).missing, [Gap::Signals]);
    assert_eq!(Confinement::with(Some(7)).missing, []);
}

#[test]
fn denied_syscall_fails_with_eperm() {
    let host = Host::new();
    host.attempt(|| {
        // SAFETY: the call fails before it looks at its arguments.
        let done = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
        if done == -1 && Errno::last() == Errno::EPERM { Ok(()) } else { Err(ErrorKind::Other.into()) }
    })
    .unwrap();
}

#[test]
fn jailers_filter_allows_what_the_jailer_does_only() {
    let host = Host::new();
    let jail = Jail { jailer: "/jailer".into(), user: 1, group: 1, id: "vm".into(), files: Vec::new() };
    let rules = Rules { directories: vec![host.path("vms/own")], ..host.rules() };
    type Attempt = Box<dyn FnMut() -> io::Result<()> + Send + Sync>;
    let attempt = |attempt: Attempt| Host::attempt_under(rules.prepare_for(&jail).unwrap(), attempt);
    let (disk, other) = (host.path("vms/own/disk"), host.path("vms/own/other"));
    let file = disk.clone();
    attempt(Box::new(move || fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))).unwrap();
    attempt(Box::new(|| UnixDatagram::unbound().map(drop))).unwrap();
    if nix::unistd::geteuid().is_root() {
        attempt(Box::new(|| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?))).unwrap();
    }
    let (from, to) = (disk.clone(), other.clone());
    let [rename, link, symlink, remove] = [(); 4].map(|()| (from.clone(), to.clone()));
    let denied: [(&str, Attempt); 7] = [
        ("rename", Box::new(move || fs::rename(&rename.0, &rename.1))),
        ("link", Box::new(move || fs::hard_link(&link.0, &link.1))),
        ("symlink", Box::new(move || std::os::unix::fs::symlink(&symlink.0, &symlink.1))),
        ("unlink", Box::new(move || fs::remove_file(&remove.0))),
        ("user namespace", Box::new(|| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?))),
        ("internet socket", Box::new(|| UdpSocket::bind("127.0.0.1:0").map(drop))),
        ("ptrace", Box::new(|| Ok(nix::sys::ptrace::traceme()?))),
    ];
    for (what, call) in denied {
        let result = attempt(call);
        assert!(result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)), "{what}: {result:?}");
    }
    assert!(disk.exists() && !other.exists());
}
