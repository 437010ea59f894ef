//! What to do where a user may not open `/dev/kvm`: that depends on whose the device is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, getgroups};

/// Read and write, for the group: inode(7).
const GROUP_ACCESS: u32 = 0o060;

/// Who may open the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access<'a> {
    /// Nobody but root, or root's group.
    Root,
    /// The members of a group, of which this user is none.
    Group(&'a str),
    /// The members of a group, of which this user is one since after this session began.
    NextSession(&'a str),
    /// This user, by all that its permissions say.
    Everybody,
}

/// What to do about the device at `path`, which this process may not open.
pub(super) fn advice(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else { return words(Access::Everybody) };
    let uid = Uid::effective();
    let gid = Gid::from_raw(metadata.gid());
    let group = Group::from_gid(gid).ok().flatten();
    let name = group.as_ref().map_or_else(|| gid.to_string(), |group| group.name.clone());
    let user = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let is_listed = user.is_some_and(|user| group.is_some_and(|group| group.mem.contains(&user)));
    let has_it = Gid::effective() == gid || getgroups().is_ok_and(|groups| groups.contains(&gid));
    let for_group = metadata.permissions().mode() & GROUP_ACCESS == GROUP_ACCESS;
    match uid.is_root() || (has_it && for_group) {
        true => words(Access::Everybody),
        false => words(access(for_group && gid.as_raw() != 0, &name, is_listed)),
    }
}

/// Of a user who may not open the device. `by_group`: it is for the members of `group`, which is not root's; `is_listed`: group(5) names
/// the user among them.
fn access(by_group: bool, group: &str, is_listed: bool) -> Access<'_> {
    match (by_group, is_listed) {
        (false, _) => Access::Root,
        (true, true) => Access::NextSession(group),
        (true, false) => Access::Group(group),
    }
}

fn words(access: Access<'_>) -> String {
    match access {
        Access::Root => {
            "it is root's alone: give it to the group `kvm` and become a member of that, as distributions have it \
            (sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && sudo usermod -aG kvm $USER), and log in again"
                .to_owned()
        }
        Access::Group(group) => {
            format!("become a member of the group `{group}` (sudo usermod -aG {group} $USER), and log in again")
        }
        Access::NextSession(group) => format!("you are a member of the group `{group}` from your next login on"),
        Access::Everybody => "its permissions let you, so a container or a security module does not: \
            give the container the device, such as with --device /dev/kvm"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_about_the_group_that_has_the_device() {
        assert_eq!(access(true, "kvm", false), Access::Group("kvm"));
        assert_eq!(access(true, "kvm", true), Access::NextSession("kvm"));
        assert_eq!([access(false, "root", false), access(false, "root", true)], [Access::Root, Access::Root]);
    }

    #[test]
    fn a_device_that_only_its_owner_may_open_is_no_groups() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("kvm");
        fs::write(&device, "").unwrap();
        fs::set_permissions(&device, fs::Permissions::from_mode(0o600)).unwrap();
        let expected = if Uid::effective().is_root() { Access::Everybody } else { Access::Root };
        assert_eq!(advice(&device), words(expected));
    }

    #[test]
    fn a_device_of_roots_alone_is_not_had_by_the_group_alone() {
        assert!(words(Access::Root).contains("chgrp kvm"), "{}", words(Access::Root));
        assert!(words(Access::Group("libvirt")).contains("usermod -aG libvirt $USER"));
        assert!(!words(Access::NextSession("kvm")).contains("usermod"));
        assert!(words(Access::Everybody).contains("--device"));
    }
}
