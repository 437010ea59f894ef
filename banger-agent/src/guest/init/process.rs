//! A guest that is no machine: the agent as the first process of namespaces of its own, on a folder
//! of the host. It starts in milliseconds, for the tests that kill it hundreds of times; what it
//! keeps on disk, and every operation, is the real agent's.
//!
//! ```text
//!  the VMM     maps the ids ─ unshare ─┬─ waits for the guest's end
//!                                     fork
//!  PID 1                               └─ the root ─ split: the minimal init, and `@banger-agent`
//! ```
//!
//! The folder has what the VM's ext4 has in a microVM: `agent`, `workspace`, and as `root` what the
//! overlay's upper layer would be; the programs are the host's own, read-only. There are no disks:
//! mounting one takes more rights than a namespace gives, so the workspace comes over the link, as
//! to a VM without a disk for it.

use std::error::Error;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::exit;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpid, pivot_root, sethostname};

use super::filesystems::{DEVICE_LINKS, RUN_DIR, create_folder, mount_from, mount_new, write_to_console};
use super::pid1::{self, Init};
use super::ready::Boot;
use super::{BootError, ServeContext, network, power};
use crate::boot_config::GuestIdentity;
use crate::guest::AgentPort;
use crate::guest::identity::{ApplyIdentity, Identity, IdentityChange};
use crate::guest::paths::{REPOSITORIES, WORKSPACE};

/// Exit status of the VMM when the guest switched itself off.
pub const POWERED_OFF: i32 = 0;
/// Exit status of the VMM when the guest ended in another way.
pub const ENDED: i32 = 1;

/// Taken from the host as they are; those that are links there are links here.
const OF_THE_HOST: [&str; 7] = ["usr", "etc", "bin", "sbin", "lib", "lib32", "lib64"];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Who may be in the guest: as many users and groups as systems have.
const IDS: &str = "0 0 65536";

/// What such a guest is told.
#[derive(Debug)]
pub struct ProcessGuest<'a> {
    /// What survives it.
    pub folder: &'a Path,
    /// Its host name.
    pub hostname: &'a str,
    /// Nothing has to survive it.
    pub volatile: bool,
}

/// Runs a guest. The agent's port is standard input, the console standard error. To be called by
/// root, in a process of a single thread, which becomes the VMM: killing it kills the guest.
pub fn boot(guest: &ProcessGuest<'_>, serve: impl FnOnce(ServeContext)) -> ! {
    match separate() {
        Ok(Side::Vmm { status }) => exit(status),
        Ok(Side::Guest) => match prepare(guest) {
            Ok(context) => pid1::split(context, serve),
            Err(error) => fail(&error),
        },
        Err(error) => fail(&error),
    }
}

fn fail(error: &BootError) -> ! {
    write_to_console(&format!("banger: the guest cannot boot: {error}\n"));
    exit(ENDED)
}

enum Side {
    /// The guest has ended.
    Vmm {
        status: i32,
    },
    Guest,
}

/// Makes the namespaces. Returns in the guest's first process, and in the VMM once that has ended.
fn separate() -> Result<Side, BootError> {
    let failed = |action: &'static str| move |error: io::Error| BootError::io(action, Path::new("/proc"))(error);
    die_with_parent()?;
    let vmm = getpid();
    let (mut asked, ask) = io::pipe().map_err(failed("make a pipe for"))?;
    // Who has left the host's user namespace cannot say any more who is who.
    // SAFETY: this process has a single thread, so the child may do whatever the parent could.
    let mapper = match unsafe { fork() }.map_err(BootError::system("fork"))? {
        ForkResult::Child => {
            drop(ask);
            let mut byte = [0];
            let map = |file: &str| fs::write(format!("/proc/{vmm}/{file}"), IDS);
            let mapped = asked.read_exact(&mut byte).and_then(|()| map("uid_map")).and_then(|()| map("gid_map"));
            exit(if mapped.is_ok() { 0 } else { 1 })
        }
        ForkResult::Parent { child } => child,
    };
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    unshare(all).map_err(BootError::system("make namespaces"))?;
    (&ask).write_all(&[0]).map_err(failed("write to"))?;
    if waitpid(mapper, None) != Ok(WaitStatus::Exited(mapper, 0)) {
        return Err(BootError::System { action: "map users: it takes root", source: nix::Error::EPERM });
    }
    die_with_parent()?;

    // Open as long as the VMM lives.
    let (mut lives, alive) = io::pipe().map_err(failed("make a pipe for"))?;
    // SAFETY: as above.
    match unsafe { fork() }.map_err(BootError::system("fork"))? {
        ForkResult::Child => {
            drop(alive);
            die_with_parent()?;
            nix::fcntl::fcntl(&lives, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                .map_err(BootError::system("watch the VMM"))?;
            // Had it died before that, nobody would have told this process.
            if lives.read(&mut [0]).is_ok() {
                exit(ENDED);
            }
            Ok(Side::Guest)
        }
        ForkResult::Parent { child } => {
            // The guest's end is seen by its port's end.
            let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed("leave"))?;
            let left = dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null));
            left.map_err(BootError::system("leave the guest's port"))?;
            let status = waitpid(child, None).map_err(BootError::system("wait for the guest"))?;
            drop(alive);
            // What reboot(2) does in a namespace.
            let off = matches!(status, WaitStatus::Signaled(_, Signal::SIGINT, _));
            Ok(Side::Vmm { status: if off { POWERED_OFF } else { ENDED } })
        }
    }
}

fn die_with_parent() -> Result<(), BootError> {
    set_pdeathsig(Signal::SIGKILL).map_err(BootError::system("ask to die with the parent"))
}

