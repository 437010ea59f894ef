//! What a repository's file may ask for while it is not trusted: less than the user's own file
//! allows, never more.
//!
//! Where the user's file says nothing, this machine is the limit: as many processors as it has, and
//! three quarters of its memory. Trust does not raise this limit: a VM that has all of the memory
//! leaves none for the user. Only where the user's own file sets more memory, a repository's file
//! gets as much. A default is no limit. A disk takes only what is written to it, so its size has
//! none but the user's. Without a rate a VM's disks and network are as fast as this machine's, so
//! rates have none but the user's either.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::file::ConfigFile;
use super::value::Value;
use crate::host::hardware;

/// How long a VM may go on without a command where the user's file says nothing: nobody wants one
/// for longer unasked, and never to stop is longer than all.
const LONGEST_IDLE: Duration = Duration::from_secs(24 * 3600);

/// The CPUs and the memory of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostCapacity {
    pub(super) cpus: u64,
    pub(super) memory_mib: Option<u64>,
}

impl HostCapacity {
    /// Reads what this machine has.
    pub(super) fn here() -> HostCapacity {
        HostCapacity { cpus: hardware::usable_cpus().into(), memory_mib: hardware::memory_mib() }
    }

    /// As much of what is asked for as a repository's file gets of this machine, where the user's
    /// own file sets `own`.
    fn most(self, key: &str, asked: &Value, own: Option<&Value>) -> Value {
        let most = match key {
            "cpus" => Some(Value::Number(self.cpus)),
            "memory" => self.most_memory(own),
            _ => None,
        };
        most.filter(|most| is_more(asked, most)).unwrap_or_else(|| asked.clone())
    }

    /// Three quarters of this machine's memory, or what the user's own file sets if that is more
    /// and the machine has it.
    fn most_memory(self, own: Option<&Value>) -> Option<Value> {
        let share = self.share_of_memory()?;
        let own = match own {
            Some(Value::Size(own)) => (*own).min(self.memory_mib?),
            _ => 0,
        };
        Some(Value::Size(own.max(share)))
    }

    /// Three quarters of this machine's memory in MiB, where it is known.
    fn share_of_memory(self) -> Option<u64> {
        Some(self.memory_mib? / 4 * 3)
    }
}

/// A value of a repository's file that counts less than it says, as the file is not trusted, or the
/// machine has no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// What the repository's file says.
    pub asked: Value,
    /// What holds in its place.
    pub limit: Value,
    /// Whose limit it is.
    pub by: LimitedBy,
    /// What holds once the file is trusted.
    pub with_trust: Value,
    /// This machine's memory in MiB, if the limit is a share of it.
    #[serde(skip)]
    share_of: Option<u64>,
}

impl Limited {
    /// Whether more holds once the file is trusted.
    pub fn is_raised_by_trust(&self) -> bool {
        is_more(&self.with_trust, &self.limit)
    }

    /// What the file asks for, and whether trust gives it.
    pub fn describe(&self, file: impl fmt::Display) -> String {
        let Limited { asked, with_trust, .. } = self;
        let trust = match () {
            () if !self.is_raised_by_trust() => String::new(),
            () if with_trust == asked => ", which needs `banger trust`".to_owned(),
            () => format!("; `banger trust` gives {with_trust}, the most on this machine"),
        };
        let limit = match self.share_of {
            Some(mib) => format!("to three quarters of this machine's memory ({})", crate::output::units::size(mib)),
            None => format!("by {}", self.by.describe()),
        };
        format!("limited {limit}: `{file}` asks for {asked}{trust}")
    }
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The user's configuration says so.
    User,
    /// This machine has no more to give.
    Machine,
    /// The user's configuration says nothing, and this is the most without trust.
    Untrusted,
}

impl LimitedBy {
    /// Whose limit it is, as a phrase of a message.
    pub fn describe(self) -> &'static str {
        match self {
            LimitedBy::User => "your own configuration",
            LimitedBy::Machine => "what this machine has",
            LimitedBy::Untrusted => "what an untrusted file may ask for",
        }
    }
}

