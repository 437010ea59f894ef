//! Namespaces for a VMM: namespaces(7). An ordinary user makes them in a user namespace; root does
//! without where there is none.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, getegid, geteuid};
use serde::{Deserialize, Serialize};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// Users and capabilities: user_namespaces(7).
    User,
    /// Files: mount_namespaces(7).
    Mount,
    /// Network devices, addresses and abstract Unix sockets: network_namespaces(7).
    Network,
    /// Messages and memory of System V and POSIX: ipc_namespaces(7).
    Ipc,
    /// The host's name: uts_namespaces(7).
    Uts,
    /// Processes: pid_namespaces(7).
    Pid,
}

impl Namespace {
    /// The user namespace first: it gives the right to make the others. That of processes last: the
    /// next child is its first process.
    pub(super) const ALL: [Namespace; 6] =
        [Namespace::User, Namespace::Mount, Namespace::Network, Namespace::Ipc, Namespace::Uts, Namespace::Pid];
    /// For who needs rights outside of a user namespace.
    pub(super) const WITHOUT_USER: [Namespace; 5] =
        [Namespace::Mount, Namespace::Network, Namespace::Ipc, Namespace::Uts, Namespace::Pid];

    /// Its name, as in the manual pages.
    pub fn name(self) -> &'static str {
        match self {
            Namespace::User => "user",
            Namespace::Mount => "mount",
            Namespace::Network => "network",
            Namespace::Ipc => "ipc",
            Namespace::Uts => "uts",
            Namespace::Pid => "pid",
        }
    }

    fn flag(self) -> CloneFlags {
        match self {
            Namespace::User => CloneFlags::CLONE_NEWUSER,
            Namespace::Mount => CloneFlags::CLONE_NEWNS,
            Namespace::Network => CloneFlags::CLONE_NEWNET,
            Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
            Namespace::Uts => CloneFlags::CLONE_NEWUTS,
            Namespace::Pid => CloneFlags::CLONE_NEWPID,
        }
    }

    fn make(self) -> io::Result<()> {
        // In a user namespace without a mapping, a process does not know who it is.
        let ids = (geteuid(), getegid());
        unshare(self.flag())?;
        if self == Namespace::User { map_own_ids(ids) } else { Ok(()) }
    }
}

/// Puts this process into namespaces of its own, as many of these kinds as the host allows, and
/// returns which. Its next child is the first process of the pid namespace. To be called while there
/// is one thread.
///
/// # Errors
/// The kernel's refusal of what it has just allowed a child of this process.
pub(super) fn enter(kinds: &[Namespace]) -> io::Result<Vec<Namespace>> {
    let mut available = available(kinds)?;
    available.retain(|namespace| *namespace != Namespace::Mount || has_mount_setattr());
    available.iter().try_for_each(|namespace| namespace.make())?;
    Ok(available)
}

/// Tries in a child which namespaces there can be. A user namespace may be useless: under AppArmor's
/// `apparmor_restrict_unprivileged_userns`, a process has no capabilities in it. There would be no
/// way back from one.
fn available(kinds: &[Namespace]) -> io::Result<Vec<Namespace>> {
    let bits = || kinds.iter().enumerate().map(|(index, namespace)| (1_u8 << index, *namespace));
    // SAFETY: there is no other thread, so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let made = bits().filter(|(_, namespace)| namespace.make().is_ok());
            let code = made.fold(0, |made, (bit, _)| made | bit);
            // SAFETY: nothing of this process is to be run or written any more.
            unsafe { libc::_exit(code.into()) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => {
                Ok(bits().filter(|(bit, _)| code & i32::from(*bit) != 0).map(|(_, namespace)| namespace).collect())
            }
            _ => Ok(Vec::new()),
        },
    }
}

/// Has this process be the user and the group that it was, and nobody else: user_namespaces(7).
/// Within the namespace both are called 0, which slirp4netns takes on there.
fn map_own_ids((uid, gid): (Uid, Gid)) -> io::Result<()> {
    // Who may drop a group could gain rights by that.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
}

/// Whether the kernel has mount_setattr(2), of Linux 5.12.
fn has_mount_setattr() -> bool {
    // SAFETY: no attributes are of an invalid size, so the call fails before it looks at them.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0_usize) };
    done == -1 && Errno::last() != Errno::ENOSYS
}
