//! What the host tells the guest: the `banger.` words of the kernel command line.

use super::BootError;
use crate::boot_config::{AgentDevice, BootConfig, DiskConfig, DiskNaming, DiskRole, GuestIdentity};
use crate::net::NetInterface;

/// What holds for a guest that is told nothing, as hosts of earlier versions say nothing of
/// devices.
fn defaults() -> BootConfig {
    BootConfig {
        identity: GuestIdentity { hostname: "banger".to_owned(), machine_id: None, net: None },
        volatile: false,
        agent: AgentDevice::VirtioSerial("banger.0".to_owned()),
        disks: DiskConfig { naming: DiskNaming::Serial, attached: vec![DiskRole::Base, DiskRole::Disk] },
    }
}

/// Reads the words that are banger's and skips the others, which are the kernel's or the init's. As
/// the kernel does, the last of two equal words counts.
///
/// # Errors
/// [`BootError::Setting`] names the first word that is not understood.
pub(super) fn parse(line: &str) -> Result<BootConfig, BootError> {
    let mut config = defaults();
    let identity = &mut config.identity;
    for word in line.split_ascii_whitespace() {
        let Some(word) = word.strip_prefix("banger.") else {
            continue;
        };
        let bad = || BootError::Setting(format!("banger.{word}"));
        match word.split_once('=').unwrap_or((word, "")) {
            ("hostname", name) => identity.hostname = valid_hostname(name).ok_or_else(bad)?.to_owned(),
            ("machine_id", id) => identity.machine_id = Some(valid_machine_id(id).ok_or_else(bad)?.to_owned()),
            ("net", net) => identity.net = Some(interface(net).ok_or_else(bad)?),
            ("agent", device) => config.agent = agent_device(device).ok_or_else(bad)?,
            ("disks", disks) => config.disks = disk_config(disks).ok_or_else(bad)?,
            ("volatile", "") => config.volatile = true,
            _ => return Err(bad()),
        }
    }
    Ok(config)
}

/// Parses `<address>/<prefix>,<gateway>,<name server>`.
fn interface(text: &str) -> Option<NetInterface> {
    let mut fields = text.split(',');
    let (address, prefix) = fields.next()?.split_once('/')?;
    let interface = NetInterface {
        address: address.parse().ok()?,
        prefix: prefix.parse().ok().filter(|bits| *bits <= 32)?,
        gateway: fields.next()?.parse().ok()?,
        dns: fields.next()?.parse().ok()?,
    };
    fields.next().is_none().then_some(interface)
}

/// Parses `virtio-serial:<name>` or `vsock:<port>`.
fn agent_device(text: &str) -> Option<AgentDevice> {
    match text.split_once(':')? {
        ("virtio-serial", name) if !name.is_empty() => Some(AgentDevice::VirtioSerial(name.to_owned())),
        ("vsock", port) => port.parse().ok().map(AgentDevice::Vsock),
        _ => None,
    }
}

/// Parses `<naming>:<role>,<role>…`. The order tells disks apart only if it names both that every
/// VM has, and none twice.
fn disk_config(text: &str) -> Option<DiskConfig> {
    const NAMINGS: [DiskNaming; 2] = [DiskNaming::Serial, DiskNaming::Order];
    const ROLES: [DiskRole; 4] = [DiskRole::Base, DiskRole::Disk, DiskRole::Workspace, DiskRole::Modules];
    let (naming, roles) = text.split_once(':')?;
    let naming = NAMINGS.into_iter().find(|known| known.name() == naming)?;
    let role = |name: &str| ROLES.into_iter().find(|known| known.name() == name);
    let attached: Vec<_> = roles.split(',').map(role).collect::<Option<_>>()?;
    let count = |wanted| attached.iter().filter(|role| **role == wanted).count();
    let is_complete = count(DiskRole::Base) == 1
        && count(DiskRole::Disk) == 1
        && count(DiskRole::Workspace) <= 1
        && count(DiskRole::Modules) <= 1;
    (naming == DiskNaming::Serial || is_complete).then_some(DiskConfig { naming, attached })
}

