//! The frames of a stream, on the guest's side.

use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::frame::FrameCodec;
use crate::link::MuxStream;

/// The frames that arrive on a stream.
pub(super) type Reader = FramedRead<ReadHalf<MuxStream>, FrameCodec>;
/// The frames that leave on a stream.
pub(super) type Writer = FramedWrite<WriteHalf<MuxStream>, FrameCodec>;
