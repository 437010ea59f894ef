//! What listens in the guest, for whom wants to know.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::{SinkExt, StreamExt};

use crate::frame::Frame;
use crate::guest::stream::{Reader, Writer};
use crate::protocol::AgentReply;
use crate::protocol::forward::Listeners;

/// How often is looked. The kernel tells nobody when a socket begins to listen: sock_diag(7) has
/// events for those that go alone.
const PACE: Duration = Duration::from_secs(1);
/// More sockets than this are not looked at, in each table,
const MAX_SOCKETS: usize = 4096;
/// and more ports than this are not told of: the lowest are.
const MAX_TOLD: usize = 1024;

/// Tells what listens, and again when that changes, for as long as the stream is open.
pub(in crate::guest) async fn watch(mut reader: Reader, mut writer: Writer) {
    let mut told = listeners();
    let mut sent = writer.send(Frame::control(&AgentReply::Ok(&told))).await;
    while sent.is_ok() {
        tokio::select! {
            // The host says nothing more: this is the end.
            _ = reader.next() => break,
            () = tokio::time::sleep(PACE) => {}
        }
        let now = listeners();
        if now != told {
            sent = writer.send(Frame::control(&now)).await;
            told = now;
        }
    }
    let _ = writer.close().await;
}

/// What listens where a connection to the guest's loopback comes.
fn listeners() -> Listeners {
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A kernel without IPv6 has one of them only.
        let Ok(file) = File::open(table) else { continue };
        ports.extend(listening(BufReader::new(file)));
    }
    Listeners { ports: ports.into_iter().take(MAX_TOLD).collect() }
}

/// The ports of a table as proc_net(5) has it. Those that listen come first in it: however many
/// connections there are, none is read.
fn listening(table: impl BufRead) -> impl Iterator<Item = u16> {
    let sockets = table.lines().map_while(Result::ok).skip(1).map_while(|line| socket(&line));
    sockets.take(MAX_SOCKETS).filter(|(address, _)| is_loopback(*address)).map(|(_, port)| port)
}

/// Where a socket listens; none: it does something else.
fn socket(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let mut bytes = Vec::new();
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        // In memory it is as on the wire.
        bytes.extend(word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// Whether a connection to `localhost` comes there. Others, such as a resolver's 127.0.0.53, are
/// not for everybody.
fn is_loopback(address: IpAddr) -> bool {
    address.is_unspecified() || address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn ports(lines: &[&str]) -> Vec<u16> {
        let table =
            HEAD.to_owned() + &lines.iter().map(|line| format!("   0: {line} 00000000:0 0 0 1\n")).collect::<String>();
        listening(table.as_bytes()).collect()
    }

    #[test]
    fn listeners_on_loopback_or_any_address_are_reported() {
        let v4 = ["0100007F:0BB8 00000000:0000 0A", "00000000:0050 00000000:0000 0A", "3500007F:0035 00000000:0000 0A"];
        assert_eq!(ports(&v4), [3000, 80]);
        let v6 = |address: &str| format!("{address}:1F90 00000000000000000000000000000000:0000 0A");
        for (address, ports_there) in [
            ("00000000000000000000000000000000", &[8080][..]),
            ("00000000000000000000000001000000", &[8080]),
            ("0000000000000000FFFF00000100007F", &[8080]),
            ("000080FE00000000FF005450563412FE", &[]),
        ] {
            assert_eq!(ports(&[&v6(address)]), ports_there, "{address}");
        }
        // Nothing is read behind the first that is connected.
        assert!(ports(&["0100007F:0BB8 0100007F:0001 01", v4[1]]).is_empty());
        assert!(ports(&["nonsense"]).is_empty());
    }

    #[test]
    fn listeners_are_read_from_proc_net_tcp() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(listening(BufReader::new(File::open("/proc/net/tcp").unwrap())).any(|there| there == port));
    }
}
