//! A repository with the current commit alone, as `git clone --depth 1` makes one, and what is
//! added to it as the host moves on.
//!
//! Whatever is sent of a commit is all of it: its tree and its files. A commit whose parents were
//! not sent is cut off there, which git reads in its file `shallow`: gitrepository-layout(5). What
//! was cut stays cut; a commit whose parents were sent is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{GitError, ObjectFile, Repository, RepositoryState, Result, StateFile};

/// What travels of the state beside HEAD and references: what speaks of commits that are sent, or
/// of none. A rebase, a series of picks and a bisection need the commits between.
const STATE: [&str; 9] = [
    "CHERRY_PICK_HEAD",
    "MERGE_HEAD",
    "MERGE_MODE",
    "MERGE_MSG",
    "REVERT_HEAD",
    "SQUASH_MSG",
    "info/attributes",
    "info/exclude",
    "info/sparse-checkout",
];

/// Of these, the ones that hold commits.
const COMMITS: [&str; 3] = ["CHERRY_PICK_HEAD", "MERGE_HEAD", "REVERT_HEAD"];

/// What was sent to a guest of a repository with a shallow history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Names of objects, in hexadecimal.
    objects: BTreeSet<String>,
    /// Commits that are cut off from their parents.
    cut: BTreeSet<String>,
    /// References and their values.
    references: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Sent {
    /// Forgets the objects that were sent, for a guest that may have lost them or never received
    /// them: all are sent again.
    #[must_use]
    pub fn doubted(self) -> Sent {
        Sent { objects: BTreeSet::new(), ..self }
    }
}

/// What is to be sent to a guest of a repository with a shallow history.
#[derive(Debug)]
pub struct Shallow {
    /// What the guest has afterwards.
    pub sent: Sent,
    /// HEAD, the references that lead to what is sent, and state.
    pub state: RepositoryState,
    /// A pack of the objects that the guest lacks, and its index; `None` if it lacks none.
    pub objects: Vec<ObjectFile>,
}

impl Repository {
    /// What the guest, which has `before`, shall have now. A pack is written into `folder`.
    ///
    /// # Errors
    /// As [`Repository::state`], and if `git` is missing or fails, or the pack cannot be written.
    pub fn shallow(&self, before: Sent, folder: &Path) -> Result<Shallow> {
        // Not only the folders, which are checked whenever git runs: no file may lead outside.
        self.object_files()?;
        let mut state = self.state()?;
        state.files.retain(|file| STATE.iter().any(|name| file.path == name.as_bytes()));
        let head = self.resolve(&state);
        let mut tips: Vec<String> = head.iter().cloned().collect();
        let with_commits = state.files.iter().filter(|file| COMMITS.iter().any(|name| file.path == name.as_bytes()));
        tips.extend(with_commits.flat_map(|file| ids(&file.bytes)));
        // Tags are objects of their own.
        let mut wanted = tips.clone();
        if let Some(head) = &head {
            let names = self.git(&["for-each-ref", "--format=%(refname)", &format!("--points-at={head}")])?;
            let values = lines(&names).filter_map(|name| state.refs.get(name));
            wanted.extend(values.flat_map(|value| ids(value)));
        }
        wanted.retain(|id| !before.objects.contains(id));
        let mut new: BTreeSet<String> = BTreeSet::new();
        if !wanted.is_empty() {
            // What a partial clone lacks, its guest lacks too.
            let mut arguments = vec!["rev-list", "--objects", "--no-walk", "--missing=allow-any"];
            arguments.extend(wanted.iter().map(String::as_str));
            new.extend(lines(&self.git(&arguments)?).filter_map(first_id));
        }
        new.extend(self.staged(|id| before.objects.contains(id) || new.contains(id))?);
        new.retain(|id| !before.objects.contains(id));

        let mut sent = before;
        let added: Vec<_> = new.iter().map(String::as_str).collect();
        let objects = if added.is_empty() { Vec::new() } else { self.pack(&added, folder)? };
        for tip in tips.iter().filter(|tip| new.contains(*tip)) {
            let commit = self.git(&["cat-file", "commit", tip])?;
            let header = lines(&commit).take_while(|line| !line.is_empty());
            let mut parents = header.filter_map(|line| first_id(line.strip_prefix(b"parent ")?));
            if parents.any(|parent| !sent.objects.contains(&parent) && !new.contains(&parent)) {
                sent.cut.insert(tip.clone());
            }
        }
        sent.objects.extend(new);
        sent.references = references(&state, &sent);
        state.refs = sent.references.clone();
        if !sent.cut.is_empty() {
            let bytes = sent.cut.iter().map(|id| format!("{id}\n")).collect::<String>().into_bytes();
            state.files.push(StateFile { path: b"shallow".to_vec(), bytes, mode: 0o644 });
        }
        Ok(Shallow { sent, state, objects })
    }

