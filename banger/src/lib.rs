//! banger runs the repository you stand in inside a microVM of its own.
//!
//! The way of one command, `banger -- make test`, through this crate:
//!
//! * [`cli`] has the types of the command line; [`paths`] and [`ui`] what the environment and the
//!   terminal have to say;
//! * [`dispatch`] finds out what the words mean: a command, an alias, or a [`plugin`];
//!   [`completion`] proposes them;
//! * [`config`] reads and merges what the user and the repository have written down;
//! * [`git`] finds the workspace and lists what travels;
//! * [`images`] has the images that VMs are made from, and pulls them; [`kernels`] what they boot;
//! * [`machine`] finds, makes and starts the workspace's VM, and those by name, with `banger-image`
//!   and `banger-vmm`; [`ownership`] knows which is whose, [`unsynced`] what would be lost with
//!   it;
//! * [`sync`] brings the guest's workspace to the host's state, through [`agent`];
//! * [`copy`] copies files past the sync, both ways;
//! * [`authorized_key`] has an SSH server of the guest's own know its user;
//! * [`run`] runs the command there, and leaves with its exit status.
//!
//! [`commands`] are the others; [`disk_usage`] measures for them, [`doctor`] looks at the machine,
//! [`table`] lays out their lists. A [`report`] is a run's account for programs, and [`panic`] what
//! is said of a defect. Everything that ends a command is an [`error::CommandError`].

// What the types of this crate are made of: a plugin on this library needs no other.
pub use {banger_agent, banger_image, banger_vmm};

pub mod agent;
pub mod authorized_key;
pub mod certificates;
pub mod checkout;
pub mod cli;
pub mod commands;
pub mod completion;
pub mod config;
mod confinement;
pub mod copy;
pub mod disk_usage;
pub mod dispatch;
pub mod doctor;
pub mod error;
mod file;
pub mod git;
pub mod guest_command;
pub mod images;
pub mod kernels;
pub mod machine;
mod npm;
pub mod ownership;
pub mod panic;
pub mod paths;
pub mod permissions;
pub mod plugin;
mod post_mortem;
pub mod prepare;
pub mod report;
pub mod run;
mod suggest;
pub mod sync;
pub mod table;
pub mod terminfo;
pub mod ui;
pub mod units;
pub mod unsynced;
