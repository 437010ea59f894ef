//! What changed in the guest alone: the walk that counts it.

use std::collections::BTreeSet;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use ignore::WalkBuilder;

use super::mount::WorkspaceMount;
use super::records::{Records, SyncedFile};
use super::references::References;
use super::tree::{PathState, Tree, is_git};
use crate::protocol::WireBytes;
use crate::protocol::sync::{Counts, GuestOnly, MAX_NAMED};

/// Walks the workspace without what git ignores there, and compares it with the records.
pub(super) fn guest_only(place: &WorkspaceMount, records: &Records) -> io::Result<GuestOnly> {
    let mut changed = BTreeSet::new();
    let mut tree = Tree::open(&place.root())?;
    // What belongs to a repository itself is accounted for by its references.
    for (path, known) in &records.files {
        if !is_git(path) && !is_as_known(&mut tree, path, known)? {
            changed.insert(path.clone());
        }
    }
    for path in new_files(place)? {
        if !records.files.contains_key(&path) {
            changed.insert(path);
        }
    }
    let files = changed.len() as u64;
    let mut named: Vec<_> = changed.into_iter().take(MAX_NAMED).map(WireBytes).collect();
    let moved = moved_references(place, records)?;
    let references = moved.len() as u64;
    named.extend(moved.into_iter().take(MAX_NAMED - named.len()));
    Ok(GuestOnly { counts: Counts { files, references }, named })
}

fn is_as_known(tree: &mut Tree, path: &[u8], known: &SyncedFile) -> io::Result<bool> {
    let Some(stamp) = known.stamp else { return Ok(false) };
    let PathState::File(kind, now) = tree.find(path)? else { return Ok(false) };
    if kind != known.kind {
        return Ok(false);
    }
    Ok(stamp.is_still(&now) || (stamp.size == now.size && tree.digest(path, kind)? == known.digest))
}

/// Files and links that git would not ignore.
fn new_files(place: &WorkspaceMount) -> io::Result<Vec<Vec<u8>>> {
    let mut excludes = tempfile::NamedTempFile::new_in("/run")?;
    excludes.write_all(&place.settings.excludes.0)?;
    let root = place.root();
    let mut walk = WalkBuilder::new(&root);
    walk.standard_filters(false).parents(false).require_git(false).git_ignore(true).git_exclude(true);
    // Lines of the excludes file that are no patterns are skipped, as git does.
    let _ = walk.add_ignore(excludes.path());
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let mut found = Vec::new();
    for entry in walk.build().flatten() {
        let is_file = entry.file_type().is_some_and(|kind| kind.is_file() || kind.is_symlink());
        if let (true, Ok(path)) = (is_file, entry.path().strip_prefix(&root)) {
            found.push(path.as_os_str().as_bytes().to_vec());
        }
    }
    Ok(found)
}

/// References that the guest made, moved or removed.
fn moved_references(place: &WorkspaceMount, records: &Records) -> io::Result<Vec<WireBytes>> {
    let mut moved = Vec::new();
    for git in records.repositories() {
        let now = References::new(place.root().join(WireBytes(git.to_vec()).as_os_str())).all()?;
        let known = |name: &String| records.references.get(&(git.to_vec(), name.clone()));
        let full = |name: &str| WireBytes([git, &b"/"[..], name.as_bytes()].concat());
        moved.extend(now.iter().filter(|(name, value)| known(name) != Some(value)).map(|(name, _)| full(name)));
        let gone = records.references.keys().filter(|(of, name)| of == git && !now.contains_key(name));
        moved.extend(gone.map(|(_, name)| full(name)));
    }
    Ok(moved)
}
