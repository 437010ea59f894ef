//! What a VMM may do on this host, besides what its user may: a guest that takes its VMM over is
//! held by this.
//!
//! A backend describes what its VMM needs as [`Rules`]. [`Rules::prepare`] turns them into what the
//! kernel takes, and [`Prepared::apply`] puts them in force between fork and exec. Three
//! mechanisms, none of which needs root:
//!
//! * [Landlock](landlock): files by path, TCP, abstract Unix sockets, signals, ptrace;
//! * [seccomp](seccomp): kinds of sockets, rights of files, and interfaces of the kernel that no
//!   VMM needs;
//! * the process itself: no new privileges, no capabilities, no core dump, no descriptor that it
//!   was not given.
//!
//! [`launch`](launch::launch) adds [namespaces] where the host allows them: the VMM then has a
//! [root of its own](root) with only the files that the rules name, and a network of its own. A
//! [launcher] process stands between the supervisor and the VMM for this. It may have Firecracker's
//! jailer run the VMM, in a [jail]: as another user, and without Landlock.

mod jail;
mod landlock;
mod launch;
mod launcher;
mod namespaces;
mod root;
mod seccomp;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::BpfProgram;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use jail::Jail;
pub(crate) use launch::{Confined, ConfinedCommand, launch};
pub use launcher::{CONFINE, run as run_launcher, run_network_probe};
pub use namespaces::Namespace;

/// What a VMM needs. Files are meant as they are when the rules are prepared: what takes the place
/// of one later is another. A path that does not exist is left out.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rules {
    /// Files, and directories with all below them: they may be read, and programs among them
    /// executed.
    pub(crate) readable: Vec<PathBuf>,
    /// Files that may be read and written. None is made, renamed or removed.
    pub(crate) writable: Vec<PathBuf>,
    /// Devices that may be read, written and controlled.
    pub(crate) devices: Vec<PathBuf>,
    /// Directories in which the VMM may make files and sockets, and read and write what is there.
    /// It renames and removes nothing. With one, it may make Unix sockets.
    pub(crate) directories: Vec<PathBuf>,
    /// Whether it may connect to addresses of the internet protocols. It never listens for TCP at a
    /// port that it chooses.
    pub(crate) network: bool,
}

/// What confines a VMM: what of [`Rules`] the kernel can enforce.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The version of Landlock's interface that the kernel has; none: it has no Landlock, or it is
    /// switched off.
    pub landlock_abi: Option<u32>,
    /// The namespaces of the VMM's own. None are used by a VMM that has no launcher.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// The user id of a VMM that is not its supervisor's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// What the kernel does not keep the VMM from.
    #[serde(deserialize_with = "known")]
    pub missing: Vec<Gap>,
}

/// What a kernel does not keep a VMM from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// Files: it reads and writes what its user may. Needs Landlock, of Linux 5.13, or a mount
    /// namespace.
    Files,
    /// Signals: it may end other processes of its user. Needs version 6 of Landlock's interface, of
    /// Linux 6.12, or a process namespace.
    Signals,
    /// Names: it sees names, sizes and times of files that it may not read. Needs a mount
    /// namespace.
    FileNames,
    /// Processes: it sees the numbers of other processes. Needs a process namespace.
    Processes,
    /// Unix sockets: it connects to services of its user. Needs a mount and a network namespace.
    UnixSockets,
}

