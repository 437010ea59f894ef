//! What the agent knows of the last sync: for each path what was put there and how it looked then.
//!
//! On the disk it is a log of batches, each with its checksum, so that a sync of one file costs a
//! small write. Before changes are applied, their intent is synced. Their completion is written
//! after the changes are safe, and nobody waits for it: an intent without one says that the power
//! went; then either state is accepted for the paths it names, and the generation is unknown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use banger_util::checksummed::{decode_record, encode_record};
use banger_util::file::{Durability, replace_exclusive};
use serde::{Deserialize, Serialize};

use super::tree::Stamp;
use crate::protocol::sync::{Digest, Kind};

const MAGIC: &[u8; 8] = b"bgrsync1";
/// A log this much longer than its first batch is written anew.
const SLACK: u64 = 4 << 20;

/// A reference: the path of its repository's `.git` folder, and its full name.
pub(super) type ReferenceName = (Vec<u8>, String);

/// A file or link that a sync put at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SyncedFile {
    pub(super) digest: Digest,
    pub(super) kind: Kind,
    /// None: never put there; the guest's own was kept where the host has this.
    pub(super) stamp: Option<Stamp>,
}

/// A step of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Batch {
    /// Some: done, and this is the generation. None: about to be done.
    pub(super) generation: Option<String>,
    /// Paths and what is known of them now; none: nothing.
    pub(super) files: Vec<(Vec<u8>, Option<SyncedFile>)>,
    /// References and their values; none: removed.
    pub(super) references: Vec<(ReferenceName, Option<String>)>,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) generation: Option<String>,
    pub(super) files: HashMap<Vec<u8>, SyncedFile>,
    /// From an intent whose completion is missing: these may have been put instead.
    pub(super) in_doubt: HashMap<Vec<u8>, Option<SyncedFile>>,
    pub(super) references: BTreeMap<ReferenceName, String>,
}

impl Records {
    fn apply(&mut self, batch: Batch) {
        if batch.generation.is_none() {
            self.generation = None;
            self.in_doubt.extend(batch.files);
            return;
        }
        self.generation = batch.generation;
        for (path, known) in batch.files {
            self.in_doubt.remove(&path);
            match known {
                Some(known) => self.files.insert(path, known),
                None => self.files.remove(&path),
            };
        }
        for (name, value) in batch.references {
            match value {
                Some(value) => self.references.insert(name, value),
                None => self.references.remove(&name),
            };
        }
    }

    /// The repositories, by the path of `.git`.
    pub(super) fn repositories(&self) -> BTreeSet<&[u8]> {
        self.references.keys().map(|(git, _)| &git[..]).collect()
    }

    /// Knows nothing any more of the repository whose `.git` was at `git`.
    pub(super) fn forget_repository(&mut self, git: &[u8]) {
        self.files.retain(|path, _| !is_within(path, git));
        self.in_doubt.retain(|path, _| !is_within(path, git));
        self.references.retain(|(of, _), _| of != git);
    }
}

