//! The values by what they are for, each with its type.

use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_image::Location;
use banger_vmm::{BackendChoice, NetMode, RateLimits, Ready};

use super::{Origin, Settings};
use crate::config::defaults::DEFAULT_IMAGE;
use crate::config::value::Value;
use crate::git::History;

/// As whom an image is had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageAccess {
    /// As the user: with the user's logins at registries, and whatever images are here.
    #[default]
    User,
    /// As anybody: what a registry gives without a login, and the names of catalogs.
    Anonymous,
}

impl Settings {
    fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some((Value::Text(text), _)) => Some(text),
            _ => None,
        }
    }

    /// The value of a key, if somebody said it.
    fn explicit(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|(_, origin)| *origin != Origin::Default).map(|(value, _)| value)
    }

    fn list(&self, key: &str) -> &[String] {
        match self.values.get(key) {
            Some((Value::List(items), _)) => items,
            _ => &[],
        }
    }

    /// The image of a new VM.
    pub fn image(&self) -> &str {
        self.text("image").or_else(|| self.text("default_image_name")).unwrap_or(DEFAULT_IMAGE)
    }

    /// The images that new VMs are made from if nobody says otherwise: here, and elsewhere.
    pub fn default_images(&self) -> [&str; 2] {
        [self.image(), self.text("default_image_name").unwrap_or(DEFAULT_IMAGE)]
    }

    /// The image that a VM of this workspace shall have, if somebody said which.
    pub fn wanted_image(&self) -> Option<&str> {
        self.explicit("image").and(self.text("image"))
    }

    /// As whom that image is had: what a repository's file names that is not trusted is had as
    /// anybody has it.
    pub fn image_access(&self) -> ImageAccess {
        match self.values.get("image") {
            Some((_, Origin::Repo)) if !self.is_trusted => ImageAccess::Anonymous,
            _ => ImageAccess::User,
        }
    }

    /// Processors, if somebody said how many.
    pub fn cpus(&self) -> Option<u32> {
        match self.explicit("cpus") {
            Some(Value::Number(number)) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Memory in MiB, if somebody said how much.
    pub fn memory_mib(&self) -> Option<u64> {
        match self.explicit("memory") {
            Some(Value::Size(mib)) => Some(*mib),
            _ => None,
        }
    }

    /// The size of a new VM's disk in bytes, if somebody said it.
    pub fn disk_bytes(&self) -> Option<u64> {
        match self.explicit("disk") {
            Some(Value::Size(mib)) => Some(mib << 20),
            _ => None,
        }
    }

    /// What runs the VM from its next start on, if somebody said it.
    pub fn backend(&self) -> Option<BackendChoice> {
        self.explicit("backend")?;
        self.text("backend").and_then(BackendChoice::from_name)
    }

    /// How much of this machine's disks and network the VM may use, from its next start on.
    pub fn rate_limits(&self) -> RateLimits {
        let number = |key| match self.values.get(key) {
            Some((Value::Number(number), _)) => *number,
            _ => 0,
        };
        let bytes = |key| match self.values.get(key) {
            Some((Value::Size(mib), _)) => mib << 20,
            _ => 0,
        };
        RateLimits {
            disk_iops: number("disk_iops"),
            disk_bandwidth: bytes("disk_bandwidth"),
            net_bandwidth: bytes("net_bandwidth"),
        }
    }

    /// How many bytes git fetches from a VM at most.
    pub fn fetch_limit_bytes(&self) -> u64 {
        match self.values.get("fetch_limit") {
            Some((Value::Size(mib), _)) => mib << 20,
            _ => 0,
        }
    }

    /// How long git takes to fetch from a VM at most; none: there is no limit.
    pub fn fetch_timeout(&self) -> Option<Duration> {
        match self.values.get("fetch_timeout") {
            Some((Value::Time(time), _)) if !time.is_zero() => Some(*time),
            _ => None,
        }
    }

    /// The path of the Firecracker program as it is written, if it is: see [`expanded`].
    pub fn firecracker_bin(&self) -> Option<&str> {
        self.text("firecracker_bin")
    }

    /// The user whom Firecracker's jailer is to become, if it is to be used.
    pub fn jailer_user(&self) -> Option<&str> {
        self.text("jailer_user")
    }

    /// The network of a new VM, if somebody said which.
    pub fn net(&self) -> Option<NetMode> {
        self.explicit("net")?;
        Some(self.text("net").and_then(NetMode::from_name).unwrap_or_default())
    }

    /// When a VM counts as started, if somebody said it; else that is the image's affair.
    pub fn ready(&self) -> Option<Ready> {
        self.text("ready").map(|ready| if ready == "system" { Ready::System } else { Ready::Agent })
    }

    /// Whom the working tree in the VM belongs to, if not root.
    pub fn owner(&self) -> Option<&str> {
        self.text("owner")
    }

    /// Whether ports that something begins to listen at lead into the VM.
    pub fn ports_by_themselves(&self) -> bool {
        self.text("ports") == Some("auto")
    }

    /// How much of git's history a new VM gets, if somebody said it; else that depends on how much
    /// there is.
    pub fn history(&self) -> Option<History> {
        let name = self.text("history")?;
        [History::Full, History::Shallow, History::None].into_iter().find(|history| history.name() == name)
    }

    /// After how long without a command the VM stops; zero: never.
    pub fn idle_timeout(&self) -> Duration {
        match self.values.get("idle_timeout") {
            Some((Value::Time(time), _)) => *time,
            _ => Duration::ZERO,
        }
    }

    /// Variables for commands in the VM.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, (value, _))| (name.as_str(), value.as_str()))
    }

    /// The names of variables that commands in the VM get from here.
    pub fn env_from_host(&self) -> &[String] {
        self.list("env_from_host")
    }

    /// Commands that prepare the VM.
    pub fn setup(&self) -> &[String] {
        self.list("setup")
    }

    /// Files of the repository, relative to its root, with whose change `setup` is done again.
    pub fn setup_inputs(&self) -> &[String] {
        self.list("setup_inputs")
    }

    /// Whether the tools that the repository names for mise are installed.
    pub fn mise(&self) -> bool {
        matches!(self.values.get("mise"), Some((Value::Flag(true), _)))
    }

    /// Whether VMs get an SSH server.
    pub fn first_boot_sshd(&self) -> bool {
        matches!(self.values.get("first_boot_sshd"), Some((Value::Flag(true), _)))
    }

    /// PEM files of certificate authorities. `home` is what `~` stands for.
    pub fn ca_certificates(&self, home: Option<&Path>) -> Vec<PathBuf> {
        self.list("ca_certificates").iter().map(|text| expanded(text, home)).collect()
    }

    /// The user's own key for ssh. `home` is what `~` stands for.
    pub fn ssh_key_path(&self, home: Option<&Path>) -> Option<PathBuf> {
        Some(expanded(self.text("ssh_key_path")?, home))
    }

    /// Where a team's own catalog is. `home` is what `~` stands for.
    pub fn catalog_url(&self, home: Option<&Path>) -> Option<Location> {
        let text = self.text("catalog_url")?;
        // What is no path was read as a URL when it was set.
        expanded(text, home).to_str().and_then(|text| text.parse().ok())
    }
}

/// A path of the configuration; `home` is what `~` stands for.
pub fn expanded(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(text),
    }
}
