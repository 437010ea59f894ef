//! The tree of what was added: inodes in an arena, names in their folders.

use std::collections::BTreeMap;

use super::allocator::Run;
use super::error::{Error, Result};
use super::options::{Metadata, Special};

/// The longest name (Documentation/filesystems/ext4/directory.rst).
const MAX_NAME: usize = 255;

/// The index of an inode in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodeId(u32);

pub(super) const ROOT: InodeId = InodeId(0);

/// The names in a folder, in their order.
pub(super) type Children = BTreeMap<Box<[u8]>, InodeId>;

/// A run of a file's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first of them, counted in the file.
    pub(super) logical: u32,
    /// Where they are.
    pub(super) run: Run,
}

impl Extent {
    /// The block behind the last, counted in the file.
    pub(super) fn end(self) -> u64 {
        u64::from(self.logical) + self.run.length
    }
}

pub(super) struct Inode {
    pub(super) metadata: Metadata,
    pub(super) content: Content,
    /// How many names it has; not counted for folders.
    pub(super) names: u32,
    /// Its number in the file system; given at the end.
    pub(super) number: u32,
}

pub(super) enum Content {
    Directory(Children),
    File { size: u64, extents: Vec<Extent> },
    Symlink(Box<[u8]>),
    Special(Special),
}

pub(super) struct Tree {
    inodes: Vec<Option<Inode>>,
    vacant: Vec<InodeId>,
    /// What folders have that no entry describes.
    implied: Metadata,
}

/// A name in a directory, taken or free.
pub(super) struct Slot<'a> {
    pub(super) parent: InodeId,
    pub(super) name: &'a [u8],
}

impl Tree {
    pub(super) fn new(implied: Metadata) -> Tree {
        let mut tree = Tree { inodes: Vec::new(), vacant: Vec::new(), implied };
        tree.insert(tree.implied.clone(), Content::Directory(Children::new()));
        tree
    }

    pub(super) fn get(&self, id: InodeId) -> &Inode {
        self.inodes[id.0 as usize].as_ref().expect("an id is of an inode that is there")
    }

    pub(super) fn get_mut(&mut self, id: InodeId) -> &mut Inode {
        self.inodes[id.0 as usize].as_mut().expect("an id is of an inode that is there")
    }

    pub(super) fn children(&self, id: InodeId) -> Option<&Children> {
        match &self.get(id).content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// What is at `path`, if anything is.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<InodeId>> {
        check(path)?;
        let mut at = ROOT;
        for (name, before) in components(path) {
            let children = self.children(at).ok_or_else(|| self.not_a_directory(path, before, at))?;
            match children.get(name) {
                Some(&child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Makes the directories above `path`, which is not the root, and returns the slot of `path`.
    pub(super) fn make_parents<'a>(&mut self, path: &'a [u8]) -> Result<Slot<'a>> {
        check(path)?;
        let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        let mut parent = ROOT;
        for (name, before) in components(above) {
            let children = self.children(parent).ok_or_else(|| self.not_a_directory(path, before, parent))?;
            parent = match children.get(name) {
                Some(&child) => child,
                None => {
                    let child = self.insert(self.implied.clone(), Content::Directory(Children::new()));
                    self.link(&Slot { parent, name }, child);
                    child
                }
            };
        }
        if self.children(parent).is_none() {
            return Err(self.not_a_directory(path, above.len(), parent));
        }
        Ok(Slot { parent, name })
    }

    /// Adds an inode without a name.
    pub(super) fn insert(&mut self, metadata: Metadata, content: Content) -> InodeId {
        let inode = Some(Inode { metadata, content, names: 0, number: 0 });
        if let Some(id) = self.vacant.pop() {
            self.inodes[id.0 as usize] = inode;
            return id;
        }
        let id = InodeId(u32::try_from(self.inodes.len()).expect("memory ends before 2^32 inodes do"));
        self.inodes.push(inode);
        id
    }

    /// The inode that has the name of a slot.
    pub(super) fn at(&self, slot: &Slot<'_>) -> Option<InodeId> {
        self.children(slot.parent)?.get(slot.name).copied()
    }

    /// Gives an inode the name of a slot, which is free.
    pub(super) fn link(&mut self, slot: &Slot<'_>, id: InodeId) {
        self.get_mut(id).names += 1;
        if let Content::Directory(children) = &mut self.get_mut(slot.parent).content {
            children.insert(slot.name.into(), id);
        }
    }

    /// Frees a slot, with all that is below it. Returns the blocks that no file has any more.
    pub(super) fn unlink(&mut self, slot: &Slot<'_>) -> Vec<Run> {
        let mut freed = Vec::new();
        let removed = match &mut self.get_mut(slot.parent).content {
            Content::Directory(children) => children.remove(slot.name),
            _ => None,
        };
        let mut pending = Vec::from_iter(removed);
        while let Some(id) = pending.pop() {
            let inode = self.get_mut(id);
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            match self.inodes[id.0 as usize].take().map(|inode| inode.content) {
                Some(Content::Directory(children)) => pending.extend(children.into_values()),
                Some(Content::File { extents, .. }) => freed.extend(extents.into_iter().map(|extent| extent.run)),
                _ => {}
            }
            self.vacant.push(id);
        }
        freed
    }

    /// The error that `path` leads through `at`, whose own path are the first `length` bytes.
    fn not_a_directory(&self, path: &[u8], length: usize, at: InodeId) -> Error {
        Error::NotADirectory {
            path: path.to_owned(),
            component: path[..length].to_owned(),
            symlink: matches!(self.get(at).content, Content::Symlink(_)),
        }
    }
}

/// The components of a path that was checked, each with the length of what is before it.
fn components(path: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut start = 0;
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(move |name| {
        let before = start;
        start += name.len() + usize::from(start > 0);
        (name, before)
    })
}

/// Makes sure that every component of a path can be a name. The empty path is the root.
fn check(path: &[u8]) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    for name in path.split(|&byte| byte == b'/') {
        let reason = match name {
            b"" => "it has an empty component",
            b"." | b".." => "it has a component that is `.` or `..`",
            name if name.contains(&0) => "it has a NUL",
            name if name.len() > MAX_NAME => "it has a name of more than 255 bytes",
            _ => continue,
        };
        return Err(Error::BadPath { path: path.to_owned(), reason });
    }
    Ok(())
}
