//! The user's side of git: what git would read outside of a repository.

use std::path::Path;
use std::sync::Arc;

use super::TrustStore;
use crate::git::{Host, OutsidePolicy};
use crate::host::paths::{Paths, search_path};

/// The user's configuration of git and the environment of this process. A repository may lead to
/// the places outside that the user trusts it with.
pub fn git_host(paths: &Paths) -> Host {
    let trust = TrustStore::new(&paths.data);
    Host {
        outside: OutsidePolicy::Trusted(Arc::new(move |root: &Path| trust.outside(root))),
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