/// The values of a repository's file that hold less than they say, by key, with what holds: until
/// the file is trusted, and once it is.
pub(super) fn limits(
    repo: &ConfigFile,
    user: Option<&ConfigFile>,
    machine: HostCapacity,
    is_trusted: bool,
) -> impl Iterator<Item = (&'static str, Limited)> {
    repo.values.iter().filter_map(move |(key, asked)| {
        let own = user.and_then(|user| user.values.get(key));
        let with_trust = machine.most(key, asked, own);
        let limited = |limit: &Value, by| {
            let is_share = machine.share_of_memory().is_some_and(|share| *limit == Value::Size(share));
            Limited {
                asked: asked.clone(),
                limit: limit.clone(),
                by,
                with_trust: with_trust.clone(),
                share_of: machine.memory_mib.filter(|_| is_share && *key == "memory" && by == LimitedBy::Machine),
            }
        };
        let limit = match (own.filter(|_| !is_trusted), *key) {
            _ if is_trusted => limited(&with_trust, LimitedBy::Machine),
            (
                Some(own),
                "cpus" | "memory" | "disk" | "disk_iops" | "disk_bandwidth" | "net_bandwidth" | "idle_timeout",
            ) => limited(own, LimitedBy::User),
            (None, "cpus" | "memory") => limited(&with_trust, LimitedBy::Machine),
            (None, "idle_timeout") => limited(&Value::Time(LONGEST_IDLE), LimitedBy::Untrusted),
            _ => return None,
        };
        is_more(asked, &limit.limit).then_some((*key, limit))
    })
}

/// The most that a repository's file gets here of `cpus` or `memory`, where the user's own file
/// says nothing.
pub(crate) fn most_of_repository(key: &str) -> Option<Value> {
    let machine = HostCapacity::here();
    match key {
        "cpus" => Some(Value::Number(machine.cpus)),
        "memory" => machine.most_memory(None),
        _ => None,
    }
}

/// The keys of a repository's file that count for more once it is trusted: what is limited until
/// then, and an image, which may be one of the user's own then, and is pulled with the user's
/// logins.
pub(crate) fn raised_with_trust(repo: &ConfigFile, user: Option<&ConfigFile>) -> Vec<&'static str> {
    // Of a registry, or one of the user's own: either is had with what is the user's.
    let image = repo.values.get("image").map(|_| "image");
    let limited = limits(repo, user, HostCapacity::here(), false).filter(|(_, limited)| limited.is_raised_by_trust());
    let limited = limited.map(|(key, _)| key);
    image.into_iter().chain(limited).collect()
}

