//! The files that hold a repository's objects.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::odb::store::init::Options;

use super::walk::is_absence;
use super::{GitError, Repository, Result};

/// The longest object that is read into memory, in bytes. Compressed, its file has a thousandth of
/// that.
const OBJECT_LIMIT: usize = 64 << 20;

/// One file below `objects/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectFile {
    /// Relative to `objects/`: `pack/pack-<hash>.pack`, `ab/cdef…`.
    pub name: String,
    /// Where it is now; a concurrent `git gc` may remove it.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

impl Repository {
    /// Lists packs (`.pack` before its `.idx`), then loose objects; alternates are flattened.
    /// Should a file be gone when it is read, list again: its objects are then in a new pack.
    ///
    /// # Errors
    /// An object folder that cannot be read.
    pub fn object_files(&self) -> Result<Vec<ObjectFile>> {
        let folders = self.object_folders()?;
        let mut files = Vec::new();
        let mut known = BTreeSet::new();
        for folder in &folders {
            self.add_packs(folder, &mut known, &mut files)?;
        }
        for folder in &folders {
            self.add_loose(folder, &mut known, &mut files)?;
        }
        Ok(files)
    }

    /// The repository's own object folder, then its alternates, each once.
    pub(crate) fn object_folders(&self) -> Result<Vec<PathBuf>> {
        let mut folders: Vec<PathBuf> = Vec::new();
        let mut pending: Vec<_> = self.boundary.real(&self.common_dir.join("objects"))?.into_iter().collect();
        while let Some(folder) = pending.pop() {
            if folders.contains(&folder) {
                continue;
            }
            pending.extend(self.alternates(&folder, &folder)?);
            folders.push(folder);
        }
        Ok(folders)
    }

    /// The object database, for the few objects that a listing may need.
    pub(crate) fn objects(&self) -> Result<gix::odb::Handle> {
        // gix opens the files itself, also those of alternates: all of them have to be ours.
        let folders = self.object_folders()?;
        // What an alternate names by a relative path, gix looks for below the repository's own
        // folder, and git below the alternate's.
        if let [own, alternates @ ..] = &folders[..] {
            for folder in alternates {
                self.alternates(folder, own)?;
            }
        }
        let path = self.common_dir.join("objects");
        let options = Options { alloc_limit_bytes: Some(OBJECT_LIMIT), ..Options::default() };
        gix::odb::at_opts(&path, self.format.object_hash, None, options)
            .map_err(|error| GitError::io("open", path, error))
    }

    /// The alternates of an object folder that exist; relative ones are below `base`. git passes
    /// over one that is gone.
    fn alternates(&self, folder: &Path, base: &Path) -> Result<Vec<PathBuf>> {
        let list = folder.join("info/alternates");
        let listed = self.boundary.read(&list, 1 << 20)?.map(|content| content.bytes).unwrap_or_default();
        let lines = listed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"));
        let mut alternates = Vec::new();
        for path in lines.filter_map(alternate_path) {
            let Ok(alternate) = fs::canonicalize(base.join(path)) else { continue };
            if !self.boundary.is_inside(&alternate) {
                self.boundary.admit(self.boundary.name(&list), &alternate)?;
            }
            alternates.push(alternate);
        }
        Ok(alternates)
    }

    /// Loose objects of folders `00` to `ff`; other names (`tmp_obj_*`) are unfinished.
    fn add_loose(&self, folder: &Path, known: &mut BTreeSet<String>, files: &mut Vec<ObjectFile>) -> Result<()> {
        let rest = self.format.object_hash.len_in_hex() - 2;
        for first in 0..=u8::MAX {
            let first = format!("{first:02x}");
            for (name, path) in self.names(&folder.join(&first))? {
                if is_hex(&name, rest) {
                    self.add(format!("{first}/{name}"), &path, known, files)?;
                }
            }
        }
        Ok(())
    }

    fn add_packs(&self, folder: &Path, known: &mut BTreeSet<String>, files: &mut Vec<ObjectFile>) -> Result<()> {
        let names = self.names(&folder.join("pack"))?;
        for index in names.keys() {
            let Some(stem) = index.strip_suffix(".idx") else { continue };
            let is_pack = stem.strip_prefix("pack-").is_some_and(|hash| is_hex(hash, hash.len().max(40)));
            if !is_pack || !names.contains_key(&format!("{stem}.pack")) {
                continue;
            }
            for suffix in [".promisor", ".pack", ".idx"] {
                let name = format!("{stem}{suffix}");
                if let Some(path) = names.get(&name) {
                    self.add(format!("pack/{name}"), path, known, files)?;
                }
            }
        }
        Ok(())
    }

    fn add(&self, name: String, path: &Path, known: &mut BTreeSet<String>, files: &mut Vec<ObjectFile>) -> Result<()> {
        let Some(path) = self.boundary.real(path)? else { return Ok(()) };
        let size = match self.boundary.metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => return Ok(()),
            Err(error) if is_absence(&error) => return Ok(()),
            Err(error) => return Err(GitError::io("look at", path, error)),
        };
        if known.insert(name.clone()) {
            files.push(ObjectFile { name, path, size });
        }
        Ok(())
    }

    /// Names (those that are not UTF-8 are not git's) and paths of a folder, which may be absent.
    fn names(&self, folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
        let children = self.boundary.children(folder)?;
        Ok(children.into_iter().filter_map(|child| Some((String::from_utf8(child.name).ok()?, child.path))).collect())
    }
}

/// A path starting with a quote is quoted as in C; see gitrepository-layout(5),
/// `objects/info/alternates`.
fn alternate_path(line: &[u8]) -> Option<PathBuf> {
    if line.starts_with(b"\"") {
        let (path, _) = gix::quote::ansi_c::undo(gix::bstr::BStr::new(line)).ok()?;
        return Some(PathBuf::from(OsStr::from_bytes(&path)));
    }
    Some(PathBuf::from(OsStr::from_bytes(line)))
}

fn is_hex(name: &str, length: usize) -> bool {
    name.len() == length && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
