//! What this machine has, and the user's side of git.

use std::path::Path;
use std::sync::Arc;

use super::VmSpec;
use crate::config::TrustStore;
use crate::error::{CommandError, ErrorKind};
use crate::git::{Host, OutsidePolicy};
use crate::host::paths::{Paths, search_path};
use crate::output::units;

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

/// A VM cannot have more memory or processors than there are.
///
/// # Errors
/// If it is to.
pub(crate) fn check_fits(spec: &VmSpec) -> Result<(), CommandError> {
    fits(spec, host_cpus(), host_memory())
}

fn fits(spec: &VmSpec, cpus: u32, memory_mib: Option<u64>) -> Result<(), CommandError> {
    let (what, has, name) = match (spec.cpus, spec.memory_mib, memory_mib) {
        // A guest's processors wait for each other. With more than there are, one that is
        // translated does not come up at all.
        (Some(wanted), ..) if wanted > cpus => {
            (units::count(wanted.into(), "processor", "processors"), cpus.to_string(), "cpus")
        }
        (_, Some(wanted), Some(memory)) if wanted > memory => {
            (format!("{} of memory", units::size(wanted)), units::size(memory), "memory")
        }
        _ => return Ok(()),
    };
    let error = CommandError::new(format!("a VM with {what} does not fit into this machine, which has {has}"));
    let variable = name.to_uppercase();
    let hint = format!("ask for less: --{name}, BANGER_{variable}, or `{name}` in your configuration");
    Err(error.kind(ErrorKind::Usage).hint(hint))
}

/// The most that a VM of this machine can have of `cpus` or `memory`.
pub(crate) fn most(key: &str) -> Option<String> {
    match key {
        "cpus" => Some(host_cpus().to_string()),
        "memory" => host_memory().map(units::size),
        _ => None,
    }
}

/// The processors of this machine, also those that this process may not use.
pub(super) fn host_cpus() -> u32 {
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|count| u32::try_from(count).ok()).unwrap_or(1).max(default_cpus())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_does_not_fit_is_refused_with_what_there_is() {
        let fits = |cpus, memory_mib| fits(&VmSpec { cpus, memory_mib, ..VmSpec::default() }, 2, Some(8 << 10));
        for (cpus, memory, message, hint) in [
            (Some(64), None, "64 processors does not fit into this machine, which has 2", "--cpus, BANGER_CPUS"),
            (Some(2), Some(99_999 << 10), "99999G of memory does not fit into this machine, which has 8G", "--memory"),
        ] {
            let error = fits(cpus, memory).unwrap_err();
            assert!(error.message.contains(message) && error.hints[0].contains(hint), "{error:?}");
        }
        assert!(fits(Some(2), Some(8 << 10)).is_ok() && fits(None, None).is_ok());
        assert!(super::fits(&VmSpec { memory_mib: Some(1 << 40), ..VmSpec::default() }, 1, None).is_ok());
    }
}
