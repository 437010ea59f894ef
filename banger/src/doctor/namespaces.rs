//! Checks that a build may have namespaces of its own and the ids that it maps, and says how this
//! user of this host gets them.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use super::Check;
use super::host::without;
use crate::host::paths::program;

const NAME: &str = "namespaces";
/// How many subordinate ids a build maps: as many as the system users of Debian need.
const SUBORDINATE_IDS: u64 = 65_536;
/// The first that useradd(8) gives, by SUB_UID_MIN of login.defs(5).
const FIRST_ID: u64 = 100_000;

/// Checks that a build may have namespaces of its own, and the ids that it maps.
pub(super) fn namespaces(is_needed: bool) -> Check {
    if Uid::effective().is_root() {
        return Check::ok(NAME, "root needs no user namespace");
    }
    let uid = Uid::effective().to_string();
    let Some(user) = User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name) else {
        return without(is_needed)(
            NAME,
            format!("uid {uid} has no name, and newuidmap, which a build needs, wants one"),
        )
        .with_fix(
            "run banger as a user that passwd(5) knows; images of registries need none: banger image pull debian:12",
        );
    };
    let files = ["/etc/subuid", "/etc/subgid"].map(|file| fs::read_to_string(file).unwrap_or_default());
    if let Some(fix) = missing_ids(&files, &user, &uid) {
        let found = format!("`{user}` has fewer than {SUBORDINATE_IDS} subordinate ids, which a build maps");
        return without(is_needed)(NAME, found).with_fix(fix);
    }
    let ran = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).stdin(Stdio::null()).output();
    let reason = match ran {
        Ok(output) if output.status.success() => return Check::ok(NAME, "a user may make them"),
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    };
    let check = without(is_needed)(
        NAME,
        format!("this machine does not let users make namespaces, which a build needs ({reason})"),
    );
    let setting = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
    let folder = program().ok().and_then(|program| Some(program.parent()?.to_owned()));
    match what_forbids(setting).and_then(|by| by.fix(folder.as_deref())) {
        Some(fix) => check.with_fix(fix),
        None => check,
    }
}

/// The command that gives a user missing subordinate ids: the next that no user has. `None` if none
/// is missing. `files` are the contents of subuid(5) and subgid(5).
fn missing_ids(files: &[String; 2], user: &str, uid: &str) -> Option<String> {
    let start = free_range(files);
    let range = format!("{start}-{}", start + SUBORDINATE_IDS - 1);
    let lacks = |file: &String| count(file, user, uid) < SUBORDINATE_IDS;
    let options = files.iter().zip(["--add-subuids", "--add-subgids"]).filter(|(file, _)| lacks(file));
    let options: Vec<_> = options.map(|(_, option)| format!("{option} {range}")).collect();
    (!options.is_empty()).then(|| format!("sudo usermod {} {user}", options.join(" ")))
}

/// Parses lines of `NAME:START:COUNT` (subuid(5)).
fn entries(file: &str) -> impl Iterator<Item = (&str, Range<u64>)> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (whose, start) = (fields.next()?, fields.next()?.parse::<u64>().ok()?);
        Some((whose, start..start.saturating_add(fields.next()?.parse().ok()?)))
    })
}

/// How many subordinate ids a user has.
fn count(file: &str, user: &str, uid: &str) -> u64 {
    let own = entries(file).filter(|(whose, _)| *whose == user || *whose == uid);
    own.fold(0, |count, (_, range)| count.saturating_add(range.end - range.start))
}

/// The first of so many consecutive ids that are in neither file.
fn free_range(files: &[String; 2]) -> u64 {
    let mut taken: Vec<_> = files.iter().flat_map(|file| entries(file)).map(|(_, range)| range).collect();
    taken.sort_by_key(|range| range.start);
    taken.iter().fold(FIRST_ID, |start, range| match range.start < start + SUBORDINATE_IDS {
        true => start.max(range.end),
        false => start,
    })
}

/// A setting of the host that keeps users from making namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forbids {
    /// The sysctl `kernel.unprivileged_userns_clone` of Debian.
    Clone,
    /// A limit of 0 user namespaces: namespaces(7).
    Limit,
    /// AppArmor, for programs without a profile that allows namespaces.
    AppArmor,
}

