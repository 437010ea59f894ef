//! Brings a listing up to date where it is known which paths have changed since it was made.

use std::collections::{BTreeSet, HashMap};
use std::fs::Metadata;

use super::excludes::Excludes;
use super::index::Index;
use super::list::{Entry, Listing};
use super::walk::{Status, Tracked, WalkResult, is_absence};
use super::{INCLUDE_FILE, RelPath, Repository, Result, Workspace};

/// What became of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relisted {
    /// Nothing that travels has changed.
    Same,
    /// The listing is what [`super::list`] would make of the workspace now.
    Updated,
    /// What the paths lead to has a say in which others travel, or leaves a doubt: the workspace
    /// has to be listed anew. The listing may be updated in part.
    Unknown,
}

/// Brings `listing` up to date, if nothing but what is at `paths` has changed since it was made.
///
/// The ignore rules, the indexes and the configuration must be as they were: whoever sees one
/// change lists anew.
///
/// # Errors
/// As [`super::list`].
pub fn relist(workspace: &Workspace, listing: &mut Listing, paths: &BTreeSet<RelPath>) -> Result<Relisted> {
    // What could not be read may be readable by now; which ignored files travel, a walk tells.
    let has_include = listing.include.is_some() || listing.include_error.is_some();
    if has_include || !listing.warnings.is_empty() {
        return Ok(Relisted::Unknown);
    }
    let mut rules = HashMap::new();
    let mut outcome = Relisted::Same;
    for path in paths {
        match look_at(workspace, listing, path, &mut rules)? {
            Relisted::Same => {}
            Relisted::Updated => outcome = Relisted::Updated,
            Relisted::Unknown => return Ok(Relisted::Unknown),
        }
    }
    Ok(outcome)
}

/// What decides about the untracked files of a repository.
struct Rules {
    index: Option<Index>,
    excludes: Excludes,
}

fn look_at(
    workspace: &Workspace,
    listing: &mut Listing,
    path: &RelPath,
    rules: &mut HashMap<RelPath, Rules>,
) -> Result<Relisted> {
    let bytes = path.as_bytes();
    let name = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let is_git = bytes.split(|byte| *byte == b'/').any(|part| part == b".git");
    if path.is_root() || is_git || name == b".gitignore" || bytes == INCLUDE_FILE.as_bytes() {
        return Ok(Relisted::Unknown);
    }
    let position = listing.entries.binary_search_by(|entry| entry.path.cmp(path));
    let metadata = match workspace.repository.boundary().metadata(&path.under(&workspace.root)) {
        Ok(metadata) => metadata,
        Err(error) if is_absence(&error) => {
            return Ok(match position {
                Ok(position) => {
                    listing.entries.remove(position);
                    Relisted::Updated
                }
                Err(_) if listing.is_directory(path) => Relisted::Unknown,
                Err(_) => Relisted::Same,
            });
        }
        // Such as a link in the place of a directory.
        Err(_) => return Ok(Relisted::Unknown),
    };
    if metadata.is_dir() {
        let is_new = position.is_err() && !listing.is_directory(path);
        let stays_behind = is_new && !travels(workspace, listing, path, true, rules)?.unwrap_or(true);
        return Ok(if stays_behind { Relisted::Same } else { Relisted::Unknown });
    }
    match (entry(path, &metadata), position) {
        (Some(entry), Ok(position)) => {
            listing.entries[position] = entry;
            Ok(Relisted::Updated)
        }
        (Some(_), Err(_)) if listing.is_directory(path) => Ok(Relisted::Unknown),
        (Some(entry), Err(position)) => match travels(workspace, listing, path, false, rules)? {
            Some(true) => {
                listing.entries.insert(position, entry);
                Ok(Relisted::Updated)
            }
            Some(false) => Ok(Relisted::Same),
            None => Ok(Relisted::Unknown),
        },
        // A FIFO, socket or device.
        (None, _) => Ok(Relisted::Unknown),
    }
}

/// The entry of a file or link; none for what else there is.
fn entry(path: &RelPath, metadata: &Metadata) -> Option<Entry> {
    let mut found = WalkResult::default();
    found.file(path.clone(), metadata);
    found.entries.pop()
}

