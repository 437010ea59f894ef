//! The records of pax headers (POSIX.1-2017, pax, "pax Extended Header").

use std::collections::BTreeMap;
use std::io;

use super::{MAX_EXTENSION, decimal, wrong};

/// The keywords that mean something here. Others, such as comments, are passed over.
const KEYWORDS: [&str; 12] = [
    "path",
    "linkpath",
    "uid",
    "gid",
    "size",
    "mtime",
    "GNU.sparse.name",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.map",
];
/// The prefix of extended attributes, as GNU tar, star, libarchive and Go write them.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of some headers. Of two with one keyword the later counts.
#[derive(Debug, Default)]
pub(super) struct Records {
    values: BTreeMap<&'static str, Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Pieces of GNU's sparse format 0.0, which repeats its keywords.
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    /// Bytes of all headers that were added.
    bytes: u64,
}

impl Records {
    /// Adds the records of a header, each `<length> <keyword>=<value>\n`.
    ///
    /// # Errors
    /// If they are malformed, or if all headers together have more than [`MAX_EXTENSION`] bytes.
    pub(super) fn add(&mut self, mut content: &[u8]) -> io::Result<()> {
        self.bytes += content.len() as u64;
        if self.bytes > MAX_EXTENSION {
            return Err(wrong("extended headers of more than 1 MiB together"));
        }
        while !content.is_empty() {
            let malformed = || wrong("an extended header is malformed");
            let space = content.iter().take(20).position(|&byte| byte == b' ').ok_or_else(malformed)?;
            let length = decimal(&content[..space])?;
            let length = usize::try_from(length).ok().filter(|length| (space + 2..=content.len()).contains(length));
            let (record, rest) = content.split_at(length.ok_or_else(malformed)?);
            content = rest;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
            self.add_record(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"GNU.sparse.offset" => self.offsets.push(decimal(value)?),
            b"GNU.sparse.numbytes" => self.lengths.push(decimal(value)?),
            _ => match (key.strip_prefix(XATTR), KEYWORDS.iter().find(|known| known.as_bytes() == key)) {
                (Some(name), _) => _ = self.xattrs.insert(name.to_owned(), value.to_owned()),
                (None, Some(key)) => _ = self.values.insert(key, value.to_owned()),
                (None, None) => {}
            },
        }
        Ok(())
    }
}

/// What holds for one entry: its own records, and where they say nothing those of the stream.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) own: &'a Records,
    pub(super) global: &'a Records,
}

impl<'a> Values<'a> {
    /// A keyword's value. An empty one is none, and hides that of the stream.
    pub(super) fn get(self, key: &str) -> Option<&'a [u8]> {
        let value = self.own.values.get(key).or_else(|| self.global.values.get(key));
        value.map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    pub(super) fn number(self, key: &str) -> io::Result<Option<u64>> {
        self.get(key).map(decimal).transpose()
    }

    /// The extended attributes, each name once.
    pub(super) fn xattrs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = self.global.xattrs.iter().filter(|(name, _)| !self.own.xattrs.contains_key(*name));
        all.chain(&self.own.xattrs).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The pieces of a file in GNU's sparse format 0.0, as offset and length. Only an entry's own
    /// header has them.
    pub(super) fn pieces(self) -> Option<Vec<(u64, u64)>> {
        let Records { offsets, lengths, .. } = self.own;
        (!offsets.is_empty()).then(|| offsets.iter().copied().zip(lengths.iter().copied()).collect())
    }
}
