//! Names of hosts, as the guest knows them. A static binary has no NSS: what is asked is hosts(5),
//! and then the name servers of resolv.conf(5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::pin;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use resolv_conf::{Config, ScopedIp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a name server may take, each time it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the other kind of address is waited for when there are addresses of one kind.
const RESOLUTION_DELAY: Duration = Duration::from_millis(500);
/// How often all of them are asked.
const ROUNDS: usize = 2;
/// How many are asked: resolv.conf(5), MAXNS.
const MAX_SERVERS: usize = 3;
/// How many domains of `search` are gone through.
const MAX_DOMAINS: usize = 6;
/// What of an answer by UDP is read: without EDNS no more is sent, RFC 1035, 4.2.1. A longer one
/// comes by TCP.
const MAX_ANSWER: usize = 512;

/// The addresses of `host`, the best first.
///
/// # Errors
/// If it has none, or nobody who would know answers.
pub(super) async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let known = in_hosts(&read("/etc/hosts"), host);
    if !known.is_empty() {
        return Ok(known);
    }
    let configuration = parsed(&std::fs::read("/etc/resolv.conf").unwrap_or_default());
    look_up(&candidates(&configuration, host)?, &name_servers(&configuration)).await
}

/// The addresses of the first of `names` that has some.
async fn look_up(names: &[Name], servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name is not known there");
    for name in names {
        match ask(name, servers).await {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) => {}
            // The next name would be asked for in vain too.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// What hosts(5) has of a name.
fn in_hosts(hosts: &str, host: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    };
    hosts.lines().filter_map(address).collect()
}

/// What resolv.conf(5) says. A line that cannot be understood is none.
fn parsed(configuration: &[u8]) -> Config {
    Config::parse_with_errors(configuration).0
}

fn name_servers(configuration: &Config) -> Vec<SocketAddr> {
    let server = |server: &ScopedIp| match server {
        ScopedIp::V4(address) => Some(SocketAddr::from((*address, 53))),
        ScopedIp::V6(address, zone) => {
            let zone = zone.as_ref().map_or(Some(0), |zone| zone.parse().ok().or_else(|| interface(zone)))?;
            Some(SocketAddrV6::new(*address, 53, 0, zone).into())
        }
    };
    configuration.nameservers.iter().filter_map(server).take(MAX_SERVERS).collect()
}

/// The number of the interface of this name: netdevice(7).
fn interface(name: &str) -> Option<u32> {
    let path = std::path::Path::new("/sys/class/net").join(name).join("ifindex");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The names to ask for, in the order of resolv.conf(5): one with as many dots as `ndots` says is
/// first asked for as it is, another one in the domains of `search` first. One that ends with a dot
/// is asked for as it is, and no other.
fn candidates(configuration: &Config, host: &str) -> io::Result<Vec<Name>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "that is no name of a host");
    let name = Name::from_ascii(host).ok().filter(|name| host.is_ascii() && name.num_labels() > 0);
    let name = name.ok_or_else(invalid)?;
    if name.is_fqdn() {
        return Ok(vec![name]);
    }
    let domains = configuration.get_last_search_or_domain().filter_map(|domain| Name::from_ascii(domain).ok());
    // One that becomes too long is nobody's.
    let mut names: Vec<_> =
        domains.take(MAX_DOMAINS).filter_map(|domain| name.clone().append_domain(&domain).ok()).collect();
    let dots = host.bytes().filter(|byte| *byte == b'.').count();
    let first = if dots >= configuration.ndots as usize { 0 } else { names.len() };
    let mut as_it_is = name;
    as_it_is.set_fqdn(true);
    names.insert(first, as_it_is);
    Ok(names)
}

/// What one of `servers` knows of a name: one that does not answer, or fails, leaves it to the next
/// one.
async fn ask(name: &Name, servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "there is no name server to ask");
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        let (first, second) = both(name, *server).await;
        match (first, second) {
            (Ok(mut found), Ok(more)) => {
                found.extend(more);
                return Ok(found);
            }
            // An answer that is lost takes nothing from the other.
            (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => return Ok(found),
            (Err(error), _) | (_, Err(error)) => failure = error,
        }
    }
    Err(failure)
}

type Lookup = io::Result<Vec<IpAddr>>;

