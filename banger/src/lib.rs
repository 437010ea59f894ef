//! banger runs the repository you stand in inside a microVM of its own.
//!
//! The way of one command, `banger -- make test`, through this crate:
//!
//! * [`cli`] has the types of the command line; [`host`] and [`output`] what the environment and
//!   the terminal have to say;
//! * [`dispatch`] finds out what the words mean: a command, an alias, or a [`plugin`];
//!   [`completion`] proposes them;
//! * [`config`] reads and merges what the user and the repository have written down;
//! * [`git`] finds the workspace and lists what travels;
//! * [`store`] has the images that VMs are made from, and pulls them, and the kernels that they
//!   boot;
//! * [`vm`] finds, makes and starts the workspace's VM, and those by name, with `banger-image` and
//!   `banger-vmm`;
//! * [`sync`] brings the guest's workspace to the host's state;
//! * [`copy`] copies files past the sync, both ways;
//! * [`remote`] serves git, which fetches from a VM;
//! * [`prepare`] brings into the VM what the repository and the user's configuration ask for;
//! * [`run`] runs the command there, and leaves with its exit status.
//!
//! [`commands`] are the others; [`doctor`] looks at the machine. Everything that ends a command is
//! an [`error::CommandError`].

// What the types of this crate are made of: a plugin on this library needs no other.
pub use {banger_agent, banger_image, banger_vmm};

pub mod cli;
pub mod commands;
pub mod completion;
pub mod config;
pub mod copy;
pub mod dispatch;
pub mod doctor;
pub mod error;
pub mod git;
pub mod host;
pub mod output;
pub mod plugin;
pub mod prepare;
pub mod remote;
pub mod run;
pub mod store;
pub mod sync;
pub mod vm;
