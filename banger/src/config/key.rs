//! The keys: one table, of which parsing, documentation, schemas and the answers of `banger config`
//! are made.

use banger_vmm::{BackendChoice, NetMode};

use super::defaults::DEFAULT_IMAGE;
use super::value::{Kind, Shape};
use crate::output::units;

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// As it is written in a file; `BANGER_` and the same in capitals is its variable, if it can
    /// have one.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// In which files it may stand.
    pub stands: Stands,
    /// What holds without it, as one would write it; none: see [`Key::without`].
    pub default: Option<&'static str>,
    /// What holds without it where there is no fixed default, in words.
    pub without: &'static str,
    /// What it is for: a sentence or two, for the documentation.
    pub about: &'static str,
    /// The option of the command line that wins over it.
    pub flag: Option<&'static str>,
}

/// In which files a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// The user's and the repository's.
    Anywhere,
    /// The user's; the repository's once it is trusted, since it hands something of this machine to
    /// the guest.
    Trusted,
    /// The user's alone, since it names things of this machine.
    User,
}

impl Key {
    /// The key called `name`.
    pub fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The variable that wins over the files. A table has none.
    pub fn variable(&self) -> Option<String> {
        let is_table = matches!(self.shape, Shape::Variables | Shape::Aliases);
        (!is_table).then(|| format!("BANGER_{}", self.name.to_uppercase()))
    }
}

const PLAIN: Key = Key {
    name: "",
    shape: Shape::One(Kind::Text),
    stands: Stands::Anywhere,
    default: None,
    without: "",
    about: "",
    flag: None,
};

