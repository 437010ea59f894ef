//! Why a user may not open `/dev/kvm`, and what to do about it: that depends on whose the device
//! is.

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

/// The device at `path`, which this process may not open: why not, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// Who may open it, in words.
    pub(super) problem: String,
    /// What to do about it, such as a command to paste.
    pub(super) hint: String,
}

/// Why this process may not open the device at `path`.
pub(super) fn denied(path: &Path) -> Denied {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let name = user.clone().unwrap_or_else(|| uid.to_string());
    let Ok(metadata) = fs::metadata(path) else { return describe(path, Access::Everybody, &name) };
    let gid = Gid::from_raw(metadata.gid());
    let group = Group::from_gid(gid).ok().flatten();
    let group_name = group.as_ref().map_or_else(|| gid.to_string(), |group| group.name.clone());
    let is_listed = user.is_some_and(|user| group.is_some_and(|group| group.mem.contains(&user)));
    let has_it = Gid::effective() == gid || getgroups().is_ok_and(|groups| groups.contains(&gid));
    let for_group = metadata.permissions().mode() & GROUP_ACCESS == GROUP_ACCESS;
    let access = match uid.is_root() || (has_it && for_group) {
        true => Access::Everybody,
        false => access(for_group && gid.as_raw() != 0, &group_name, is_listed),
    };
    describe(path, access, &name)
}

/// Of a user who may not open the device. `by_group`: it is for the members of `group`, which is
/// not root's; `is_listed`: group(5) names the user among them.
fn access(by_group: bool, group: &str, is_listed: bool) -> Access<'_> {
    match (by_group, is_listed) {
        (false, _) => Access::Root,
        (true, true) => Access::NextSession(group),
        (true, false) => Access::Group(group),
    }
}

/// In words, for the user called `user`.
fn describe(path: &Path, access: Access<'_>, user: &str) -> Denied {
    let path = path.display();
    let (problem, hint) = match access {
        // What udev(7) sets up outlives a reboot; permissions set by hand do not.
        Access::Root => (
            format!("{path} may be opened by root only"),
            format!(
                "echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"' | sudo tee /etc/udev/rules.d/60-kvm.rules && \
                 sudo udevadm trigger /dev/kvm && sudo usermod -aG kvm {user}, then log in again"
            ),
        ),
        Access::Group(group) => (
            format!("{path} may be opened by the group `{group}` only"),
            format!("sudo usermod -aG {group} {user}, then log in again"),
        ),
        Access::NextSession(group) => (
            format!("{path} may be opened by the group `{group}` only, which you joined after you logged in"),
            "log in again".to_owned(),
        ),
        Access::Everybody => (
            format!("{path} has permissions for you, but a container or a security module denies access"),
            "in a container, pass the device, such as with --device /dev/kvm".to_owned(),
        ),
    };
    Denied { problem, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_access_advice_depends_on_device_group() {
        assert_eq!(access(true, "kvm", false), Access::Group("kvm"));
        assert_eq!(access(true, "kvm", true), Access::NextSession("kvm"));
        assert_eq!([access(false, "root", false), access(false, "root", true)], [Access::Root, Access::Root]);
    }

    #[test]
    fn owner_only_device_is_reported_as_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("kvm");
        fs::write(&device, "").unwrap();
        fs::set_permissions(&device, fs::Permissions::from_mode(0o600)).unwrap();
        let denied = denied(&device);
        let expected = if Uid::effective().is_root() { "denies access" } else { "may be opened by root only" };
        assert!(denied.problem.ends_with(expected), "{denied:?}");
    }

    #[test]
    fn hint_is_a_command_for_the_current_user() {
        let describe = |access| describe(Path::new("/dev/kvm"), access, "me");
        let root = describe(Access::Root);
        assert_eq!(root.problem, "/dev/kvm may be opened by root only");
        assert_eq!(
            root.hint,
            "echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"' | sudo tee /etc/udev/rules.d/60-kvm.rules && \
             sudo udevadm trigger /dev/kvm && sudo usermod -aG kvm me, then log in again"
        );
        assert!(describe(Access::Group("libvirt")).hint.starts_with("sudo usermod -aG libvirt me, "));
        assert_eq!(describe(Access::NextSession("kvm")).hint, "log in again");
        assert!(describe(Access::Everybody).hint.contains("--device"));
    }
}