/// Reads a list without those that only a later version knows.
fn known<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let all: Vec<serde_json::Value> = Deserialize::deserialize(deserializer)?;
    Ok(all.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

impl Confinement {
    /// What this host's kernel can do without namespaces.
    pub fn of_kernel() -> Confinement {
        Confinement::with(landlock::kernel_abi())
    }

    fn with(landlock_abi: Option<u32>) -> Confinement {
        let has = |abi| landlock_abi.is_some_and(|kernel| kernel >= abi);
        let needs = [(Gap::Files, 1), (Gap::Signals, landlock::SIGNALS)];
        let missing = needs.into_iter().filter(|(_, abi)| !has(*abi)).map(|(gap, _)| gap).collect();
        Confinement { landlock_abi, namespaces: Vec::new(), user: None, missing }
    }

    /// What a VMM under `rules` is confined by in these namespaces.
    fn within(self, namespaces: Vec<Namespace>, rules: &Rules) -> Confinement {
        let [mount, network, pid] =
            [Namespace::Mount, Namespace::Network, Namespace::Pid].map(|namespace| namespaces.contains(&namespace));
        // Landlock keeps it from abstract sockets since the version that keeps it from signals.
        let abstract_sockets = network || !self.missing.contains(&Gap::Signals);
        let mut missing = self.missing.clone();
        missing.retain(|gap| !matches!((gap, mount, pid), (Gap::Files, true, _) | (Gap::Signals, _, true)));
        let sockets = rules.directories.is_empty() || (mount && abstract_sockets);
        let further = [(Gap::FileNames, mount), (Gap::Processes, pid), (Gap::UnixSockets, sockets)];
        missing.extend(further.into_iter().filter(|(_, has)| !has).map(|(gap, _)| gap));
        Confinement { namespaces, missing, ..self }
    }
}

impl Rules {
    /// Makes of the rules what the kernel takes. Holds open what they name.
    ///
    /// # Errors
    /// The kernel's refusal. That it cannot do all of it is none: [`Prepared::confinement`] says
    /// so.
    pub(crate) fn prepare(&self) -> io::Result<Prepared> {
        Ok(Prepared {
            ruleset: landlock::ruleset(self)?,
            filter: seccomp::filter(self.network, !self.directories.is_empty())?,
            confinement: Confinement::of_kernel(),
            is_for_jailer: false,
        })
    }

    /// Makes of the rules what the kernel takes and lets the jailer of `jail` do its work. Under
    /// Landlock nobody mounts anything, and without capabilities nobody becomes another user. The
    /// jailer leaves none to the VMM.
    fn prepare_for(&self, jail: &Jail) -> io::Result<Prepared> {
        Ok(Prepared {
            ruleset: None,
            filter: seccomp::jailer_filter(self.network, !self.directories.is_empty())?,
            confinement: Confinement { user: Some(jail.user), ..Confinement::with(None) },
            is_for_jailer: true,
        })
    }
}

/// Rules that are ready to be put in force.
pub(crate) struct Prepared {
    /// None where the kernel has no Landlock.
    ruleset: Option<OwnedFd>,
    filter: BpfProgram,
    confinement: Confinement,
    /// The capabilities stay.
    is_for_jailer: bool,
}

impl Prepared {
    /// What the rules amount to on this kernel.
    pub(crate) fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Between fork and exec: confines this process for good. No descriptor survives the exec but
    /// those of standard input, output and error, and those that are unmarked after this. It makes
    /// only system calls, which signal-safety(7) allows, and does not allocate.
    pub(crate) fn apply(&self) -> io::Result<()> {
        close_on_exec()?;
        forbid_core_dumps()?;
        // What Landlock and seccomp want of a process without privileges: prctl(2),
        // PR_SET_NO_NEW_PRIVS.
        prctl::set_no_new_privs()?;
        if let Some(ruleset) = &self.ruleset {
            landlock::restrict(ruleset.as_raw_fd())?;
        }
        if !self.is_for_jailer {
            drop_capabilities()?;
        }
        // The last, since it could forbid one of the calls above.
        seccomp::apply(&self.filter)
    }
}

/// Has this process and its children leave no core dump: it would hold what the guest has in its
/// memory.
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

fn close_on_exec() -> io::Result<()> {
    // SAFETY: it closes nothing, and no code of this process runs after the exec.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives up all capabilities, as root has them. Without new privileges, no exec brings them back:
/// capabilities(7).
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` of capget(2), whose sets are two of 32 bits.
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    let header = Header { version: VERSION_3, pid: 0 };
    let [effective, permitted, inheritable] = [0_u32; 3];
    let none = [[effective, permitted, inheritable]; 2];
    // SAFETY: header and data have the layout that capget(2) describes for this version, and the
    // call only reads them.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests;