/// As `hostname(7)` has it, up to the 64 bytes that the kernel keeps.
fn valid_hostname(name: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let ends = |c: char| c == '-' || c == '.';
    let valid =
        (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(ends) && !name.ends_with(ends);
    valid.then_some(name)
}

fn valid_machine_id(id: &str) -> Option<&str> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (id.len() == 32 && id.bytes().all(hex)).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::boot_config::AGENT_PORT;

    #[test]
    fn parse_takes_banger_words_and_ignores_others() {
        let line = "console=ttyS0 quiet panic=-1 banger.hostname=repo-1 \
                    banger.machine_id=0123456789abcdef0123456789abcdef \
                    banger.net=10.0.2.15/24,10.0.2.2,10.0.2.3 banger.volatile\n";
        let config = parse(line).unwrap();
        assert_eq!(config.identity.hostname, "repo-1");
        assert_eq!(config.identity.machine_id.unwrap().len(), 32);
        assert_eq!(
            config.identity.net,
            Some(NetInterface {
                address: Ipv4Addr::new(10, 0, 2, 15),
                prefix: 24,
                gateway: Ipv4Addr::new(10, 0, 2, 2),
                dns: Ipv4Addr::new(10, 0, 2, 3),
            })
        );
        assert!(config.volatile);
    }

    #[test]
    fn empty_command_line_gives_default_hostname_and_no_network() {
        let config = parse("console=ttyS0").unwrap();
        let GuestIdentity { hostname, machine_id, net } = &config.identity;
        assert_eq!((hostname.as_str(), machine_id, net, config.volatile), ("banger", &None, &None, false));
    }

    #[test]
    fn malformed_word_error_names_the_word() {
        for word in [
            "banger.hostname=",
            "banger.hostname=-x",
            "banger.hostname=a/b",
            "banger.machine_id=0123",
            "banger.machine_id=0123456789ABCDEF0123456789ABCDEF",
            "banger.net=10.0.2.15,10.0.2.2,10.0.2.3",
            "banger.net=10.0.2.15/33,10.0.2.2,10.0.2.3",
            "banger.net=10.0.2.15/24,10.0.2.2",
            "banger.net=10.0.2.15/24,10.0.2.2,10.0.2.3,1",
            "banger.unknown",
            "banger.agent=",
            "banger.agent=virtio-serial",
            "banger.agent=virtio-serial:",
            "banger.agent=carrier-pigeon:1",
            "banger.agent=vsock:",
            "banger.agent=vsock:banger.0",
            "banger.agent=vsock:-1",
            "banger.agent=vsock:4294967296",
            "banger.disks=",
            "banger.disks=base,disk",
            "banger.disks=serial:",
            "banger.disks=serial:base,,disk",
            "banger.disks=serial:base,cdrom",
            "banger.disks=colour:base",
            "banger.disks=order:base",
            "banger.disks=order:base,disk,base",
            "banger.disks=order:base,disk,modules,workspace,modules",
        ] {
            let error = parse(word).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn host_of_an_earlier_version_says_nothing_of_devices() {
        let config = parse("banger.hostname=x banger.volatile").unwrap();
        assert_eq!(config.agent, AgentDevice::VirtioSerial("banger.0".to_owned()));
        assert_eq!(config.disks.naming, DiskNaming::Serial);
        assert_eq!(config.disks.attached, [DiskRole::Base, DiskRole::Disk]);
    }

    #[test]
    fn boot_config_survives_the_command_line() {
        let told = BootConfig {
            identity: GuestIdentity {
                hostname: "repo-1".to_owned(),
                machine_id: Some("0123456789abcdef".repeat(2)),
                net: interface("192.168.7.2/30,192.168.7.1,9.9.9.9"),
            },
            volatile: true,
            agent: AgentDevice::VirtioSerial("org.example.1".to_owned()),
            disks: DiskConfig {
                naming: DiskNaming::Serial,
                attached: vec![DiskRole::Base, DiskRole::Disk, DiskRole::Workspace, DiskRole::Modules],
            },
        };
        assert!(told.identity.net.is_some());
        assert_eq!(parse(&format!("quiet {told} panic=-1")).unwrap(), told);
        let bare = BootConfig {
            identity: GuestIdentity { hostname: "x".to_owned(), machine_id: None, net: None },
            volatile: false,
            agent: AgentDevice::Vsock(AGENT_PORT),
            disks: DiskConfig { naming: DiskNaming::Order, attached: vec![DiskRole::Base, DiskRole::Disk] },
        };
        assert!(bare.to_string().ends_with(" banger.agent=vsock:1000 banger.disks=order:base,disk"), "{bare}");
        assert_eq!(parse(&bare.to_string()).unwrap(), bare);
    }
}
