//! Builds run in namespaces of their own, by unshare(1).
//!
//! A mount namespace, because `mmdebstrap` mounts `/proc` and the like in the tree that it builds:
//! a build that is killed must not leave these on the host, where removing the tree would reach
//! into them. A process namespace, so that all it has started ends with it. For a user who is not
//! root a user namespace, in which it is root, and the other owners are the user's subordinate ids
//! (subuid(5)).

use std::ffi::OsString;
use std::path::Path;

use nix::unistd::geteuid;

use super::tool::{NEWUIDMAP, UNSHARE};
use crate::error::Result;

/// The command that runs another in new namespaces, with its temporary files in `temp_dir`.
pub(crate) fn wrapper(temp_dir: &Path) -> Result<Vec<OsString>> {
    let mut wrapper = vec![OsString::from("unshare")];
    wrapper.extend(user_namespace()?.iter().map(OsString::from));
    wrapper.extend(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "env"].map(OsString::from));
    let mut variable = OsString::from("TMPDIR=");
    variable.push(temp_dir);
    wrapper.push(variable);
    Ok(wrapper)
}

/// Removes a tree that holds folders of subordinate ids, which their user cannot empty otherwise.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let mut arguments: Vec<OsString> = user_namespace()?.iter().map(OsString::from).collect();
    arguments.extend(["rm", "-rf", "--"].map(OsString::from));
    arguments.push(path.into());
    UNSHARE.run(&arguments).map(drop)
}

/// The options of `unshare` that make an ordinary user root.
fn user_namespace() -> Result<&'static [&'static str]> {
    if geteuid().is_root() {
        return Ok(&[]);
    }
    NEWUIDMAP.require()?;
    Ok(&["--map-root-user", "--map-auto"])
}
