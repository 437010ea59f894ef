//! A VM's network, as the host's VMM, the guest and the commands of `banger` all see it.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// How a guest reaches other machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetMode {
    /// Through address translation in the VMM, without root.
    #[default]
    User,
    /// Not at all: the guest has a loopback interface only.
    None,
}

impl NetMode {
    /// All modes, in the order in which help texts list them.
    pub const ALL: [NetMode; 2] = [NetMode::User, NetMode::None];

    /// The mode's name on command lines, in configuration files and in records.
    pub const fn name(self) -> &'static str {
        match self {
            NetMode::User => "user",
            NetMode::None => "none",
        }
    }

    /// The mode of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        NetMode::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// The network of one VM: its backend makes it, and VMM, guest and commands go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetPlan {
    /// How the guest reaches other machines.
    pub mode: NetMode,
    /// The guest's network card; `None` for a guest that has a loopback interface only.
    pub interface: Option<NetInterface>,
    /// The address at which the guest reaches the host's loopback interface, if there is one.
    pub host_alias: Option<Ipv4Addr>,
}

impl NetPlan {
    /// The plan for a guest that reaches no other machine.
    pub const NONE: NetPlan = NetPlan { mode: NetMode::None, interface: None, host_alias: None };
}

/// The configuration of a guest's network card.
///
/// Its text form is `<address>/<prefix>,<gateway>,<name server>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetInterface {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The length of the subnet's prefix, in bits: 0 to 32.
    pub prefix: u8,
    /// Where the default route leads.
    pub gateway: Ipv4Addr,
    /// The name server of `/etc/resolv.conf`.
    pub dns: Ipv4Addr,
}

impl fmt::Display for NetInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{},{},{}", self.address, self.prefix, self.gateway, self.dns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_mode_names_are_those_of_records() {
        for mode in NetMode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
            assert_eq!(NetMode::from_name(mode.name()), Some(mode));
        }
        assert_eq!(NetMode::from_name("bridge"), None);
    }
}
