//! Which files with a filter are what was staged, as the guest was last told.
//!
//! The guest's git knows it by what stat says there, which is in the index that it is sent. So the
//! index has to be sent again when the answer changes, and when such a file has been sent.

use banger_util::checksummed::{decode_file, encode_file};

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use banger_agent::protocol::sync::Digest;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::SyncError;
use super::manifest::Manifest;
use crate::git::{Evidence, FilteredFiles, Listing, OpenObjects, Repository};
use crate::host::file::replace;

/// Format of the file; another one, or a damaged one, is read as none: then the index is sent once
/// more.
const MAGIC: &[u8; 8] = b"bgrfilt1";

/// What is known of a repository that has files with a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FilteredRepository {
    /// As long as this stays, so does the answer.
    key: Digest,
    /// What the guest was told.
    told: Digest,
    /// The files with a filter, by path.
    files: BTreeMap<Vec<u8>, Option<Staged>>,
}

/// A content of a file that was found to be what an object's filtered form is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Staged {
    /// The object's name.
    id: Vec<u8>,
    /// The digest of the content.
    content: Digest,
}

/// The answers of one sync.
pub(super) struct Filters {
    path: PathBuf,
    /// By the path of `.git` in the guest: the last sync's, and this one's.
    before: BTreeMap<Vec<u8>, FilteredRepository>,
    now: BTreeMap<Vec<u8>, FilteredRepository>,
    /// Files that were written since git looked at them, and kept their size.
    doubtful: Vec<Vec<u8>>,
}

/// What is to be done about a repository.
pub(super) struct Answer {
    pub(super) files: FilteredFiles,
    /// Whether the guest was told something else, or nothing.
    pub(super) is_news: bool,
}

impl Filters {
    /// # Errors
    /// If what is known cannot be read.
    pub(super) fn load(folder: &Path) -> Result<Filters, SyncError> {
        let path = folder.join("filters");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(SyncError::State(error)),
        };
        let before = decode_file(MAGIC, &bytes).unwrap_or_default();
        Ok(Filters { path, before, now: BTreeMap::new(), doubtful: Vec::new() })
    }

    /// Whether nothing has changed that decides about the files of a repository, which has this
    /// fingerprint.
    pub(super) fn is_settled(
        &mut self,
        repository: &Repository,
        git: &[u8],
        fingerprint: &Digest,
        listing: &Listing,
        manifest: &Manifest,
    ) -> Result<bool, SyncError> {
        let Some(known) = self.before.get(git) else { return Ok(repository.filtered_files(listing)?.is_none()) };
        let is_settled = known.key == key(repository, fingerprint, listing, manifest, known.files.keys())?;
        if is_settled {
            self.now.insert(git.to_vec(), known.clone());
        }
        Ok(is_settled)
    }

    /// Decides about the files of a repository, whose contents are in `manifest`.
    ///
    /// # Errors
    /// If git's own files cannot be read.
    pub(super) fn decide(
        &mut self,
        repository: &Repository,
        git: &[u8],
        fingerprint: &Digest,
        listing: &Listing,
        manifest: &Manifest,
    ) -> Result<Answer, SyncError> {
        let before = self.before.get(git);
        let (mut files, mut known) = (FilteredFiles::new(), BTreeMap::new());
        let Some(all) = repository.filtered_files(listing)? else {
            return Ok(Answer { files, is_news: before.is_some_and(|before| !before.files.is_empty()) });
        };
        let mut told = blake3::Hasher::new();
        let mut objects = OpenObjects::default();
        for file in all {
            let path = file.path.as_bytes();
            let Some(sent) = manifest.entry(path) else { continue };
            let staged = Staged { id: file.id.clone(), content: sent.digest };
            let last = before.and_then(|before| before.files.get(path)?.as_ref());
            let is_clean = repository.is_as_staged(&file, last == Some(&staged), &mut objects)?;
            if !is_clean && file.evidence == Evidence::SameSize {
                self.doubtful.push(path.to_vec());
            }
            add(&mut told, path);
            add(&mut told, &sent.digest);
            add(&mut told, format!("{:?} {:?} {is_clean}", sent.kind, file.evidence == Evidence::Changed).as_bytes());
            // A content that was right may come back.
            let remembered = if is_clean { Some(staged) } else { last.cloned() };
            known.insert(path.to_vec(), remembered);
            files.insert(file.path, is_clean);
        }
        let told = *told.finalize().as_bytes();
        let is_news = match before {
            Some(before) => before.told != told,
            None => !files.is_empty(),
        };
        let key = key(repository, fingerprint, listing, manifest, known.keys())?;
        self.now.insert(git.to_vec(), FilteredRepository { key, told, files: known });
        Ok(Answer { files, is_news })
    }

    /// The guest was not told: it has staged something itself.
    pub(super) fn not_told(&mut self, git: &[u8]) {
        if let Some(known) = self.now.get_mut(git) {
            known.told = self.before.get(git).map(|before| before.told).unwrap_or_default();
            known.key = Default::default();
        }
    }

    /// What git in the guest shows as changed though it may not be; none if there is nothing.
    pub(super) fn note(&self) -> Option<String> {
        use banger_agent::protocol::WireBytes;
        let first = WireBytes(self.doubtful.first()?.clone());
        let others = match self.doubtful.len() {
            1 => String::new(),
            count => format!(" and {} other files", count - 1),
        };
        Some(format!(
            "git in the VM takes `{first}`{others} for changed: a filter applies, and git here has not looked since \
             they were written; if `git status` here shows no change, run banger again after it"
        ))
    }

    /// Writes down what the guest was told in a sync that came to its end.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn save(self) -> Result<(), SyncError> {
        if self.now == self.before {
            return Ok(());
        }
        if self.now.is_empty() {
            return fs::remove_file(&self.path).map_err(SyncError::State);
        }
        replace(&self.path, &encode_file(MAGIC, &self.now), 0o600).map_err(SyncError::State)
    }
}

/// A digest of what decides about `files`: the repository, the filters that there are, attributes,
/// and contents.
fn key<'a>(
    repository: &Repository,
    fingerprint: &Digest,
    listing: &'a Listing,
    manifest: &Manifest,
    files: impl Iterator<Item = &'a Vec<u8>>,
) -> Result<Digest, SyncError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fingerprint);
    repository.filter_names()?.iter().for_each(|name| add(&mut hasher, name));
    let attributes = repository.attributes_files(listing).map(|entry| entry.path.as_bytes());
    for path in attributes.chain(files.map(Vec::as_slice)) {
        add(&mut hasher, path);
        if let Some(known) = manifest.entry(path) {
            add(&mut hasher, &known.digest);
            add(&mut hasher, format!("{:?}", known.kind).as_bytes());
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

fn add(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
