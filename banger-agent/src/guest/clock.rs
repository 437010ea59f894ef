//! The guest's clock, which follows the host's.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::console::console;

/// A guest whose clock is behind by more than this follows, in nanoseconds. What the host says is
/// late by the time it takes to arrive, so the difference is larger than it looks.
const BEHIND: i64 = 10_000_000;
/// One that is ahead goes back only when that is no matter of a message that was late: time that
/// repeats itself misleads make.
const AHEAD: i64 = 2_000_000_000;

/// Follows the host's clock, which showed `host_ns` nanoseconds since 1970 a moment ago; 0: the
/// host does not say.
pub(super) fn set_clock(host_ns: i64) {
    let Ok(now) = clock_gettime(ClockId::CLOCK_REALTIME) else { return };
    if is_off(host_ns, now.tv_sec() * 1_000_000_000 + now.tv_nsec()) {
        let time = TimeSpec::new(host_ns.div_euclid(1_000_000_000), host_ns.rem_euclid(1_000_000_000));
        if let Err(error) = clock_settime(ClockId::CLOCK_REALTIME, time) {
            console(&format!("cannot set the clock: {error}"));
        }
    }
}

fn is_off(host_ns: i64, guest_ns: i64) -> bool {
    let behind = host_ns.saturating_sub(guest_ns);
    host_ns > 0 && !(-AHEAD..=BEHIND).contains(&behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_corrected_on_small_lag_or_large_lead() {
        const NOW: i64 = 1_800_000_000_000_000_000;
        for (host, guest, off) in [
            (NOW, NOW, false),
            (NOW, NOW - 5_000_000, false),
            (NOW, NOW - 20_000_000, true),
            (NOW, NOW - 3_600_000_000_000, true),
            (NOW, NOW + 500_000_000, false),
            (NOW, NOW + 3_600_000_000_000, true),
            (0, NOW, false),
            (i64::MIN, NOW, false),
        ] {
            assert_eq!(is_off(host, guest), off, "host {host}, guest {guest}");
        }
    }
}
