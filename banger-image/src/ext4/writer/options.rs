//! Options of a file system, and metadata of its entries.

/// A point in time, as `struct timespec` has it: seconds since 1970, which may be negative, and
/// nanoseconds after that.
///
/// ext4 knows the years 1901 to 2446; what lies outside is moved to the nearest that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// Which file system to write. Equal options and entries give equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a file system with free space, for a mount that writes. `None`: as large as the
    /// entries need it to be.
    pub size: Option<u64>,
    /// Bytes of the journal, at least 4 MiB; 0 for none. Only with a `size`.
    pub journal: u64,
    /// Checksums over all metadata (`metadata_csum`), or over group descriptors only (`uninit_bg`).
    pub metadata_checksums: bool,
    /// The volume's label, at most 16 bytes.
    pub label: String,
    /// The volume's UUID.
    pub uuid: [u8; 16],
    /// The seed of the hash of names in indexed directories (`s_hash_seed`).
    pub hash_seed: [u8; 16],
    /// When it was made; also the time of folders which no entry describes.
    pub time: Timestamp,
}

impl Options {
    /// A disk of `size` bytes that will be written to: with free space and a journal, without
    /// checksums of metadata.
    #[must_use]
    pub fn disk(size: u64) -> Options {
        Options { size: Some(size), journal: 32 << 20, metadata_checksums: false, ..Options::image() }
    }

    /// An image that will only be read: no larger than it must be, without a journal, with
    /// checksums.
    #[must_use]
    pub fn image() -> Options {
        Options {
            size: None,
            journal: 0,
            metadata_checksums: true,
            label: String::new(),
            uuid: [0; 16],
            hash_seed: [0; 16],
            time: Timestamp::default(),
        }
    }

    /// Sets UUID (version 8, RFC 9562) and hash seed to a digest of `seed`, whose value tells this
    /// file system from others.
    #[must_use]
    pub fn derived_from(self, seed: &[u8]) -> Options {
        let digest = *blake3::hash(seed).as_bytes();
        let (mut uuid, mut hash_seed) = ([0; 16], [0; 16]);
        uuid.copy_from_slice(&digest[..16]);
        hash_seed.copy_from_slice(&digest[16..]);
        // A version 8 UUID (RFC 9562): its bits mean nothing to others.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Options { uuid, hash_seed, ..self }
    }
}

/// Metadata of an entry: what inode(7) lists, but for type, size and links.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: 0o7777. The entry's type is not in here.
    pub mode: u16,
    /// The user id of the owner.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// When the content was last changed. Access, status change and creation time are set to it.
    pub mtime: Timestamp,
    /// Extended attributes: full names such as `user.note`, and values in the form of setxattr(2).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An inode without content or target. Major numbers have 12 bits, minor numbers 20.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Special {
    CharacterDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}
