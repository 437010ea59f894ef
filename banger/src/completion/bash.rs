//! The words of a command line as bash has it. bash(1) gives a completion function words that are
//! also split at colons and equals signs, by COMP_WORDBREAKS, and replaces the last of these
//! pieces.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Command;

/// The variable in which the completion function passes COMP_LINE up to COMP_POINT: the command
/// line up to the cursor.
pub(super) const LINE: &str = "_BANGER_COMPLETE_LINE";
/// The variable with the piece of the word that bash replaces.
pub(super) const PIECE: &str = "_BANGER_COMPLETE_PIECE";
/// The variable with the separator that the script expects between proposals.
pub(super) const SEPARATOR: &str = "_CLAP_IFS";

/// Proposals for the last of `words`, each without its first `kept` bytes, which bash does not
/// replace. The adapter of `clap_complete` does not fit: it takes the place of the word from
/// COMP_CWORD, which counts the pieces of split words.
pub(super) fn complete(
    cli: &mut Command,
    words: Vec<OsString>,
    here: Option<&Path>,
    kept: usize,
) -> io::Result<Vec<Vec<u8>>> {
    let last = words.len().saturating_sub(1);
    let typed = words.last().cloned().unwrap_or_default();
    let start = typed.as_bytes().get(..kept).unwrap_or_default();
    let candidates = clap_complete::engine::complete(cli, words, last, here)?;
    let values = candidates.iter().map(|candidate| candidate.get_value().as_bytes()).filter(|value| is_plain(value));
    Ok(values.filter_map(|value| value.strip_prefix(start)).map(<[u8]>::to_vec).collect())
}

/// Whether a word needs no quoting on a command line. bash puts proposals there as they are, and
/// files in a guest, a repository or an image may be called `$(…)`. Files of the host that are left
/// out bash proposes by itself, quoted.
fn is_plain(word: &[u8]) -> bool {
    let is_special = |c: char| c.is_control() || c.is_whitespace() || "\"'`$&;|<>()[]{}*?!#\\~^".contains(c);
    str::from_utf8(word).is_ok_and(|word| !word.contains(is_special))
}

/// How much of the word that is being typed in `line` bash does not replace, in bytes. `piece` is
/// what it replaces: COMP_WORDBREAKS may be the user's own, and a word is also split before `@`.
pub(super) fn kept(line: &str, piece: Option<&str>) -> usize {
    let (words, kept) = words(line);
    let typed = words.last().map(|word| word.as_bytes()).unwrap_or_default();
    // A piece with quotes is another text than the word.
    let before = piece.and_then(|piece| typed.strip_suffix(piece.as_bytes()));
    before.map_or(kept, <[u8]>::len)
}

/// The words of `line`, the last being typed, and how much of that one bash does not replace, in
/// bytes of its proposals.
pub(super) fn words(line: &str) -> (Vec<OsString>, usize) {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let (mut quote, mut kept) = (None, 0);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let current = word.get_or_insert_default();
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None | Some('"'), '\\') => current.extend(characters.next()),
            (None, c) if c.is_whitespace() => {
                words.extend(word.take().filter(|word| !word.is_empty()).map(OsString::from));
                kept = 0;
            }
            (_, c) => {
                current.push(c);
                if quote.is_none() && matches!(c, ':' | '=') {
                    kept = current.len();
                }
            }
        }
    }
    words.push(word.unwrap_or_default().into());
    (words, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_shell_metacharacters_are_not_proposed() {
        for word in
            ["a$(b)", "`b`", "a;b", "a b", "a\nb", "*", "~x", "a\\b", "a&b", "a|b", ">a", "'a", "!a", "{a,b}", "#a"]
        {
            assert!(!is_plain(word.as_bytes()), "{word}");
        }
        assert!(!is_plain(b"\xff"));
        for word in ["box:/etc/host.conf", "--image=debian:12", "a-b_c+d@e%f,g", "\u{fc}ber"] {
            assert!(is_plain(word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn word_piece_given_by_bash_determines_the_replacement() {
        for (line, piece, expected) in [
            ("banger -- node_modules/@sc", Some("@sc"), 13),
            ("banger cp box:", Some(""), 4),
            // Without colons in COMP_WORDBREAKS.
            ("banger cp box:et", Some("box:et"), 0),
            ("banger cp 'a b:", Some("'a b:"), 0),
            ("banger cp box:et", None, 4),
        ] {
            assert_eq!(kept(line, piece), expected, "{line}");
        }
    }

    #[test]
    fn words_are_split_as_bash_splits_them() {
        let words = |line: &str| {
            let (words, kept) = words(line);
            (words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join("|"), kept)
        };
        for (line, expected, kept) in [
            ("banger ", "banger|", 0),
            ("banger cp :", "banger|cp|:", 1),
            ("banger cp box:/etc/h", "banger|cp|box:/etc/h", 4),
            ("banger cp a: b", "banger|cp|a:|b", 0),
            ("banger --image=deb", "banger|--image=deb", 8),
            (r#"banger cp "a b":c\ d 'x:y"#, "banger|cp|a b:c d|x:y", 0),
            ("banger  image   pull debian:12", "banger|image|pull|debian:12", 7),
        ] {
            assert_eq!(words(line), (expected.to_owned(), kept), "{line}");
        }
    }
}
