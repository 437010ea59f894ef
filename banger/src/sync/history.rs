//! How much of git's history this VM has, and what it has been sent where that is not all.
//!
//! A VM may get more than it has, and never less: what it has may be what its own commits stand on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use banger_util::checksummed::{decode_file, encode_file};
use banger_util::file::remove_unfinished;
use serde::{Deserialize, Serialize};

use super::SyncError;
use crate::git::{History, Repository, Sent};
use crate::host::file::replace;
use crate::output::units::bytes;

/// Format of the file; another one, or a damaged one, is read as none.
const MAGIC: &[u8; 8] = b"bgrhist1";
/// From this many bytes of objects on a VM gets a shallow history if nothing else is said.
const LARGE: u64 = 1 << 30;

/// What is known of the VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SentHistory {
    history: History,
    /// By the path of `.git` in the guest; only where the history is shallow.
    sent: BTreeMap<Vec<u8>, Sent>,
}

/// The history of one sync.
pub(super) struct Histories {
    folder: PathBuf,
    known: SentHistory,
    /// What the user should know.
    pub(super) note: Option<String>,
}

impl Histories {
    /// For a VM that has no workspace yet. `wanted` is what was said; if nothing was, it depends on
    /// how much there is.
    ///
    /// # Errors
    /// If objects cannot be listed.
    pub(super) fn initial<'a>(
        folder: &Path,
        wanted: Option<History>,
        repositories: impl Iterator<Item = &'a Repository>,
    ) -> Result<Histories, SyncError> {
        let (mut history, mut note) = (wanted.unwrap_or_default(), None);
        if wanted.is_none() {
            let mut size = 0;
            for repository in repositories {
                size += repository.object_files()?.iter().map(|object| object.size).sum::<u64>();
            }
            if size >= LARGE {
                history = History::Shallow;
                let size = bytes(size);
                note = Some(format!(
                    "git's history stays here, being {size}: the VM has the current commit; for all of it, in a new VM: history = \"full\""
                ));
            }
        }
        Histories::with(folder, SentHistory { history, sent: BTreeMap::new() }, note)
    }

    /// For a VM that has a workspace. `doubted` says that host and guest disagree about the last
    /// sync.
    ///
    /// # Errors
    /// If what is known cannot be read.
    pub(super) fn of(folder: &Path, wanted: Option<History>, doubted: bool) -> Result<Histories, SyncError> {
        // A VM of which nothing is known was made when there was only one kind.
        let mut known = load(folder).map_err(SyncError::State)?.unwrap_or_default();
        let mut note = None;
        match wanted {
            Some(wanted) if wanted > known.history => {
                let (wanted, has) = (wanted.name(), known.history.name());
                note = Some(format!(
                    "history `{wanted}` takes effect in a new VM, after `banger delete`: this one keeps `{has}`"
                ));
            }
            Some(wanted) => known.history = wanted,
            None => {}
        }
        match known.history {
            History::Shallow if doubted => {
                known.sent.values_mut().for_each(|sent| *sent = std::mem::take(sent).doubted())
            }
            History::Shallow => {}
            History::Full | History::None => known.sent.clear(),
        }
        Histories::with(folder, known, note)
    }

    fn with(folder: &Path, known: SentHistory, note: Option<String>) -> Result<Histories, SyncError> {
        let histories = Histories { folder: folder.to_owned(), known, note };
        // What a sync left that did not come to its end.
        remove_unfinished(&folder.join("history")).map_err(SyncError::State)?;
        match fs::remove_dir_all(histories.packs()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SyncError::State(error)),
            _ => Ok(histories),
        }
    }

    /// How much there is of it.
    pub(super) fn kind(&self) -> History {
        self.known.history
    }

    /// Where packs are that wait to be sent.
    pub(super) fn packs(&self) -> PathBuf {
        self.folder.join("packs")
    }

    /// What the guest has of the repository whose `.git` is there at `git`.
    pub(super) fn sent(&self, git: &[u8]) -> Sent {
        self.known.sent.get(git).cloned().unwrap_or_default()
    }

    /// The guest has nothing any more of the repository whose `.git` was there at `git`.
    pub(super) fn forget(&mut self, git: &[u8]) {
        self.known.sent.remove(git);
    }

    /// A repository's fingerprint: that of the same repository is another where the guest has less
    /// of it.
    ///
    /// # Errors
    /// As [`Repository::fingerprint`].
    pub(super) fn fingerprint(&self, repository: &Repository) -> Result<[u8; 32], SyncError> {
        let fingerprint = repository.fingerprint()?.0;
        Ok(match self.known.history {
            History::Full => fingerprint,
            other => *blake3::keyed_hash(&fingerprint, other.name().as_bytes()).as_bytes(),
        })
    }

    /// Writes down what the guest has after a sync that came to its end.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn save<'a>(mut self, sent: impl Iterator<Item = (&'a [u8], &'a Sent)>) -> Result<(), SyncError> {
        self.known.sent.extend(sent.map(|(git, sent)| (git.to_vec(), sent.clone())));
        if load(&self.folder).map_err(SyncError::State)?.as_ref() != Some(&self.known) {
            replace(&self.folder.join("history"), &encode_file(MAGIC, &self.known), 0o600).map_err(SyncError::State)?;
        }
        // They are in the guest now; what cannot be removed is removed by the next sync.
        let _ = fs::remove_dir_all(self.packs());
        Ok(())
    }
}

fn load(folder: &Path) -> io::Result<Option<SentHistory>> {
    let bytes = match fs::read(folder.join("history")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(decode_file(MAGIC, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_depth_only_grows() {
        let folder = tempfile::tempdir().unwrap();
        let of = |wanted| Histories::of(folder.path(), wanted, false).unwrap();
        assert_eq!(of(Some(History::None)).kind(), History::Full);
        assert!(of(Some(History::None)).note.unwrap().contains("keeps `full`"));
        let initial = Histories::initial(folder.path(), Some(History::None), std::iter::empty()).unwrap();
        initial.save(std::iter::empty()).unwrap();
        assert_eq!((of(None).kind(), of(None).note), (History::None, None));
        of(Some(History::Shallow)).save([(&b".git"[..], &Sent::default())].into_iter()).unwrap();
        assert_eq!((of(None).kind(), of(None).known.sent.len()), (History::Shallow, 1));
        assert!(of(Some(History::None)).note.is_some());
        let full = of(Some(History::Full));
        assert_eq!((full.kind(), full.known.sent.len()), (History::Full, 0));
        fs::write(folder.path().join("history"), "damaged").unwrap();
        assert_eq!(of(None).kind(), History::Full);
    }
}
