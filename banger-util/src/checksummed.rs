//! Values that know when they are damaged: [postcard](https://postcard.jamesmunns.com/wire-format)
//! behind a BLAKE3 checksum of it.
//!
//! A *file* is a magic of 8 bytes, the checksum (32 bytes) and the value, to its end. A *record* is
//! one of several, as in a log: the value's length in bytes (64 bits, little-endian), the checksum,
//! and the value.

use serde::{Serialize, de::DeserializeOwned};

/// The content of a file that holds `value`. `magic` names what it is, and the version of its form.
///
/// # Panics
/// If the value has no postcard form, such as a sequence of unknown length.
pub fn encode_file<T: Serialize>(magic: &[u8; 8], value: &T) -> Vec<u8> {
    let body = body(value);
    [magic, &blake3::hash(&body).as_bytes()[..], &body].concat()
}

/// The value in a file's content. None: the magic is another, or the content is cut, damaged, or
/// of another type.
pub fn decode_file<T: DeserializeOwned>(magic: &[u8; 8], content: &[u8]) -> Option<T> {
    let (checksum, body) = content.strip_prefix(magic)?.split_first_chunk()?;
    checked(checksum, body)
}

/// A record that holds `value`.
///
/// # Panics
/// If the value has no postcard form, such as a sequence of unknown length.
pub fn encode_record<T: Serialize>(value: &T) -> Vec<u8> {
    let body = body(value);
    [&(body.len() as u64).to_le_bytes()[..], blake3::hash(&body).as_bytes(), &body].concat()
}

/// The value of the first record in `bytes`, and the bytes behind that record. None: the record is
/// cut, damaged, or of another type.
pub fn decode_record<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((checked(checksum, body)?, rest))
}

fn body<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data has a postcard form")
}

fn checked<T: DeserializeOwned>(checksum: &[u8; 32], body: &[u8]) -> Option<T> {
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    postcard::from_bytes(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8; 8] = b"bgrtest1";

    type Value = (String, Option<u32>);

    fn value() -> Value {
        ("a".to_owned(), Some(300))
    }

    #[test]
    fn file_has_the_documented_form() {
        let content = encode_file(MAGIC, &value());
        let body = [1, b'a', 1, 0xac, 2];
        assert_eq!(content, [MAGIC, &blake3::hash(&body).as_bytes()[..], &body].concat());
        assert_eq!(decode_file(MAGIC, &content), Some(value()));
    }

    #[test]
    fn cut_or_changed_file_has_no_value() {
        let content = encode_file(MAGIC, &value());
        for length in 0..content.len() {
            assert_eq!(decode_file::<Value>(MAGIC, &content[..length]), None, "{length}");
            let mut changed = content.clone();
            changed[length] ^= 1;
            assert_eq!(decode_file::<Value>(MAGIC, &changed), None, "{length}");
        }
        assert_eq!(decode_file::<Value>(b"bgrtest2", &content), None);
    }

    #[test]
    fn records_are_read_until_one_is_cut() {
        let log = [encode_record(&value()), encode_record(&("b".to_owned(), None::<u32>))].concat();
        let (first, rest) = decode_record::<Value>(&log).unwrap();
        let (second, end) = decode_record::<Value>(rest).unwrap();
        assert_eq!((first, second.0.as_str(), end), (value(), "b", &[][..]));
        for length in 0..rest.len() {
            assert_eq!(decode_record::<Value>(&rest[..length]), None, "{length}");
        }
        assert_eq!(decode_record::<Value>(&[0xff; 60]), None);
    }
}
