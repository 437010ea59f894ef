//! What this machine has: processors and memory.

/// The number of processors, also of those that this process may not use.
pub(crate) fn cpus() -> u32 {
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|count| u32::try_from(count).ok()).unwrap_or(1).max(usable_cpus())
}

/// The number of processors that this process may use.
pub(crate) fn usable_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// The memory in MiB; none where the kernel does not say.
pub(crate) fn memory_mib() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    Some(total.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_has_at_least_what_this_process_may_use() {
        assert!(usable_cpus() >= 1 && cpus() >= usable_cpus());
        assert!(memory_mib().is_some_and(|mib| mib > 0));
    }
}
