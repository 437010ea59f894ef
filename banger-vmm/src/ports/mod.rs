//! Ports and Unix sockets of the host that lead into a VM: what they are called, and what is kept
//! of them.
//!
//! While the VM runs, its supervisor listens and keeps the list; while it does not, who holds the
//! VM's lock may change that.

mod store;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::store::check_forwards;
pub(crate) use self::store::{matching, place, read, write};

/// A VM has no more of them.
pub const MAX_PORTS: usize = 64;

/// Where the host listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostEnd {
    /// TCP; port 0 only before one was chosen.
    Tcp(SocketAddr),
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
}

/// What it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestEnd {
    /// TCP, on the guest's loopback.
    Port(u16),
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
}

/// A port or socket of the host that leads into a VM. As text: `[ADDRESS:]PORT:PORT`, each side of
/// which may be a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// Where the host listens.
    pub host: HostEnd,
    /// What it leads to.
    pub guest: GuestEnd,
    /// Any port of the host's is as good: the one that is chosen is kept for as long as it is free.
    #[serde(default)]
    pub any: bool,
}

/// Which of a VM's are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortName {
    /// This port, at whatever address.
    Port(u16),
    /// The one that listens here.
    At(HostEnd),
}

/// How one of a VM's is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Which.
    pub forward: PortForward,
    /// Why nothing listens on the host. None: the supervisor listens.
    pub problem: Option<String>,
}

impl HostEnd {
    /// The port, if it is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            HostEnd::Tcp(address) => Some(address.port()),
            HostEnd::Unix(_) => None,
        }
    }
}

impl fmt::Display for HostEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostEnd::Tcp(address) => address.fmt(f),
            HostEnd::Unix(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for GuestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuestEnd::Port(port) => port.fmt(f),
            GuestEnd::Unix(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortName::Port(port) => port.fmt(f),
            PortName::At(host) => host.fmt(f),
        }
    }
}

impl FromStr for PortForward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let may_be = || {
            "it is HOST:GUEST, such as `8080:80`, `0.0.0.0:8080:80` or `/tmp/docker.sock:/run/docker.sock`".to_owned()
        };
        // A path may have colons in it: a port follows the last one of all, or else a path the
        // first `:/`.
        let is_port = |guest: &str| guest.parse::<u16>().is_ok() || !text.contains(":/");
        let last = text.rsplit_once(':').filter(|(_, guest)| is_port(guest));
        let (host, guest) = last.or_else(|| text.split_once(":/")).ok_or_else(may_be)?;
        let guest = match last {
            Some(_) => match guest.parse() {
                Ok(port @ 1..) => GuestEnd::Port(port),
                _ => return Err(format!("`{guest}` is no port from 1 to 65535")),
            },
            None => GuestEnd::Unix(socket(&text[host.len() + 1..])?),
        };
        let host = match host.parse()? {
            PortName::Port(port) => HostEnd::Tcp((Ipv4Addr::LOCALHOST, port).into()),
            PortName::At(host) => host,
        };
        let any = host.port() == Some(0);
        Ok(PortForward { host, guest, any })
    }
}

impl FromStr for PortName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(PortName::At(HostEnd::Unix(socket(text)?)));
        }
        let port = |text: &str| text.parse().map_err(|_| format!("`{text}` is no port, and no absolute path"));
        let Some((address, number)) = text.rsplit_once(':') else { return Ok(PortName::Port(port(text)?)) };
        let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
        let ip: IpAddr = bare.parse().map_err(|_| format!("`{address}` is no IP address"))?;
        Ok(PortName::At(HostEnd::Tcp((ip, port(number)?).into())))
    }
}

/// A path that a socket can have: unix(7) has room for 107 bytes.
fn socket(path: &str) -> Result<PathBuf, String> {
    match UnixAddress::from_pathname(Path::new(path)) {
        // Nothing that a terminal would take for more than a name.
        Ok(_) if !path.contains(char::is_control) => Ok(path.into()),
        _ => Err(format!("`{path}` is no path for a socket, which has at most 107 bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> HostEnd {
        HostEnd::Tcp(address.parse().unwrap())
    }

    #[test]
    fn forward_parses_docker_and_ssh_syntax() {
        let parsed = |text: &str| {
            let PortForward { host, guest, any } = text.parse().unwrap();
            (host, guest, any)
        };
        let unix = |path: &str| HostEnd::Unix(path.into());
        let socket = |path: &str| GuestEnd::Unix(path.into());
        assert_eq!(parsed("8080:80"), (tcp("127.0.0.1:8080"), GuestEnd::Port(80), false));
        assert_eq!(parsed("0:80"), (tcp("127.0.0.1:0"), GuestEnd::Port(80), true));
        assert_eq!(parsed("0.0.0.0:1:65535"), (tcp("0.0.0.0:1"), GuestEnd::Port(65535), false));
        assert_eq!(parsed("[::1]:8080:80"), (tcp("[::1]:8080"), GuestEnd::Port(80), false));
        assert_eq!(parsed("8080:/run/a.sock"), (tcp("127.0.0.1:8080"), socket("/run/a.sock"), false));
        assert_eq!(parsed("127.0.0.2:8:/a"), (tcp("127.0.0.2:8"), socket("/a"), false));
        assert_eq!(parsed("/tmp/s:80"), (unix("/tmp/s"), GuestEnd::Port(80), false));
        assert_eq!(parsed("/tmp/s:/run/a:b"), (unix("/tmp/s"), socket("/run/a:b"), false));
        assert_eq!(parsed("/tmp/a:b:80"), (unix("/tmp/a:b"), GuestEnd::Port(80), false));
    }

    #[test]
    fn invalid_forwards_are_errors() {
        let long = format!("/{}:80", "x".repeat(107));
        for (text, what) in [
            ("", "HOST:GUEST"),
            ("80", "HOST:GUEST"),
            (":80", "`` is no port"),
            ("80:", "`` is no port"),
            ("80:0", "no port from 1"),
            ("80:65536", "no port from 1"),
            ("65536:80", "`65536` is no port"),
            ("-1:80", "`-1` is no port"),
            ("localhost:80:80", "`localhost` is no IP address"),
            ("a/b:80", "no absolute path"),
            ("80:a/b", "`a/b` is no port"),
            (&long, "107 bytes"),
            ("/a\0:80", "no path for a socket"),
            ("/a\x1b:80", "no path for a socket"),
        ] {
            let error = text.parse::<PortForward>().unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }

    #[test]
    fn port_name_parses_host_port_or_address() {
        assert_eq!("80".parse(), Ok(PortName::Port(80)));
        assert_eq!("[::]:80".parse(), Ok(PortName::At(tcp("[::]:80"))));
        assert_eq!("/a:b".parse(), Ok(PortName::At(HostEnd::Unix("/a:b".into()))));
        assert!("box".parse::<PortName>().is_err());
    }
}
