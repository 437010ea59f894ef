//! Virtual machines: their store, the backends that run them, and the supervisor that owns a
//! running one.
//!
//! * [`VmStore`] keeps VMs on disk; a [`Vm`] is one of them: its [`VmRecord`], its disk, its
//!   folder.
//! * A [`VmHost`] is the machine that has them: it lists them, reads their records, connects to
//!   their agents and takes a workspace's disk. [`LocalHost`] is this machine.
//! * [`Vm::start`] spawns the supervisor (the binary `banger-vmm`, which is [`supervisor::run`])
//!   and follows the boot as [`StartEvent`]s. The supervisor outlives who spawned it, and owns the
//!   VMM: when one dies, so does the other.
//! * [`Vm::connect_agent`] is a stream to the guest's agent, through the supervisor's socket.
//! * [`initramfs::ensure`] packs the agent and the kernel's modules into what the VM boots from.
//!
//! Which VMM it is stays inside `backend`. There is no daemon: the truth is in the VM's folder
//! under file locks.

mod activity;
mod backend;
mod client;
mod complaint;
mod confinement;
mod console;
mod disk;
mod error;
mod file;
mod host;
pub mod initramfs;
pub mod kvm;
mod launch;
pub mod network;
mod owner;
mod paths;
mod ports;
mod program;
mod record;
mod run;
mod snapshot;
mod store;
pub mod supervisor;
mod vm;
mod vm_host;
mod wire;

pub use activity::LastActivity;
pub use backend::{FirecrackerInstallation, net_plan};
pub use banger_agent::net::{NetMode, NetPlan};
pub use banger_util::text::printable;
pub use confinement::{CONFINE, Confinement, Gap, Namespace, run_launcher, run_network_probe};
pub use console::{ConsoleLines, Followed};
pub use error::{Error, Failure, Result};
pub use kvm::{Accelerator, AcceleratorChoice};
pub use launch::{Running, StartEvent, StartOptions};
pub use owner::Owner;
pub use paths::StorePaths;
pub use ports::{GuestEnd, HostEnd, MAX_PORTS, PortForward, PortName, PortState, check_forwards};
pub use program::Programs;
pub use record::{BackendChoice, BackendKind, RateLimits, Ready, VmRecord, is_name};
pub use store::{NamesLock, VmStore};
pub use vm::{Hold, Stopped, Vm, VmLock, VmState};
pub use vm_host::{AgentAccess, LocalHost, VmHost};
pub use wire::{AgentInfo, Status};
