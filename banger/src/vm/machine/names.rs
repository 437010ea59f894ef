//! What VMs are called.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::git::Workspace;

/// Words for names that people remember and type. Nobody minds to be called so.
const ADJECTIVES: [&str; 32] = [
    "able", "blue", "brave", "bright", "calm", "clear", "deep", "early", "fair", "fresh", "gentle", "golden", "green",
    "happy", "keen", "kind", "late", "light", "lucky", "merry", "mild", "neat", "noble", "pale", "plain", "proud",
    "quick", "quiet", "silver", "swift", "tidy", "warm",
];
const NOUNS: [&str; 32] = [
    "acorn", "badger", "beaver", "birch", "cedar", "clover", "comet", "crane", "dolphin", "falcon", "finch", "fox",
    "hazel", "heron", "island", "lake", "lark", "maple", "meadow", "otter", "owl", "pebble", "pine", "raven", "river",
    "robin", "sparrow", "stone", "swan", "thistle", "walnut", "willow",
];

/// The name of a workspace's VM: the folder's name, for people, and a digest of its path.
pub(super) fn of_workspace(workspace: &Workspace) -> String {
    let digest = blake3::hash(workspace.root.as_os_str().as_bytes()).to_hex();
    format!("{}-{}", host_name(&workspace.root), &digest[..8])
}

/// The folder's name as a host name: hostname(7).
pub(super) fn host_name(root: &Path) -> String {
    let name = root.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = name.chars().map(letter).take(32).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "workspace".to_owned() } else { name.to_owned() }
}

/// A name that is none of `taken`, such as `brave-otter`.
pub(super) fn readable(taken: &[String]) -> String {
    let first = random() as usize;
    let pair = |at: usize| {
        let (adjective, noun) = (at % ADJECTIVES.len(), at / ADJECTIVES.len() % NOUNS.len());
        format!("{}-{}", ADJECTIVES[adjective], NOUNS[noun])
    };
    // From a random one on, each once.
    let all = (0..ADJECTIVES.len() * NOUNS.len()).map(|step| pair(first.wrapping_add(step)));
    let numbered = (2_u64..).map(|number| format!("{}-{number}", pair(first)));
    all.chain(numbered).find(|name| !taken.contains(name)).expect("numbers do not end")
}

/// A number that nobody else has.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_name_is_derived_from_the_directory_name() {
        for (root, name) in
            [("/a/My Repo_2", "my-repo-2"), ("/", "workspace"), ("/x/-ü-", "workspace"), ("/x/.dot", "dot")]
        {
            assert_eq!(host_name(Path::new(root)), name);
        }
        assert_eq!(host_name(Path::new(&format!("/{}", "a".repeat(200)))).len(), 32);
    }

    #[test]
    fn readable_names_are_unique() {
        let mut taken = Vec::new();
        for _ in 0..ADJECTIVES.len() * NOUNS.len() + 2 {
            let name = readable(&taken);
            assert!(!taken.contains(&name) && name.len() < 24, "{name}");
            taken.push(name);
        }
        assert!(taken.last().unwrap().ends_with(char::is_numeric), "{taken:?}");
    }
}
