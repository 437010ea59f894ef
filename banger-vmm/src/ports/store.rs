//! What is kept of a VM's ports: `ports.json` in its folder; none is no file.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{HostEnd, MAX_PORTS, PortForward, PortName};
use crate::error::{Error, Result};
use crate::file;

const FILE: &str = "ports.json";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct PortsFile {
    format_version: u32,
    ports: Vec<PortForward>,
}

/// Reads the forwards of the VM in the folder `vm`.
pub(crate) fn read(vm: &Path) -> Result<Vec<PortForward>> {
    match file::read_json::<PortsFile>(&vm.join(FILE), FORMAT) {
        Ok(file) => Ok(file.ports),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Replaces the forwards of the VM in the folder `vm`.
pub(crate) fn write(vm: &Path, ports: Vec<PortForward>) -> Result<()> {
    match ports.is_empty() {
        true => file::remove_if_there(&vm.join(FILE)),
        false => file::write_json(&vm.join(FILE), &PortsFile { format_version: FORMAT, ports }),
    }
}

/// The index in `ports` of the forward that is wanted. None: it is new. The error says why it
/// cannot be one of them.
pub(crate) fn place(ports: &[PortForward], wanted: &PortForward) -> Result<Option<usize>, String> {
    let is_it = |port: &PortForward| match wanted.any {
        true => port.any && port.guest == wanted.guest && ip(&port.host) == ip(&wanted.host),
        false => port.host == wanted.host,
    };
    let Some(index) = ports.iter().position(is_it) else {
        return if ports.len() < MAX_PORTS {
            Ok(None)
        } else {
            Err(format!("a VM has at most {MAX_PORTS} forwarded ports"))
        };
    };
    let there = &ports[index].guest;
    if *there == wanted.guest { Ok(Some(index)) } else { Err(format!("{} leads to {there} already", wanted.host)) }
}

/// Checks that no two of these forward the same host address to different guest addresses.
///
/// # Errors
/// A sentence that names the first two that contradict each other.
pub fn check_forwards(wanted: &[PortForward]) -> Result<(), String> {
    for (index, port) in wanted.iter().enumerate().filter(|(_, port)| !port.any) {
        let before = wanted[..index].iter().filter(|before| !before.any);
        if let Some(other) = before.into_iter().find(|other| other.host == port.host && other.guest != port.guest) {
            return Err(format!("{} cannot lead to both {} and {}", port.host, other.guest, port.guest));
        }
    }
    Ok(())
}

/// For each of `ports`, whether one of `names` names it. The error says which of the names has
/// none.
pub(crate) fn matching(ports: &[PortForward], names: &[PortName]) -> Result<Vec<bool>, String> {
    let is_named = |port: &PortForward, name: &PortName| match name {
        PortName::Port(number) => port.host.port() == Some(*number),
        PortName::At(host) => port.host == *host,
    };
    if let Some(name) = names.iter().find(|name| !ports.iter().any(|port| is_named(port, name))) {
        return Err(format!("{name} is not forwarded"));
    }
    Ok(ports.iter().map(|port| names.iter().any(|name| is_named(port, name))).collect())
}

fn ip(host: &HostEnd) -> Option<std::net::IpAddr> {
    match host {
        HostEnd::Tcp(address) => Some(address.ip()),
        HostEnd::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports<const N: usize>(texts: [&str; N]) -> Vec<PortForward> {
        texts.map(|text| text.parse().unwrap()).into()
    }

    #[test]
    fn forwards_are_stored_until_the_last_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        let kept = ports(["80:80", "/a:/b", "0:1"]);
        write(folder.path(), kept.clone()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), kept);
        write(folder.path(), Vec::new()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        write(folder.path(), Vec::new()).unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(matches!(read(folder.path()), Err(Error::Damaged { .. })));
    }

    #[test]
    fn adding_an_existing_forward_finds_it() {
        let mut there = ports(["80:80", "0:80", "/a:/b"]);
        there[1].host = HostEnd::Tcp("127.0.0.1:4711".parse().unwrap());
        let place = |text: &str| place(&there, &text.parse().unwrap());
        assert_eq!(place("80:80"), Ok(Some(0)));
        assert_eq!(place("0:80"), Ok(Some(1)));
        assert_eq!(place("4711:80"), Ok(Some(1)));
        assert_eq!(place("/a:/b"), Ok(Some(2)));
        assert_eq!(place("0:81"), Ok(None));
        assert_eq!(place("127.0.0.2:80:80"), Ok(None));
        assert!(place("80:81").unwrap_err().contains("127.0.0.1:80 leads to 80 already"));
        let full = vec![there[0].clone(); MAX_PORTS];
        assert!(super::place(&full, &"81:81".parse().unwrap()).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn two_guest_ports_on_one_host_port_conflict() {
        let error = check_forwards(&ports(["80:80", "9000:9000", "9000:1"])).unwrap_err();
        assert_eq!(error, "127.0.0.1:9000 cannot lead to both 9000 and 1");
        assert!(
            check_forwards(&ports(["0:80", "0:81", "80:80", "80:80", "127.0.0.2:80:81", "/a:/b", "/b:/a"])).is_ok()
        );
    }

    #[test]
    fn port_without_address_matches_all_addresses() {
        let there = ports(["80:80", "127.0.0.2:80:80", "81:80", "/a:/b"]);
        let matching = |names: &[&str]| {
            matching(&there, &names.iter().map(|name| name.parse().unwrap()).collect::<Vec<PortName>>())
        };
        assert_eq!(matching(&["80"]), Ok(vec![true, true, false, false]));
        assert_eq!(matching(&["127.0.0.2:80", "/a"]), Ok(vec![false, true, false, true]));
        assert_eq!(matching(&["80", "82"]), Err("82 is not forwarded".to_owned()));
    }
}
