//! Entries of the terminfo database: how terminfo(5) names their files, and how term(5) begins
//! them.

use serde::{Deserialize, Serialize};

use crate::wire_bytes::WireBytes;

/// The longest entry, in bytes: term(5), "the total compiled entries cannot exceed 32768 bytes".
pub const MAX_ENTRY: usize = 32 << 10;
/// The longest name of a terminal, in bytes. term(5) leaves 128 for all names of an entry.
const MAX_NAME: usize = 64;
/// The first two bytes of an entry: term(5), of numbers with 16 and with 32 bits.
const MAGIC: [[u8; 2]; 2] = [[0x1a, 0x01], [0x1e, 0x02]];

/// The description of a terminal, for programs that draw on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminfo {
    /// The terminal's name, as `TERM` has it.
    pub name: String,
    /// The compiled entry.
    pub entry: WireBytes,
}

impl Terminfo {
    /// Whether the name can be a terminal's ([`is_name`]), and the entry looks compiled and is not
    /// longer than [`MAX_ENTRY`].
    pub fn is_valid(&self) -> bool {
        let is_entry = MAGIC.iter().any(|magic| self.entry.0.starts_with(magic));
        is_name(&self.name) && is_entry && self.entry.0.len() <= MAX_ENTRY
    }
}

/// Whether `name` can be a terminal's. Such a name has no path separator and does not begin with a
/// dot.
pub fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(is_plain)
}

/// The two places at which a directory of entries may have the entry of the terminal `name`: below
/// the name's first letter, or that letter's number in hexadecimal, as on file systems that do not
/// tell small letters from capitals.
pub fn places(name: &str) -> [String; 2] {
    let first = name.bytes().next().unwrap_or_default();
    [format!("{}/{name}", char::from(first)), format!("{first:02x}/{name}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_name_is_one_path_component() {
        for name in ["xterm-kitty", "rxvt-unicode-256color", "xterm+256color", "9term", "st.v1_0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "../x", "-x", "ü", "a b", "a\0", &"a".repeat(65)] {
            assert!(!is_name(name), "{name:?}");
        }
        assert_eq!(places("xterm-kitty"), ["x/xterm-kitty", "78/xterm-kitty"]);
    }

    #[test]
    fn terminfo_entry_needs_magic_and_bounded_length() {
        let is_valid = |entry: &[u8]| Terminfo { name: "foot".into(), entry: WireBytes(entry.to_vec()) }.is_valid();
        assert!(is_valid(b"\x1a\x01rest") && is_valid(b"\x1e\x02"));
        assert!(!is_valid(b"") && !is_valid(b"#!/bin/sh") && !is_valid(&[&[0x1a, 1][..], &[0; MAX_ENTRY]].concat()));
    }
}
