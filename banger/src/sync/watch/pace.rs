//! When something has changed: how long to wait for more of it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::directories::Changes;

/// Quiet for this long after an edit: an editor that saves a file by another one's name does more
/// than one thing.
const QUIET: Duration = Duration::from_millis(4);
/// The same after many changes, at most.
const LONGEST_QUIET: Duration = Duration::from_millis(150);
/// For a file that somebody writes to and has not closed.
const WRITING_QUIET: Duration = Duration::from_millis(100);
/// While git holds a lock.
const LOCKED_QUIET: Duration = Duration::from_secs(1);
/// From so many changes on, it is a storm.
const STORM: usize = 16;
/// Never wait longer than this after the first change: for few files,
const LIMIT: Duration = Duration::from_millis(40);
/// for one that is being written,
const WRITING_LIMIT: Duration = Duration::from_secs(1);
/// for many,
const STORM_LIMIT: Duration = Duration::from_secs(2);
/// and for git, which checks out a large branch.
const LOCKED_LIMIT: Duration = Duration::from_secs(60);

/// How long to wait for more changes, from the first on.
pub(super) struct Pace {
    start: Instant,
    quiet: Duration,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace { start: Instant::now(), quiet: QUIET }
    }

    /// How long it has to be quiet now; none: there is no more waiting. `locked` says that git is
    /// in the middle of something.
    pub(super) fn next(&mut self, changes: &Changes, locked: bool) -> Option<Duration> {
        let is_storm = changes.everything || changes.paths.len() >= STORM;
        let (quiet, limit) = match (locked, is_storm, changes.is_unfinished()) {
            (true, ..) => (LOCKED_QUIET, LOCKED_LIMIT),
            (_, true, _) => {
                self.quiet = (self.quiet * 2).min(LONGEST_QUIET);
                (self.quiet, STORM_LIMIT)
            }
            (_, _, true) => (WRITING_QUIET, WRITING_LIMIT),
            _ => (QUIET, LIMIT),
        };
        let left = limit.checked_sub(self.start.elapsed())?;
        (!left.is_zero()).then(|| quiet.min(left))
    }
}

/// The locks of git that nobody waits for: they were there for long.
#[derive(Debug, Default)]
pub(super) struct GitLocks(BTreeMap<PathBuf, (u64, i64)>);

impl GitLocks {
    /// Whether one of `locks` is there that is to be waited for.
    pub(super) fn are_held(&mut self, locks: &[PathBuf]) -> bool {
        self.0.retain(|path, known| identity(path) == Some(*known));
        locks.iter().any(|path| path.symlink_metadata().is_ok() && !self.0.contains_key(path))
    }

    /// Those that are there now are not waited for any more.
    pub(super) fn pass_over(&mut self, locks: &[PathBuf]) {
        self.0.extend(locks.iter().filter_map(|path| Some((path.clone(), identity(path)?))));
    }
}

/// By what a lock is told from the next one at the same path.
fn identity(path: &Path) -> Option<(u64, i64)> {
    let metadata = path.symlink_metadata().ok()?;
    Some((metadata.ino(), metadata.ctime_nsec() ^ metadata.ctime()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::RelPath;

    fn changes(count: usize, unfinished: bool) -> Changes {
        let paths = (0..count).map(|number| (RelPath::new(format!("f{number}")).unwrap(), unfinished));
        Changes { paths: paths.collect(), ..Changes::default() }
    }

    #[test]
    fn wait_after_an_edit_is_short_and_grows_in_a_storm() {
        let mut pace = Pace::new();
        assert_eq!(pace.next(&changes(1, false), false), Some(QUIET));
        assert_eq!(pace.next(&changes(1, true), false), Some(WRITING_QUIET));
        assert_eq!(pace.next(&changes(1, false), true), Some(LOCKED_QUIET));
        let storm: Vec<_> = (0..8).filter_map(|_| pace.next(&changes(STORM, false), false)).collect();
        assert!(storm.is_sorted() && storm[0] == 2 * QUIET && storm[7] == LONGEST_QUIET, "{storm:?}");
        // Whoever goes on writing does not hold up the sync.
        let ago = |time: Duration| Pace { start: Instant::now() - time, quiet: QUIET };
        assert_eq!(ago(LIMIT).next(&changes(1, false), false), None);
        assert_eq!(ago(WRITING_LIMIT).next(&changes(1, true), false), None);
        assert_eq!(ago(STORM_LIMIT).next(&changes(STORM, false), false), None);
        assert_eq!(ago(LOCKED_LIMIT).next(&changes(1, false), true), None);
    }

    #[test]
    fn lock_is_waited_for_until_it_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let lock = [folder.path().join("index.lock")];
        let mut locks = GitLocks::default();
        assert!(!locks.are_held(&lock));
        std::fs::write(&lock[0], "").unwrap();
        assert!(locks.are_held(&lock));
        locks.pass_over(&lock);
        assert!(!locks.are_held(&lock));
        // Another one at the same path.
        std::fs::write(folder.path().join("next"), "").unwrap();
        std::fs::rename(folder.path().join("next"), &lock[0]).unwrap();
        assert!(locks.are_held(&lock));
    }
}
