//! The link: one byte pipe between a supervisor and its guest, and the streams on it.
//!
//! Every connection starts with an exchange of nonces, so that bytes left in the pipe by a former
//! peer are skipped and never taken for an answer. After it the pipe carries yamux, the host being
//! its client: only the host opens streams.

mod merge;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufStream, BufWriter, ReadBuf,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use self::merge::{Followed, Merging, Unread};
use crate::boot_config::GuestIdentity;

/// The version of everything in this crate that both ends must agree on.
pub const PROTOCOL: u32 = 1;

/// A greeting line may not be longer than this, in bytes.
const MAX_GREETING: u64 = 4096;
/// A peer may send this many bytes of leftovers before its greeting.
const MAX_LEFTOVERS: u64 = 4 << 20;
const MAGIC: &str = "banger ";

/// Streams that the host has open on a link at a time.
pub const MAX_STREAMS: usize = 64;
/// What yamux, on either side, takes for an attack and ends the link. It must not be hit in peace:
/// a stream that the host has dropped counts until the driver has run, and in the guest until its
/// operation has tidied up.
const TOO_MANY_STREAMS: usize = 8 * MAX_STREAMS;
/// What a stream may hold that was received and not yet read, in bytes: yamux's initial window.
const WINDOW: usize = 256 << 10;
/// The most bytes in one mux frame: large, because each costs the guest an interrupt, and with
/// yamux's header no more than two of what its kernel hands over at once (32 KiB).
pub const PAYLOAD: usize = (64 << 10) - 12;
/// The most bytes in a mux frame that yamux takes, and of its header.
const MAX_FRAME: usize = 1 << 20;
const HEADER: usize = 12;
/// Two frames of [`PAYLOAD`].
const BUFFER: usize = 128 << 10;
/// What the windows of all streams together may have grown to beyond [`WINDOW`] each, in the guest,
const GUEST_GROWTH: usize = 48 << 20;
/// and in the host, whose memory must stay small.
const HOST_GROWTH: usize = 2 << 20;

/// What the host says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHello {
    /// Chosen anew for each connection; the guest repeats it.
    pub nonce: String,
    /// The version of banger.
    pub version: String,
    /// [`PROTOCOL`] of the host.
    pub protocol: u32,
    /// The host's clock, in nanoseconds since 1970: the guest sets its own by it.
    pub clock_ns: i64,
    /// Who the guest is, which it becomes if it is somebody else; `None` from a host that does not
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<GuestIdentity>,
}

/// What the guest answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestHello {
    /// The nonce of the [`HostHello`] that is answered.
    pub nonce: String,
    /// The version of the agent.
    pub version: String,
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// Milliseconds from the kernel's start to this answer.
    pub uptime_ms: u64,
}

/// Why there is no link, or no stream on it.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The pipe failed or ended.
    #[error("the agent's pipe failed: {0}")]
    Io(#[from] io::Error),
    /// What arrived was not a greeting.
    #[error("the guest does not speak banger's protocol: {0}")]
    Garbage(String),
    /// The other end speaks another protocol.
    #[error("the agent speaks protocol {theirs}, this banger protocol {PROTOCOL}")]
    Protocol {
        /// What the other end speaks.
        theirs: u32,
    },
    /// The multiplexer found the other end at fault, or the link is gone.
    #[error("the link to the agent broke: {0}")]
    Mux(String),
}

/// Greets the guest on a fresh connection and waits for the answer to this very greeting.
///
/// # Errors
/// [`LinkError::Garbage`] after a bounded amount of bytes that are no greeting. The caller bounds
/// the time.
pub async fn handshake<T>(io: &mut T, ours: &HostHello) -> Result<GuestHello, LinkError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&greeting(ours)).await?;
    io.flush().await?;
    // Byte by byte: what follows the greeting belongs to the mux, so nothing may be read ahead.
    let mut line = Vec::new();
    let mut seen = 0;
    loop {
        let byte = io.read_u8().await?;
        seen += 1;
        if byte != b'\n' {
            if line.len() as u64 >= MAX_GREETING {
                line.clear();
            }
            line.push(byte);
        } else {
            match parse::<GuestHello>(&line) {
                Some(hello) if hello.nonce == ours.nonce => {
                    return if hello.protocol == PROTOCOL {
                        Ok(hello)
                    } else {
                        Err(LinkError::Protocol { theirs: hello.protocol })
                    };
                }
                _ => line.clear(),
            }
        }
        if seen > MAX_LEFTOVERS {
            return Err(LinkError::Garbage(format!("{seen} bytes and no greeting among them")));
        }
    }
}

