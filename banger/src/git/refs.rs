//! `HEAD` and the refs. Stored in files they are few lines to read, and are read here byte for
//! byte; reftables are asked of `git`.

use std::collections::BTreeMap;
use std::path::Path;

use nix::dir::Type;

use super::{Boundary, GitError, Repository, Result};

/// Full name to value: an object id in hexadecimal, or `ref: <name>`.
pub(crate) type Refs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Each worktree has its own of these; see gitrepository-layout(5).
const PRIVATE: [&str; 3] = ["refs/bisect", "refs/worktree", "refs/rewritten"];

/// Folders below `refs/` that are followed.
const MAX_DEPTH: usize = 32;

/// `HEAD`, every ref, and pseudo-refs such as `ORIG_HEAD` that are not files of their own.
#[derive(Default)]
pub(crate) struct RefStore {
    pub(crate) head: Vec<u8>,
    pub(crate) refs: Refs,
    pub(crate) pseudo: Refs,
    /// The reflog of `refs/stash`, in the format of a file, where it is no file of its own.
    pub(crate) stashes: Option<Vec<u8>>,
}

impl Repository {
    pub(crate) fn ref_store(&self) -> Result<RefStore> {
        if self.format.reftable { self.ref_store_of_git() } else { self.ref_store_of_files() }
    }

    fn ref_store_of_files(&self) -> Result<RefStore> {
        let mut refs = self.packed_refs()?;
        add_loose(&self.boundary, &self.common_dir, "refs", &mut refs)?;
        if self.common_dir != self.git_dir {
            refs.retain(|name, _| !PRIVATE.iter().any(|folder| is_below(name, folder)));
            for folder in PRIVATE {
                add_loose(&self.boundary, &self.git_dir, folder, &mut refs)?;
            }
        }
        let path = self.git_dir.join("HEAD");
        let head = read_ref(&self.boundary, &path)?;
        let mut head = head.ok_or_else(|| GitError::malformed("HEAD", path, "it names neither a ref nor an object"))?;
        head.push(b'\n');
        Ok(RefStore { head, refs, pseudo: Refs::new(), stashes: None })
    }

    fn packed_refs(&self) -> Result<Refs> {
        let Some(content) = self.boundary.read(&self.common_dir.join("packed-refs"), 1 << 30)? else {
            return Ok(Refs::new());
        };
        let lines = content.bytes.split(|byte| *byte == b'\n');
        Ok(lines
            .filter_map(|line| {
                let space = line.iter().position(|byte| *byte == b' ')?;
                let (id, name) = (&line[..space], line[space + 1..].trim_ascii_end());
                (is_id(id) && is_name(name)).then(|| (name.to_vec(), id.to_vec()))
            })
            .collect())
    }

