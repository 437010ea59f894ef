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
/// [`FILE`] and [`PREVIOUS`] of earlier versions. A supervisor of this version renames both when it
/// starts, so one that lies beside a [`FILE`] is later than it.
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

    /// None: nothing is known, be it because the file is damaged.
    pub(crate) fn read(vm: &Path) -> Result<Option<Self>> {
        let read = |name| Self::read_file(&vm.join(name));
        for name in [EARLIER[0], FILE] {
            if let Some(activity) = read(name)? {
                return Ok(Some(activity));
            }
        }
        let previous = [read(EARLIER[1])?, read(PREVIOUS)?].into_iter().flatten().max_by_key(|activity| activity.ended);
        Ok(previous.map(|previous| LastActivity { guest_only: None, ..previous }))
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
        Ok(())
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
        // An earlier version has run the VM once more.
        earlier("activity.json", 3);
        earlier("use.json", 4);
        assert_eq!(read().unwrap().0, 4);
        LastActivity::forget_changes(folder.path()).unwrap();
        assert_eq!(read(), Some((4, false)));
    }
}
