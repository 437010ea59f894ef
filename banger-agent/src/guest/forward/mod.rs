//! Connections to addresses in the guest, and from there: the guest's side of
//! [`crate::protocol::forward`].

mod listen;
mod resolve;
mod watch;

#[cfg(feature = "fuzzing")]
pub(super) use self::resolve::fuzzing;

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::SinkExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

pub(super) use self::listen::{Waiting, listen};
pub(super) use self::watch::watch;
use super::stream::{Reader, Writer};
use crate::frame::Frame;
use crate::protocol::forward::{Accept, Address, Forward};
use crate::protocol::{AgentFailure, AgentFailureKind, AgentReply};
use crate::relay::relay;

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Either kind of connection.
type Socket = Either<TcpStream, UnixStream>;

/// Connects, and carries bytes until both sides have ended.
pub(super) async fn connect(request: Forward, reader: Reader, writer: Writer) {
    let connected = timeout(CONNECT_LIMIT, open(&request.to)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
        let message = format!("cannot connect to {} in the guest: {error}", describe(&request.to));
        AgentFailure::new(AgentFailureKind::Other, message)
    });
    converse(connected, reader, writer).await;
}

/// Takes a connection that has come from the guest, and carries bytes until both sides have ended.
pub(super) async fn accept(request: Accept, waiting: &Waiting, reader: Reader, writer: Writer) {
    let gone = || AgentFailure::new(AgentFailureKind::Other, "the connection does not wait any more");
    converse(waiting.take(request.token).ok_or_else(gone), reader, writer).await;
}

async fn open(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Unix { path } => Ok(Either::Right(UnixStream::connect(Path::new(path.as_os_str())).await?)),
        Address::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in resolve::addresses(host).await? {
                match TcpStream::connect((address, *port)).await {
                    Ok(stream) => return Ok(Either::Left(stream)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

async fn converse(connected: Result<Socket, AgentFailure>, reader: Reader, mut writer: Writer) {
    let (answer, socket) = match connected {
        Ok(socket) => (AgentReply::Ok(()), Some(socket)),
        Err(failure) => (AgentReply::Error(failure), None),
    };
    let told = writer.send(Frame::control(&answer)).await;
    if let (Ok(()), Some(socket)) = (told, socket) {
        if let Either::Left(tcp) = &socket {
            // What is typed shall go at once. Where the kernel does not listen, it goes all the
            // same.
            let _ = tcp.set_nodelay(true);
        }
        // Of one that breaks, the other end learns by this one's being dropped.
        let _ = relay(socket, reader, &mut writer).await;
    }
    let _ = writer.close().await;
}

/// An address in words.
fn describe(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } => format!("{host}:{port}"),
        Address::Unix { path } => format!("`{path}`"),
    }
}
