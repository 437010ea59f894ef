//! One file of ignore rules, read and matched as git does it; see gitignore(5).
//!
//! gix's reading differs from git's in corners (`ab**/`, a last line ending in a carriage return),
//! so only its `wildmatch` is used here, and the rest follows `dir.c` of git closely.

use gix::bstr::{BStr, ByteSlice};
use gix::glob::wildmatch::Mode;

use super::wildmatch;

/// The rules of one file.
pub(crate) struct Patterns {
    /// The folder they are relative to, without a slash at the end; empty for the worktree's root.
    base: Vec<u8>,
    rules: Vec<Rule>,
}

struct Rule {
    text: Vec<u8>,
    /// How many leading bytes of the text mean themselves.
    literal: usize,
    negative: bool,
    must_be_dir: bool,
    /// Without a slash it is matched against the last part of a path only.
    is_name: bool,
    /// `*` and then nothing but literal bytes.
    is_suffix: bool,
}

impl Patterns {
    pub(crate) fn parse(bytes: &[u8], base: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let rules = bytes.split(|byte| *byte == b'\n').filter_map(Rule::parse).collect();
        Self { base: base.to_owned(), rules }
    }

    /// Whether `path`, relative to the worktree, is ignored; `None` if no rule speaks of it.
    pub(crate) fn verdict(&self, path: &[u8], is_dir: bool, ignore_case: bool) -> Option<bool> {
        let name = match path.rfind_byte(b'/') {
            Some(slash) => &path[slash + 1..],
            None => path,
        };
        let below = match self.base.as_slice() {
            b"" => path,
            base => path.get(base.len() + 1..)?,
        };
        // The last rule that matches decides.
        let rule = self.rules.iter().rev().find(|rule| {
            (is_dir || !rule.must_be_dir)
                && if rule.is_name {
                    rule.matches_name(name, ignore_case)
                } else {
                    rule.matches_path(below, ignore_case)
                }
        });
        rule.map(|rule| !rule.negative)
    }
}

impl Rule {
    fn parse(line: &[u8]) -> Option<Self> {
        if line.is_empty() || line[0] == b'#' {
            return None;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = &line[..line.find_byte(0).unwrap_or(line.len())];
        let line = without_trailing_spaces(line);
        let (negative, line) = match line.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let (must_be_dir, text) = match line.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        Some(Self {
            literal: literal_length(text),
            negative,
            must_be_dir,
            is_name: !text.contains(&b'/'),
            is_suffix: text.strip_prefix(b"*").is_some_and(|rest| literal_length(rest) == rest.len()),
            text: text.to_owned(),
        })
    }

    fn matches_name(&self, name: &[u8], ignore_case: bool) -> bool {
        if self.literal == self.text.len() {
            return same(&self.text, name, ignore_case);
        }
        if self.is_suffix {
            let suffix = &self.text[1..];
            return name.len() >= suffix.len() && same(suffix, &name[name.len() - suffix.len()..], ignore_case);
        }
        let case = if ignore_case { Mode::IGNORE_CASE } else { Mode::empty() };
        gix::glob::wildmatch(BStr::new(&self.text), BStr::new(name), case)
    }

    /// The literal part is compared first and left off, whereby a `**` that follows it begins the
    /// pattern that is matched: this is why `ab**/c` matches `abx/y/c` for git.
    fn matches_path(&self, path: &[u8], ignore_case: bool) -> bool {
        let (text, literal) = match self.text.strip_prefix(b"/") {
            Some(rest) => (rest, self.literal - 1),
            None => (&self.text[..], self.literal),
        };
        if path.len() < literal || !same(&text[..literal], &path[..literal], ignore_case) {
            return false;
        }
        let (text, path) = (&text[literal..], &path[literal..]);
        if text.is_empty() {
            return path.is_empty();
        }
        wildmatch::matches_path(text, path, ignore_case)
    }
}

fn same(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

fn literal_length(text: &[u8]) -> usize {
    text.find_byteset(b"*?[\\").unwrap_or(text.len())
}

/// Spaces at the end do not count, unless a backslash is before the first of them.
fn without_trailing_spaces(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut position = 0;
    while position < line.len() {
        match line[position] {
            b' ' => {}
            b'\\' => {
                position += 1;
                end = position + 1;
            }
            _ => end = position + 1,
        }
        position += 1;
    }
    &line[..end.min(line.len())]
}

#[cfg(test)]
mod tests {
    use super::{Patterns, without_trailing_spaces};

    #[test]
    fn trailing_spaces_are_trimmed_unless_escaped() {
        for (line, kept) in
            [("a ", "a"), ("a\\ ", "a\\ "), ("a\\  ", "a\\ "), ("  ", ""), ("a b", "a b"), ("a\\", "a\\")]
        {
            assert_eq!(without_trailing_spaces(line.as_bytes()), kept.as_bytes(), "{line:?}");
        }
    }

    #[test]
    fn patterns_apply_only_below_their_base() {
        let patterns = Patterns::parse(b"/x\ny/z\n!name\n", b"sub");
        assert_eq!(patterns.verdict(b"sub/x", false, false), Some(true));
        assert_eq!(patterns.verdict(b"sub/s/x", false, false), None);
        assert_eq!(patterns.verdict(b"sub/y/z", false, false), Some(true));
        assert_eq!(patterns.verdict(b"sub/s/name", false, false), Some(false));
    }
}