/// Whether `path` is beneath the folder `folder`.
pub(super) fn is_within(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

/// The log on the disk.
pub(super) struct Log {
    path: PathBuf,
    /// Length of the log, and of its first batch, in bytes.
    length: u64,
    base: u64,
    /// Whether the file may have more than `length` bytes: a batch that was cut short, and could
    /// not be cut off. What is appended behind it would never be read.
    is_torn: bool,
}

impl Log {
    /// Opens the log in `folder` and reads what it says; none if there is no log. A log that is
    /// damaged ends where the damage starts, which may be at once: then there is a workspace of
    /// which nothing is known.
    pub(super) fn open(folder: &Path) -> io::Result<(Log, Option<Records>)> {
        let path = folder.join("log");
        let mut log = Log { path, length: 0, base: 0, is_torn: false };
        let bytes = match fs::read(&log.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((log, None)),
            Err(error) => return Err(error),
        };
        let mut records = Records::default();
        let mut rest = bytes.strip_prefix(MAGIC).unwrap_or_default();
        while let Some((batch, after)) = decode_record(rest) {
            records.apply(batch);
            rest = after;
            log.length = (bytes.len() - rest.len()) as u64;
            if log.base == 0 {
                log.base = log.length;
            }
        }
        if log.length == 0 {
            log.replace(&records)?;
        } else if !rest.is_empty() {
            OpenOptions::new().write(true).open(&log.path)?.set_len(log.length)?;
        }
        Ok((log, Some(records)))
    }

    /// Appends `batch` to the log, syncs it if it is an intent, and applies it to `records`.
    ///
    /// # Errors
    /// The file system's, for example a full disk. Then neither `records` nor what the log says has
    /// changed.
    pub(super) fn append(&mut self, records: &mut Records, batch: Batch) -> io::Result<()> {
        let is_done = batch.generation.is_some();
        let bytes = encode_record(&batch);
        if is_done && self.length + bytes.len() as u64 > 2 * self.base + SLACK {
            let mut next = records.clone();
            next.apply(batch);
            self.replace(&next)?;
            *records = next;
            return Ok(());
        }
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        if self.is_torn {
            file.set_len(self.length)?;
            self.is_torn = false;
        }
        let written = file.write_all(&bytes).and_then(|()| if is_done { Ok(()) } else { file.sync_data() });
        if let Err(error) = written {
            self.is_torn = file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        records.apply(batch);
        Ok(())
    }

    /// Writes the log anew, from `records` alone.
    pub(super) fn replace(&mut self, records: &Records) -> io::Result<()> {
        let batch = Batch {
            generation: records.generation.clone().or_else(|| Some(String::new())),
            files: records.files.iter().map(|(path, known)| (path.clone(), Some(known.clone()))).collect(),
            references: records.references.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
        };
        let content = [&MAGIC[..], &encode_record(&batch)].concat();
        replace_exclusive(&self.path, &content, 0o666, Durability::Synced)?;
        self.length = content.len() as u64;
        self.base = self.length;
        self.is_torn = false;
        Ok(())
    }
}

#[cfg(feature = "fuzzing")]
pub(in crate::guest) mod fuzzing;
#[cfg(test)]
mod tests {
    use super::*;

    fn known(byte: u8) -> SyncedFile {
        let stamp = Stamp { size: 1, mtime_ns: 2, ctime_ns: Some(3) };
        SyncedFile { digest: [byte; 32], kind: Kind::File(0o644), stamp: Some(stamp) }
    }

    fn batch(generation: Option<&str>, path: &str, known: Option<SyncedFile>) -> Batch {
        let generation = generation.map(str::to_owned);
        Batch { generation, files: vec![(path.into(), known)], references: Vec::new() }
    }

    #[test]
    fn log_with_truncated_last_batch_is_recovered() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, none) = Log::open(folder.path()).unwrap();
        assert!(none.is_none());
        let mut records = Records { generation: Some("1".into()), ..Records::default() };
        records.files.insert(b"a".to_vec(), known(1));
        log.replace(&records).unwrap();
        log.append(&mut records, batch(Some("2"), "b", Some(known(2)))).unwrap();
        let whole = fs::read(&log.path).unwrap();
        let after_two = whole.len();
        log.append(&mut records, batch(Some("3"), "a", None)).unwrap();
        let whole = fs::read(&log.path).unwrap();
        for cut in after_two..whole.len() {
            fs::write(&log.path, &whole[..cut]).unwrap();
            let (_, read) = Log::open(folder.path()).unwrap();
            let read = read.unwrap();
            assert_eq!(read.generation.as_deref(), Some("2"));
            assert_eq!(read.files.len(), 2);
        }
        fs::write(&log.path, &whole).unwrap();
        let read = Log::open(folder.path()).unwrap().1.unwrap();
        assert_eq!((read.generation.as_deref(), read.files.len()), (Some("3"), 1));
    }

    #[test]
    fn unreadable_log_starts_empty() {
        for damaged in [&b""[..], b"bgrsync1", b"bgrsync0 and more", &[0; 100]] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("log"), damaged).unwrap();
            let (mut log, records) = Log::open(folder.path()).unwrap();
            let mut records = records.unwrap();
            assert_eq!((records.generation.as_deref(), records.files.len()), (None, 0));
            log.append(&mut records, batch(Some("1"), "a", Some(known(1)))).unwrap();
            let read = Log::open(folder.path()).unwrap().1.unwrap();
            assert_eq!((read.generation.as_deref(), read.files.len()), (Some("1"), 1));
        }
    }

    #[test]
    fn intent_without_completion_keeps_both_states() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(folder.path()).unwrap();
        let mut records = Records { generation: Some("1".into()), ..Records::default() };
        records.files.insert(b"a".to_vec(), known(1));
        log.replace(&records).unwrap();
        log.append(&mut records, batch(None, "a", Some(known(2)))).unwrap();
        let read = Log::open(folder.path()).unwrap().1.unwrap();
        assert_eq!(read.generation, None);
        assert_eq!(read.files[&b"a"[..]], known(1));
        assert_eq!(read.in_doubt[&b"a"[..]], Some(known(2)));
    }

    /// Names the directory of the log to the process that [`batch_on_full_disk_is_truncated`]
    /// starts, whose files cannot grow beyond a limit.
    const LIMITED: &str = "BANGER_TEST_LIMITED_LOG";

    #[test]
    fn batch_on_full_disk_is_truncated() {
        let Some(folder) = std::env::var_os(LIMITED) else {
            let folder = tempfile::tempdir().unwrap();
            let limited = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
            let name = "guest::sync::records::tests::batch_on_full_disk_is_truncated";
            let mut command = std::process::Command::new("sh");
            command.args(["-c", limited, "sh"]).arg(std::env::current_exe().unwrap()).args(["--exact", name]);
            let output = command.env(LIMITED, folder.path()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        };
        let (mut log, _) = Log::open(Path::new(&folder)).unwrap();
        let mut records = Records { generation: Some("1".into()), ..Records::default() };
        records.files.insert(b"a".to_vec(), known(1));
        log.replace(&records).unwrap();
        for generation in [None, Some("2".to_owned())] {
            let files = (0..200).map(|i| (format!("{i}").into_bytes(), Some(known(2)))).collect();
            let too_long = Batch { generation, files, references: Vec::new() };
            log.append(&mut records, too_long).unwrap_err();
            assert_eq!((records.generation.as_deref(), records.files.len()), (Some("1"), 1));
            assert!(records.in_doubt.is_empty());
        }
        log.append(&mut records, batch(Some("3"), "b", Some(known(3)))).unwrap();
        let read = Log::open(Path::new(&folder)).unwrap().1.unwrap();
        assert_eq!((read.generation.as_deref(), &read.files), (Some("3"), &records.files));
        assert_eq!(read.files.len(), 2);
    }

    #[test]
    fn long_log_is_compacted() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(folder.path()).unwrap();
        let mut records = Records::default();
        log.replace(&records).unwrap();
        for round in 0..40 {
            let files = (0..2000).map(|i| (format!("{i}").into_bytes(), Some(known(round)))).collect();
            let batch = Batch { generation: Some(round.to_string()), files, references: Vec::new() };
            log.append(&mut records, batch).unwrap();
        }
        assert!(fs::metadata(&log.path).unwrap().len() < SLACK + (1 << 20));
        assert_eq!(Log::open(folder.path()).unwrap().1.unwrap().files, records.files);
    }
}
