//! Reading frames of a peer that may stop in the middle of one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::AsyncRead;
use tokio::time::{Sleep, sleep};
use tokio_util::codec::FramedRead;

use super::{Frame, FrameCodec, FrameError};

/// A stream of frames. A frame that has begun must be whole within a time; between frames the peer
/// may be silent for as long as it likes.
pub struct FrameReader<R> {
    frames: FramedRead<R, FrameCodec>,
    limit: Duration,
    /// Runs while part of a frame has come.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<R: AsyncRead> FrameReader<R> {
    /// Reads from `reader`, with a buffer of `capacity` bytes. `limit` is for each frame, from its
    /// first byte to its last. One that takes longer is a [`FrameError::Io`] of kind
    /// [`io::ErrorKind::TimedOut`].
    pub fn new(reader: R, capacity: usize, limit: Duration) -> FrameReader<R> {
        FrameReader { frames: FramedRead::with_capacity(reader, FrameCodec, capacity), limit, timer: None }
    }
}

impl<R: AsyncRead + Unpin> Stream for FrameReader<R> {
    type Item = Result<Frame, FrameError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.frames).poll_next(cx);
        if polled.is_ready() || this.frames.read_buffer().is_empty() {
            this.timer = None;
            return polled;
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(this.limit)));
        timer.as_mut().poll(cx).map(|()| Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::StreamExt;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn dripping_frame_times_out_but_silence_does_not() {
        let limit = Duration::from_millis(200);
        let (mut peer, ours) = duplex(64);
        let mut reader = FrameReader::new(ours, 64, limit);
        peer.write_all(b"\x01\0\0\0\x02hi").await.unwrap();
        assert!(matches!(reader.next().await, Some(Ok(Frame::Data(1, _)))));
        assert!(tokio::time::timeout(limit * 2, reader.next()).await.is_err(), "silence is no error");
        tokio::spawn(async move {
            peer.write_all(b"\x01\0\0\x10\0").await.unwrap();
            while peer.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        let start = Instant::now();
        let Some(Err(FrameError::Io(error))) = reader.next().await else { panic!("a frame that is not whole") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