/// The addresses of both kinds, those of IPv4 first. Where there are some of one kind, the other is
/// not waited for as long: RFC 8305, 3.
async fn both(name: &Name, server: SocketAddr) -> (Lookup, Lookup) {
    let (mut first, mut second) =
        (pin!(query(name, RecordType::A, server)), pin!(query(name, RecordType::AAAA, server)));
    let is_enough = |found: &Lookup| found.as_ref().is_ok_and(|found| !found.is_empty());
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    tokio::select! {
        found = &mut first => {
            let patience = if is_enough(&found) { RESOLUTION_DELAY } else { PATIENCE };
            (found, timeout(patience, second).await.unwrap_or_else(|_| Err(late())))
        }
        found = &mut second => {
            let patience = if is_enough(&found) { RESOLUTION_DELAY } else { PATIENCE };
            (timeout(patience, first).await.unwrap_or_else(|_| Err(late())), found)
        }
    }
}

/// Asks one name server for addresses of one kind.
async fn query(name: &Name, kind: RecordType, server: SocketAddr) -> Lookup {
    let answered = timeout(PATIENCE, async {
        let question = question(name, kind);
        match by_udp(&question, server).await? {
            Answer::Truncated => by_tcp(&question, server).await,
            answer => Ok(answer),
        }
    });
    let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "no name server answers");
    match answered.await.map_err(silent)?? {
        Answer::Addresses(found) => Ok(found),
        Answer::Failed(code) => Err(io::Error::other(format!("the name server {} fails: {code}", server.ip()))),
        Answer::Truncated => Err(io::Error::other(format!("the name server {} sends parts of answers", server.ip()))),
    }
}

async fn by_udp(question: &Message, server: SocketAddr) -> io::Result<Answer> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // What is not from this address is not received.
    socket.connect(server).await?;
    socket.send(&bytes_of(question)?).await?;
    let mut answer = [0; MAX_ANSWER];
    loop {
        let count = socket.recv(&mut answer).await?;
        if let Some(answer) = answer_in(&answer[..count], question) {
            return Ok(answer);
        }
    }
}

/// By TCP each message has its length before it: RFC 1035, 4.2.2.
async fn by_tcp(question: &Message, server: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = bytes_of(question)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    answer_in(&answer, question).ok_or_else(|| io::Error::other("the name server answers something else"))
}

/// A query of a random number, RFC 1035, 4.1.
fn question(name: &Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    message
}

fn bytes_of(question: &Message) -> io::Result<Vec<u8>> {
    question.to_vec().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// What a name server has said.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// None: the name has no addresses of this kind, or does not exist.
    Addresses(Vec<IpAddr>),
    /// There is more than fits.
    Truncated,
    /// It cannot say.
    Failed(ResponseCode),
}

/// The answer in `bytes`; none: it is not one to this question.
fn answer_in(bytes: &[u8], question: &Message) -> Option<Answer> {
    let [id_high, id_low, flags, ..] = *bytes else { return None };
    // No message is longer: RFC 1035, 4.2.2.
    if bytes.len() > usize::from(u16::MAX) {
        return None;
    }
    if u16::from_be_bytes([id_high, id_low]) != question.metadata.id || flags & 0x80 == 0 {
        return None;
    }
    // QR and TC, RFC 1035, 4.1.1. What comes after it may end anywhere.
    if flags & 0x02 != 0 {
        return Some(Answer::Truncated);
    }
    let message = Message::from_vec(bytes).ok()?;
    let (asked, [answered]) = (question.queries.first()?, &message.queries[..]) else { return None };
    let is_same = answered.query_type == asked.query_type && answered.name.eq_ignore_root_case(&asked.name);
    if message.metadata.message_type != MessageType::Response || !is_same {
        return None;
    }
    let address = |data: &RData| match data {
        RData::A(address) if asked.query_type == RecordType::A => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) if asked.query_type == RecordType::AAAA => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    Some(match message.metadata.response_code {
        ResponseCode::NoError => {
            Answer::Addresses(message.answers.iter().filter_map(|record| address(&record.data)).collect())
        }
        ResponseCode::NXDomain => Answer::Addresses(Vec::new()),
        code => Answer::Failed(code),
    })
}

#[cfg(feature = "fuzzing")]
pub(in crate::guest) mod fuzzing;
#[cfg(test)]
mod tests;
