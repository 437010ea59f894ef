//! Files that are stored in another form than they have in the work tree: `filter` in
//! gitattributes(5).
//!
//! git stores what a program (git-lfs, git-crypt, nbstripout) makes of such a file. The guest has
//! neither that program nor its settings. git there would therefore take the file for changed
//! whenever it compares contents. A filter is a program that the repository's own configuration may
//! name: none is run here. What git on the host found out is in the index; what banger adds is said
//! in [`Evidence`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gix::bstr::ByteSlice;
use gix::config::File;
use gix::index::entry::{Mode, Stage};
use gix::objs::FindExt;
use gix::odb::HeaderExt;
use sha2::{Digest, Sha256};

use super::guest_index::evidence;
use super::state::read_capped;
use super::{Entry, EntryKind, Listing, RelPath, Repository, Result};

/// git reads no attributes file of more bytes: `ATTR_MAX_FILE_SIZE`.
const LIMIT: u64 = 100 << 20;
/// A pointer of Git LFS is shorter than this many bytes.
const POINTER: usize = 1024;

/// What the index says about a file that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The file is what was staged.
    Clean,
    /// The file is what was staged, unless it was changed within the same tick of the file system's
    /// clock, keeping its size. git calls such an entry racy.
    Likely,
    /// The file was written since, and has the size that was staged.
    SameSize,
    /// The file is not what was staged: git takes another size for a change, whatever a filter
    /// would make of the content.
    Changed,
    /// Nothing is known.
    None,
}

/// A tracked file that has a filter.
#[derive(Clone, Debug)]
pub struct FilteredFile {
    /// The path, relative to the root of the workspace.
    pub path: RelPath,
    /// The name of the object that is staged.
    pub id: Vec<u8>,
    /// What the index says about the file.
    pub evidence: Evidence,
    /// The length of the file in bytes.
    size: u64,
    /// Whether the filter is that of Git LFS, which needs no program to be understood.
    is_lfs: bool,
}

/// Which files that have a filter are what was staged.
pub type FilteredFiles = BTreeMap<RelPath, bool>;

