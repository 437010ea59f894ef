//! The frequency of the guest's time stamp counter under TCG, which is the host's own counter.
//!
//! Trap: a `microvm` has no clock but its timer (PIT) to measure the counter by. On a busy host an
//! emulated timer is late, so the kernel measures nonsense, gives the counter up, and either hangs
//! in its first moments or loses time for ever after. So it is told.

use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

/// Long enough for an error of some parts in a million.
const BASELINE: Duration = Duration::from_millis(10);

/// What the kernel is told: its Documentation/admin-guide/kernel-parameters. Takes ten
/// milliseconds.
pub(super) async fn kernel_parameters() -> String {
    format!("tsc=reliable tsc_early_khz={}", khz().await)
}

/// The counter's frequency in kHz.
async fn khz() -> u64 {
    let (start, first) = sample();
    // The thread has other things to do meanwhile. That it comes back later makes the baseline
    // longer, and nothing else.
    tokio::time::sleep(BASELINE).await;
    let (end, last) = sample();
    let nanoseconds = (end - start).as_nanos();
    u64::try_from(u128::from(last.wrapping_sub(first)) * 1_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

/// The clock and the counter at the same moment: the closest of several tries.
fn sample() -> (Instant, u64) {
    let tries = (0..20).map(|_| {
        let before = Instant::now();
        // SAFETY: every x86-64 processor has the instruction, and it only reads.
        let counter = unsafe { _rdtsc() };
        let took = before.elapsed();
        (took, before + took / 2, counter)
    });
    let (_, moment, counter) = tries.min_by_key(|(took, ..)| *took).expect("there are several");
    (moment, counter)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn concurrent_tsc_measurements_agree_without_blocking() {
        let start = std::time::Instant::now();
        let (one, other) = tokio::join!(super::khz(), super::khz());
        assert!(one.abs_diff(other) * 1000 < one, "{one} {other}");
        assert!(start.elapsed() >= super::BASELINE);
        // Neither keeps others of its thread waiting.
        let measuring = super::khz();
        tokio::pin!(measuring);
        assert!(futures::poll!(measuring.as_mut()).is_pending());
        measuring.await;
    }
}
