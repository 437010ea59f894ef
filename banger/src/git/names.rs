//! Names that git takes for a repository's.

use gix::bstr::BStr;
use gix::validate::path::component;

/// Whether git, on any system and file system, takes a component of a path for `.git`: in any case,
/// with code points that HFS+ ignores, or in one of the forms that NTFS has for it, as `GIT~1` and
/// `.git::$INDEX_ALLOCATION`. By git's `is_hfs_dotgit` and `is_ntfs_dotgit` (utf8.c, path.c).
pub fn is_git_dir_name(name: &[u8]) -> bool {
    let options = component::Options { protect_windows: false, protect_hfs: true, protect_ntfs: true };
    let checked = gix::validate::path::component(BStr::new(name), None, options);
    matches!(checked, Err(component::Error::DotGitDir))
}

/// Whether a path has such a component. A backslash separates components too, as on NTFS.
pub fn names_git_dir(path: &[u8]) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(is_git_dir_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_dot_git_is_recognized() {
        for name in [
            ".git",
            ".GIT",
            ".Git",
            "git~1",
            "GIT~1",
            ".git.",
            ".git ",
            ".git . .",
            "git~1.",
            ".git::$INDEX_ALLOCATION",
            ".git:x",
            ".g\u{200c}it",
            "\u{feff}.git",
            ".GI\u{206f}T",
        ] {
            assert!(is_git_dir_name(name.as_bytes()), "{name:?}");
            for path in [format!("a/{name}/config"), name.to_owned(), format!("{name}/x"), format!("a\\{name}\\x")] {
                assert!(names_git_dir(path.as_bytes()), "{path:?}");
            }
        }
        for name in
            ["", ".", "..", "git", ".gitignore", ".github", "x.git", ".git~1", "git~", "git~12", "agit~1", ".g it"]
        {
            assert!(!is_git_dir_name(name.as_bytes()), "{name:?}");
            assert!(!names_git_dir(format!("a/{name}").as_bytes()), "{name:?}");
        }
    }
}