impl Repository {
    /// The tracked files that have a filter, sorted by path. None, at next to no cost, if no
    /// attributes file speaks of filters.
    ///
    /// # Errors
    /// Files of git that cannot be read; `git` missing where there are attributes for filters.
    pub fn filtered_files(&self, listing: &Listing) -> Result<Option<Vec<FilteredFile>>> {
        if !self.speaks_of_filters(listing)? {
            return Ok(None);
        }
        let drivers = drivers(&self.config()?);
        let index = if drivers.is_empty() { None } else { self.index()? };
        let Some(index) = index else { return Ok(Some(Vec::new())) };
        let is_file = |mode| matches!(mode, Mode::FILE | Mode::FILE_EXECUTABLE);
        let mut readable = BTreeMap::new();
        let candidates: Vec<_> = index
            .state
            .entries()
            .iter()
            .filter(|entry| is_file(entry.mode) && entry.stage() == Stage::Unconflicted)
            .filter_map(|entry| {
                let own = entry.path(&index.state);
                if !self.has_readable_attributes(own, &mut readable) {
                    return None;
                }
                let host = listing.entry(self.path.join(own).as_bytes())?;
                (host.kind == EntryKind::File).then_some((entry, own, host))
            })
            .collect();
        let mut input = Vec::new();
        candidates.iter().for_each(|(_, own, _)| input.extend([own.as_ref(), &b"\0"[..]].concat()));
        if input.is_empty() {
            return Ok(Some(Vec::new()));
        }
        // It prints path, attribute and value of each, in the order of the input.
        let output = self.git_with(&["check-attr", "-z", "--stdin", "filter"], &input, None)?;
        let values = output.split(|byte| *byte == 0).skip(2).step_by(3);
        let empty_blob = gix::ObjectId::empty_blob(self.format.object_hash);
        let filtered = candidates.into_iter().zip(values).filter_map(|((staged, _, host), value)| {
            Some(FilteredFile {
                path: host.path.clone(),
                id: staged.id.as_slice().to_vec(),
                evidence: evidence(staged, host, index.mtime_ns, &empty_blob),
                size: host.size,
                is_lfs: *drivers.get(value)?,
            })
        });
        let mut filtered: Vec<_> = filtered.collect();
        filtered.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Some(filtered))
    }

    /// The names of the filters that have a program here.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub fn filter_names(&self) -> Result<Vec<Vec<u8>>> {
        Ok(drivers(&self.config()?).into_keys().collect())
    }

    /// Opens a file of the work tree, by its path in the workspace.
    fn open_listed(&self, path: &RelPath) -> Option<fs::File> {
        let below = Path::new(OsStr::from_bytes(path.strip_prefix(&self.path)?));
        self.boundary.open_file(&self.worktree.join(below)).ok()
    }

    /// The attributes files in the work tree of this repository, as they are listed.
    pub fn attributes_files<'a>(&self, listing: &'a Listing) -> impl Iterator<Item = &'a Entry> {
        let mut prefix = self.path.as_bytes().to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let is_ours = move |path: &[u8]| {
            path.strip_prefix(&prefix[..])
                .and_then(|below| below.strip_suffix(b".gitattributes"))
                .is_some_and(|folder| folder.is_empty() || folder.ends_with(b"/"))
        };
        listing.entries.iter().filter(move |entry| is_ours(entry.path.as_bytes()))
    }

    /// Whether the attributes files above `path`, relative to the work tree, are none that git
    /// would wait for or read without end, such as a FIFO. `known` has what was found out about
    /// directories.
    fn has_readable_attributes(&self, path: &[u8], known: &mut BTreeMap<Vec<u8>, bool>) -> bool {
        let Some(folder) = path.rfind_byte(b'/').map(|slash| &path[..slash]).or((!path.is_empty()).then_some(b""))
        else {
            return true;
        };
        if let Some(known) = known.get(folder) {
            return *known;
        }
        let file = self.worktree.join(OsStr::from_bytes(folder)).join(".gitattributes");
        let is_special = fs::metadata(file).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        let is_readable = !is_special && self.has_readable_attributes(folder, known);
        known.insert(folder.to_vec(), is_readable);
        is_readable
    }

    /// Whether any attributes file has the word: most repositories have no filter.
    fn speaks_of_filters(&self, listing: &Listing) -> Result<bool> {
        let speaks = |bytes: &[u8]| bytes.windows(6).any(|word| word == b"filter");
        // The system's is beside its configuration.
        let system = self.host.system_config.as_ref().map(|path| path.with_file_name("gitattributes"));
        let system = system.map(|path| read_capped(&path, LIMIT)).transpose()?.flatten();
        if speaks(&self.global_attributes()?) || system.is_some_and(|bytes| speaks(&bytes)) {
            return Ok(true);
        }
        let own = self.boundary.read(&self.common_dir.join("info/attributes"), LIMIT)?;
        if own.is_some_and(|content| speaks(&content.bytes)) {
            return Ok(true);
        }
        for entry in self.attributes_files(listing) {
            let Some(file) = self.open_listed(&entry.path) else { continue };
            let mut bytes = Vec::new();
            if file.take(LIMIT).read_to_end(&mut bytes).is_ok() && speaks(&bytes) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether `file` is what is staged. `remembered` says that a file with its content was found
    /// to be that object before. `objects` serves all files of this repository.
    ///
    /// # Errors
    /// Objects that cannot be read.
    pub fn is_as_staged(&self, file: &FilteredFile, remembered: bool, objects: &mut OpenObjects) -> Result<bool> {
        match file.evidence {
            Evidence::Clean => Ok(true),
            Evidence::Changed => Ok(false),
            _ if remembered => Ok(true),
            evidence => Ok(self.is_what_its_pointer_says(file, objects)?.unwrap_or(evidence == Evidence::Likely)),
        }
    }

    /// Whether Git LFS would store `file` as the pointer that is staged; none if that is not known,
    /// since another filter is used, or an extension of Git LFS.
    fn is_what_its_pointer_says(&self, file: &FilteredFile, objects: &mut OpenObjects) -> Result<Option<bool>> {
        if !file.is_lfs {
            return Ok(None);
        }
        let Ok(id) = gix::ObjectId::try_from(&file.id[..]) else { return Ok(None) };
        let objects = match &mut objects.0 {
            Some(objects) => objects,
            closed => closed.insert(self.objects()?),
        };
        // A blob may have any size, and only a pointer's is read.
        if !objects.header(id).is_ok_and(|header| header.size() <= POINTER as u64) {
            return Ok(None);
        }
        let mut buffer = Vec::new();
        let Ok(blob) = objects.find_blob(&id, &mut buffer) else { return Ok(None) };
        let Some(pointer) = Pointer::parse(blob.data) else { return Ok(None) };
        if pointer.size != file.size {
            return Ok(Some(false));
        }
        let Some(content) = self.open_listed(&file.path) else { return Ok(None) };
        if content.metadata().map_or(true, |metadata| is_mostly_holes(metadata.len(), metadata.blocks())) {
            return Ok(None);
        }
        // Not what is written meanwhile.
        let mut content = content.take(file.size);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return Ok(Some(hasher.finalize()[..] == pointer.sha256)),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(_) => return Ok(None),
            }
        }
    }
}

