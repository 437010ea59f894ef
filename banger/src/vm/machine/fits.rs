//! Whether this machine has what is asked of a VM.

use super::VmSpec;
use crate::error::{CommandError, ErrorKind};
use crate::host::hardware;
use crate::output::units;

/// Checks that this machine has as many processors and as much memory as a VM is to have.
///
/// # Errors
/// [`ErrorKind::Usage`] with what this machine has.
pub(crate) fn check_fits(spec: &VmSpec) -> Result<(), CommandError> {
    fits(spec, hardware::cpus(), hardware::memory_mib())
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

/// The most of `key`, `cpus` or `memory`, that a VM of this machine can have; none: another key, or
/// not known.
pub(crate) fn most(key: &str) -> Option<String> {
    match key {
        "cpus" => Some(hardware::cpus().to_string()),
        "memory" => hardware::memory_mib().map(units::size),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_larger_than_the_host_is_refused() {
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