/// The guest's half: waits for a host's greeting, skipping whatever else is in the pipe, and
/// answers it.
///
/// # Errors
/// If the pipe fails.
pub async fn answer<T>(
    io: &mut BufReader<T>,
    hello: impl FnOnce(&HostHello) -> GuestHello,
) -> Result<HostHello, LinkError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut *io).take(MAX_GREETING).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(host) = parse::<HostHello>(line.strip_suffix(b"\n").unwrap_or(&line)) {
            io.write_all(&greeting(&hello(&host))).await?;
            io.flush().await?;
            return Ok(host);
        }
    }
}

/// A guest's pipe, for [`answer`] and [`serve`].
pub fn for_answers<T: AsyncRead>(io: T) -> BufReader<T> {
    BufReader::with_capacity(BUFFER, io)
}

/// What a host sends before it greets a guest that does not know that its former host is gone, as
/// one that goes on from a snapshot: it ends the former link, wherever in a frame that is. What was
/// on its way then is lost, and a stream may get some of this.
pub fn end_of_former_link() -> Vec<u8> {
    // No mux frame starts with such a byte. Whatever of a header these complete, the frame that it
    // makes is either shorter than all of this or too long for yamux.
    let mut line = vec![0xff; MAX_GREETING as usize];
    line[MAX_GREETING as usize - 1] = b'\n';
    line.repeat((MAX_FRAME + HEADER).div_ceil(MAX_GREETING as usize))
}

/// A greeting starts with a newline, to end whatever line a former peer left open.
fn greeting<T: Serialize>(hello: &T) -> Vec<u8> {
    let json = serde_json::to_string(hello).expect("greetings have a JSON form");
    format!("\n{MAGIC}{json}\n").into_bytes()
}

fn parse<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(line.strip_prefix(MAGIC.as_bytes())?).ok()
}

type Opened = oneshot::Sender<Result<(yamux::Stream, Followed), LinkError>>;

/// One stream of a link.
pub struct MuxStream {
    stream: Compat<yamux::Stream>,
    /// Where the host notes what it has read.
    followed: Option<Followed>,
    /// The host's place among [`MAX_STREAMS`].
    _place: Option<OwnedSemaphorePermit>,
}

/// The host's handle to a link: opens streams.
#[derive(Clone)]
pub struct Mux {
    requests: mpsc::Sender<Opened>,
    places: Arc<Semaphore>,
}

impl Mux {
    /// The host's end of a link on `io`, after the handshake. The future drives it, and ends when
    /// the link does.
    pub fn host<T>(io: T) -> (Mux, impl Future<Output = LinkError> + Send)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unread = Unread::new(MAX_STREAMS * WINDOW + HOST_GROWTH);
        let mut connection = connection(Merging::new(buffered(io), unread.clone()), yamux::Mode::Client);
        let (requests, mut queue) = mpsc::channel::<Opened>(MAX_STREAMS);
        let driver = async move {
            let mut waiting: Option<Opened> = None;
            poll_fn(move |cx| {
                loop {
                    if waiting.is_none()
                        && let Poll::Ready(Some(request)) = queue.poll_recv(cx)
                    {
                        waiting = Some(request);
                    }
                    if waiting.is_some()
                        && let Poll::Ready(opened) = connection.poll_new_outbound(cx)
                    {
                        let request = waiting.take().expect("just seen");
                        let opened = opened.map_err(|error| LinkError::Mux(error.to_string())).map(|stream| {
                            let followed = unread.follow(stream.id().val());
                            (stream, followed)
                        });
                        // The asker may have gone: then the stream is dropped, which resets it.
                        let _ = request.send(opened);
                        continue;
                    }
                    return match connection.poll_next_inbound(cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(None) => Poll::Ready(LinkError::Mux("the agent closed it".into())),
                        Poll::Ready(Some(Err(error))) => Poll::Ready(LinkError::Mux(error.to_string())),
                        Poll::Ready(Some(Ok(_))) => Poll::Ready(LinkError::Mux("the guest opened a stream".into())),
                    };
                }
            })
            .await
        };
        (Mux { requests, places: Arc::new(Semaphore::new(MAX_STREAMS)) }, driver)
    }

    /// Opens a stream to the agent; waits while there are [`MAX_STREAMS`] of them.
    ///
    /// # Errors
    /// If the link is gone.
    pub async fn open(&self) -> Result<MuxStream, LinkError> {
        let gone = || LinkError::Mux("the agent is gone".into());
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| gone())?;
        let (reply, opened) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| gone())?;
        let (stream, followed) = opened.await.map_err(|_| gone())??;
        Ok(MuxStream { stream: stream.compat(), followed: Some(followed), _place: Some(place) })
    }
}

