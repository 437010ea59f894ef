//! Why a host cannot connect a VMM in a network namespace, in words, and what to do about it.

use std::fs;
use std::io;

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::DEVICE;

/// What a VMM's network fails for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Obstacle {
    /// Why, as in "… : REASON".
    pub(crate) reason: String,
    /// What to do about it.
    pub(crate) hint: String,
}

/// A setting of the kernel that keeps users from namespaces, the value that does, and one that does
/// not.
struct Setting {
    name: &'static str,
    forbids: &'static str,
    allows: &'static str,
}

/// namespaces(7); Debian's and Ubuntu's own settings.
const SETTINGS: [Setting; 3] = [
    Setting { name: "user.max_user_namespaces", forbids: "0", allows: "15000" },
    Setting { name: "kernel.unprivileged_userns_clone", forbids: "0", allows: "1" },
    Setting { name: "kernel.apparmor_restrict_unprivileged_userns", forbids: "1", allows: "0" },
];

impl Obstacle {
    /// `is_root`: `pasta` would not do.
    pub(super) fn no_program(is_root: bool) -> Obstacle {
        let reason = match is_root {
            true => "`slirp4netns` was not found on this machine",
            false => "neither `slirp4netns` nor `pasta` was found on this machine",
        };
        Obstacle { reason: reason.into(), hint: "install the package `slirp4netns`".into() }
    }

    pub(crate) fn no_namespaces() -> Obstacle {
        let value = |name: &str| fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok();
        Self::no_namespaces_by(Uid::effective().is_root(), value)
    }

    /// `value` reads a setting of the kernel.
    fn no_namespaces_by(is_root: bool, value: impl Fn(&str) -> Option<String>) -> Obstacle {
        let forbids = |setting: &&Setting| value(setting.name).is_some_and(|value| value.trim() == setting.forbids);
        // Root needs no user namespace: it is something else that keeps it from the others.
        let Some(Setting { name, forbids, allows }) = SETTINGS.iter().find(forbids).filter(|_| !is_root) else {
            return Obstacle {
                reason: "a container or a security module denies namespaces".into(),
                hint: "in a container, allow namespaces, such as with --security-opt seccomp=unconfined and, for root, --cap-add SYS_ADMIN"
                    .into(),
            };
        };
        let set = format!("echo {name}={allows} | sudo tee /etc/sysctl.d/60-banger.conf && sudo sysctl --system");
        Obstacle {
            reason: format!("this machine forbids user namespaces ({name} is {forbids})"),
            hint: match name.contains("apparmor") {
                true => format!("give `banger-vmm` an AppArmor profile that allows `userns`, or run: {set}"),
                false => format!("run: {set}"),
            },
        }
    }

    /// `/dev/net/tun` could not be opened.
    pub(super) fn no_tun(error: &io::Error) -> Obstacle {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "run: sudo modprobe tun; in a container, pass the device, such as with --device /dev/net/tun"
            }
            // As systemd's rules for udev have it.
            io::ErrorKind::PermissionDenied => {
                "echo 'KERNEL==\"tun\", MODE=\"0666\"' | sudo tee /etc/udev/rules.d/60-tun.rules && \
                 sudo udevadm trigger /dev/net/tun"
            }
            _ => "run: sudo modprobe tun",
        };
        Obstacle { reason: format!("cannot open {DEVICE}: {error}"), hint: hint.into() }
    }

    pub(super) fn other(reason: &str) -> Obstacle {
        Obstacle { reason: reason.to_owned(), hint: "use the backend `qemu`, or no network".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_that_forbids_namespaces_is_named_with_what_to_run() {
        for (name, value) in [
            ("user.max_user_namespaces", "0\n"),
            ("kernel.unprivileged_userns_clone", "0\n"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1\n"),
        ] {
            let host = |asked: &str| Some(if asked == name { value.to_owned() } else { "5\n".to_owned() });
            let Obstacle { reason, hint } = Obstacle::no_namespaces_by(false, host);
            assert!(reason.contains(name) && hint.contains(&format!("{name}=")), "{reason}: {hint}");
            assert_eq!(hint.contains("AppArmor"), name.contains("apparmor"));
        }
        let unknown = Obstacle::no_namespaces_by(false, |_| None);
        assert!(unknown.reason.contains("container"), "{unknown:?}");
    }

    #[test]
    fn tun_hint_depends_on_the_error() {
        let hint = |kind: io::ErrorKind| Obstacle::no_tun(&kind.into()).hint;
        assert!(hint(io::ErrorKind::NotFound).contains("modprobe tun"));
        assert!(hint(io::ErrorKind::PermissionDenied).contains("MODE=\"0666\""));
    }
}
