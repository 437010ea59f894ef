//! A VM's last activity: `activity.json` in its directory. The supervisor writes it, so that a VM
//! that does not run can be judged.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use banger_agent::protocol::sync::GuestOnly;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;

const FILE: &str = "activity.json";
/// The former [`FILE`], whose count is not believed any more: only its time holds.
const PREVIOUS: &str = "activity.prev.json";
/// [`FILE`] and [`PREVIOUS`] of earlier versions. This version removes both before it writes
/// [`FILE`], and when the VM is used: where one of them is, an earlier version has run the VM since.
const EARLIER: [&str; 2] = ["use.json", "use.former.json"];
const FORMAT: u32 = 1;
/// How many of the guest's own changes are named.
const MAX_NAMED: usize = 10;

/// When a VM was last in use, and what had changed in it alone at that time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastActivity {
    format_version: u32,
    /// When its last user left, in seconds since 1970.
    pub ended: u64,
    /// What changed in the guest alone; none: not known.
    pub guest_only: Option<GuestOnly>,
}

impl LastActivity {
    /// A use that ends now.
    pub(crate) fn now(mut guest_only: Option<GuestOnly>) -> Self {
        if let Some(only) = &mut guest_only {
            only.named.truncate(MAX_NAMED);
        }
        let ended = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        LastActivity { format_version: FORMAT, ended, guest_only }
    }

    /// Reads what is known of the VM in the directory `vm`. None: nothing is, as where the file is
    /// damaged.
    ///
    /// # Errors
    /// The file system's refusal.
    pub(crate) fn read(vm: &Path) -> Result<Option<Self>> {
        let read = |name| Self::read_file(&vm.join(name));
        if let Some(activity) = read(EARLIER[0])? {
            return Ok(Some(activity));
        }
        let activity = read(FILE)?;
        if activity.is_some() && !EARLIER.iter().any(|name| vm.join(name).symlink_metadata().is_ok()) {
            return Ok(activity);
        }
        let all = [activity, read(PREVIOUS)?, read(EARLIER[1])?].into_iter().flatten();
        let latest = all.max_by_key(|activity| activity.ended);
        Ok(latest.map(|latest| LastActivity { guest_only: None, ..latest }))
    }

    fn read_file(path: &Path) -> Result<Option<Self>> {
        match file::read_json(path, FORMAT) {
            Ok(activity) => Ok(Some(activity)),
            Err(Error::Damaged { .. } | Error::Newer { .. }) => Ok(None),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it down. What cannot be written, for want of space, is at least not believed any
    /// more.
    pub(crate) fn write(&self, vm: &Path) -> Result<()> {
        EARLIER.iter().try_for_each(|name| file::remove_if_there(&vm.join(name)))?;
        file::write_json(&vm.join(FILE), self).or_else(|_| file::remove_if_there(&vm.join(FILE)))
    }

    /// What was found does not hold any more. Every command does this at its start, so nothing is
    /// written: the file has another name. Should the machine lose power before that is on its
    /// disk, the VM has ended badly, which says the same.
    pub(crate) fn forget_changes(vm: &Path) -> Result<()> {
        for name in [FILE, EARLIER[0]] {
            let path = vm.join(name);
            match fs::rename(&path, vm.join(PREVIOUS)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => file::remove_if_there(&path)?,
                _ => {}
            }
        }
        file::remove_if_there(&vm.join(EARLIER[1]))
    }
}

#[cfg(test)]
mod tests {
    use banger_agent::protocol::WireBytes;
    use banger_agent::protocol::sync::Counts;

    use super::*;

    #[test]
    fn unsynced_changes_are_recorded_until_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert!(LastActivity::read(folder.path()).unwrap().is_none());
        LastActivity::forget_changes(folder.path()).unwrap();
        let named = (0..100).map(|number| WireBytes(format!("file-{number}").into_bytes())).collect();
        let only = GuestOnly { counts: Counts { files: 200, references: 1 }, named };
        LastActivity::now(Some(only)).write(folder.path()).unwrap();
        let read = LastActivity::read(folder.path()).unwrap().unwrap();
        let only = read.guest_only.unwrap();
        assert_eq!((only.counts.files, only.named.len()), (200, MAX_NAMED));
        assert!(read.ended > 1_600_000_000);
        LastActivity::forget_changes(folder.path()).unwrap();
        let forgotten = LastActivity::read(folder.path()).unwrap().unwrap();
        assert!(forgotten.guest_only.is_none() && forgotten.ended == read.ended);
        LastActivity::forget_changes(folder.path()).unwrap();
        assert_eq!(LastActivity::read(folder.path()).unwrap().unwrap().ended, read.ended);
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(LastActivity::read(folder.path()).unwrap().unwrap().guest_only.is_none());
        LastActivity::now(None).write(folder.path()).unwrap();
        assert!(LastActivity::read(folder.path()).unwrap().unwrap().ended >= read.ended);
    }

    #[test]
    fn files_of_earlier_versions_are_read_until_the_next_use() {
        let folder = tempfile::tempdir().unwrap();
        let read = || {
            LastActivity::read(folder.path()).unwrap().map(|activity| (activity.ended, activity.guest_only.is_some()))
        };
        let earlier = |name: &str, ended: u64| {
            let activity = LastActivity { ended, ..LastActivity::now(Some(GuestOnly::default())) };
            file::write_json(&folder.path().join(name), &activity).unwrap();
        };
        earlier("use.former.json", 1);
        assert_eq!(read(), Some((1, false)));
        earlier("use.json", 2);
        assert_eq!(read(), Some((2, true)));
        LastActivity::forget_changes(folder.path()).unwrap();
        assert_eq!(read(), Some((2, false)));
        // An earlier version has run the VM once more, and ended in order;
        earlier("activity.json", 3);
        earlier("use.json", 4);
        assert_eq!(read(), Some((4, true)));
        LastActivity::forget_changes(folder.path()).unwrap();
        assert_eq!(read(), Some((4, false)));
        // and once more, and has not counted.
        earlier("activity.json", 5);
        earlier("use.former.json", 4);
        assert_eq!(read(), Some((5, false)));
        fs::write(folder.path().join("use.json"), "{").unwrap();
        assert_eq!(read(), Some((5, false)));
        LastActivity::now(Some(GuestOnly::default())).write(folder.path()).unwrap();
        assert!(read().unwrap().1);
        assert!(EARLIER.iter().all(|name| !folder.path().join(name).exists()));
    }
}