/// Everything before the fork. On return this process stands in the guest's root.
fn prepare(guest: &ProcessGuest<'_>) -> Result<ServeContext, BootError> {
    umask(Mode::empty());
    let agent_port = take_port()?;
    sethostname(guest.hostname).map_err(BootError::system("set the host name"))?;
    network::configure(None)?;

    let own = |name: &str| guest.folder.join(name);
    let (root, agent, workspace, repositories) = (own("root"), own("agent"), own("workspace"), own("repositories"));
    for folder in [&root, &agent, &workspace, &repositories] {
        create_folder(folder, 0o700)?;
    }
    fs::set_permissions(&root, Permissions::from_mode(0o755)).map_err(BootError::io("protect", &root))?;
    mount_new("none", Path::new("/"), "none", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
    mount_from(&root.to_string_lossy(), &root, MsFlags::MS_BIND)?;
    for name in OF_THE_HOST {
        borrow(name, &root)?;
    }
    for (name, mode) in [("root", 0o700), ("tmp", 0o1777), ("var", 0o755), ("home", 0o755)] {
        let folder = root.join(name);
        create_folder(&folder, mode)?;
    }
    mount_proc(&root.join("proc"))?;
    mount_dev(&root.join("dev"))?;
    // No control groups: none of the host's may be written.
    mount_tmpfs(&root.join("sys"))?;
    make_read_only(&root.join("sys"))?;
    mount_tmpfs(&root.join("run"))?;
    for (source, place) in [(&workspace, WORKSPACE), (&repositories, REPOSITORIES)] {
        let place = root.join(place.trim_start_matches('/'));
        create_folder(&place, 0o700)?;
        mount_from(&source.to_string_lossy(), &place, MsFlags::MS_BIND)?;
    }

    let booted = GuestIdentity { hostname: guest.hostname.to_owned(), machine_id: None, net: None };
    let disk = File::open(&agent).map_err(BootError::io("open", &agent))?;
    chdir(&root)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .map_err(BootError::system("switch to the new root"))?;
    create_folder(Path::new(RUN_DIR), 0o755)?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(ServeContext {
        agent_port: AgentPort::Pipe(agent_port),
        disk: disk.into(),
        workspace_disk: None,
        init: Init::Minimal,
        power: power::listen()?,
        boot: Boot::none(),
        identity: Identity::new(booted, ProcessIdentity),
        volatile: guest.volatile,
    })
}

/// Changes who such a guest is: by its host name alone, since its files are the host's, and it has
/// no network card.
struct ProcessIdentity;

impl ApplyIdentity for ProcessIdentity {
    fn apply(&mut self, change: &IdentityChange) -> Result<(), Box<dyn Error>> {
        if let IdentityChange::Hostname { to, .. } = change {
            sethostname(to)?;
        }
        Ok(())
    }
}

/// The port, which no command shall inherit.
fn take_port() -> Result<OwnedFd, BootError> {
    let failed = BootError::io("open", Path::new("/dev/null"));
    let null = File::open("/dev/null").map_err(failed)?;
    let port = nix::fcntl::fcntl(io::stdin(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3))
        .map_err(BootError::system("take the port"))?;
    dup2_stdin(&null).map_err(BootError::system("take the port"))?;
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(port) })
}

/// Shows a folder of the host's in the guest.
fn borrow(name: &str, root: &Path) -> Result<(), BootError> {
    let (source, place) = (Path::new("/").join(name), root.join(name));
    let Ok(metadata) = fs::symlink_metadata(&source) else { return Ok(()) };
    if metadata.is_symlink() {
        let linked = fs::read_link(&source).and_then(|target| symlink(target, &place));
        return match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(BootError::io("create", &place)(error)),
            _ => Ok(()),
        };
    }
    create_folder(&place, 0o755)?;
    mount_from(&source.to_string_lossy(), &place, MsFlags::MS_BIND | MsFlags::MS_REC)?;
    make_read_only(&place)
}

/// Trap: root of a user namespace that is also the host's may write what only checks for the owner.
/// `sysrq-trigger`, which the agent uses in its own kernel, would remount the host's disks.
fn mount_proc(place: &Path) -> Result<(), BootError> {
    create_folder(place, 0o755)?;
    mount_new("proc", place, "proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, "")?;
    let trigger = place.join("sysrq-trigger");
    if trigger.exists() {
        mount_from("/dev/null", &trigger, MsFlags::MS_BIND)?;
    }
    let settings = place.join("sys");
    mount_from(&settings.to_string_lossy(), &settings, MsFlags::MS_BIND)?;
    make_read_only(&settings)
}

fn mount_dev(place: &Path) -> Result<(), BootError> {
    mount_tmpfs(place)?;
    for name in DEVICES {
        let device = place.join(name);
        File::create(&device).map_err(BootError::io("create", &device))?;
        mount_from(&format!("/dev/{name}"), &device, MsFlags::MS_BIND)?;
    }
    for (target, link) in DEVICE_LINKS {
        let link = place.join(link.trim_start_matches("/dev/"));
        symlink(target, &link).map_err(BootError::io("create", &link))?;
    }
    create_folder(&place.join("shm"), 0o1777)
}

fn mount_tmpfs(place: &Path) -> Result<(), BootError> {
    create_folder(place, 0o755)?;
    mount_new("tmpfs", place, "tmpfs", MsFlags::MS_NOSUID, "mode=755")
}

/// Nothing below `place` can be written any more: mount_setattr(2).
fn make_read_only(place: &Path) -> Result<(), BootError> {
    let folder = File::open(place).map_err(BootError::io("open", place))?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is an empty C string, and the structure outlives the call, which reads as
    // much as its size says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            folder.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        return Err(BootError::io("protect", place)(io::Error::last_os_error()));
    }
    Ok(())
}
