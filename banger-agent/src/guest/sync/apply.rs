//! Staging what a sync brings, and moving it into place.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::compare::{Comparison, Decision};
use super::content::Contents;
use super::mount::WorkspaceMount;
use super::records::{Batch, Log, Records, SyncedFile, is_within};
use super::references::References;
use super::run::reference;
use super::tree::{Stamp, Tree, is_git, split};
use crate::guest::disks::sync_file_system;
use crate::protocol::WireBytes;
use crate::protocol::sync::{Applied, Change, Digest, Item, Kind, RecordKind};

/// What has arrived and waits to be moved into place, under its own path in the stage.
pub(super) struct Staged {
    pub(super) stage: PathBuf,
    pub(super) files: HashMap<Vec<u8>, Arrived>,
}

/// One file or link in the stage.
pub(super) struct Arrived {
    pub(super) digest: Digest,
    pub(super) stamp: Stamp,
    pub(super) kind: RecordKind,
}

impl Arrived {
    /// What is known of it once it is in place; of what never changes, nothing has to be.
    fn known(&self, item: &Item, stamp: Stamp) -> Option<SyncedFile> {
        let Change::Put { kind, .. } = item.change else { return None };
        // Not the plan's digest: the host may have changed the file since.
        Some(SyncedFile { digest: self.digest, kind, stamp: Some(stamp) })
    }
}

impl Staged {
    /// Receives all contents into `stage`, which is made.
    pub(super) fn receive(stage: &Path, mut contents: Contents) -> io::Result<Staged> {
        fs::create_dir_all(stage)?;
        let mut tree = Tree::open(stage)?;
        let mut files = HashMap::new();
        while let Some(record) = contents.next()? {
            let (digest, stamp) = contents.write(&record, &mut tree, &record.path)?;
            let kind = match record.kind {
                RecordKind::Sparse(permissions) => RecordKind::Content(Kind::File(permissions)),
                kind => kind,
            };
            files.insert(record.path, Arrived { digest, stamp, kind });
        }
        Ok(Staged { stage: stage.to_owned(), files })
    }
}

/// What git wants to find in a repository, even if it is empty.
fn make_repository_folders(tree: &mut Tree, git: &[u8]) -> io::Result<()> {
    for folder in [&b"refs/heads"[..], b"refs/tags", b"objects/info", b"objects/pack"] {
        tree.make_folder(&[git, b"/", folder].concat())?;
    }
    Ok(())
}

fn is_head_of_repository(path: &[u8]) -> bool {
    let (git, name) = split(path);
    name == b"HEAD" && split(git).1 == b".git"
}

/// Makes the staged tree the workspace.
pub(super) fn apply_fresh(
    log: &mut Log,
    place: &WorkspaceMount,
    generation: &str,
    staged: Staged,
) -> io::Result<(Records, Applied)> {
    let mut records = Records { generation: Some(generation.to_owned()), ..Records::default() };
    let mut applied = Applied::default();
    let mut tree = Tree::open(&staged.stage)?;
    for (path, arrived) in staged.files {
        match arrived.kind {
            RecordKind::Content(kind) => {
                applied.written += u64::from(!is_git(&path));
                let known = SyncedFile { digest: arrived.digest, kind, stamp: Some(arrived.stamp) };
                records.files.insert(path, known);
            }
            RecordKind::Object | RecordKind::Folder | RecordKind::Sparse(_) => {}
            // A remote has one too (`refs/remotes/origin/HEAD`).
            RecordKind::References if is_head_of_repository(&path) => {
                let (git, _) = split(&path);
                make_repository_folders(&mut tree, git)?;
                let all = References::new(staged.stage.join(WireBytes(git.to_vec()).as_os_str())).all()?;
                applied.references += all.len() as u64;
                records.references.extend(all.into_iter().map(|(name, value)| ((git.to_vec(), name), value)));
            }
            RecordKind::References => {}
        }
    }
    let stage = File::open(&staged.stage)?;
    sync_file_system(&stage);
    log.replace(&records)?;
    fs::rename(&staged.stage, place.root())?;
    sync_parent(&place.root());
    Ok((records, applied))
}

/// Brings the workspace to what was decided.
pub(super) fn apply(
    log: &mut Log,
    records: &mut Records,
    place: &WorkspaceMount,
    generation: &str,
    staged: Staged,
    items: &[Item],
    comparison: Comparison,
) -> io::Result<Applied> {
    let decided = || items.iter().zip(&comparison.decisions);
    if decided().any(|(_, decision)| matches!(decision, Decision::Put | Decision::Delete | Decision::Move { .. })) {
        let intent =
            decided().filter_map(|(item, decision)| Some((item.path.clone(), intended(item, decision, &staged)?)));
        let intent = Batch { generation: None, files: intent.collect(), references: Vec::new() };
        log.append(records, intent)?;
    }

    let mut done = Batch { generation: Some(generation.to_owned()), ..Batch::default() };
    let mut applied = Applied::default();
    let mut tree = Tree::open(&place.root())?;
    for (item, decision) in decided() {
        if *decision != Decision::Delete {
            continue;
        }
        if item.change == Change::NoRepository {
            tree.remove_all(&item.path)?;
            forget(&item.path, records, &mut done);
        } else {
            tree.remove(&item.path)?;
            done.files.push((item.path.clone(), None));
            applied.deleted += u64::from(!is_git(&item.path));
        }
    }
    let stage = File::open(&staged.stage)?;
    for (item, decision) in decided() {
        if *decision == Decision::Put {
            done.files.extend(put(&mut tree, &stage, &staged, item, &mut applied)?);
        }
    }
    let mut mover = Mover { place, tree: &mut tree, keep: HashMap::new() };
    for (item, decision) in decided() {
        match decision {
            Decision::Move { keep } => {
                mover.go(item, keep)?;
                applied.references += 1;
            }
            Decision::Keep => applied.kept += 1,
            // A guest that has something else there keeps it.
            Decision::Adopt(_) if item.change == Change::Folder => _ = mover.tree.make_folder(&item.path),
            _ => {}
        }
        record_unchanged(item, decision, records, &mut done);
    }
    let root = File::open(place.root())?;
    sync_file_system(&root);
    log.append(records, done)?;
    Ok(applied)
}