/// Serves the guest's end of a link: `serve` gets every stream that the host opens. Ends when the
/// link does. Nothing is read ahead here, so that what follows the link's end is left to who reads
/// on: `io` is to be [buffered](for_answers).
pub async fn serve<T>(io: T, mut serve: impl FnMut(MuxStream)) -> LinkError
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut connection = connection(BufWriter::with_capacity(BUFFER, io), yamux::Mode::Server);
    loop {
        match poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            Some(Ok(stream)) => serve(MuxStream { stream: stream.compat(), followed: None, _place: None }),
            Some(Err(error)) => return LinkError::Mux(error.to_string()),
            None => return LinkError::Mux("the host closed it".into()),
        }
    }
}

fn buffered<T: AsyncRead + AsyncWrite>(io: T) -> BufStream<T> {
    BufStream::with_capacity(BUFFER, BUFFER, io)
}

fn connection<T: AsyncRead + AsyncWrite + Unpin>(io: T, mode: yamux::Mode) -> yamux::Connection<Compat<T>> {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(TOO_MANY_STREAMS);
    let growth = if mode == yamux::Mode::Server { GUEST_GROWTH } else { HOST_GROWTH };
    config.set_max_connection_receive_window(Some(TOO_MANY_STREAMS * WINDOW + growth));
    config.set_split_send_size(PAYLOAD);
    yamux::Connection::new(io.compat(), config, mode)
}

