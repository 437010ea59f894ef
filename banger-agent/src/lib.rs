//! The protocol that host and guest speak, both ends of it.
//!
//! * [`protocol`]: what is said: the operations and their frames.
//! * [`frame`]: how it is written on a stream.
//! * [`link`]: how one byte pipe becomes many streams.
//! * [`copy`]: files as a stream; [`beneath`]: writing what others send, and nowhere else.
//! * `guest` (feature of that name): the agent itself.

pub mod beneath;
pub mod copy;
pub mod frame;
pub mod link;
pub mod protocol;

#[cfg(feature = "guest")]
pub mod guest;