/// All keys, in the order of the documentation.
pub const KEYS: &[Key] = &[
    Key {
        name: "image",
        shape: Shape::One(Kind::Image),
        without: "`default_image_name`",
        about: "Image of a new VM.",
        flag: Some("--image"),
        ..PLAIN
    },
    Key {
        name: "cpus",
        shape: Shape::One(Kind::Number(1, 255)),
        without: "as many as this machine has",
        about: "Processors of the VM.",
        flag: Some("--cpus"),
        ..PLAIN
    },
    Key {
        name: "memory",
        shape: Shape::One(Kind::Size(units::mebibytes)),
        without: "half of this machine's, `4G` at most",
        about: "Memory of the VM.",
        flag: Some("--memory"),
        ..PLAIN
    },
    Key {
        name: "disk",
        shape: Shape::One(Kind::Size(units::disk)),
        default: Some("32G"),
        about: "Size of each of the VM's two disks, one for its system and one for the workspace. A disk takes here only what is written to it. It can grow when the VM starts again, and never shrinks.",
        flag: Some("--disk"),
        ..PLAIN
    },
    Key {
        name: "backend",
        shape: Shape::One(Kind::Choice(&[
            BackendChoice::Auto.name(),
            BackendChoice::Firecracker.name(),
            BackendChoice::Qemu.name(),
        ])),
        stands: Stands::User,
        without: "the VM's own choice; `auto` for a new VM",
        about: "What runs the VM from its next start on: Firecracker, which needs KVM, or QEMU. `auto` takes Firecracker where it can run the VM.",
        flag: Some("--backend"),
        ..PLAIN
    },
    Key {
        name: "firecracker_bin",
        shape: Shape::One(Kind::Path),
        stands: Stands::User,
        without: "`firecracker` on `PATH`",
        about: "The Firecracker program to use.",
        ..PLAIN
    },
    Key {
        name: "jailer_user",
        stands: Stands::User,
        without: "the jailer is not used",
        about: "User of this machine that Firecracker runs as where root runs banger, by Firecracker's `jailer`: a user that nothing else runs as.",
        ..PLAIN
    },
    Key {
        name: "disk_iops",
        shape: Shape::One(Kind::Number(1, 1_000_000)),
        without: "no limit",
        about: "Maximum operations per second of the VM's two disks together, reads and writes, from its next start on.",
        ..PLAIN
    },
    Key {
        name: "disk_bandwidth",
        shape: Shape::One(Kind::Size(units::rate)),
        without: "no limit",
        about: "Maximum bytes per second of the VM's two disks together, reads and writes, such as `50M`, from its next start on.",
        ..PLAIN
    },
    Key {
        name: "net_bandwidth",
        shape: Shape::One(Kind::Size(units::rate)),
        without: "no limit",
        about: "Maximum bytes per second of the VM's network in each direction, such as `5M`, from its next start on. Only Firecracker limits the network.",
        ..PLAIN
    },
    Key {
        name: "net",
        shape: Shape::One(Kind::Choice(&[NetMode::User.name(), NetMode::None.name()])),
        default: Some("user"),
        about: "Network of a new VM: through this machine, or none. Where the user's file says `none`, a repository's `user` needs trust.",
        flag: Some("--net"),
        ..PLAIN
    },
    Key {
        name: "ready",
        shape: Shape::One(Kind::Choice(&["agent", "system"])),
        without: "the image's",
        about: "Run once the VM's agent answers, or once its services have started too.",
        flag: Some("--ready"),
        ..PLAIN
    },
    Key {
        name: "owner",
        shape: Shape::One(Kind::User),
        without: "root",
        about: "User of the VM that the working tree belongs to, so that commands with `--user` can write into it: a name or a number, either with `:group`.",
        ..PLAIN
    },
    Key {
        name: "env",
        shape: Shape::Variables,
        without: "none",
        about: "Variables of commands and shells in the VM, as they are written: nothing is expanded. Both files' are taken.",
        flag: Some("--env"),
        ..PLAIN
    },
    Key {
        name: "env_from_host",
        shape: Shape::List(Kind::Variable),
        stands: Stands::Trusted,
        without: "none",
        about: "Names of variables that commands in the VM get with the value that is set here.",
        flag: Some("--env"),
        ..PLAIN
    },
    Key {
        name: "ports",
        shape: Shape::One(Kind::Choice(&["none", "auto"])),
        stands: Stands::Trusted,
        default: Some("none"),
        about: "Whether ports that something begins to listen at in the VM while a command runs lead there from this machine until it ends.",
        flag: Some("--ports"),
        ..PLAIN
    },
    Key {
        name: "history",
        shape: Shape::One(Kind::Choice(&["full", "shallow", "none"])),
        without: "`full`, or `shallow` from 1 GiB of git objects on",
        about: "How much of git's history a new VM gets: all, the current commit, or no repository at all.",
        ..PLAIN
    },
    Key {
        name: "idle_timeout",
        shape: Shape::One(Kind::Time),
        default: Some("30m"),
        about: "After how long without a command the VM stops; `0` is never.",
        ..PLAIN
    },
    Key {
        name: "setup",
        shape: Shape::List(Kind::Text),
        without: "none",
        about: "Commands that prepare the VM for this repository. They run in the VM, in the repository, before the command; a new VM runs them all.",
        ..PLAIN
    },
    Key {
        name: "setup_inputs",
        shape: Shape::List(Kind::InRepository),
        without: "none",
        about: "Files, folders or patterns (`*/package.json`) of the repository: `setup` runs again when they change.",
        ..PLAIN
    },
    Key {
        name: "mise",
        shape: Shape::One(Kind::Flag),
        default: Some("true"),
        about: "Whether the tools that the repository names for mise are installed in the VM.",
        flag: Some("--no-mise"),
        ..PLAIN
    },
    Key {
        name: "first_boot_sshd",
        shape: Shape::One(Kind::Flag),
        default: Some("false"),
        about: "Whether a VM without an SSH server gets one when it starts, by its own package manager and beside the first command.",
        ..PLAIN
    },
    Key {
        name: "ca_certificates",
        shape: Shape::List(Kind::Path),
        stands: Stands::User,
        without: "none",
        about: "PEM files of certificate authorities that the VM shall trust, such as a company's own. Only certificates are taken from them.",
        ..PLAIN
    },
    Key {
        name: "default_image_name",
        shape: Shape::One(Kind::Image),
        stands: Stands::User,
        default: Some(DEFAULT_IMAGE),
        about: "Image of a new VM where `image` is not set.",
        ..PLAIN
    },
    Key {
        name: "catalog_url",
        shape: Shape::One(Kind::Location),
        stands: Stands::User,
        without: "none",
        about: "A team's own catalog of images and kernels, beside banger's own: where both have a name, the team's counts.",
        ..PLAIN
    },
    Key {
        name: "ssh_key_path",
        shape: Shape::One(Kind::Path),
        stands: Stands::User,
        without: "one of banger's own, made when it is first needed: `ssh/id_ed25519` beside the user's file",
        about: "Private key with which ssh proves to a VM who you are.",
        ..PLAIN
    },
    Key {
        name: "fetch_limit",
        shape: Shape::One(Kind::Size(units::transfer)),
        stands: Stands::User,
        default: Some("4G"),
        about: "Maximum size of what git fetches from a VM at once, by `banger fetch` or from `banger://NAME`.",
        ..PLAIN
    },
    Key {
        name: "fetch_timeout",
        shape: Shape::One(Kind::Time),
        stands: Stands::User,
        default: Some("1h"),
        about: "Maximum time that git takes to fetch from a VM; `0` is no limit.",
        ..PLAIN
    },
    Key {
        name: "alias",
        shape: Shape::Aliases,
        stands: Stands::User,
        without: "none",
        about: "Names for the beginnings of command lines: `t = [\"--\", \"make\", \"test\"]` makes `banger t` of it.",
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Value;

    #[test]
    fn every_key_has_a_valid_default_or_explains_its_absence() {
        for (place, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..place].iter().all(|other| other.name != key.name), "{}", key.name);
            assert!(key.about.ends_with('.') || key.about.ends_with("it."), "{}", key.name);
            assert_ne!(key.default.is_some(), !key.without.is_empty(), "{}", key.name);
            if let Some(default) = key.default {
                let value = Value::from_text(&key.shape, default).unwrap();
                assert_eq!(value.to_string(), default, "{}", key.name);
            }
        }
    }
}