/// Whether a file of `size` bytes in `blocks` of 512 has far more bytes than space. To read the
/// holes of one with 2^50 bytes takes days.
fn is_mostly_holes(size: u64, blocks: u64) -> bool {
    size > 1 << 30 && blocks.saturating_mul(512) < size / 16
}

/// The objects of a repository, opened when one is asked for.
#[derive(Default)]
pub struct OpenObjects(Option<gix::odb::Handle>);

/// The names of the filters that change what is stored, and whether each is Git LFS's. A filter
/// without a program does nothing.
fn drivers(config: &File) -> BTreeMap<Vec<u8>, bool> {
    let sections = config.sections_by_name("filter").into_iter().flatten();
    let names: BTreeSet<_> =
        sections.filter_map(|section| Some(section.header().subsection_name()?.to_owned())).collect();
    let command = |name: &gix::bstr::BString, key: &str| {
        let value = config.string_by("filter", Some(name.as_ref()), key)?;
        (!value.is_empty()).then_some(value)
    };
    let is_lfs = |command: &gix::bstr::BString| command.starts_with(b"git-lfs ") || command.starts_with(b"git lfs ");
    names
        .into_iter()
        .filter_map(|name| {
            let commands: Vec<_> = ["clean", "process"].into_iter().filter_map(|key| command(&name, key)).collect();
            (!commands.is_empty()).then(|| (name.to_vec(), commands.iter().all(is_lfs)))
        })
        .collect()
}

/// What Git LFS stores instead of a file: docs/spec.md of Git LFS.
#[derive(Debug, PartialEq, Eq)]
struct Pointer {
    sha256: Vec<u8>,
    size: u64,
}

impl Pointer {
    /// None for what is no pointer, and for one with extensions, which are programs.
    fn parse(bytes: &[u8]) -> Option<Pointer> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() < POINTER)?;
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        value("version").filter(|version| *version == "https://git-lfs.github.com/spec/v1")?;
        let hex = value("oid")?.strip_prefix("sha256:")?;
        let size = value("size")?.parse().ok()?;
        if hex.len() != 64 || lines.next().is_some() {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        Some(Pointer { sha256: (0..64).step_by(2).map(byte).collect::<Option<_>>()?, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_file_with_few_blocks_is_mostly_holes() {
        for (size, blocks, expected) in [
            (1 << 50, 0, true),
            (1 << 50, 8, true),
            (2 << 30, (2 << 30) / 512, false),
            // On a file system that compresses.
            (2 << 30, (2 << 30) / 512 / 8, false),
            (1 << 20, 0, false),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(is_mostly_holes(size, blocks), expected, "{size} {blocks}");
        }
    }

    #[test]
    fn git_lfs_pointers_are_parsed() {
        let hex = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
        let text = |oid: &str, more: &str| {
            format!("version https://git-lfs.github.com/spec/v1\n{more}oid sha256:{oid}\nsize 12345\n")
        };
        let pointer = Pointer::parse(text(hex, "").as_bytes()).unwrap();
        assert_eq!((pointer.size, pointer.sha256[0], pointer.sha256[31]), (12345, 0x4d, 0x93));
        for damaged in [
            String::new(),
            text(hex, "").replace("v1", "v2"),
            text(hex, "ext-0-foo sha256:0\n"),
            text(&hex[2..], ""),
            text(&hex.replace("4d", "xy"), ""),
            text(&hex.replace("4d", "é"), ""),
            text(hex, "").replace("12345", "-1"),
            text(hex, "").trim_end().to_owned(),
            text(hex, "") + "more\n",
        ] {
            assert_eq!(Pointer::parse(damaged.as_bytes()), None, "{damaged}");
        }
    }
}
