//! The protocol that host and guest speak, both ends of it.
//!
//! * [`protocol`]: the operations and their messages.
//! * [`frame`]: how messages and data are written on a stream.
//! * [`link`]: how one byte pipe becomes many streams.
//! * [`boot_config`]: what a guest is told before there is a link; [`net`]: the VM's network, as
//!   both ends know it.
//! * [`relay`]: a connection as frames.
//! * [`copy`]: files as a stream; [`rooted_dir`]: writing what others send, and nowhere else;
//!   [`sparse`]: files with holes.
//! * `guest` (feature of that name): the agent itself.

pub mod boot_config;
pub mod copy;
pub mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod link;
pub mod net;
pub mod protocol;
pub mod relay;
pub mod rooted_dir;
pub mod sparse;
pub mod terminfo;
mod wire_bytes;

#[cfg(feature = "guest")]
pub mod guest;

/// The version of banger that this is built as, which a VM's agent and supervisor tell a command
/// that may be newer. `BANGER_BUILD_VERSION`, set when it is built, is for builds that are no
/// release, tests' among them.
pub const VERSION: &str = match option_env!("BANGER_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