/// How long a handshake may take once the agent has opened its port.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl AsyncRead for MuxStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(followed) = &self.followed {
            followed.read(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_hello() -> HostHello {
        HostHello { nonce: "n1".into(), version: "0".into(), protocol: PROTOCOL, clock_ns: 1, identity: None }
    }

    fn guest_hello(host: &HostHello) -> GuestHello {
        GuestHello { nonce: host.nonce.clone(), version: "0".into(), protocol: PROTOCOL, uptime_ms: 1 }
    }

    #[tokio::test]
    async fn handshake_skips_leftover_bytes_of_previous_peer() {
        let (mut host, guest) = tokio::io::duplex(1 << 16);
        host.write_all(b"\0\x01half a frame\nand {more").await.unwrap();
        let guest = tokio::spawn(async move {
            let mut guest = BufReader::new(guest);
            guest.write_all(b"stale \xff bytes").await.unwrap();
            guest.write_all(&greeting(&guest_hello(&HostHello { nonce: "old".into(), ..host_hello() }))).await.unwrap();
            answer(&mut guest, guest_hello).await.unwrap()
        });
        assert_eq!(handshake(&mut host, &host_hello()).await.unwrap().nonce, "n1");
        assert_eq!(guest.await.unwrap(), host_hello());
    }

    #[test]
    fn greeting_with_an_identity_is_understood_by_peers_that_know_of_none() {
        let plain = greeting(&host_hello());
        assert!(!String::from_utf8_lossy(&plain).contains("identity"));
        assert_eq!(parse::<HostHello>(plain.trim_ascii()), Some(host_hello()));

        let identity = GuestIdentity { hostname: "a".into(), machine_id: Some("0".repeat(32)), net: None };
        let hello = HostHello { identity: Some(identity), ..host_hello() };
        let line = greeting(&hello);
        assert_eq!(parse::<HostHello>(line.trim_ascii()), Some(hello));
        #[derive(Debug, PartialEq, Deserialize)]
        struct Former {
            nonce: String,
            clock_ns: i64,
        }
        assert_eq!(parse::<Former>(line.trim_ascii()), Some(Former { nonce: "n1".into(), clock_ns: 1 }));
        // A later host may say less of it, or more.
        let sparse =
            br#"banger {"nonce":"n","version":"0","protocol":1,"clock_ns":1,"identity":{"hostname":"a","x":1}}"#;
        let told = parse::<HostHello>(sparse).unwrap().identity.unwrap();
        assert_eq!(told, GuestIdentity { hostname: "a".into(), machine_id: None, net: None });
    }

    #[tokio::test]
    async fn different_protocol_version_is_an_error() {
        let (mut host, guest) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let mut guest = BufReader::new(guest);
            answer(&mut guest, |host| GuestHello { protocol: 99, ..guest_hello(host) }).await.unwrap();
        });
        let error = handshake(&mut host, &host_hello()).await.unwrap_err();
        assert!(matches!(error, LinkError::Protocol { theirs: 99 }));
    }

    #[tokio::test]
    async fn endless_garbage_ends_the_handshake() {
        let (mut host, mut guest) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { while guest.write_all(&[0x5a; 1 << 16]).await.is_ok() {} });
        let mut bounded = (&mut host).take(MAX_LEFTOVERS + 1);
        let mut sink = tokio::io::sink();
        let mut both = tokio::io::join(&mut bounded, &mut sink);
        assert!(matches!(handshake(&mut both, &host_hello()).await, Err(LinkError::Garbage(_))));
    }

    #[tokio::test]
    async fn guest_hears_a_new_host_wherever_the_former_link_broke_off() {
        // A stream is opened, and a frame of data comes: 100 bytes, or as many as there can be.
        let open = [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
        let short = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 100][..], &[7; 100]].concat();
        let long = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 3, 0xff, 0xff][..], &[7; 100]].concat();
        let cuts = (0..short.len()).map(|cut| &short[..cut]).chain((9..long.len()).map(|cut| &long[..cut]));
        for before in cuts {
            let (mut host, guest) = tokio::io::duplex(1 << 16);
            let guest = tokio::spawn(async move {
                let mut guest = for_answers(guest);
                for _ in 0..2 {
                    answer(&mut guest, guest_hello).await.unwrap();
                    let mut streams = Vec::new();
                    serve(&mut guest, |stream| streams.push(stream)).await;
                }
            });
            handshake(&mut host, &host_hello()).await.unwrap();
            host.write_all(&open).await.unwrap();
            host.write_all(before).await.unwrap();
            // All at once, so that the guest reads the one with the other.
            let again = HostHello { nonce: "n2".into(), ..host_hello() };
            let (mut reader, mut writer) = tokio::io::split(host);
            let sent = async {
                writer.write_all(&end_of_former_link()).await.unwrap();
                writer.write_all(&greeting(&again)).await.unwrap();
            };
            let mut heard = Vec::new();
            let answered = async {
                let answer = greeting(&guest_hello(&again));
                while !heard.ends_with(&answer) {
                    heard.push(reader.read_u8().await.unwrap());
                }
            };
            let both = async { tokio::join!(sent, answered) };
            tokio::time::timeout(Duration::from_secs(10), both).await.unwrap_or_else(|_| panic!("{before:?}"));
            guest.abort();
        }
    }

    #[tokio::test]
    async fn streams_are_independent_and_half_close() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (mux, driver) = Mux::host(host);
        tokio::spawn(driver);
        tokio::spawn(serve(guest, |stream| {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                let mut everything = Vec::new();
                read.read_to_end(&mut everything).await.unwrap();
                everything.reverse();
                write.write_all(&everything).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }));
        let mut tasks = Vec::new();
        for number in 0..8_u8 {
            let mux = mux.clone();
            tasks.push(tokio::spawn(async move {
                let mut stream = mux.open().await.unwrap();
                let sent: Vec<u8> = (0..300_000_u32).map(|i| (i as u8).wrapping_mul(number)).collect();
                stream.write_all(&sent).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).await.unwrap();
                received.reverse();
                assert!(received == sent);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn data_sent_before_reset_is_read_in_full() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (mux, driver) = Mux::host(host);
        tokio::spawn(driver);
        let sent = Arc::new(tokio::sync::Notify::new());
        let at_end = sent.clone();
        tokio::spawn(serve(guest, move |mut stream| {
            let at_end = at_end.clone();
            tokio::spawn(async move {
                let count = stream.read_u32().await.unwrap();
                for number in 0..count {
                    stream.write_all(&[number as u8]).await.unwrap();
                    stream.flush().await.unwrap();
                }
                at_end.notify_one();
                // Dropped and not shut down: yamux resets it.
            });
        }));
        let (mut first, mut second) = (mux.open().await.unwrap(), mux.open().await.unwrap());
        first.write_u32(5000).await.unwrap();
        first.flush().await.unwrap();
        sent.notified().await;
        // What comes on the second comes after all of the first.
        second.write_u32(1).await.unwrap();
        second.flush().await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), 0);
        let mut received = Vec::new();
        first.read_to_end(&mut received).await.unwrap();
        assert!(received == (0..5000_u32).map(|number| number as u8).collect::<Vec<_>>(), "{}", received.len());
    }

    #[tokio::test]
    async fn stream_over_the_limit_waits_for_a_free_slot() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (mux, driver) = Mux::host(host);
        tokio::spawn(driver);
        // A guest that never lets go of a stream.
        let mut kept = Vec::new();
        tokio::spawn(serve(guest, move |stream| kept.push(stream)));
        for _ in 0..3 {
            let mut streams = Vec::new();
            for _ in 0..MAX_STREAMS {
                let mut stream = mux.open().await.unwrap();
                stream.write_all(b"x").await.unwrap();
                streams.push(stream);
            }
            let mut waiting = tokio::spawn({
                let mux = mux.clone();
                async move { mux.open().await }
            });
            assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
            streams.pop();
            assert!(waiting.await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn garbage_after_handshake_breaks_only_the_link() {
        let (host, mut guest) = tokio::io::duplex(1 << 16);
        let (mux, driver) = Mux::host(host);
        let driver = tokio::spawn(driver);
        guest.write_all(&[0xff; 4096]).await.unwrap();
        assert!(matches!(driver.await.unwrap(), LinkError::Mux(_)));
        assert!(mux.open().await.is_err());
    }
}