    fn ref_store_of_git(&self) -> Result<RefStore> {
        let format = "--format=%(objectname) %(refname) %(symref)";
        let output = self.git(&["for-each-ref", "--include-root-refs", format])?;
        let mut store = RefStore::default();
        for line in output.split(|byte| *byte == b'\n') {
            let mut words = line.splitn(3, |byte| *byte == b' ');
            let (Some(id), Some(name), Some(target)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let value = if target.is_empty() { id.to_vec() } else { [b"ref: ", target].concat() };
            match name {
                b"HEAD" => store.head = value,
                name if name.starts_with(b"refs/") => drop(store.refs.insert(name.to_vec(), value)),
                name => drop(store.pseudo.insert(name.to_vec(), value)),
            }
        }
        if store.head.is_empty() {
            // An unborn branch is not among the refs.
            let target = self.git(&["symbolic-ref", "HEAD"])?;
            store.head = [b"ref: ", target.trim_ascii_end()].concat();
        }
        store.head.push(b'\n');
        if store.refs.contains_key(STASH) && self.agrees(&["reflog", "exists", "refs/stash"])? {
            store.stashes = Some(self.stash_log()?);
        }
        Ok(store)
    }

    /// The reflog of `refs/stash` as a file of it would be. git lists the newest first, and only
    /// new values: an entry's old value is the new one of the entry before.
    fn stash_log(&self) -> Result<Vec<u8>> {
        let format = "--format=%H%x00%gn%x00%ge%x00%gd%x00%gs";
        // Nothing of the configuration shall add to the output, run a program for it, or have git
        // open a file: `mailmap.file` could be a FIFO.
        let plain =
            ["--no-show-signature", "--no-notes", "--no-patch", "--no-color", "--no-mailmap", "--encoding=UTF-8"];
        let arguments = [&["log", "-g", "-z", "--date=raw", format][..], &plain, &["refs/stash", "--"]].concat();
        let output = self.git(&arguments)?;
        let fields: Vec<_> = output.strip_suffix(b"\0").unwrap_or(&output).split(|byte| *byte == 0).collect();
        let mut log = Vec::new();
        let mut old = "0".repeat(self.format.object_hash.len_in_hex()).into_bytes();
        for entry in fields.chunks_exact(5).rev() {
            let [new, name, email, selector, message] = entry else { continue };
            // `refs/stash@{1700000000 +0100}`
            let start = selector.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
            let time = selector[start..].strip_suffix(b"}").unwrap_or_default();
            log.extend([&old, *new, name].join(&b' '));
            log.extend([b" <", *email, b"> ", time, b"\t", *message, b"\n"].concat());
            old = new.to_vec();
        }
        Ok(log)
    }
}

const STASH: &[u8] = b"refs/stash";

/// Adds the refs below `base/folder`; they win over packed ones of the same name.
fn add_loose(boundary: &Boundary, base: &Path, folder: &str, refs: &mut Refs) -> Result<()> {
    let mut pending = vec![(base.join(folder), folder.as_bytes().to_vec(), 0)];
    while let Some((path, name, depth)) = pending.pop() {
        for child in boundary.children(&path)? {
            let name = [&name, &b"/"[..], &child.name].concat();
            // A link to a folder is followed, one to a file may be a symbolic reference.
            let is_dir = match child.kind {
                Some(Type::Symlink) => link_to_ref(boundary, &child.path).is_none() && boundary.is_dir(&child.path)?,
                kind => kind == Some(Type::Directory),
            };
            if is_dir {
                if depth < MAX_DEPTH {
                    pending.push((child.path, name, depth + 1));
                }
            } else if is_name(&name) {
                // Empty after a crash, or being deleted right now: git passes over it as well.
                if let Some(value) = read_ref(boundary, &child.path)? {
                    refs.insert(name, value);
                }
            }
        }
    }
    Ok(())
}

/// The value of a ref file; `None` if it is not one.
fn read_ref(boundary: &Boundary, path: &Path) -> Result<Option<Vec<u8>>> {
    if let Some(target) = link_to_ref(boundary, path) {
        return Ok(Some([b"ref: ", &target[..]].concat()));
    }
    let content = match boundary.read(path, 64 << 10) {
        Ok(Some(content)) => content.bytes,
        Ok(None) | Err(GitError::TooLarge { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    Ok(match line.strip_prefix(b"ref:") {
        Some(target) => {
            let target = target.trim_ascii();
            is_name(target).then(|| [b"ref: ", target].concat())
        }
        None => is_id(line).then(|| line.to_vec()),
    })
}

/// A symbolic link that names a reference is the old form of `ref: `: its target. It is not
/// followed.
pub(crate) fn link_to_ref(boundary: &Boundary, path: &Path) -> Option<Vec<u8>> {
    boundary.read_link(path).ok().filter(|target| is_name(target))
}

fn is_id(value: &[u8]) -> bool {
    matches!(value.len(), 40 | 64) && value.iter().all(u8::is_ascii_hexdigit)
}

fn is_name(name: &[u8]) -> bool {
    name.starts_with(b"refs/") && gix::validate::reference::name(gix::bstr::BStr::new(name)).is_ok()
}

fn is_below(name: &[u8], folder: &str) -> bool {
    name.strip_prefix(folder.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
}