/// `setting` reads a file below /proc/sys.
fn what_forbids(setting: impl Fn(&str) -> Option<String>) -> Option<Forbids> {
    let is = |name: &str, value: &str| setting(name).is_some_and(|set| set.trim() == value);
    match () {
        () if is("kernel/unprivileged_userns_clone", "0") => Some(Forbids::Clone),
        () if is("user/max_user_namespaces", "0") => Some(Forbids::Limit),
        () if is("kernel/apparmor_restrict_unprivileged_userns", "1") => Some(Forbids::AppArmor),
        () => None,
    }
}

impl Forbids {
    /// The command that changes the setting. `folder` is the directory of banger and its plugins.
    fn fix(self, folder: Option<&Path>) -> Option<String> {
        let set = |setting: &str| {
            format!(
                "echo '{setting}' | sudo tee /etc/sysctl.d/60-banger.conf && sudo sysctl --load /etc/sysctl.d/60-banger.conf"
            )
        };
        match self {
            Forbids::Clone => Some(set("kernel.unprivileged_userns_clone = 1")),
            Forbids::Limit => Some(set("user.max_user_namespaces = 15000")),
            Forbids::AppArmor => {
                // Nothing that a shell or AppArmor would read as more than a name.
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
                let folder = folder?.to_str().filter(|folder| folder.chars().all(is_plain))?;
                let profile = format!(
                    "abi <abi/4.0>,\\nprofile banger {folder}/banger{{,-*}} flags=(unconfined) {{\\n  userns,\\n}}\\n"
                );
                let file = "/etc/apparmor.d/banger";
                Some(format!("printf '{profile}' | sudo tee {file} && sudo apparmor_parser --replace {file}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_counted_by_user_name_or_uid() {
        let file = "root:100000:65536\nme:200000:65536\n1000:300000:10\nme:x:y\nbroken\nyou:1:99999999\n";
        assert_eq!(count(file, "me", "1000"), 65_546);
        assert_eq!(count(file, "nobody", "1"), 0);
        assert_eq!(count("", "me", "1000"), 0);
    }

    #[test]
    fn suggested_subordinate_ids_are_unused() {
        let missing = |uids: &str, gids: &str| missing_ids(&[uids.to_owned(), gids.to_owned()], "me", "1001");
        let both = |range: &str| format!("sudo usermod --add-subuids {range} --add-subgids {range} me");
        assert_eq!(missing("", ""), Some(both("100000-165535")));
        // The first user of a machine has the first range.
        let first = "you:100000:65536\n";
        assert_eq!(missing(first, first), Some(both("165536-231071")));
        // Taken for users or for groups is taken; order does not matter, and a gap that is too
        // small is none.
        assert_eq!(missing("b:200000:65536\na:100000:65536\n", "c:300000:10\n"), Some(both("300010-365545")));
        assert_eq!(missing("a:300000:65536\n", ""), Some(both("100000-165535")));
        // Only what is missing.
        let own = "you:100000:65536\nme:165536:65536\n";
        assert_eq!(missing(own, first), Some("sudo usermod --add-subgids 231072-296607 me".to_owned()));
        assert_eq!(missing(own, own), None);
    }

    #[test]
    fn namespace_restriction_gets_the_narrowest_fix() {
        let of = |set: &[(&str, &str)]| {
            what_forbids(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| format!("{value}\n")))
        };
        let armor =
            of(&[("kernel/apparmor_restrict_unprivileged_userns", "1"), ("kernel/unprivileged_userns_clone", "1")]);
        assert_eq!(armor, Some(Forbids::AppArmor));
        assert_eq!(of(&[("kernel/unprivileged_userns_clone", "0")]), Some(Forbids::Clone));
        assert_eq!(of(&[("user/max_user_namespaces", "0")]), Some(Forbids::Limit));
        assert_eq!(of(&[]), None);
        // A profile of banger's own programs, not the switch for all of the machine's.
        let fix = Forbids::AppArmor.fix(Some(Path::new("/usr/local/bin"))).unwrap();
        assert!(fix.contains("profile banger /usr/local/bin/banger{,-*} flags=(unconfined)"), "{fix}");
        assert!(!fix.contains("apparmor_restrict"), "{fix}");
        assert_eq!(Forbids::AppArmor.fix(Some(Path::new("/home/me/'; rm"))), None);
        for forbids in [Forbids::Clone, Forbids::Limit, Forbids::AppArmor] {
            let fix = forbids.fix(Some(Path::new("/usr/bin"))).unwrap();
            let parsed = Command::new("sh").args(["-n", "-c", &fix]).status().unwrap();
            assert!(parsed.success(), "a shell takes it as it is: {fix}");
        }
    }
}
