//! The agent: `/init` of the initramfs, and the server of every operation.
//!
//! [`init`] makes a root file system and starts the image's own init; a forked child of it [`serve`]s the host.

mod authorize;
mod clock;
mod copy;
mod exec;
mod files;
mod forward;
pub mod init;
mod serve;
pub mod sftp;
mod sync;
mod users;

pub use serve::serve;

use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::frame::FrameCodec;
use crate::link::MuxStream;

/// The frames that arrive on a stream.
type Reader = FramedRead<ReadHalf<MuxStream>, FrameCodec>;
/// The frames that leave on a stream.
type Writer = FramedWrite<WriteHalf<MuxStream>, FrameCodec>;
