//! `/init` of the initramfs: from a bare kernel to a root that the agent serves.
//!
//! ```text
//!  PID 1   modules ─┬─ port, disks ─ overlay root ─ names ─┬─ enter it ─┬─ exec the image's init
//!                   └─ network ────────────────────────────┘           fork
//!  child                                                                └─ `@banger-agent` serves
//! ```
//!
//! The image needs to hold nothing for this: no agent, no configuration, not even a shell.
//!
//! PID 1 comes back here at the very end of its life. systemd runs `/run/initramfs/shutdown` once
//! everything is stopped (`bootup(7)`, "exitrd"), and that is this program, so that the disk is
//! unmounted cleanly although the root stood on it.

mod cmdline;
mod devices;
mod filesystems;
mod identity;
mod modules;
mod network;
mod pid1;
mod power;
#[cfg(feature = "process")]
pub mod process;
mod ready;
mod root;
mod systemd;
mod tree;
mod uevent;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::stat::{Mode, umask};

use devices::Disks;
use modules::Modules;
use tree::Tree;
use uevent::Uevents;

use super::identity::Identity;
use super::transport::AgentPort;
use crate::boot_config::BootConfig;
use crate::net::NetInterface;

pub use pid1::Init;
pub use power::{power_off_by_force, power_off_now};
pub use ready::{Boot, SystemState};

/// What the serving process is handed.
#[derive(Debug)]
pub struct ServeContext {
    /// Where hosts reach the agent.
    pub agent_port: AgentPort,
    /// A folder on this VM's ext4, outside the guest's root: state of the agent's own, and a
    /// handle on the file system (`syncfs(2)`).
    pub disk: OwnedFd,
    /// The block device that the workspace comes on, if the host attached one.
    pub workspace_disk: Option<PathBuf>,
    /// What became PID 1; also how to power off.
    pub init: Init,
    /// Where PID 1 says how the machine is about to go; root's only.
    pub power: UnixListener,
    /// Tells when the image's init has finished.
    pub boot: Boot,
    /// Who the guest is.
    pub identity: Identity,
    /// The disk is thrown away with the VM: nothing on it has to survive.
    pub volatile: bool,
}

/// Why a guest does not come up. It is written to the console, where the host finds it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be read, written, made, or loaded as a module.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file system could not be mounted.
    #[error("cannot mount {what} on {}: {source}", path.display())]
    Mount {
        /// The device or the kind of file system.
        what: String,
        /// Where to.
        path: PathBuf,
        /// `EUCLEAN` and `EIO` stand for damage.
        source: nix::Error,
    },
    /// A system call without a path failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// Why not.
        source: nix::Error,
    },
    /// A `banger.` word of the kernel command line was not understood.
    #[error("the kernel command line says `{0}`, which this agent does not understand")]
    Setting(String),
    /// The kernel's device events could not be read.
    #[error("cannot listen for the kernel's device events: {source}")]
    Uevents {
        /// Why not.
        source: nix::Error,
    },
    /// The host did not attach something that every VM has.
    #[error("{0} did not appear")]
    NoDevice(String),
    /// The host attached the disks in another order than it says.
    #[error("the disk {name} is {access}, which the disk `{role}` is not: the host attached another there")]
    WrongDisk {
        /// The kernel's name of the disk.
        name: String,
        /// What the disk at this place is for.
        role: &'static str,
        /// What may be done with it.
        access: &'static str,
    },
    /// The kernel cannot use what every VM has.
    #[error(
        "the kernel has no {0}, neither built in nor among the modules that came with it (banger kernel import --modules)"
    )]
    NoDrivers(String),
    /// An interface, address or route could not be set.
    #[error("cannot {action}: {source}")]
    Network {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// Why not.
        source: Box<rtnetlink::Error>,
    },
}

impl BootError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| BootError::Io { action, path: path.to_owned(), source }
    }

    fn system(action: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |source| BootError::System { action, source }
    }
}

/// What PID 1 of the initramfs does; nothing else may call it.
///
/// `serve` runs in a child, in the guest's root; should it return, the child ends and the guest
/// goes on without an agent. PID 1 itself becomes the image's init, or a minimal one. A boot that
/// fails writes its reason to the console as the last thing, and powers off.
pub fn boot(serve: impl FnOnce(ServeContext)) -> ! {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == power::SHUTDOWN) {
        power::finish_for_systemd(arguments.next().and_then(|action| action.into_string().ok()).as_deref());
    }
    match prepare() {
        Ok(context) => pid1::split(context, serve),
        Err(error) => {
            filesystems::write_to_console(&format!("banger: the guest cannot boot: {error}\n"));
            power_off_now()
        }
    }
}

/// Everything before the fork. On return this process has one thread, and stands in the guest's
/// root.
fn prepare() -> Result<ServeContext, BootError> {
    // Every mode below is meant as it is written.
    umask(Mode::empty());
    filesystems::mount_all()?;
    filesystems::use_console()?;

    let line = Path::new("/proc/cmdline");
    let line = fs::read_to_string(line).map_err(BootError::io("read", line))?;
    let config = cmdline::parse(&line)?;
    let power = power::listen()?;
    let modules = Modules::find(Path::new("/modules"), &config.agent)?;
    // The network is a quarter of the work, and nothing else waits for it; nor for the groups.
    let (root, network) = thread::scope(|scope| {
        scope.spawn(filesystems::favour_groups);
        modules::load(&modules.shared)?;
        let network = scope.spawn(|| bring_up_network(&modules, config.identity.net));
        let root = build_root(&modules, &config);
        Ok((root, network.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
    })?;
    let Root { agent_port, disks, disk, tree, init, boot } = root?;
    network?;

    filesystems::enter(&tree)?;
    umask(Mode::from_bits_truncate(0o022));
    let workspace_disk = disks.workspace;
    let identity = Identity::new(config.identity, identity::RunningGuest);
    Ok(ServeContext { agent_port, disk, workspace_disk, init, power, boot, identity, volatile: config.volatile })
}

/// What the guest is made of, but for its network.
struct Root {
    agent_port: AgentPort,
    disks: Disks,
    disk: OwnedFd,
    tree: Tree,
    init: Init,
    boot: Boot,
}

fn build_root(modules: &Modules, config: &BootConfig) -> Result<Root, BootError> {
    let uevents = Uevents::subscribe()?;
    modules::load(&modules.other)?;
    devices::check_drivers(&config.agent)?;
    let agent_port = devices::open_agent_device(&config.agent, &uevents)?;
    let disks = Disks::find(&config.disks, &uevents)?;
    let disk = root::mount(&disks, config.volatile)?;
    let tree = Tree::open(Path::new(root::NEW_ROOT))?;
    root::add_modules(&disks, &tree)?;
    identity::write(&config.identity, &tree, &disk)?;
    let init = Init::find(&tree);
    let boot = systemd::prepare(&init, &tree)?;
    Ok(Root { agent_port, disks, disk, tree, init, boot })
}

fn bring_up_network(modules: &Modules, net: Option<NetInterface>) -> Result<(), BootError> {
    let uevents = Uevents::subscribe()?;
    modules::load(&modules.network)?;
    if net.is_some() {
        devices::check_network_drivers()?;
        devices::wait_for_interface(&uevents, network::INTERFACE)?;
    }
    network::configure(net)
}
