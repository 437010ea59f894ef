//! How hosts reach the agent, and which of them it serves: the last that has greeted it.
//!
//! A virtio-serial port is one pipe for all hosts, one after the other. At a vsock port, each comes
//! on a connection of its own. One that greets the guest takes the place of the former, whose
//! connection may be dead without a sign of it, and whose streams end.

use std::future::pending;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use nix::libc::VMADDR_CID_HOST;
use nix::sys::socket::{SockFlag, VsockAddr, accept4, getpeername};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::time::sleep;

use super::console::console;
use super::files::{File, non_blocking};
use crate::link::{self, GuestHello, HostHello, LinkError};

/// How long to wait where there is no event to wait for.
const PAUSE: Duration = Duration::from_millis(100);
/// The most bytes that are written to a vsock connection at once. Linux puts up to so many in one
/// piece of memory of 32 KiB, together with what it keeps of them, and so in one buffer of the
/// virtqueue. Firecracker before 1.14 corrupts packets of several buffers, and vhost-device-vsock
/// drops them.
const MAX_WRITE: usize = (32 << 10) - (1 << 10);

/// Where hosts reach the agent: non-blocking, and open since before anything of the image ran.
#[derive(Debug)]
pub enum AgentPort {
    /// A pipe that leads to the host.
    Pipe(OwnedFd),
    /// A vsock socket that listens.
    Vsock(OwnedFd),
}

/// Where connections of hosts come from.
pub(super) trait Port {
    /// A connection.
    type Pipe: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for a connection. Nothing is lost if the wait is given up.
    async fn connection(&mut self) -> BufReader<Self::Pipe>;

    /// Takes a connection back whose link has ended.
    fn ended(&mut self, pipe: BufReader<Self::Pipe>);
}

/// A pipe that is one host's after the other.
pub(super) struct SharedPipe<T> {
    /// While no host has it.
    pipe: Option<BufReader<T>>,
    has_ended: bool,
}

impl<T: AsyncRead> SharedPipe<T> {
    pub(super) fn new(pipe: T) -> Self {
        SharedPipe { pipe: Some(link::for_answers(pipe)), has_ended: false }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Port for SharedPipe<T> {
    type Pipe = T;

    async fn connection(&mut self) -> BufReader<T> {
        if self.pipe.is_some() && self.has_ended {
            // A port without a host reads as ended. There is no event for its return but a signal
            // that the file's owner may not be the one to get.
            sleep(PAUSE).await;
        }
        match self.pipe.take() {
            Some(pipe) => pipe,
            None => pending().await,
        }
    }

    fn ended(&mut self, pipe: BufReader<T>) {
        self.has_ended = true;
        self.pipe = Some(pipe);
    }
}

/// A vsock socket that listens.
pub(super) struct VsockListener(AsyncFd<OwnedFd>);

impl VsockListener {
    /// Takes `socket` over.
    ///
    /// # Errors
    /// If it cannot be polled.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        non_blocking(&socket)?;
        // SAFETY: an owned descriptor stays open, and the same, for as long as it is registered.
        Ok(VsockListener(unsafe { AsyncFd::register(socket)? }))
    }

    async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut guard = self.0.readable().await?;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            match guard.try_io(|socket| Ok(accept4(socket.as_raw_fd(), flags)?)) {
                // SAFETY: just made, owned by nobody else.
                Ok(accepted) => return accepted.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                Err(_would_block) => {}
            }
        }
    }
}

impl Port for VsockListener {
    type Pipe = VsockPipe;

