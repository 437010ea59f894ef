//! Words for the user's shell.

use std::path::Path;

/// The path as one word of a shell command, in single quotes.
pub(crate) fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_path_is_one_word_whatever_it_holds() {
        assert_eq!(shell_quoted(Path::new("/a b/$c")), "'/a b/$c'");
        assert_eq!(shell_quoted(Path::new("it's")), r"'it'\''s'");
    }
}
