//! A tree staged on the host: plain files, folders and links in a private folder, the rest remembered.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use tar::{Archive, Entry, EntryType};

use crate::error::{Error, Result};

/// The prefix of extended attributes in pax headers, as GNU tar, star and libarchive write them.
const PAX_XATTR: &str = "SCHILY.xattr.";

/// Permission bits that are staged as they are; setuid, setgid and sticky are only remembered.
const STAGED_BITS: u32 = 0o777;

/// What a staged node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// With its length in bytes.
    File(u64),
    /// With the length of its target in bytes.
    Symlink(u64),
    /// Another name of the node at that path.
    HardLink(PathBuf),
    /// A device node or a fifo: not staged at all.
    Special(Special),
}

/// Nodes that only root can make, or that nobody should on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// One inode, as the archive wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky, without the type.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u32,
    /// Extended attributes, in the form of setxattr(2).
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Node {
    fn directory() -> Node {
        Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
    }

    /// The mode that the staged file has: its owner must be able to read it.
    pub(crate) fn staged_mode(&self) -> u32 {
        match self.kind {
            Kind::Directory => self.mode & STAGED_BITS | 0o700,
            _ => self.mode & STAGED_BITS | 0o600,
        }
    }
}

/// A staged tree. Paths are relative; the empty one is the root.
///
/// Every node has a path whose parents are folders of this tree, so no entry reaches outside of it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// Starts an empty tree in a folder that is made for it.
    pub(crate) fn create(root: PathBuf) -> Result<Tree> {
        fs::create_dir(&root)?;
        Ok(Tree { root, nodes: BTreeMap::from([(PathBuf::new(), Node::directory())]) })
    }

    /// Stages all of a tar stream.
    pub(crate) fn unpack(stream: &mut dyn Read, root: PathBuf) -> Result<Tree> {
        let mut tree = Tree::create(root)?;
        for entry in Archive::new(stream).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let inside = relative(&path).ok_or_else(|| refuse(&path, "it leads out of the tree"))?;
            tree.add(&mut entry, &inside, relative)?;
        }
        tree.finish()
    }

    /// The folder on the host.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The nodes, parents before children.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_path(), node))
    }

    /// Adds an archive's entry at `path`; `link_target` maps what a hard link names to a path in this tree.
    pub(crate) fn add<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        link_target: impl FnOnce(&Path) -> Option<PathBuf>,
    ) -> Result<()> {
        let refuse = |reason: &str| refuse(path, reason);
        self.make_parents(path)?;
        let header = entry.header();
        let special = |kind: fn(u32, u32) -> Special| -> Result<Kind> {
            let (Some(major), Some(minor)) = (header.device_major()?, header.device_minor()?) else {
                return Err(refuse("a device without numbers"));
            };
            Ok(Kind::Special(kind(major, minor)))
        };
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File(entry.size()),
            EntryType::Symlink => Kind::Symlink(entry.link_name_bytes().map_or(0, |target| target.len() as u64)),
            EntryType::Link => {
                let target = entry.link_name()?.as_deref().and_then(link_target);
                Kind::HardLink(target.ok_or_else(|| refuse("a hard link to something outside the tree"))?)
            }
            EntryType::Char => special(|major, minor| Special::Character { major, minor })?,
            EntryType::Block => special(|major, minor| Special::Block { major, minor })?,
            EntryType::Fifo => Kind::Special(Special::Fifo),
            _ => return Err(refuse("an unknown type of entry")),
        };
        let id = |id: u64| u32::try_from(id).map_err(|_| refuse("an owner beyond 32 bits"));
        let node = Node {
            mode: header.mode()? & 0o7777,
            uid: id(header.uid()?)?,
            gid: id(header.gid()?)?,
            // ext4 has the bits for later times, but mke2fs sets only these.
            mtime: u32::try_from(header.mtime()?.min(i32::MAX as u64)).unwrap_or_default(),
            // The crate tar cannot parse values with a line break: refused rather than lost.
            xattrs: xattrs(entry).map_err(|error| refuse(&format!("its extended attributes: {error}")))?,
            kind,
        };
        self.stage(entry, path, &node)?;
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    /// Sets the times of the folders, which adding to them has changed. Nothing can be added afterwards.
    pub(crate) fn finish(self) -> Result<Tree> {
        for (path, node) in self.nodes().filter(|(_, node)| node.kind == Kind::Directory) {
            let place = self.root.join(path);
            fs::set_permissions(&place, PermissionsExt::from_mode(node.staged_mode()))?;
            set_mtime(&place, node.mtime)?;
        }
        Ok(self)
    }

    fn stage<R: Read>(&self, entry: &mut Entry<'_, R>, path: &Path, node: &Node) -> Result<()> {
        let place = self.root.join(path);
        match (&node.kind, self.nodes.get(path).map(|known| &known.kind)) {
            (Kind::Directory, Some(Kind::Directory)) => return Ok(()),
            (_, Some(_)) => return Err(refuse(path, "it is there twice")),
            (Kind::Directory, None) => return Ok(fs::create_dir(place)?),
            (Kind::Special(_), None) => return Ok(()),
            (Kind::HardLink(target), None) => {
                return match self.nodes.get(target).map(|known| &known.kind) {
                    Some(Kind::File(_) | Kind::Symlink(_) | Kind::HardLink(_)) => {
                        Ok(fs::hard_link(self.root.join(target), place)?)
                    }
                    _ => Err(refuse(path, "a hard link to something that is no file")),
                };
            }
            (Kind::Symlink(_), None) => {
                let target = entry.link_name()?.ok_or_else(|| refuse(path, "a symbolic link without a target"))?;
                symlink(&target, &place).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot link `{}`: {error}", place.display()))
                })?;
            }
            (Kind::File(size), None) => {
                let mut file = fs::File::create_new(&place)?;
                if io::copy(entry, &mut file)? != *size {
                    return Err(refuse(path, "it is shorter than announced"));
                }
                file.set_permissions(PermissionsExt::from_mode(node.staged_mode()))?;
            }
        }
        set_mtime(&place, node.mtime)
    }

    /// Makes the folders above `path` that the archive has not named yet.
    fn make_parents(&mut self, path: &Path) -> Result<()> {
        let mut missing = Vec::new();
        for parent in path.ancestors().skip(1) {
            match self.nodes.get(parent).map(|node| &node.kind) {
                Some(Kind::Directory) => break,
                None => missing.push(parent.to_owned()),
                Some(_) => {
                    return Err(refuse(path, &format!("`{}` is not a folder", parent.display())));
                }
            }
        }
        for parent in missing.into_iter().rev() {
            fs::create_dir(self.root.join(&parent))?;
            self.nodes.insert(parent, Node::directory());
        }
        Ok(())
    }
}

/// An archive's path as one relative to its root: `./usr/bin/` is `usr/bin`. `None` if it leads out.
pub(crate) fn relative(path: &Path) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(relative)
}

/// The error for an entry that cannot be.
pub(crate) fn refuse(path: &Path, reason: &str) -> Error {
    Error::Archive { entry: path.display().to_string(), reason: reason.to_owned() }
}

fn xattrs<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(PAX_XATTR)) {
            found.push((name.to_owned(), extension.value_bytes().to_owned()));
        }
    }
    Ok(found)
}

fn set_mtime(path: &Path, seconds: u32) -> Result<()> {
    let time = TimeSpec::new(i64::from(seconds), 0);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("cannot set the time of `{}`: {error}", path.display())).into()
    })
}

/// The length of a path's last component, in bytes.
pub(crate) fn name_length(path: &Path) -> u64 {
    path.file_name().map_or(0, |name| name.as_bytes().len() as u64)
}