/// Whether a value asks for more than another. A time of zero is one without an end.
fn is_more(asked: &Value, limit: &Value) -> bool {
    match (asked, limit) {
        (Value::Number(asked), Value::Number(limit)) | (Value::Size(asked), Value::Size(limit)) => asked > limit,
        (Value::Time(asked), Value::Time(limit)) => !limit.is_zero() && (asked.is_zero() || asked > limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Owner;

    /// What of a repository's file is limited, as `key=limit by whom`.
    fn limited(user: &str, repo: &str) -> Vec<String> {
        let file = |owner, text: &str| ConfigFile::parse(Path::new("c.toml"), owner, text.to_owned()).unwrap();
        let (user, repo) = (file(Owner::User, user), file(Owner::Repository, repo));
        let machine = HostCapacity { cpus: 4, memory_mib: Some(16 << 10) };
        let shown = |(key, limited): (_, Limited)| format!("{key}={} {:?}", limited.limit, limited.by);
        limits(&repo, Some(&user), machine, false).map(shown).collect()
    }

    #[test]
    fn limit_note_mentions_trust_only_if_it_would_help() {
        let file = |owner, text: &str| ConfigFile::parse(Path::new("c.toml"), owner, text.to_owned()).unwrap();
        let machine = HostCapacity { cpus: 4, memory_mib: Some(16 << 10) };
        let words = |user: &str, repo: &str, is_trusted| {
            let (user, repo) = (file(Owner::User, user), file(Owner::Repository, repo));
            let all: Vec<_> = limits(&repo, Some(&user), machine, is_trusted).collect();
            all.into_iter().map(|(_, limited)| limited.describe("b.toml")).collect::<Vec<_>>()
        };
        // It fits the machine.
        assert!(words("cpus = 1\n", "cpus = 4\n", false)[0].ends_with("asks for 4, which needs `banger trust`"));
        assert!(words("memory = \"1G\"\n", "memory = \"12G\"\n", false)[0].ends_with(", which needs `banger trust`"));
        // It does not, and trust would change nothing.
        for (repo, limit) in [
            ("cpus = 5\n", "by what this machine has: "),
            ("memory = \"13G\"\n", "to three quarters of this machine's memory (16G): "),
            ("memory = \"17G\"\n", "to three quarters of this machine's memory (16G): "),
        ] {
            let [words] = &words("", repo, false)[..] else { panic!("{repo}") };
            assert!(words.starts_with(&format!("limited {limit}")) && !words.contains("trust"), "{words}");
        }
        // It does not, and trust would give some of it.
        let [some] = &words("cpus = 1\n", "cpus = 64\n", false)[..] else { panic!("one value") };
        assert!(some.ends_with("asks for 64; `banger trust` gives 4, the most on this machine"), "{some}");
        // With trust, the machine is the only limit.
        assert!(
            words("cpus = 1\nmemory = \"1G\"\n", "cpus = 4\nmemory = \"12G\"\nidle_timeout = 0\n", true).is_empty()
        );
        let trusted = words("", "cpus = 64\nmemory = \"99G\"\n", true);
        assert_eq!(trusted[0], "limited by what this machine has: `b.toml` asks for 64");
        assert!(trusted[1].ends_with("asks for 99G"), "{trusted:?}");
    }

    #[test]
    fn larger_memory_request_never_gets_less() {
        let parse = |owner, text: String| ConfigFile::parse(Path::new("c.toml"), owner, text).unwrap();
        let machine = HostCapacity { cpus: 4, memory_mib: Some(16 << 10) };
        for (user, most) in
            [("", 12), ("memory = \"1G\"\n", 12), ("memory = \"14G\"\n", 14), ("memory = \"20G\"\n", 16)]
        {
            let user = parse(Owner::User, user.to_owned());
            let gets = |gib: u64| {
                let repo = parse(Owner::Repository, format!("memory = \"{gib}G\"\n"));
                let limited = limits(&repo, Some(&user), machine, true).next().map(|(_, limited)| limited.limit);
                limited.unwrap_or(Value::Size(gib << 10))
            };
            for gib in 1..20 {
                assert_eq!(gets(gib), Value::Size(gib.min(most) << 10), "{gib}");
            }
        }
    }

    #[test]
    fn untrusted_config_lowers_but_never_raises_user_limits() {
        let user = "cpus = 2\nmemory = \"2G\"\ndisk = \"20G\"\nidle_timeout = \"10m\"\n";
        let less = "cpus = 1\nmemory = \"1G\"\ndisk = \"10G\"\nidle_timeout = \"1m\"\n";
        assert_eq!([limited(user, user), limited(user, less)], [Vec::<String>::new(), Vec::new()]);
        let more = "cpus = 3\nmemory = \"2049M\"\ndisk = \"21G\"\nidle_timeout = \"601s\"\n";
        let all = ["cpus=2 User", "disk=20G User", "idle_timeout=10m User", "memory=2G User"];
        assert_eq!(limited(user, more), all);
        assert_eq!(limited(user, "idle_timeout = 0\n"), ["idle_timeout=10m User"]);
        assert!(limited("idle_timeout = 0\n", "idle_timeout = 0\n").is_empty());
        assert!(limited("idle_timeout = 0\n", "idle_timeout = \"900h\"\n").is_empty());
    }

    #[test]
    fn untrusted_config_lowers_but_never_raises_user_rates() {
        let rates = |iops: u64, disk: u64, net: u64| {
            format!("disk_iops = {iops}\ndisk_bandwidth = \"{disk}M\"\nnet_bandwidth = \"{net}M\"\n")
        };
        let own = rates(100, 50, 5);
        assert!(limited(&own, &rates(99, 49, 4)).is_empty() && limited(&own, &own).is_empty());
        let all = ["disk_bandwidth=50M User", "disk_iops=100 User", "net_bandwidth=5M User"];
        assert_eq!(limited(&own, &rates(101, 51, 6)), all);
        assert!(limited("", &rates(1_000_000, 1 << 20, 1 << 20)).is_empty());
    }

    #[test]
    fn machine_limits_apply_without_user_limits() {
        let most = "cpus = 4\nmemory = \"12G\"\ndisk = \"900G\"\nidle_timeout = \"24h\"\n";
        assert!(limited("", most).is_empty());
        let more = "cpus = 5\nmemory = \"12289M\"\nidle_timeout = \"25h\"\n";
        assert_eq!(limited("", more), ["cpus=4 Machine", "idle_timeout=24h Untrusted", "memory=12G Machine"]);
        assert_eq!(limited("", "idle_timeout = 0\n"), ["idle_timeout=24h Untrusted"]);
    }
}
