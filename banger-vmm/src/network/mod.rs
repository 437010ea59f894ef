//! A network for a VMM without rights of its own: a tap in a network namespace, which a program of
//! the user's connects to other machines. The guest's addresses are those of QEMU's user
//! networking, and this host's loopback is closed to it.

pub(crate) mod devices;
mod obstacle;
mod process;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_agent::net::NetInterface;
use nix::unistd::Uid;

use crate::program::Programs;

pub(crate) use obstacle::Obstacle;
pub use process::NetworkProgram;
pub(crate) use process::{Starting, UserNetwork};

/// The tap that a VMM opens.
pub(crate) const TAP: &str = "vm0";
/// The tap that the network program opens.
const UPLINK: &str = "ext";
/// As of an Ethernet.
const MTU: u32 = 1500;
/// The device by which taps are opened.
pub(crate) const DEVICE: &str = "/dev/net/tun";
/// How `banger-vmm` is told to try what a VMM's network needs.
pub const PROBE: &str = "probe-network";

/// What a guest is told: the addresses that slirp4netns and QEMU's user networking have by default.
pub(crate) const USER_NETWORK: NetInterface = NetInterface {
    address: Ipv4Addr::new(10, 0, 2, 15),
    prefix: 24,
    gateway: Ipv4Addr::new(10, 0, 2, 2),
    dns: Ipv4Addr::new(10, 0, 2, 3),
};

/// Whether this host connects VMMs in network namespaces of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkSupport {
    /// By this program.
    Works(NetworkProgram),
    /// It does not.
    Unusable {
        /// Why, as in "… because REASON".
        reason: String,
        /// What to do about it.
        hint: String,
    },
}

/// Finds the program, and tries what a VMM's network needs in a process of its own, which takes a
/// few milliseconds. `supervisor` is `banger-vmm`. Nothing is kept.
pub fn support(supervisor: &Path, programs: &Programs) -> NetworkSupport {
    let tried = find(programs).and_then(|program| probe(supervisor).map(|()| program));
    match tried {
        Ok(program) => NetworkSupport::Works(program),
        Err(Obstacle { reason, hint }) => NetworkSupport::Unusable { reason, hint },
    }
}

/// slirp4netns is the first choice: it says when it is ready, and works for root too.
fn find(programs: &Programs) -> Result<NetworkProgram, Obstacle> {
    let slirp4netns = programs.find("slirp4netns", "slirp4netns").map(NetworkProgram::Slirp4netns);
    // As root it becomes the user `nobody`, who may not enter root's namespaces: pasta(1).
    let pasta = || if Uid::effective().is_root() { None } else { programs.find("pasta", "passt").ok() };
    slirp4netns
        .ok()
        .or_else(|| pasta().map(NetworkProgram::Pasta))
        .ok_or_else(|| Obstacle::no_program(Uid::effective().is_root()))
}

fn probe(supervisor: &Path) -> Result<(), Obstacle> {
    let ran = Command::new(supervisor).env_clear().arg(PROBE).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = ran.map_err(|error| Obstacle::other(&format!("cannot run {}: {error}", supervisor.display())))?;
    if output.status.success() {
        return Ok(());
    }
    Err(serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Obstacle::other(&format!("trying it failed ({})", output.status))))
}
