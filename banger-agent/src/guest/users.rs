//! Who runs a command: the guest's own passwd(5) and group(5), read directly, since a static binary
//! has no NSS.

use std::path::PathBuf;

use crate::protocol::{AgentFailure, AgentFailureKind};

/// A user of the guest, as a command needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::guest) struct User {
    pub(in crate::guest) name: String,
    pub(in crate::guest) uid: u32,
    pub(in crate::guest) gid: u32,
    /// Supplementary groups, `gid` among them.
    pub(in crate::guest) groups: Vec<u32>,
    pub(in crate::guest) home: PathBuf,
    pub(in crate::guest) shell: PathBuf,
}

impl User {
    /// Finds the user that `wanted` names: `name`, `uid`, or either with `:group`; none: root.
    ///
    /// # Errors
    /// [`AgentFailureKind::NoSuchUser`] for a name that the guest does not know. A number needs no
    /// entry.
    pub(in crate::guest) fn find(wanted: Option<&str>) -> Result<User, AgentFailure> {
        let read =
            |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        Self::find_in(wanted.unwrap_or("0"), &read("/etc/passwd"), &read("/etc/group"))
    }

    fn find_in(wanted: &str, passwd: &str, group: &str) -> Result<User, AgentFailure> {
        let missing = |what: &str, name: &str| {
            AgentFailure::new(AgentFailureKind::NoSuchUser, format!("the guest has no {what} `{name}`"))
        };
        let (user, with_group) = match wanted.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (wanted, None),
        };
        let mut found = match passwd.lines().filter_map(parse_passwd).find(|entry| entry.name == user) {
            Some(entry) => entry,
            None => {
                // Everybody knows the one that every system has.
                let uid = if user == "root" { Some(0) } else { number(user) };
                let uid = uid.ok_or_else(|| missing("user", user))?;
                passwd.lines().filter_map(parse_passwd).find(|entry| entry.uid == uid).unwrap_or_else(|| unnamed(uid))
            }
        };
        if let Some(wanted) = with_group {
            let named = group.lines().filter_map(parse_group).find(|(name, ..)| *name == wanted);
            found.gid = match named {
                Some((_, gid, _)) => gid,
                None => number(wanted).ok_or_else(|| missing("group", wanted))?,
            };
        }
        found.groups = vec![found.gid];
        let member = |(_, gid, members): (&str, u32, &str)| members.split(',').any(|m| m == found.name).then_some(gid);
        let more: Vec<u32> = group.lines().filter_map(parse_group).filter_map(member).collect();
        found.groups.extend(more.into_iter().filter(|gid| *gid != found.gid));
        Ok(found)
    }
}

/// A user's or group's number. The highest means "no change" to the kernel: setresuid(2).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn unnamed(uid: u32) -> User {
    let (name, home) = if uid == 0 { ("root".into(), "/root") } else { (uid.to_string(), "/") };
    User {
        name,
        uid,
        gid: if uid == 0 { 0 } else { uid },
        groups: Vec::new(),
        home: home.into(),
        shell: "/bin/sh".into(),
    }
}

fn parse_passwd(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let (home, shell) = (fields.nth(1)?, fields.next().unwrap_or_default());
    let shell = if shell.is_empty() { "/bin/sh" } else { shell };
    Some(User { name, uid, gid, groups: Vec::new(), home: home.into(), shell: shell.into() })
}

fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some((name, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nme:x:1000:1000::/home/me:\n";
    const GROUP: &str = "root:x:0:\nme:x:1000:\ndocker:x:99:you,me\nkvm:x:107:me\n";

    #[test]
    fn user_is_found_by_name_number_and_group() {
        let me = User::find_in("me", PASSWD, GROUP).unwrap();
        assert_eq!((me.uid, me.gid, me.groups.as_slice()), (1000, 1000, &[1000, 99, 107][..]));
        assert_eq!(me.shell, PathBuf::from("/bin/sh"));
        assert_eq!(User::find_in("1000", PASSWD, GROUP).unwrap(), me);
        assert_eq!(User::find_in("me:docker", PASSWD, GROUP).unwrap().gid, 99);
        assert_eq!(User::find_in("4000:5", PASSWD, GROUP).unwrap().groups, [5]);
    }

    #[test]
    fn image_without_passwd_has_only_root() {
        let root = User::find_in("0", "", "").unwrap();
        assert_eq!((root.name.as_str(), root.uid, root.gid), ("root", 0, 0));
        assert_eq!(User::find_in("root", "", "").unwrap(), root);
        assert_eq!(User::find_in("nobody", "", "").unwrap_err().kind, AgentFailureKind::NoSuchUser);
        for unknown in ["root:nope", "4294967295", "0:4294967295", "-1", ""] {
            assert!(User::find_in(unknown, PASSWD, GROUP).is_err(), "{unknown}");
        }
    }
}