    async fn connection(&mut self) -> BufReader<VsockPipe> {
        loop {
            let connection = self.accept().await.and_then(|socket| {
                let peer: VsockAddr = getpeername(socket.as_raw_fd())?;
                // Processes of the guest reach the port as well, where there is a loopback.
                (peer.cid() == VMADDR_CID_HOST).then(|| File::new(socket).map(VsockPipe)).transpose()
            });
            match connection {
                Ok(Some(pipe)) => return link::for_answers(pipe),
                Ok(None) => {}
                Err(error) => {
                    console(&format!("no connection: {error}"));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn ended(&mut self, pipe: BufReader<VsockPipe>) {
        drop(pipe);
    }
}

/// A vsock connection. It is never closed in one direction alone, which neither Firecracker nor
/// vhost-device-vsock passes on.
pub(super) struct VsockPipe(File);

impl AsyncRead for VsockPipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for VsockPipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(MAX_WRITE)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The hosts that come to a port.
pub(super) struct Hosts<P: Port> {
    port: P,
    hello: fn(&HostHello) -> GuestHello,
    /// The last connection on which no host has greeted the guest yet.
    greeting: Option<LocalBoxFuture<'static, Greeted<P::Pipe>>>,
}

type Greeted<T> = (BufReader<T>, Result<HostHello, LinkError>);

impl<P: Port> Hosts<P> {
    /// Those that come to `port`, each of which is answered by `hello`.
    pub(super) fn new(port: P, hello: fn(&HostHello) -> GuestHello) -> Self {
        Hosts { port, hello, greeting: None }
    }

    /// Waits until a host has greeted the guest. Nothing is lost if the wait is given up.
    pub(super) async fn next(&mut self) -> (BufReader<P::Pipe>, HostHello) {
        loop {
            let greeting = async {
                match &mut self.greeting {
                    Some(greeting) => greeting.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                pipe = self.port.connection() => self.greeting = Some(Box::pin(answer(pipe, self.hello))),
                (pipe, answered) = greeting => {
                    self.greeting = None;
                    match answered {
                        Ok(host) => return (pipe, host),
                        Err(error) => {
                            console(&format!("no link: {error}"));
                            self.port.ended(pipe);
                        }
                    }
                }
            }
        }
    }

    /// Takes a connection back whose link has ended.
    pub(super) fn ended(&mut self, pipe: BufReader<P::Pipe>) {
        self.port.ended(pipe);
    }
}

async fn answer<T: AsyncRead + AsyncWrite + Unpin>(
    mut pipe: BufReader<T>,
    hello: fn(&HostHello) -> GuestHello,
) -> Greeted<T> {
    let answered = link::answer(&mut pipe, hello).await;
    (pipe, answered)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::link::PROTOCOL;

    /// A port whose connections a test makes.
    struct Made(mpsc::UnboundedReceiver<DuplexStream>);

    impl Port for Made {
        type Pipe = DuplexStream;

        async fn connection(&mut self) -> BufReader<DuplexStream> {
            BufReader::new(self.0.recv().await.unwrap())
        }

        fn ended(&mut self, pipe: BufReader<DuplexStream>) {
            drop(pipe);
        }
    }

    fn hello(host: &HostHello) -> GuestHello {
        GuestHello { nonce: host.nonce.clone(), version: "0".into(), protocol: PROTOCOL, uptime_ms: 1 }
    }

    fn host(nonce: &str) -> HostHello {
        HostHello { nonce: nonce.into(), version: "0".into(), protocol: PROTOCOL, clock_ns: 0, identity: None }
    }

    #[tokio::test]
    async fn host_that_greets_is_not_kept_waiting_by_one_that_does_not() {
        let (connect, connections) = mpsc::unbounded_channel();
        let mut hosts = Hosts::new(Made(connections), hello);
        let [(silent, a), (mut gone, b), (mut speaks, c)] = std::array::from_fn(|_| tokio::io::duplex(1 << 12));
        gone.write_all(b"half a gree").await.unwrap();
        drop(gone);
        for end in [a, b, c] {
            connect.send(end).unwrap();
        }
        let greeting = host("n1");
        let (answered, (_pipe, greeted)) = tokio::join!(link::handshake(&mut speaks, &greeting), hosts.next());
        assert_eq!((answered.unwrap().nonce, greeted.nonce), ("n1".to_owned(), "n1".to_owned()));
        // Its connection was given up for those that came after it.
        let mut silent = silent;
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn greeting_is_not_lost_when_the_wait_for_it_is_given_up() {
        let (connect, connections) = mpsc::unbounded_channel();
        let mut hosts = Hosts::new(Made(connections), hello);
        let (mut ours, theirs) = tokio::io::duplex(1 << 12);
        connect.send(theirs).unwrap();
        let line = format!("\nbanger {}\n", serde_json::to_string(&host("n2")).unwrap());
        let (first, second) = line.split_at(line.len() / 2);
        ours.write_all(first.as_bytes()).await.unwrap();
        tokio::time::timeout(Duration::from_millis(20), hosts.next()).await.err().unwrap();
        ours.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(hosts.next().await.1.nonce, "n2");
    }

    #[tokio::test]
    async fn write_to_vsock_is_no_longer_than_one_buffer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut pipe = VsockPipe(File::new(ours.into()).unwrap());
        let sent: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        assert_eq!(pipe.write(&sent).await.unwrap(), MAX_WRITE);
        pipe.write_all(&sent[MAX_WRITE..]).await.unwrap();
        // The other direction stays open: nothing is closed in one alone.
        pipe.shutdown().await.unwrap();
        let mut theirs = File::new(theirs.into()).unwrap();
        let mut received = vec![0; sent.len()];
        theirs.read_exact(&mut received).await.unwrap();
        assert!(received == sent);
        assert!(tokio::time::timeout(Duration::from_millis(20), theirs.read(&mut [0])).await.is_err());
    }
}
