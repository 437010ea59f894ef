//! Generated sequences of entries, against a naive model of what they make and an independent
//! reader.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use ext4_view::{Ext4, FileType};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ext4::Special;

type Bytes = Vec<u8>;

/// An entry for the writer.
#[derive(Debug, Clone)]
enum Step {
    Directory(Bytes, Metadata),
    File(Bytes, Metadata, Bytes),
    /// So many files with long names in one folder.
    Crowd(Bytes, usize),
    Symlink(Bytes, Metadata, Bytes),
    Special(Bytes, Metadata, Special),
    HardLink(Bytes, Bytes),
    Remove(Bytes),
}

/// What there should be.
#[derive(Debug)]
enum Node {
    Directory(Metadata, BTreeMap<Bytes, Node>),
    /// Shared by all names of an inode.
    Leaf(Rc<(Metadata, Leaf)>),
}

#[derive(Debug)]
enum Leaf {
    File(Bytes),
    Symlink(Bytes),
    Special(Special),
}

impl Node {
    fn folder() -> Node {
        Node::Directory(Metadata { mode: 0o755, ..Metadata::default() }, BTreeMap::new())
    }

    /// The folder above `path`, made if need be, and the last name. `None` if something else is in
    /// the way.
    fn above<'a, 'b>(&'a mut self, path: &'b [u8]) -> Option<(&'a mut BTreeMap<Bytes, Node>, &'b [u8])> {
        let Node::Directory(_, children) = self else { return None };
        match path.iter().position(|&byte| byte == b'/') {
            None => Some((children, path)),
            Some(slash) => {
                let next = children.entry(path[..slash].to_vec()).or_insert_with(Node::folder);
                next.above(&path[slash + 1..])
            }
        }
    }

    /// What is at `path`, or an error if the way leads through something that is no folder.
    fn find(&self, path: &[u8]) -> Result<Option<&Node>, ()> {
        let Node::Directory(_, children) = self else { return Err(()) };
        let (name, rest) = match path.iter().position(|&byte| byte == b'/') {
            None => (path, None),
            Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        };
        match (children.get(name), rest) {
            (Some(child), Some(rest)) => child.find(rest),
            (child, _) => Ok(child),
        }
    }

    /// Takes a step, and says whether it was possible.
    fn take(&mut self, step: &Step) -> bool {
        let leaf = |metadata: &Metadata, leaf| Node::Leaf(Rc::new((metadata.clone(), leaf)));
        let (path, node) = match step {
            Step::Directory(path, metadata) => {
                let Some((children, name)) = self.above(path) else { return false };
                match children.get_mut(name) {
                    Some(Node::Directory(old, _)) => metadata.clone_into(old),
                    _ => _ = children.insert(name.to_vec(), Node::Directory(metadata.clone(), BTreeMap::new())),
                }
                return true;
            }
            Step::Crowd(path, count) => {
                return (0..*count).all(|number| self.take(&crowd_member(path, number)));
            }
            Step::HardLink(path, target) => match self.find(target) {
                Ok(Some(Node::Leaf(leaf))) => (path, Node::Leaf(leaf.clone())),
                _ => return false,
            },
            Step::Remove(path) => {
                let found = self.find(path).map(|node| node.is_some());
                if found == Ok(true) {
                    let (children, name) = self.above(path).unwrap();
                    children.remove(name);
                }
                return found == Ok(true);
            }
            Step::File(path, metadata, content) => (path, leaf(metadata, Leaf::File(content.clone()))),
            Step::Symlink(path, metadata, target) => (path, leaf(metadata, Leaf::Symlink(target.clone()))),
            Step::Special(path, metadata, special) => (path, leaf(metadata, Leaf::Special(*special))),
        };
        let Some((children, name)) = self.above(path) else { return false };
        children.insert(name.to_vec(), node);
        true
    }

    /// Inodes in use: folders, and what has any number of names.
    fn inodes(&self, seen: &mut Vec<*const (Metadata, Leaf)>) -> usize {
        match self {
            Node::Directory(_, children) => 1 + children.values().map(|child| child.inodes(seen)).sum::<usize>(),
            Node::Leaf(leaf) if seen.contains(&Rc::as_ptr(leaf)) => 0,
            Node::Leaf(leaf) => {
                if Rc::strong_count(leaf) > 1 {
                    seen.push(Rc::as_ptr(leaf));
                }
                1
            }
        }
    }

    fn assert_is(&self, image: &Ext4, path: &[u8]) {
        let at = ext4_view::Path::new(if path.is_empty() { &b"/"[..] } else { path });
        let found = image.symlink_metadata(at).unwrap();
        let (metadata, kind) = match self {
            Node::Directory(metadata, children) => {
                let mut names: Vec<Bytes> =
                    image.read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().as_ref().to_vec()).collect();
                names.retain(|name| name != b"." && name != b"..");
                names.sort_unstable();
                assert!(names.iter().eq(children.keys()), "{:?}", path.escape_ascii());
                for (name, child) in children {
                    child.assert_is(image, &[path, b"/", name].concat());
                }
                (metadata, FileType::Directory)
            }
            Node::Leaf(leaf) => match &leaf.1 {
                Leaf::File(content) => {
                    assert_eq!(found.len(), content.len() as u64);
                    assert!(image.read(at).unwrap() == *content, "{:?}", path.escape_ascii());
                    (&leaf.0, FileType::Regular)
                }
                Leaf::Symlink(target) => {
                    assert_eq!(image.read_link(at).unwrap().as_ref(), target);
                    (&leaf.0, FileType::Symlink)
                }
                Leaf::Special(special) => (
                    &leaf.0,
                    match special {
                        Special::CharacterDevice { .. } => FileType::CharacterDevice,
                        Special::BlockDevice { .. } => FileType::BlockDevice,
                        Special::Fifo => FileType::Fifo,
                        Special::Socket => FileType::Socket,
                    },
                ),
            },
        };
        assert_eq!(found.file_type(), kind, "{:?}", path.escape_ascii());
        assert_eq!((found.mode(), found.uid(), found.gid()), (metadata.mode, metadata.uid, metadata.gid));
    }
}