    /// The commit that is checked out; none: the branch has no commit yet.
    fn resolve(&self, state: &RepositoryState) -> Option<String> {
        let mut value = state.head.trim_ascii_end();
        // As deep as git follows: SYMREF_MAXDEPTH.
        for _ in 0..5 {
            match value.strip_prefix(b"ref: ") {
                Some(name) => value = state.refs.get(name)?,
                None => break,
            }
        }
        ids(value).next()
    }

    /// Contents that are in the index and are not `known`: a commit would need them.
    fn staged(&self, known: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let listed = self.git(&["ls-files", "--stage", "-z"])?;
        // `<mode> <name> <stage>\t<path>`; 160000 is a submodule's commit, which is not of this
        // repository.
        let id = |entry: &[u8]| {
            first_id(
                entry.strip_prefix(b"100644 ").or(entry.strip_prefix(b"100755 ")).or(entry.strip_prefix(b"120000 "))?,
            )
        };
        let ids: BTreeSet<_> = listed.split(|byte| *byte == 0).filter_map(id).filter(|id| !known(id)).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let input: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let checked = self.git_with(&["cat-file", "--batch-check"], input.as_bytes(), None)?;
        // An entry that is only intended has none.
        let is_there = |line: &&[u8]| !line.ends_with(b" missing");
        Ok(lines(&checked).filter(is_there).filter_map(first_id).collect())
    }

    /// A pack of these objects, in `folder`. The repository itself is not written to.
    fn pack(&self, objects: &[&str], folder: &Path) -> Result<Vec<ObjectFile>> {
        let failed = |error| GitError::io("write a pack into", folder, error);
        fs::create_dir_all(folder).map_err(failed)?;
        let (pack, index) = (folder.join("new.pack"), folder.join("new.idx"));
        let output = File::create(&pack).map_err(failed)?;
        let input: String = objects.iter().map(|id| format!("{id}\n")).collect();
        // It is made to be read once: looking for deltas would take longer than sending what they
        // save.
        self.git_with(&["pack-objects", "--quiet", "--stdout", "--window=0"], input.as_bytes(), Some(output))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let arguments = ["-c", "pack.writeReverseIndex=false", "index-pack", "-o", &text(&index), &text(&pack)];
        let hash = String::from_utf8_lossy(&self.git(&arguments)?).trim().to_owned();
        let file = |path: &Path, suffix: &str| {
            let name = format!("pack-{hash}.{suffix}");
            let named = folder.join(&name);
            fs::rename(path, &named)?;
            Ok(ObjectFile { name: format!("pack/{name}"), size: fs::metadata(&named)?.len(), path: named })
        };
        let files = [file(&pack, "pack"), file(&index, "idx")];
        files.into_iter().collect::<std::io::Result<_>>().map_err(failed)
    }
}

/// The references that lead to what is sent. One that has moved to what is not stays where the
/// guest has it.
fn references(state: &RepositoryState, sent: &Sent) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let is_sent = |value: &[u8]| std::str::from_utf8(value).is_ok_and(|id| sent.objects.contains(id));
    let direct = state.refs.iter().filter(|(_, value)| !value.starts_with(b"ref: "));
    let mut kept: BTreeMap<_, _> = direct
        .filter_map(|(name, value)| {
            let value = if is_sent(value) { value } else { sent.references.get(name)? };
            Some((name.clone(), value.clone()))
        })
        .collect();
    for (name, value) in &state.refs {
        if value.strip_prefix(b"ref: ").is_some_and(|target| kept.contains_key(target)) {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n')
}

/// The name of an object that a line begins with.
fn first_id(line: &[u8]) -> Option<String> {
    let word = line.split(|byte| *byte == b' ').next()?;
    let is_id = matches!(word.len(), 40 | 64) && word.iter().all(u8::is_ascii_hexdigit);
    is_id.then(|| String::from_utf8_lossy(word).into_owned())
}

/// The names of objects, a line each.
fn ids(bytes: &[u8]) -> impl Iterator<Item = String> {
    lines(bytes).filter_map(first_id)
}
