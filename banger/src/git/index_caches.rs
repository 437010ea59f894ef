//! Hides the caches in an index: gix decodes those of trees and of untracked directories
//! recursively, as deep as the file says, so a file of a few hundred kilobytes can exhaust the
//! stack.
//!
//! Format: gitformat-index(5). Entries are measured as gix-index does, which is what has to be
//! protected.

use std::borrow::Cow;

/// Signature, version and count.
const HEADER: usize = 12;
/// Of an entry: its stat, before the object's hash.
const STAT: usize = 40;
/// Flags of an entry: another 16 bits of them follow; the length of the path, or all of these where
/// it ends with a NUL.
const EXTENDED: u16 = 0x4000;
const PATH_LENGTH: u16 = 0x0fff;
/// A cached tree with more trees in one another than a path has room for is none of git's.
const MAX_DEPTH: usize = 2048;
/// What a cache is renamed to: an optional extension that nobody knows.
const UNKNOWN: &[u8; 4] = b"XXXX";

/// The index `bytes`, whose objects have hashes of `hash` bytes, without its caches but trees of a
/// sane depth. Everything else is at its place. None: its entries are not whole.
pub(super) fn without_caches(bytes: &[u8], hash: usize) -> Option<Cow<'_, [u8]>> {
    let mut result = Cow::Borrowed(bytes);
    let end = bytes.len().checked_sub(hash)?;
    let mut at = end_of_entries(bytes, hash)?;
    // As Iter of gix-index: what has no room for its content is none.
    while let Some(head) = bytes.get(at..at + 8).filter(|_| at + 8 <= end) {
        let (signature, size) = head.split_at(4);
        let size = u32::from_be_bytes(size.try_into().ok()?) as usize;
        let next = (at + 8).checked_add(size).filter(|next| *next <= end).unwrap_or(end);
        if signature == b"UNTR" || (signature == b"TREE" && is_deep(&bytes[at + 8..next], hash)) {
            result.to_mut()[at..at + 4].copy_from_slice(UNKNOWN);
        }
        at = next;
    }
    Some(result)
}

/// Whether the cached trees in `data` are nested deeper than [`MAX_DEPTH`], or cannot be
/// understood.
fn is_deep(mut data: &[u8], hash: usize) -> bool {
    /// Splits `data` at a byte, which is left out, and reads what is before it as a number.
    fn number<'a>(data: &mut &'a [u8], end: u8) -> Option<i64> {
        let length = data.iter().position(|byte| *byte == end)?;
        let (text, rest): (&'a [u8], &'a [u8]) = (&data[..length], &data[length + 1..]);
        *data = rest;
        str::from_utf8(text).ok()?.parse().ok()
    }
    let mut next = |left: &mut Vec<i64>| -> Option<()> {
        let name = data.iter().position(|byte| *byte == 0)?;
        data = &data[name + 1..];
        let (entries, trees) = (number(&mut data, b' ')?, number(&mut data, b'\n')?);
        if entries >= 0 {
            data = data.get(hash..)?;
        }
        left.push(trees);
        while left.last() == Some(&0) {
            left.pop();
            if let Some(above) = left.last_mut() {
                *above -= 1;
            }
        }
        Some(())
    };
    // How many trees are still to come at each level.
    let mut left = Vec::new();
    while next(&mut left).is_some() {
        match left.len() {
            0 => return false,
            depth if depth > MAX_DEPTH => return true,
            _ => {}
        }
    }
    true
}

/// Where the extensions begin.
fn end_of_entries(bytes: &[u8], hash: usize) -> Option<usize> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (version, count) = (number(4)?, number(8)?);
    let mut at = HEADER;
    for _ in 0..count {
        let start = at;
        at += STAT + hash;
        let flags = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        at += if flags & EXTENDED == 0 { 2 } else { 4 };
        let until_nul = |from: usize| Some(from + bytes.get(from..)?.iter().position(|byte| *byte == 0)? + 1);
        at = if version == 4 {
            // How much of the path before it is left out, in a number of seven bits a byte.
            let number = bytes.get(at..)?.iter().position(|byte| byte & 0x80 == 0)? + 1;
            until_nul(at + number)?
        } else if flags & PATH_LENGTH == PATH_LENGTH {
            until_nul(at)?
        } else {
            let length = at + usize::from(flags & PATH_LENGTH) - start;
            start + length + 8 - length % 8
        };
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of trees, each of which has one below it.
    fn nested(depth: usize) -> Vec<u8> {
        let tree = b"a\0-1 1\n".repeat(depth);
        [&b"TREE"[..], &(tree.len() as u32).to_be_bytes(), &tree].concat()
    }

    fn index(version: u32, names: &[&[u8]], extensions: &[u8]) -> Vec<u8> {
        let mut bytes = [&b"DIRC"[..], &version.to_be_bytes(), &(names.len() as u32).to_be_bytes()].concat();
        for name in names {
            let start = bytes.len();
            bytes.extend([&[0; STAT + 20][..], &(name.len() as u16).to_be_bytes()].concat());
            if version == 4 {
                bytes.extend([b"\0", *name, b"\0"].concat());
            } else {
                bytes.extend(*name);
                let length = bytes.len() - start;
                bytes.resize(start + length + 8 - length % 8, 0);
            }
        }
        [&bytes, extensions, &[0; 20][..]].concat()
    }

    #[test]
    fn index_cache_extensions_are_hidden_and_the_rest_kept() {
        for version in [2, 3, 4] {
            for names in [&[][..], &[&b"a"[..], b"TREE/b", b"longer/than/eight"]] {
                let nested = nested(100_000);
                let whole = index(version, names, &[nested.clone(), b"XTND\0\0\0\x01x".to_vec()].concat());
                let hidden = without_caches(&whole, 20).unwrap();
                let position = whole.len() - 20 - 9 - nested.len();
                assert_eq!(&hidden[position..position + 4], UNKNOWN, "version {version}");
                assert_eq!(
                    (&hidden[..position], &hidden[position + 4..]),
                    (&whole[..position], &whole[position + 4..])
                );
                let untracked = index(version, names, b"UNTR\0\0\0\0");
                assert!(matches!(without_caches(&untracked, 20).unwrap(), Cow::Owned(_)));
                let sane = [&b"TREE\0\0\0\x3a\x001 2\n"[..], &[7; 20], b"a\0-1 0\nb\x000 0\n", &[7; 20]].concat();
                for plain in [&b""[..], &sane] {
                    let plain = index(version, names, plain);
                    assert!(matches!(without_caches(&plain, 20).unwrap(), Cow::Borrowed(_)), "{plain:?}");
                }
            }
        }
        assert!(without_caches(b"DIRC\0\0\0\x02\0\0\0\x09", 20).is_none());
        assert!(without_caches(&index(2, &[b"a"], b"")[..50], 20).is_none());
    }
}
