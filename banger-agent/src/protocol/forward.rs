//! Connections with what listens in the guest, and with what connects there.
//!
//! [`super::AgentRequest::Forward`] connects to an address in the guest; the agent answers with
//! `AgentReply<()>`. From then on both sides send data on [`DATA`], and [`Ended`] when no more
//! comes from them. Nothing in a connection but that: a stream that ends without [`Ended`] is a
//! connection that broke.
//!
//! [`super::AgentRequest::Listen`] listens in the guest for as long as its stream is open; the
//! agent answers with `AgentReply<Listening>`, and sends [`Incoming`] for each connection that
//! comes. Each waits for a stream of its own: [`super::AgentRequest::Accept`] takes it, is answered
//! with `AgentReply<()>`, and goes on as a connection to an address does.
//!
//! [`super::AgentRequest::Listeners`] is answered with `AgentReply<Listeners>`, and with
//! [`Listeners`] again whenever that has changed, for as long as its stream is open.

use serde::{Deserialize, Serialize};

use super::WireBytes;

/// Data channel, both ways: the connection's bytes.
pub const DATA: u8 = 1;
/// The most connections that may wait for the host, at each address that is listened at. More wait
/// in the guest's kernel.
pub const MAX_WAITING: usize = 8;

/// Where something listens in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or an address, as the guest understands it. Empty, to listen at: all addresses.
        host: String,
        /// 0, to listen at: any that is free.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its absolute path. Empty, to listen at: in a new folder of the user's own.
        path: WireBytes,
    },
}

/// The request to connect to an address in the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forward {
    /// Where to connect to.
    pub to: Address,
}

/// The request to listen at an address in the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listen {
    /// Where to listen. Nothing else may listen there.
    pub at: Address,
    /// Whom a Unix socket belongs to, who alone may connect to it: as in
    /// [`super::exec::Exec::user`].
    pub user: Option<String>,
}

/// The answer to [`Listen`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The address, with the port or path that was chosen.
    pub at: Address,
}

/// A control frame from the agent: somebody has connected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Incoming {
    /// Names the connection in [`Accept`].
    pub token: u64,
    /// The IP address that it comes from; empty for a Unix socket.
    pub address: String,
    /// The port that it comes from; 0 for a Unix socket.
    pub port: u16,
}

/// What listens in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// TCP ports of the guest's loopback interface, in ascending order.
    pub ports: Vec<u16>,
}

/// The request to take a connection.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Accept {
    /// [`Incoming::token`] of the connection.
    pub token: u64,
}

/// The control frame of a connection: no more data comes from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Nothing more comes, as after TCP's FIN.
    Ended,
}
