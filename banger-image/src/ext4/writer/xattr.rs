//! Extended attributes, in the inode as far as they fit and else in a block
//! (Documentation/filesystems/ext4/attributes.rst).

use super::bytes::{BLOCK_LEN, put16, put32};
use super::checksum::crc32c;
use super::error::{Error, Result};
use super::inode::ATTRIBUTES_LEN;

const MAGIC: u32 = 0xea02_0000;
/// Bytes before the entries of an inode, and of a block.
const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Where the entries end.
const TERMINATOR: usize = 4;
/// More attributes than an inode and a block have room for: each has an entry.
const MOST: usize = (ATTRIBUTES_LEN + BLOCK_LEN) / ENTRY;
const TOO_LONG: &str = "its extended attributes take more than a block of 4096 bytes";

/// Access control lists in the form of setxattr(2), and on disk
/// (include/uapi/linux/posix_acl_xattr.h, fs/ext4/acl.h).
const ACL_XATTR_VERSION: u32 = 2;
const ACL_DISK_VERSION: u32 = 1;
/// The tags of entries that name a user or a group; on disk the others have no id.
const ACL_NAMED: [u16; 2] = [0x02, 0x08];

/// Whole names, and beginnings of names, that are stored as a number.
const WHOLE: [(&[u8], u8); 2] = [(b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3)];
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];

/// An attribute as it is stored.
struct Attribute {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    fn entry_len(&self) -> usize {
        ENTRY + self.name.len().next_multiple_of(4)
    }

    fn len(&self) -> usize {
        self.entry_len() + self.value.len().next_multiple_of(4)
    }

    /// The hash of a block's entry, from its name and its value.
    fn hash(&self) -> u32 {
        let name = self.name.iter().fold(0u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
        self.value.chunks(4).fold(name, |hash, word| {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            hash.rotate_left(16) ^ u32::from_le_bytes(bytes)
        })
    }
}

/// The attributes of one inode.
#[derive(Default)]
pub(super) struct Attributes {
    in_inode: Vec<Attribute>,
    in_block: Vec<Attribute>,
}

impl Attributes {
    /// Sorts out where each goes. Of two of one name the later counts.
    pub(super) fn new(path: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<Attributes> {
        let mut all: Vec<Attribute> = Vec::with_capacity(xattrs.len());
        for (name, value) in xattrs {
            let attribute =
                attribute(name, value).map_err(|reason| Error::Unsupported { path: path.to_owned(), reason })?;
            all.retain(|other| (other.index, &other.name) != (attribute.index, &attribute.name));
            all.push(attribute);
            if all.len() > MOST {
                return Err(Error::Unsupported { path: path.to_owned(), reason: TOO_LONG.to_owned() });
            }
        }
        all.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
        let mut attributes = Attributes::default();
        let mut room = ATTRIBUTES_LEN - INODE_HEADER - TERMINATOR;
        let mut block_room = BLOCK_LEN - BLOCK_HEADER - TERMINATOR;
        for attribute in all {
            let length = attribute.len();
            if length <= room {
                room -= length;
                attributes.in_inode.push(attribute);
            } else if length <= block_room {
                block_room -= length;
                attributes.in_block.push(attribute);
            } else {
                return Err(Error::Unsupported { path: path.to_owned(), reason: TOO_LONG.to_owned() });
            }
        }
        Ok(attributes)
    }

    /// The part of the inode that is for attributes.
    pub(super) fn inode(&self) -> [u8; ATTRIBUTES_LEN] {
        let mut room = [0; ATTRIBUTES_LEN];
        if !self.in_inode.is_empty() {
            put32(&mut room, 0, MAGIC);
            // Places of values are counted from the first entry.
            fill(&mut room, INODE_HEADER, INODE_HEADER, &self.in_inode, false);
        }
        room
    }

    /// Whether a block is needed.
    pub(super) fn need_block(&self) -> bool {
        !self.in_block.is_empty()
    }

    /// The block, for its place `at`. `seed` is the file system's, if metadata has checksums.
    pub(super) fn block(&self, at: u64, seed: Option<u32>) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        put32(&mut block, 0, MAGIC);
        // One inode refers to it, and it is one block.
        put32(&mut block, 4, 1);
        put32(&mut block, 8, 1);
        let hash = self.in_block.iter().fold(0u32, |hash, attribute| hash.rotate_left(16) ^ attribute.hash());
        put32(&mut block, 12, hash);
        fill(&mut block, BLOCK_HEADER, 0, &self.in_block, true);
        if let Some(seed) = seed {
            let crc = crc32c(crc32c(seed, &at.to_le_bytes()), &block);
            put32(&mut block, 16, crc);
        }
        block
    }
}

/// Writes entries from `start` on, and their values from the end of `target` down.
fn fill(target: &mut [u8], start: usize, origin: usize, attributes: &[Attribute], with_hash: bool) {
    let mut entry = start;
    let mut value_end = target.len();
    for attribute in attributes {
        let Attribute { index, name, value } = attribute;
        let value_start = value_end - value.len().next_multiple_of(4);
        target[value_start..value_start + value.len()].copy_from_slice(value);
        target[entry] = name.len() as u8;
        target[entry + 1] = *index;
        // An empty value has no place.
        put16(target, entry + 2, if value.is_empty() { 0 } else { (value_start - origin) as u16 });
        put32(target, entry + 8, value.len() as u32);
        if with_hash {
            put32(target, entry + 12, attribute.hash());
        }
        target[entry + ENTRY..entry + ENTRY + name.len()].copy_from_slice(name);
        value_end = value_start;
        entry += attribute.entry_len();
    }
}

/// An attribute in its stored form, or why it has none.
fn attribute(name: &[u8], value: &[u8]) -> std::result::Result<Attribute, String> {
    if let Some(&(_, index)) = WHOLE.iter().find(|(whole, _)| *whole == name) {
        let value = access_control_list(value).ok_or_else(|| format!("`{}` is malformed", name.escape_ascii()))?;
        return Ok(Attribute { index, name: Vec::new(), value });
    }
    PREFIXES
        .iter()
        .find_map(|&(prefix, index)| Some((index, name.strip_prefix(prefix)?)))
        .filter(|(_, rest)| (1..=255).contains(&rest.len()) && !rest.contains(&0))
        .map(|(index, rest)| Attribute { index, name: rest.to_owned(), value: value.to_owned() })
        .ok_or_else(|| format!("ext4 cannot store an extended attribute `{}`", name.escape_ascii()))
}

/// A list as it is stored: there is no id where nobody is named.
fn access_control_list(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != ACL_XATTR_VERSION || !rest.is_empty() {
        return None;
    }
    let mut stored = ACL_DISK_VERSION.to_le_bytes().to_vec();
    for entry in entries {
        let is_named = ACL_NAMED.contains(&u16::from_le_bytes([entry[0], entry[1]]));
        stored.extend_from_slice(if is_named { entry } else { &entry[..4] });
    }
    Some(stored)
}
