//! Who a running guest is. A host that greets it with another identity, as it does a copy of a VM,
//! gives it that one.

use std::error::Error;

use crate::boot_config::GuestIdentity;
use crate::net::NetInterface;

/// One difference between the identity that a guest has and the one that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityChange {
    /// Another host name.
    Hostname {
        /// The former one.
        from: String,
        /// The new one.
        to: String,
    },
    /// Another machine ID.
    MachineId(String),
    /// Another configuration of the network card.
    Net {
        /// The former one; `None`: there was no network.
        from: Option<NetInterface>,
        /// The new one; `None`: there is no network any more.
        to: Option<NetInterface>,
    },
}

/// Makes changes in a guest's system.
pub trait ApplyIdentity: Send {
    /// Makes one change. May block.
    ///
    /// # Errors
    /// If the system refuses; a part of the change may have been made.
    fn apply(&mut self, change: &IdentityChange) -> Result<(), Box<dyn Error>>;
}

/// A guest's identity, and who changes it.
pub struct Identity {
    current: GuestIdentity,
    applier: Box<dyn ApplyIdentity>,
}

impl Identity {
    /// The identity of a guest that came up as `booted`.
    pub fn new(booted: GuestIdentity, applier: impl ApplyIdentity + 'static) -> Self {
        Identity { current: booted, applier: Box::new(applier) }
    }

    /// Whether [`Self::assume`] would change something.
    pub(super) fn differs_from(&self, wanted: &GuestIdentity) -> bool {
        !changes(&self.current, wanted).is_empty()
    }

    /// Gives the guest another identity. What cannot be changed is returned as error messages, and
    /// tried again the next time. May block.
    pub(super) fn assume(&mut self, wanted: &GuestIdentity) -> Vec<String> {
        let mut errors = Vec::new();
        for change in changes(&self.current, wanted) {
            match self.applier.apply(&change) {
                Ok(()) => self.note(change),
                Err(error) => errors.push(error.to_string()),
            }
        }
        errors
    }

    fn note(&mut self, change: IdentityChange) {
        match change {
            IdentityChange::Hostname { to, .. } => self.current.hostname = to,
            IdentityChange::MachineId(id) => self.current.machine_id = Some(id),
            IdentityChange::Net { to, .. } => self.current.net = to,
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("current", &self.current).finish_non_exhaustive()
    }
}

/// What turns a guest that is `current` into one that is `wanted`. A machine ID is never taken
/// away.
fn changes(current: &GuestIdentity, wanted: &GuestIdentity) -> Vec<IdentityChange> {
    let mut changes = Vec::new();
    if current.hostname != wanted.hostname {
        changes.push(IdentityChange::Hostname { from: current.hostname.clone(), to: wanted.hostname.clone() });
    }
    if let Some(id) = &wanted.machine_id
        && current.machine_id.as_ref() != Some(id)
    {
        changes.push(IdentityChange::MachineId(id.clone()));
    }
    if current.net != wanted.net {
        changes.push(IdentityChange::Net { from: current.net, to: wanted.net });
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Notes changes; refuses those of the network.
    struct NoNetwork(Arc<Mutex<Vec<IdentityChange>>>);

    impl ApplyIdentity for NoNetwork {
        fn apply(&mut self, change: &IdentityChange) -> Result<(), Box<dyn Error>> {
            if matches!(change, IdentityChange::Net { .. }) {
                return Err("there is no network card".into());
            }
            self.0.lock().unwrap().push(change.clone());
            Ok(())
        }
    }

    fn identity(hostname: &str, machine_id: Option<&str>, host: Option<u8>) -> GuestIdentity {
        let address = |last| Ipv4Addr::new(10, 0, 2, last);
        GuestIdentity {
            hostname: hostname.to_owned(),
            machine_id: machine_id.map(str::to_owned),
            net: host.map(|host| NetInterface {
                address: address(host),
                prefix: 24,
                gateway: address(2),
                dns: address(3),
            }),
        }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let current = identity("a", Some("1"), Some(15));
        assert_eq!(changes(&current, &current), []);
        let renamed = IdentityChange::Hostname { from: "a".into(), to: "b".into() };
        assert_eq!(changes(&current, &identity("b", Some("1"), Some(15))), std::slice::from_ref(&renamed));
        assert_eq!(changes(&current, &identity("a", None, Some(15))), []);
        let other = identity("b", Some("2"), None);
        let net = IdentityChange::Net { from: current.net, to: None };
        assert_eq!(changes(&current, &other), [renamed, IdentityChange::MachineId("2".into()), net]);
        assert_eq!(changes(&identity("b", None, None), &identity("b", Some("2"), None)).len(), 1);
    }

    #[test]
    fn change_that_failed_is_tried_again_and_keeps_no_other_from_being_made() {
        let made = Arc::new(Mutex::new(Vec::new()));
        let mut guest = Identity::new(identity("a", None, Some(15)), NoNetwork(Arc::clone(&made)));
        let wanted = identity("b", Some("2"), Some(16));
        assert!(guest.differs_from(&wanted));
        assert_eq!(guest.assume(&wanted), ["there is no network card"]);
        assert_eq!(made.lock().unwrap().len(), 2);
        assert!(guest.differs_from(&wanted));
        assert_eq!((guest.assume(&wanted).len(), made.lock().unwrap().len()), (1, 2));
        assert!(!guest.differs_from(&identity("b", Some("2"), Some(15))));
    }
}
