//! What a repository's file may ask for while it is not trusted: less than the user's own file allows, never more.
//!
//! Where the user's file says nothing, this machine is the limit: as many processors as it has, and three quarters of its memory. A default is no
//! limit. A disk takes only what is written to it, so its size has none but the user's.

use std::time::Duration;

use serde::Serialize;

use super::file::ConfigFile;
use super::value::Value;

/// How long a VM may go on without a command where the user's file says nothing: nobody wants one for longer unasked, and never to stop is
/// longer than all.
const LONGEST_IDLE: Duration = Duration::from_secs(24 * 3600);

/// What this machine has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    pub(super) cpus: u64,
    pub(super) memory_mib: Option<u64>,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Machine {
        Machine { cpus: crate::machine::default_cpus().into(), memory_mib: crate::machine::host_memory() }
    }
}

/// A value of a repository's file that counts less than it says, as the file is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// What the repository's file says.
    pub asked: Value,
    /// What holds in its place.
    pub limit: Value,
    /// Whose limit it is.
    pub by: LimitedBy,
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
    /// Whose it is, in words.
    pub fn words(self) -> &'static str {
        match self {
            LimitedBy::User => "your own configuration",
            LimitedBy::Machine => "what this machine has",
            LimitedBy::Untrusted => "what an untrusted file may ask for",
        }
    }
}

/// The values of a repository's file that need trust to hold, by key, with what holds without it.
pub(super) fn limits(
    repo: &ConfigFile,
    user: Option<&ConfigFile>,
    machine: Machine,
) -> impl Iterator<Item = (&'static str, Limited)> {
    repo.values.iter().filter_map(move |(key, asked)| {
        let own = user.and_then(|user| user.values.get(key));
        let limited = |limit: &Value, by| Limited { asked: asked.clone(), limit: limit.clone(), by };
        let limit = match (own, *key) {
            (Some(own), "cpus" | "memory" | "disk" | "idle_timeout") => limited(own, LimitedBy::User),
            (None, "cpus") => limited(&Value::Number(machine.cpus), LimitedBy::Machine),
            (None, "memory") => limited(&Value::Size(machine.memory_mib? / 4 * 3), LimitedBy::Machine),
            (None, "idle_timeout") => limited(&Value::Time(LONGEST_IDLE), LimitedBy::Untrusted),
            _ => return None,
        };
        is_more(asked, &limit.limit).then_some((*key, limit))
    })
}

/// The keys of a repository's file that count for more once it is trusted: what is limited until then, and an image,
/// which may be one of the user's own then, and is pulled with the user's logins.
pub(crate) fn raised_with_trust(repo: &ConfigFile, user: Option<&ConfigFile>) -> Vec<&'static str> {
    // Of a registry, or one of the user's own: either is had with what is the user's.
    let image = repo.values.get("image").map(|_| "image");
    let limited = limits(repo, user, Machine::here()).map(|(key, _)| key);
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
        let machine = Machine { cpus: 4, memory_mib: Some(16 << 10) };
        let shown = |(key, limited): (_, Limited)| format!("{key}={} {:?}", limited.limit, limited.by);
        limits(&repo, Some(&user), machine).map(shown).collect()
    }

    #[test]
    fn an_untrusted_file_lowers_the_users_limits_and_raises_none() {
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
    fn where_the_user_says_nothing_this_machine_is_the_limit() {
        let most = "cpus = 4\nmemory = \"12G\"\ndisk = \"900G\"\nidle_timeout = \"24h\"\n";
        assert!(limited("", most).is_empty());
        let more = "cpus = 5\nmemory = \"12289M\"\nidle_timeout = \"25h\"\n";
        assert_eq!(limited("", more), ["cpus=4 Machine", "idle_timeout=24h Untrusted", "memory=12G Machine"]);
        assert_eq!(limited("", "idle_timeout = 0\n"), ["idle_timeout=24h Untrusted"]);
    }
}