/// Moves one staged file into place, and says what is known of it then. Objects need no record.
fn put(
    tree: &mut Tree,
    stage: &File,
    staged: &Staged,
    item: &Item,
    applied: &mut Applied,
) -> io::Result<Option<(Vec<u8>, Option<SyncedFile>)>> {
    let missing = || {
        io::Error::new(io::ErrorKind::InvalidData, format!("the host did not send `{}`", WireBytes(item.path.clone())))
    };
    let arrived = staged.files.get(&item.path).ok_or_else(missing)?;
    let stamp = match tree.take(stage.as_fd(), &item.path, &item.path) {
        Ok(stamp) => stamp,
        // A folder or a file stands in the way. By the comparison, nothing of it is to be kept.
        Err(_) => {
            clear_way(tree, &item.path)?;
            tree.take(stage.as_fd(), &item.path, &item.path)?
        }
    };
    applied.written += u64::from(!is_git(&item.path));
    Ok(arrived.known(item, stamp).map(|known| (item.path.clone(), Some(known))))
}

/// The repository whose `.git` was at `path` is not known any more.
fn forget(path: &[u8], records: &Records, done: &mut Batch) {
    done.files.extend(records.files.keys().filter(|file| is_within(file, path)).map(|file| (file.clone(), None)));
    let references = records.references.keys().filter(|(git, _)| git == path);
    done.references.extend(references.map(|name| (name.clone(), None)));
}

/// Removes what keeps `path` from being made: itself, or the first component that is no folder.
fn clear_way(tree: &mut Tree, path: &[u8]) -> io::Result<()> {
    match tree.find(path)? {
        super::tree::PathState::Blocked(end) => tree.remove_all(&path[..end]),
        _ => tree.remove_all(path),
    }
}

/// What the path may hold while the sync is being applied, beside what it holds now.
fn intended(item: &Item, decision: &Decision, staged: &Staged) -> Option<Option<SyncedFile>> {
    match (&item.change, decision) {
        (Change::Put { .. }, Decision::Put) => {
            let arrived = staged.files.get(&item.path)?;
            Some(arrived.known(item, Stamp { ctime_ns: None, ..arrived.stamp }))
        }
        (Change::Delete { .. }, Decision::Delete) => Some(None),
        _ => None,
    }
}

/// What is known after an item that needed no change in the tree, or a reference that moved.
fn record_unchanged(item: &Item, decision: &Decision, records: &Records, done: &mut Batch) {
    match (&item.change, decision) {
        (Change::Put { .. }, Decision::Adopt(known)) => done.files.push((item.path.clone(), known.clone())),
        (Change::Put { digest, kind, .. }, Decision::Keep) => {
            let same = |known: &&SyncedFile| (known.digest, known.kind) == (*digest, *kind);
            // The host's state is now what the guest's own change is measured against.
            let known = records.files.get(&item.path).filter(same).cloned();
            let known = known.unwrap_or(SyncedFile { digest: *digest, kind: *kind, stamp: None });
            done.files.push((item.path.clone(), Some(known)));
        }
        (Change::Delete { .. }, Decision::Adopt(_) | Decision::Keep) => done.files.push((item.path.clone(), None)),
        (Change::Ref { new, .. }, _) => {
            let name = reference(item).unwrap_or_default().to_owned();
            done.references.push(((item.path.clone(), name), new.clone()));
        }
        _ => {}
    }
}

/// Moves references.
struct Mover<'a> {
    place: &'a WorkspaceMount,
    tree: &'a mut Tree,
    /// For each repository, the number under which the guest's tips are kept.
    keep: HashMap<Vec<u8>, u32>,
}

impl Mover<'_> {
    fn go(&mut self, item: &Item, keep: &[(String, String)]) -> io::Result<()> {
        let Change::Ref { name, new, .. } = &item.change else { return Ok(()) };
        make_repository_folders(self.tree, &item.path)?;
        let git = self.place.root().join(WireBytes(item.path.clone()).as_os_str());
        let references = References::new(git.clone());
        for (kept, tip) in keep {
            // A symbolic reference holds no commit of its own.
            if !tip.starts_with("ref: ") {
                let number = self.keep.entry(item.path.clone()).or_insert_with(|| free_number(&git));
                references.write(&format!("refs/banger/guest/{number}/{kept}"), Some(tip))?;
            }
            if kept != name {
                references.write(kept, None)?;
            }
        }
        references.write(name, new.as_deref())
    }
}

fn free_number(git: &Path) -> u32 {
    (1..).find(|number| !git.join(format!("refs/banger/guest/{number}")).exists()).unwrap_or(u32::MAX)
}

/// Makes a rename in the parent of `path` safe. A file system without fsync of folders has nothing
/// to gain.
fn sync_parent(path: &Path) {
    if let Some(Ok(parent)) = path.parent().map(File::open) {
        let _ = parent.sync_all();
    }
}
