//! Names of images and kernels. They become folder names, so only harmless ones are let in.
//!
//! What is pulled under a name gets a folder that is named by its content too:
//! `<name>.<12 hex digits>`.

use crate::error::{Error, Result};
use crate::kind::Kind;

/// Longest name, in bytes.
const MAX_LENGTH: usize = 64;

/// Lets `[a-z0-9][a-z0-9._-]*` of at most 64 bytes pass.
pub(crate) fn check(kind: Kind, name: &str) -> Result<()> {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let valid = name.len() <= MAX_LENGTH
        && name.bytes().next().is_some_and(lower)
        && name.bytes().all(|b| lower(b) || b"._-".contains(&b));
    if valid { Ok(()) } else { Err(Error::InvalidName { kind, name: name.to_owned() }) }
}

/// Hex digits of a content's digest in a folder's name.
const DIGITS: usize = 12;

/// The name of the folder for what is pulled as `name` if `content` identifies it: `name`, a dot,
/// and [`DIGITS`] hex digits of the BLAKE3 digest of `content`.
pub(crate) fn folder_name(name: &str, content: &str) -> String {
    format!("{name}.{}", &blake3::hash(content.as_bytes()).to_hex()[..DIGITS])
}

/// Whether [`folder_name`] makes `folder` for `name` and some content.
pub(crate) fn is_folder_of(folder: &str, name: &str) -> bool {
    let digits = folder.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The known name that `name` is most likely a misspelling of.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (edit_distance(name.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, candidate)| candidate.starts_with(name) || *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, deletions and replacements that turn `a` into `b`.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_are_validated() {
        for good in ["a", "debian-bookworm-minimal", "generic-6.12", "9front", &"x".repeat(64)] {
            assert!(check(Kind::Image, good).is_ok(), "{good}");
        }
        let bad = ["", ".", "..", ".tmp-a", "-rf", "a/b", "../a", "A", "a b", "a\n", "a\0", "é"];
        for bad in bad.into_iter().chain([&*"x".repeat(65)]) {
            assert!(check(Kind::Image, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn folder_of_content_belongs_to_its_name_only() {
        let folder = folder_name("golden", "sha256:00");
        assert_ne!(folder, folder_name("golden", "sha256:01"));
        assert!(check(Kind::Image, &folder).is_ok());
        assert!(is_folder_of(&folder, "golden"));
        for (folder, name) in [(&*folder, "gold"), (&*folder, "golden."), ("golden", "golden"), ("a.12", "a")] {
            assert!(!is_folder_of(folder, name), "{folder} of {name}");
        }
        assert!(!is_folder_of("a.0123456789ag", "a"));
    }

    #[test]
    fn misspelled_name_finds_its_nearest_match() {
        let known = ["debian-bookworm-minimal", "golden"];
        assert_eq!(nearest("debian-bokworm-minimal", known), Some("debian-bookworm-minimal"));
        assert_eq!(nearest("debian", known), Some("debian-bookworm-minimal"));
        assert_eq!(nearest("glden", known), Some("golden"));
        assert_eq!(nearest("windows", known), None);
    }

    #[test]
    fn edit_distance_matches_known_values() {
        assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
        assert_eq!(edit_distance(b"", b"abc"), 3);
        assert_eq!(edit_distance(b"abc", b"abc"), 0);
    }
}
