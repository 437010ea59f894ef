//! What this machine has, and the user's side of git.

use std::path::Path;
use std::sync::Arc;

use super::Wanted;
use crate::config::TrustStore;
use crate::error::{CommandError, ErrorKind};
use crate::git::{Host, OutsidePolicy};
use crate::paths::{Paths, search_path};
use crate::units;

/// The most memory that a VM has by default, in MiB.
const DEFAULT_MEMORY: u64 = 4096;

/// The user's side of git.
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

/// A VM cannot have more memory than there is.
pub(super) fn check_memory(wanted: &Wanted) -> Result<(), CommandError> {
    match (wanted.memory_mib, host_memory()) {
        (Some(memory), Some(host)) if memory > host => {
            let (memory, host) = (units::size(memory), units::size(host));
            Err(CommandError::new(format!(
                "a VM with {memory} of memory does not fit into this machine, which has {host}"
            ))
            .kind(ErrorKind::Usage)
            .hint("ask for less: --memory, BANGER_MEMORY, or `memory` in banger.toml"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn default_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// Half of the host's memory, up to [`DEFAULT_MEMORY`].
pub(crate) fn default_memory() -> u64 {
    host_memory().map_or(1024, |total| total / 2).clamp(512, DEFAULT_MEMORY)
}

/// In MiB; none where the kernel does not say.
pub(crate) fn host_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    Some(total.parse::<u64>().ok()? / 1024)
}
