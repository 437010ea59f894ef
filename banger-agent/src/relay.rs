//! Relaying a connection's bytes as frames, on either side: see [`crate::protocol::forward`].

use std::pin::pin;

use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::FramedWrite;

use crate::frame::{CHUNK, Frame, FrameCodec, FrameError};
use crate::protocol::forward::{DATA, Ended};

/// Carries bytes between `socket` and a stream whose operation has been answered, until both sides
/// have ended. Dropping both then, or on an error, ends what is left of the connection.
///
/// # Errors
/// If the connection or the stream breaks, or the stream brings what does not belong there.
pub async fn relay<S, R, W>(socket: S, mut reader: R, writer: &mut FramedWrite<W, FrameCodec>) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite,
    R: Stream<Item = Result<Frame, FrameError>> + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut from, mut to) = tokio::io::split(socket);
    let mut out = pin!(async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer).await? {
                0 => return writer.send(Frame::control(&Ended::Ended)).await,
                count => writer.send(Frame::Data(DATA, Bytes::copy_from_slice(&buffer[..count]))).await?,
            }
        }
    });
    let mut into = pin!(async {
        loop {
            match reader.next().await.unwrap_or(Err(FrameError::Ended))? {
                Frame::Data(DATA, bytes) => to.write_all(&bytes).await?,
                Frame::Data(..) => {}
                frame => {
                    let Ended::Ended = frame.message()?;
                    // One that is closed already is as good.
                    let _ = to.shutdown().await;
                    return Ok::<_, FrameError>(reader);
                }
            }
        }
    });
    tokio::select! {
        sent = &mut out => {
            sent?;
            into.await.map(drop)
        }
        taken = &mut into => {
            let mut reader = taken?;
            tokio::select! {
                sent = out => sent,
                // Who says no more may still listen; whose stream has ended does not.
                _ = reader.next() => Err(FrameError::Ended),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{DuplexStream, duplex, split};
    use tokio::time::timeout;
    use tokio_util::codec::FramedRead;

    use super::*;

    type End = tokio::task::JoinHandle<Result<(), FrameError>>;

    fn side(socket: DuplexStream, stream: DuplexStream) -> End {
        tokio::spawn(async move {
            let (read, write) = split(stream);
            let mut writer = FramedWrite::new(write, FrameCodec);
            relay(socket, FramedRead::new(read, FrameCodec), &mut writer).await
        })
    }

    /// A client and a server with both sides between them.
    fn connection() -> (DuplexStream, DuplexStream, End, End) {
        let ((client, here), (there, server), (host, guest)) = (duplex(100), duplex(100), duplex(100));
        (client, server, side(here, host), side(there, guest))
    }

    #[tokio::test]
    async fn each_direction_ends_independently() {
        let (mut client, mut server, host, guest) = connection();
        let asked = vec![7; 100_000];
        let sent = asked.clone();
        let asking = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert!(question == asked);
        server.write_all(b"late").await.unwrap();
        drop(server);
        assert_eq!(asking.await.unwrap(), b"late");
        host.await.unwrap().unwrap();
        guest.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn closed_stream_closes_the_socket_too() {
        let (client, mut server, host, guest) = connection();
        host.abort();
        let mut rest = Vec::new();
        timeout(Duration::from_secs(10), server.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(matches!(guest.await.unwrap(), Err(FrameError::Ended)));
        drop(client);
    }

    #[tokio::test]
    async fn half_closed_side_keeps_receiving() {
        let (mut client, server, host, guest) = connection();
        client.shutdown().await.unwrap();
        let mut guest = guest;
        assert!(timeout(Duration::from_millis(50), &mut guest).await.is_err());
        host.abort();
        assert!(matches!(timeout(Duration::from_secs(10), guest).await.unwrap().unwrap(), Err(FrameError::Ended)));
        drop(server);
    }

    #[tokio::test]
    async fn unexpected_frame_is_an_error() {
        let ((_client, socket), (stream, mut hostile)) = (duplex(100), duplex(100));
        let side = side(socket, stream);
        hostile.write_all(b"\0\0\0\0\x04null").await.unwrap();
        assert!(matches!(side.await.unwrap(), Err(FrameError::Json(_))));
    }
}
