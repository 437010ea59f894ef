//! What the host tells the guest: the `banger.` words of the kernel command line.

use std::net::Ipv4Addr;

use super::BootError;

/// The settings that one boot of this VM was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// `banger.hostname=`: the host name; `banger` where none is given.
    pub(super) hostname: String,
    /// `banger.machine_id=`: 32 lower-case hex digits, see `machine-id(5)`.
    pub(super) machine_id: Option<String>,
    /// `banger.net=`: the address of `eth0`; without it there is only `lo`.
    pub(super) net: Option<Net>,
    /// `banger.volatile`: nothing on the disk outlives this boot, so nothing needs to be synced.
    pub(super) volatile: bool,
}

/// `<address>/<prefix>,<gateway>,<name server>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Net {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Ipv4Addr,
    pub(super) name_server: Ipv4Addr,
}

impl Settings {
    /// Reads the words that are banger's and skips the others, which are the kernel's or the
    /// init's. As the kernel does, the last of two equal words counts.
    pub(super) fn parse(line: &str) -> Result<Self, BootError> {
        let mut settings = Settings { hostname: "banger".to_owned(), machine_id: None, net: None, volatile: false };
        for word in line.split_ascii_whitespace() {
            let Some(word) = word.strip_prefix("banger.") else {
                continue;
            };
            let bad = || BootError::Setting(format!("banger.{word}"));
            match word.split_once('=').unwrap_or((word, "")) {
                ("hostname", name) => {
                    settings.hostname = valid_hostname(name).ok_or_else(bad)?.to_owned();
                }
                ("machine_id", id) => {
                    settings.machine_id = Some(valid_machine_id(id).ok_or_else(bad)?.to_owned());
                }
                ("net", net) => settings.net = Some(Net::parse(net).ok_or_else(bad)?),
                ("volatile", "") => settings.volatile = true,
                _ => return Err(bad()),
            }
        }
        Ok(settings)
    }
}

impl Net {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(',');
        let (address, prefix) = fields.next()?.split_once('/')?;
        let net = Net {
            address: address.parse().ok()?,
            prefix: prefix.parse().ok().filter(|bits| *bits <= 32)?,
            gateway: fields.next()?.parse().ok()?,
            name_server: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(net)
    }
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
    use super::*;

    #[test]
    fn takes_its_own_words_and_leaves_the_others() {
        let line = "console=ttyS0 quiet panic=-1 banger.hostname=repo-1 \
                    banger.machine_id=0123456789abcdef0123456789abcdef \
                    banger.net=10.0.2.15/24,10.0.2.2,10.0.2.3 banger.volatile\n";
        let settings = Settings::parse(line).unwrap();
        assert_eq!(settings.hostname, "repo-1");
        assert_eq!(settings.machine_id.unwrap().len(), 32);
        assert_eq!(
            settings.net,
            Some(Net {
                address: Ipv4Addr::new(10, 0, 2, 15),
                prefix: 24,
                gateway: Ipv4Addr::new(10, 0, 2, 2),
                name_server: Ipv4Addr::new(10, 0, 2, 3),
            })
        );
        assert!(settings.volatile);
    }

    #[test]
    fn nothing_given_means_no_network_and_a_plain_name() {
        let settings = Settings::parse("console=ttyS0").unwrap();
        assert_eq!(settings.hostname, "banger");
        assert_eq!((settings.net, settings.machine_id, settings.volatile), (None, None, false));
    }

    #[test]
    fn a_malformed_word_is_named() {
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
        ] {
            let error = Settings::parse(word).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
