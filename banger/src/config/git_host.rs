//! The user's side of git: what git would read outside of a repository.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use super::TrustStore;
use crate::git::{Host, Identity, IncludePolicy, OutsidePolicy};
use crate::host::paths::{Paths, search_path};

/// The environment of git's remote helpers: that of this process, without the variables of git's.
/// Programs are looked for in `first` before they are on `PATH`.
///
/// # Errors
/// If `first` cannot be on `PATH`: it has a colon in its name.
pub fn helper_environment(first: &Path) -> Result<Vec<(OsString, OsString)>, std::env::JoinPathsError> {
    let search_path = search_path();
    let path = std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&search_path)))?;
    let is_of_git = |name: &OsString| name.as_encoded_bytes().starts_with(b"GIT_");
    let others = std::env::vars_os().filter(|(name, _)| !is_of_git(name) && name != "PATH");
    Ok(others.chain([("PATH".into(), path)]).collect())
}

/// The user's configuration of git and the environment of this process. A repository may lead to
/// the places outside that the user trusts it with, and have a `.worktreeinclude` that the user
/// trusts.
pub fn git_host(paths: &Paths) -> Host {
    let trust = TrustStore::new(&paths.data);
    let include_trust = trust.clone();
    Host {
        outside: OutsidePolicy::Trusted(Arc::new(move |root: &Path| trust.outside(root))),
        include: IncludePolicy::Trusted(Arc::new(move |identity: &Identity, content: &[u8]| {
            include_trust.trusts_include(identity, content)
        })),
        home: paths.home.clone(),
        xdg_config_home: std::env::var_os("XDG_CONFIG_HOME").filter(|value| !value.is_empty()).map(Into::into),
        system_config: Some("/etc/gitconfig".into()),
        variables: std::env::vars_os()
            .filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GIT_CONFIG_"))
            .collect(),
        pwd: std::env::var_os("PWD").filter(|value| !value.is_empty()).map(Into::into),
        path: Some(search_path()),
        index_file: std::env::var_os("GIT_INDEX_FILE").filter(|value| !value.is_empty()).map(Into::into),
        sudo_uid: std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()),
    }
}
