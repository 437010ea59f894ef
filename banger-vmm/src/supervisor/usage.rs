//! Whether somebody uses the VM, and for how long nobody has.
//!
//! Time is the host's monotonic clock: one that is set, and a host that sleeps, move nothing.
//! Nothing polls: a timer is armed when the last user leaves.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A timer that fires later than this tells that nothing ran here for a while, users neither: the
/// time starts anew.
const LATE: Duration = Duration::from_secs(5);

/// Shared by who serves users and who waits for them to be gone.
pub(super) struct Usage(watch::Sender<Now>);

#[derive(Clone, Copy)]
struct Now {
    users: usize,
    /// When the last one left; before one has come, when the VM was up.
    since: Instant,
    /// After what time without users the VM is idle; none: never.
    limit: Option<Duration>,
    /// What users may have changed has not been looked at since.
    touched: bool,
}

/// A user, until dropped.
pub(super) struct User(watch::Sender<Now>);

impl Drop for User {
    fn drop(&mut self) {
        self.0.send_modify(|now| {
            now.users -= 1;
            now.since = Instant::now();
        });
    }
}

impl Usage {
    /// Nobody yet. `limit_ms`: after how many milliseconds without users the VM is idle; 0: never.
    pub(super) fn new(limit_ms: u64) -> Self {
        Usage(watch::Sender::new(Now { users: 0, since: Instant::now(), limit: limit(limit_ms), touched: false }))
    }

    /// One more.
    pub(super) fn enter(&self) -> User {
        self.0.send_modify(|now| {
            now.users += 1;
            now.touched = true;
        });
        User(self.0.clone())
    }

    /// Whether somebody has come since what users may have changed was looked at.
    pub(super) fn is_touched(&self) -> bool {
        self.0.borrow().touched
    }

    /// What users may have changed is looked at from now on.
    pub(super) fn look(&self) {
        self.0.send_modify(|now| now.touched = false);
    }

    /// Whether there is none.
    pub(super) fn is_unused(&self) -> bool {
        self.0.borrow().users == 0
    }

    /// Completes when there is none.
    pub(super) async fn unused(&self) {
        // The sender is in `self`.
        let _ = self.0.subscribe().wait_for(|now| now.users == 0).await;
    }

    /// From now on, this is how long the VM may be without users, in milliseconds; 0: for ever.
    pub(super) fn set_limit(&self, limit_ms: u64) {
        self.0.send_modify(|now| now.limit = limit(limit_ms));
    }

    /// The VM is up: only now can it be idle.
    pub(super) fn restart(&self) {
        self.0.send_modify(|now| now.since = Instant::now());
    }

    /// Completes when nobody has used the VM for the idle time.
    pub(super) async fn idle(&self) {
        self.unused_for(|now| now.limit).await;
    }

    /// Completes when nobody has used the VM for `pause`, and somebody had: once for each time.
    pub(super) async fn quiet(&self, pause: Duration) {
        self.unused_for(|now| now.touched.then_some(pause)).await;
        self.look();
    }

    async fn unused_for(&self, limit: impl Fn(&Now) -> Option<Duration>) {
        let mut now = self.0.subscribe();
        loop {
            let seen = *now.borrow_and_update();
            // One that is too long to be a time is for ever.
            let end = limit(&seen).filter(|_| seen.users == 0).and_then(|limit| seen.since.checked_add(limit));
            let expired = async {
                match end {
                    Some(end) => {
                        sleep_until(end).await;
                        end
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender is in `self`.
                _ = now.changed() => {}
                end = expired => {
                    if end.elapsed() <= LATE {
                        return;
                    }
                    self.restart();
                }
            }
        }
    }
}

fn limit(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn idle_within(usage: &Usage, time: Duration) -> bool {
        timeout(time, usage.idle()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn unused_resolves_when_the_last_user_leaves() {
        let usage = Usage::new(0);
        usage.unused().await;
        let user = usage.enter();
        let (left, ()) = tokio::join!(timeout(MINUTE, usage.unused()), async {
            sleep(Duration::from_secs(1)).await;
            drop(user);
        });
        assert!(left.is_ok());
        let _user = usage.enter();
        assert!(timeout(MINUTE, usage.unused()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_resolves_after_idle_timeout_without_users() {
        let usage = Usage::new(60_000);
        let (one, two) = (usage.enter(), usage.enter());
        assert!(!idle_within(&usage, 10 * MINUTE).await);
        drop(one);
        assert!(!idle_within(&usage, 10 * MINUTE).await);
        drop(two);
        assert!(!idle_within(&usage, MINUTE - Duration::from_secs(1)).await);
        // One that comes in time starts it anew.
        drop(usage.enter());
        assert!(!idle_within(&usage, MINUTE - Duration::from_secs(1)).await);
        assert!(idle_within(&usage, Duration::from_secs(2)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_timeout_can_change_and_be_infinite() {
        let usage = Usage::new(0);
        assert!(!idle_within(&usage, 10_000 * MINUTE).await);
        usage.set_limit(u64::MAX);
        assert!(!idle_within(&usage, MINUTE).await);
        usage.restart();
        let waiting = async {
            sleep(MINUTE).await;
            usage.set_limit(30_000);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = usage.idle() => {}
            () = waiting => unreachable!("it waits for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn suspended_time_does_not_count_as_idle() {
        let usage = Usage::new(60_000);
        let start = Instant::now();
        // As when the host, or this process, was stopped meanwhile.
        let paused = async {
            tokio::task::yield_now().await;
            advance(60 * MINUTE).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = usage.idle() => {}
            () = paused => unreachable!("it waits for ever"),
        }
        assert_eq!(start.elapsed(), 61 * MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_resolves_once_per_period_of_use() {
        let usage = Usage::new(0);
        let second = Duration::from_secs(1);
        assert!(timeout(MINUTE, usage.quiet(second)).await.is_err());
        drop(usage.enter());
        assert!(timeout(MINUTE, usage.quiet(second)).await.is_ok());
        assert!(timeout(MINUTE, usage.quiet(second)).await.is_err());
        let _user = usage.enter();
        assert!(timeout(MINUTE, usage.quiet(second)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn is_touched_reports_use_since_last_look() {
        let usage = Usage::new(0);
        assert!(!usage.is_touched());
        let user = usage.enter();
        assert!(usage.is_touched());
        drop(user);
        assert!(usage.is_touched());
        usage.quiet(Duration::from_secs(1)).await;
        assert!(!usage.is_touched());
        drop(usage.enter());
        usage.look();
        assert!(!usage.is_touched());
    }
}