fn crowd_member(folder: &[u8], number: usize) -> Step {
    let name = format!("/{number:0>100}");
    Step::File([folder, name.as_bytes()].concat(), mode(0o644), Vec::new())
}

/// Does a step with the writer. Returns whether it was possible.
fn apply(writer: &mut Writer, step: &Step) -> bool {
    match step.clone() {
        Step::Directory(path, metadata) => writer.directory(&path, metadata).is_ok(),
        Step::File(path, metadata, content) => writer.file(&path, metadata, &mut &*content).is_ok(),
        Step::Crowd(path, count) => (0..count).all(|number| apply(writer, &crowd_member(&path, number))),
        Step::Symlink(path, metadata, target) => writer.symlink(&path, metadata, &target).is_ok(),
        Step::Special(path, metadata, special) => writer.special(&path, metadata, special).is_ok(),
        Step::HardLink(path, target) => writer.hard_link(&path, &target).is_ok(),
        Step::Remove(path) => writer.remove(&path).is_ok_and(|removed| removed),
    }
}

fn paths() -> impl Strategy<Value = Bytes> {
    let name = prop_oneof![
        8 => "[a-d]".prop_map(String::into_bytes),
        1 => Just(vec![b'n'; 255]),
        1 => Just(b"\xff\xfe \n\"".to_vec()),
    ];
    vec(name, 1..5).prop_map(|names| names.join(&b'/'))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let xattrs = vec(("user\\.[a-z]{1,20}", vec(any::<u8>(), 0..300)), 0..4);
    (0..0o10000u16, any::<u32>(), any::<u32>(), xattrs).prop_map(|(mode, uid, gid, xattrs)| Metadata {
        mode,
        uid,
        gid,
        mtime: TIME,
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
    })
}

/// Runs of noise and of zeros, and an end that is no whole block.
fn contents() -> impl Strategy<Value = Bytes> {
    (vec((1..40usize, any::<bool>()), 0..12), 0..4096usize, any::<u64>()).prop_map(|(runs, end, seed)| {
        let mut content = Vec::new();
        for (blocks, is_hole) in runs {
            content.extend(if is_hole { vec![0; blocks * 4096] } else { noise(blocks * 4096, seed) });
        }
        content.extend(noise(end, seed));
        content
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let special = prop_oneof![
        (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| Special::BlockDevice { major, minor }),
        (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| Special::CharacterDevice { major, minor }),
        Just(Special::Fifo),
        Just(Special::Socket),
    ];
    prop_oneof![
        3 => (paths(), metadata()).prop_map(|(path, metadata)| Step::Directory(path, metadata)),
        8 => (paths(), metadata(), contents()).prop_map(|(path, metadata, content)| Step::File(path, metadata, content)),
        1 => (paths(), 0..300usize).prop_map(|(path, count)| Step::Crowd(path, count)),
        2 => (paths(), metadata(), vec(b'a'..=b'z', 1..100))
            .prop_map(|(path, metadata, target)| Step::Symlink(path, metadata, target)),
        1 => (paths(), metadata(), special).prop_map(|(path, metadata, special)| Step::Special(path, metadata, special)),
        3 => (paths(), paths()).prop_map(|(path, target)| Step::HardLink(path, target)),
        3 => paths().prop_map(Step::Remove),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    (any::<bool>(), any::<bool>(), any::<[u8; 16]>()).prop_map(|(is_disk, metadata_checksums, hash_seed)| {
        let base = if is_disk { Options { journal: 4 << 20, ..Options::disk(300 << 20) } } else { Options::image() };
        Options { metadata_checksums, hash_seed, ..base }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_produce_the_tree_they_describe(options in options(), steps in vec(steps(), 0..40)) {
        let mut model = Node::folder();
        let image = write(options, |writer| {
            for step in &steps {
                assert_eq!(apply(writer, step), model.take(step), "{step:?}");
            }
        });
        model.take(&Step::Directory(b"lost+found".to_vec(), Metadata { mode: 0o700, ..Metadata::default() }));
        model.assert_is(&Ext4::load_from_path(&image.path).unwrap(), b"");

        // Hard links share an inode, and what was removed left none: inodes below 11 are ext4's
        // own, and the root is one of them.
        let mut superblock = [0; 1024];
        File::open(&image.path).unwrap().read_exact_at(&mut superblock, 1024).unwrap();
        let field = |at: usize| u32::from_le_bytes(superblock[at..at + 4].try_into().unwrap());
        prop_assert_eq!((field(0) - field(16)) as usize, 10 + model.inodes(&mut Vec::new()) - 1);
    }
}
