//! Whether the guest's memory was enough.

use std::fs;

/// How often the kernel has killed a process for want of memory since the guest booted: `oom_kill`
/// of /proc/vmstat, which counts those of the whole system and of control groups. 0 where the
/// kernel does not say.
pub(super) fn kills() -> u64 {
    count(&fs::read_to_string("/proc/vmstat").unwrap_or_default())
}

fn count(vmstat: &str) -> u64 {
    let counter = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "));
    counter.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kill_counter_is_parsed_from_vmstat() {
        assert_eq!(count("nr_free_pages 1\noom_kill 3\noom_kill_x 9\n"), 3);
        assert_eq!([count(""), count("oom_kill x\n")], [0, 0]);
        assert!(fs::read_to_string("/proc/vmstat").unwrap().contains("\noom_kill "), "Linux 4.13 has it");
    }
}
