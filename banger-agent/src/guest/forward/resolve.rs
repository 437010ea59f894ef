//! Names of hosts, as the guest knows them. A static binary has no NSS: what is asked is hosts(5), and then the name servers of
//! resolv.conf(5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long a name server may take, each time it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often all of them are asked.
const ROUNDS: usize = 2;
/// What of an answer is read: without EDNS no more is sent, RFC 1035, 4.2.1.
const MAX_ANSWER: usize = 512;
/// The longest name, RFC 1035, 2.3.4.
const MAX_NAME: usize = 253;
const A: u16 = 1;
const AAAA: u16 = 28;

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
    let configuration = read("/etc/resolv.conf");
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name is not known there");
    for name in candidates(&configuration, host) {
        match ask(&name, &name_servers(&configuration)).await {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) => {}
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

fn name_servers(configuration: &str) -> Vec<SocketAddr> {
    let of_line = |line: &str| Some(SocketAddr::new(line.strip_prefix("nameserver")?.trim().parse().ok()?, 53));
    configuration.lines().filter_map(of_line).take(3).collect()
}

/// The names to ask for: a short one is looked for in the domains of `search`.
fn candidates(configuration: &str, host: &str) -> Vec<String> {
    let is_short = !host.contains('.');
    let domains = configuration.lines().filter(|_| is_short).filter_map(|line| line.strip_prefix("search "));
    let within = domains.flat_map(str::split_whitespace).take(6).map(|domain| format!("{host}.{domain}"));
    within.chain([host.to_owned()]).collect()
}

async fn ask(name: &str, servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "there is no name server to ask");
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        match timeout(PATIENCE, async { tokio::try_join!(query(name, A, *server), query(name, AAAA, *server)) }).await {
            Ok(Ok((mut found, more))) => {
                found.extend(more);
                return Ok(found);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, "no name server answers"),
        }
    }
    Err(failure)
}

async fn query(name: &str, kind: u16, server: SocketAddr) -> io::Result<Vec<IpAddr>> {
    use std::hash::{BuildHasher, Hasher};
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // What is not from this address is not received.
    socket.connect(server).await?;
    let id = std::hash::RandomState::new().build_hasher().finish() as u16;
    socket.send(&question(id, name, kind)?).await?;
    let mut answer = [0; MAX_ANSWER];
    loop {
        let count = socket.recv(&mut answer).await?;
        if let Some(found) = addresses_in(&answer[..count], id, kind) {
            return Ok(found);
        }
    }
}

/// A query, RFC 1035, 4.1.
fn question(id: u16, name: &str, kind: u16) -> io::Result<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.is_ascii();
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is no name of a host"));
    }
    // Recursion desired; one question.
    let mut query = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend([&kind.to_be_bytes()[..], &[0, 1]].concat());
    Ok(query)
}

/// The addresses that an answer brings; none: it is not the answer to this question.
fn addresses_in(answer: &[u8], id: u16, kind: u16) -> Option<Vec<IpAddr>> {
    let number = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let is_answer = number(0)? == id && answer.get(2)? & 0x80 != 0 && number(4)? == 1;
    if !is_answer {
        return None;
    }
    let mut at = after_name(answer, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..number(6)? {
        // An answer that was cut short has brought something all the same.
        let Some(head) = after_name(answer, at) else { break };
        let (Some(this), Some(length)) = (number(head), number(head + 8)) else { break };
        let Some(data) = answer.get(head + 10..head + 10 + usize::from(length)) else { break };
        if this == kind {
            match *data {
                [a, b, c, d] if kind == A => found.push(Ipv4Addr::new(a, b, c, d).into()),
                _ => found.extend(<[u8; 16]>::try_from(data).map(|octets| IpAddr::from(Ipv6Addr::from(octets)))),
            }
        }
        at = head + 10 + usize::from(length);
    }
    Some(found)
}

/// Where a name ends: with an empty label, or one that says where the rest is.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(feature = "fuzzing")]
pub(in crate::guest) mod fuzzing;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_configuration_are_read_as_they_are_written() {
        let hosts = "127.0.0.1 localhost\n10.0.0.7\tdb DB.lan # the database\n# 1.1.1.1 no\nfe80::1%2 odd\n::2 db\n";
        assert_eq!(in_hosts(hosts, "Db"), ["10.0.0.7".parse::<IpAddr>().unwrap(), "::2".parse().unwrap()]);
        assert!(in_hosts(hosts, "no").is_empty());
        let configuration = "# x\nsearch a.example b.example\nnameserver 10.0.2.3\nnameserver x\nnameserver ::1\n";
        assert_eq!(name_servers(configuration), ["10.0.2.3:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(candidates(configuration, "h"), ["h.a.example", "h.b.example", "h"]);
        assert_eq!(candidates(configuration, "h.c"), ["h.c"]);
    }

    #[test]
    fn an_answer_brings_addresses_whatever_else_it_has() {
        let query = question(7, "a.bc", A).unwrap();
        assert_eq!(query[12..], *b"\x01a\x02bc\0\0\x01\0\x01");
        let mut answer = query.clone();
        (answer[2], answer[7]) = (0x81, 2);
        // CNAME, then A, each of the name in the question.
        answer.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x01\0\x04\x01x\xc0\x0e");
        answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\x0a\0\0\x07");
        assert_eq!(addresses_in(&answer, 7, A), Some(vec!["10.0.0.7".parse().unwrap()]));
        assert_eq!(addresses_in(&answer, 7, AAAA), Some(vec![]));
        assert_eq!(addresses_in(&answer, 8, A), None);
        assert_eq!(addresses_in(&query, 7, A), None);
        for end in 0..answer.len() {
            let _ = addresses_in(&answer[..end], 7, A);
        }
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        for name in ["", "a..b", "ü.example", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(question(1, name, A).is_err(), "{name}");
        }
        assert!(question(1, "a.example.", A).is_ok());
    }

    #[tokio::test]
    async fn what_is_an_address_needs_nobody() {
        for (host, address) in [("10.1.2.3", "10.1.2.3"), ("[::1]", "::1"), ("::1", "::1")] {
            assert_eq!(addresses(host).await.unwrap(), [address.parse::<IpAddr>().unwrap()]);
        }
        assert_eq!(addresses("LocalHost").await.unwrap().len(), 2);
    }
}
