//! Forwarded connections: to the guest (`-L`, `-D`), and from the guest (`-R`, and to the client's
//! SSH agent). RFC 4254, 7.

use std::pin::pin;
use std::sync::Arc;

use banger::banger_agent::frame::FrameError;
use banger::banger_agent::protocol::forward::{Accept, Address, Forward, Incoming, Listen, Listening};
use banger::banger_agent::protocol::{AgentRequest, WireBytes};
use banger::banger_agent::relay::relay;
use banger::error::CommandError;
use futures::StreamExt;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelOpenFailure, ChannelWriteHalf};
use tokio::sync::Semaphore;
use tokio_util::io::StreamReader;

use super::backlog::Backlog;
use super::guest::{Guest, Reader, Writer};

/// The most simultaneous connections from one forwarded address in the guest.
const MAX_CONNECTIONS: usize = 16;

/// Connects a channel to an address in the guest.
pub(super) async fn connect(channel: Channel<Msg>, to: Address, reply: ChannelOpenHandle, guest: Guest) {
    match guest.open::<()>(&AgentRequest::Forward(Forward { to })).await {
        Ok(((), reader, mut writer)) => {
            reply.accept().await;
            // Both ends learn by their being dropped if it breaks.
            let _ = carry_channel(channel, reader, &mut writer).await;
        }
        Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
    }
}

/// Where connections from the guest are forwarded to.
#[derive(Clone)]
pub(super) enum Destination {
    /// The client's forward of a port, by the address and port that the client named.
    Tcp(String, u32),
    /// The client's forward of a Unix socket, by the path that the client named.
    Unix(String),
    /// The client's SSH agent.
    Agent,
}

/// Listens in the guest, and returns the address.
pub(super) async fn listen(
    guest: &Guest,
    at: Address,
    user: Option<String>,
) -> Result<(Address, Reader), CommandError> {
    let (Listening { at }, reader, writer) = guest.open(&AgentRequest::Listen(Listen { at, user })).await?;
    // Nothing more is to be said. The stream stays open by its other half.
    writer.into_inner().forget();
    Ok((at, reader))
}

/// Forwards the connections to a listener in the guest, until the guest ends it or the task is
/// dropped.
pub(super) async fn serve(mut reader: Reader, destination: Destination, guest: Guest, handle: Handle) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // What the guest announces beyond that waits unread.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let incoming = match reader.next().await.unwrap_or(Err(FrameError::Ended)).and_then(|frame| frame.message()) {
            Ok(incoming) => incoming,
            Err(_) => return,
        };
        while connections.try_join_next().is_some() {}
        let (destination, guest, handle) = (destination.clone(), guest.clone(), handle.clone());
        connections.spawn(async move {
            // One that breaks, or is not wanted, is gone.
            let _ = take(incoming, destination, &guest, &handle).await;
            drop(place);
        });
    }
}

async fn take(incoming: Incoming, destination: Destination, guest: &Guest, handle: &Handle) -> Option<()> {
    let Incoming { token, address, port } = incoming;
    let address: String = address.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    let channel = match destination {
        Destination::Tcp(host, of) => handle.channel_open_forwarded_tcpip(host, of, address, port.into()).await.ok()?,
        Destination::Unix(path) => handle.channel_open_forwarded_streamlocal(path).await.ok()?,
        Destination::Agent => handle.channel_open_agent().await.ok()?,
    };
    let ((), reader, mut writer) = guest.open(&AgentRequest::Accept(Accept { token })).await.ok()?;
    carry_channel(channel, reader, &mut writer).await.ok()
}

/// Relays bytes between a channel and a stream of the guest. The channel is closed at the end, and
/// if the future is dropped.
async fn carry_channel(channel: Channel<Msg>, reader: Reader, writer: &mut Writer) -> Result<(), FrameError> {
    let (incoming, outgoing) = channel.split();
    let sent = outgoing.make_writer();
    let _closing = Closing(Some(outgoing));
    let received = pin!(Backlog::new(incoming).data());
    let received = StreamReader::new(received);
    relay(tokio::io::join(received, sent), reader, writer).await
}

struct Closing(Option<ChannelWriteHalf<Msg>>);

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take() {
            // A client that is gone has closed it.
            tokio::spawn(async move { channel.close().await });
        }
    }
}

/// The TCP address that a client names; `None` if the port is out of range.
pub(super) fn tcp(host: &str, port: u32) -> Option<Address> {
    let host = if host == "*" { "" } else { host };
    Some(Address::Tcp { host: host.to_owned(), port: u16::try_from(port).ok()? })
}

/// The address of the Unix socket that a client names.
pub(super) fn unix(path: &str) -> Address {
    Address::Unix { path: WireBytes::from(path) }
}