/// Whether what is new at `path` travels; none if that cannot be told without a walk.
fn travels(
    workspace: &Workspace,
    listing: &Listing,
    path: &RelPath,
    is_dir: bool,
    rules: &mut HashMap<RelPath, Rules>,
) -> Result<Option<bool>> {
    let repository = innermost(workspace, listing, path);
    if !rules.contains_key(&repository.path) {
        let index = repository.index()?;
        let excludes = Excludes::new(repository, index.as_ref())?;
        rules.insert(repository.path.clone(), Rules { index, excludes });
    }
    let (Some(Rules { index, excludes }), Some(within)) =
        (rules.get_mut(&repository.path), path.strip_prefix(&repository.path))
    else {
        return Ok(None);
    };
    let status = index.as_ref().map(|index| Tracked::new(&index.state).status(within, is_dir));
    match status.unwrap_or(Status::Untracked) {
        Status::Untracked => {}
        // What is tracked travels also from an ignored directory.
        Status::File(_) => return Ok(Some(true)),
        Status::Submodule(_) | Status::Ancestor => return Ok(None),
    }
    // The walk does not look into other directories, and the rules answer for no path in them.
    if !listing.is_walked(&parent(path)) {
        return Ok(Some(false));
    }
    Ok(excludes.is_excluded(within, is_dir).ok().map(|excluded| !excluded))
}

/// The repository whose file `path` is.
fn innermost<'a>(workspace: &'a Workspace, listing: &'a Listing, path: &RelPath) -> &'a Repository {
    // An outer one comes before those inside it.
    let around = listing.repositories.iter().rev().find(|repository| path.strip_prefix(&repository.path).is_some());
    around.unwrap_or(&workspace.repository)
}

fn parent(path: &RelPath) -> RelPath {
    let bytes = path.as_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    RelPath::from_trusted(bytes[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::Command;

    use super::super::{Host, list};
    use super::*;

    /// Numbers that look random, by xorshift64.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }
    }

    fn git(root: &Path, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=T", "-c", "user.email=t@example.com"]).args(arguments).current_dir(root);
        assert!(git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap().status.success(), "{arguments:?}");
    }

    #[test]
    fn workspace_with_an_include_file_is_listed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        git(&root, &["init", "--quiet"]);
        let workspace = Workspace::discover(&root, Host::default()).unwrap();
        let mut listing = list(&workspace).unwrap();
        let relisted = |listing: &mut Listing, path: &str| {
            relist(&workspace, listing, &[RelPath::new(path).unwrap()].into()).unwrap()
        };
        fs::write(root.join("a"), "").unwrap();
        assert_eq!(relisted(&mut listing, "a"), Relisted::Updated);
        fs::write(root.join(INCLUDE_FILE), ".env\n").unwrap();
        assert_eq!(relisted(&mut listing, INCLUDE_FILE), Relisted::Unknown);
        let mut listing = list(&workspace).unwrap();
        assert_eq!(relisted(&mut listing, "a"), Relisted::Unknown);
    }

    #[test]
    fn relisted_workspace_equals_a_new_listing() {
        const PLACES: [&str; 5] = ["", "d/", "d/e/", "ignored/", "nested/"];
        const NAMES: [&str; 6] = ["a", "b", "tracked", "x.log", "kept.log", "ignored"];
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for place in PLACES {
            fs::create_dir_all(root.join(place)).unwrap();
            fs::write(root.join(place).join("tracked"), "").unwrap();
        }
        fs::write(root.join(".gitignore"), "*.log\nignored\n!/d/kept.log\n").unwrap();
        for root in [root.join("nested"), root.clone()] {
            git(&root, &["init", "--quiet"]);
            git(&root, &["add", "."]);
            git(&root, &["commit", "--quiet", "--message", "first"]);
        }
        git(&root, &["add", "--force", "ignored/tracked"]);
        let workspace = Workspace::discover(&root, Host::default()).unwrap();
        let mut listing = list(&workspace).unwrap();
        let (mut numbers, mut updated) = (Numbers(0x9e37_79b9_7f4a_7c15), 0);
        for round in 0..1500 {
            let mut paths = BTreeSet::new();
            for _ in 0..=numbers.below(3) {
                let path = format!("{}{}", PLACES[numbers.below(5)], NAMES[numbers.below(6)]);
                let at = root.join(&path);
                let kind = at.symlink_metadata().map(|metadata| metadata.file_type());
                let is_directory = kind.as_ref().is_ok_and(fs::FileType::is_dir);
                let done = match numbers.below(8) {
                    // What is written through a link is another file.
                    0..=3 if kind.is_ok_and(|kind| kind.is_symlink()) => continue,
                    0..=3 => fs::write(&at, format!("{round}")),
                    4 => symlink("a", &at),
                    5 if !is_directory => fs::remove_file(&at),
                    6 if path != "ignored" => fs::remove_dir(&at),
                    _ => fs::create_dir(&at),
                };
                if done.is_ok() {
                    paths.insert(RelPath::new(path).unwrap());
                }
            }
            let expected = list(&workspace).unwrap();
            match relist(&workspace, &mut listing, &paths).unwrap() {
                Relisted::Unknown => listing = expected,
                outcome => {
                    updated += usize::from(outcome == Relisted::Updated);
                    assert_eq!(listing.entries, expected.entries, "{paths:?}");
                    assert_eq!(listing.directories, expected.directories, "{paths:?}");
                }
            }
        }
        assert!(updated > 300, "{updated}");
    }
}
