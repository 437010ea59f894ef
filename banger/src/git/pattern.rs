//! One file of ignore rules, read and matched as git does it; see gitignore(5).
//!
//! gix's reading differs from git's in corners (`ab**/`, a last line ending in a carriage return),
//! so only its `wildmatch` is used here, and the rest follows `dir.c` of git closely.

use gix::bstr::{BStr, ByteSlice};
use gix::glob::wildmatch::Mode;

use super::wildmatch;
use banger_agent::rooted_dir::split;

/// The rules of one file.
pub(crate) struct Patterns {
    /// The folder they are relative to, without a slash at the end; empty for the worktree's root.
    base: Vec<u8>,
    rules: Vec<Rule>,
}

/// A line of a file of ignore rules.
pub(crate) struct Rule {
    /// The number of the line, from 1.
    line: usize,
    text: Vec<u8>,
    /// How many leading bytes of the text mean themselves.
    literal: usize,
    negative: bool,
    must_be_dir: bool,
    /// Without a slash it is matched against the last part of a path only.
    is_name: bool,
    /// `*` and then nothing but literal bytes.
    is_suffix: bool,
    /// After the leading literal bytes comes `**/`, and then nothing but literal bytes.
    is_tail: bool,
}

impl Patterns {
    pub(crate) fn parse(bytes: &[u8], base: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let lines = bytes.split(|byte| *byte == b'\n').zip(1..);
        let rules = lines.filter_map(|(text, line)| Rule::parse(text, line)).collect();
        Self { base: base.to_owned(), rules }
    }

    /// All rules, in order.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule that decides about `path`, relative to the worktree; `None` if none speaks of it.
    pub(crate) fn rule(&self, path: &[u8], is_dir: bool, ignore_case: bool) -> Option<&Rule> {
        let below = match self.base.as_slice() {
            b"" => path,
            base => path.get(base.len() + 1..)?,
        };
        // The last rule that matches decides.
        self.rules.iter().rev().find(|rule| rule.matches(below, is_dir, ignore_case))
    }
}

impl Rule {
    fn parse(text: &[u8], line: usize) -> Option<Self> {
        if text.is_empty() || text[0] == b'#' {
            return None;
        }
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let text = &text[..text.find_byte(0).unwrap_or(text.len())];
        let text = without_trailing_spaces(text);
        let (negative, text) = match text.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (must_be_dir, text) = match text.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let is_literal = |text: &[u8]| literal_length(text) == text.len();
        let literal = literal_length(text);
        Some(Self {
            line,
            literal,
            negative,
            must_be_dir,
            is_name: !text.contains(&b'/'),
            is_suffix: text.strip_prefix(b"*").is_some_and(is_literal),
            is_tail: text[literal..].strip_prefix(b"**/").is_some_and(is_literal),
            text: text.to_owned(),
        })
    }

    /// Whether what it matches is ignored; false: it makes an exception (`!`).
    pub(crate) fn ignores(&self) -> bool {
        !self.negative
    }

    /// The number of its line, from 1.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// The rule as it is written, without spaces at the end.
    pub(crate) fn written(&self) -> Vec<u8> {
        let (before, after) = (if self.negative { "!" } else { "" }, if self.must_be_dir { "/" } else { "" });
        [before.as_bytes(), &self.text, after.as_bytes()].concat()
    }

    /// Whether the rule matches `path`, relative to the rules' base.
    pub(crate) fn matches(&self, path: &[u8], is_dir: bool, ignore_case: bool) -> bool {
        (is_dir || !self.must_be_dir)
            && match self.is_name {
                true => self.matches_name(split(path).1, ignore_case),
                false => self.matches_path(path, ignore_case),
            }
    }

    /// An upper bound of the bytes that [`Rule::matches`] compares for `path`, with regard to case,
    /// before it knows; 1 where no wildcard is tried.
    pub(crate) fn effort(&self, path: &[u8]) -> u64 {
        let (text, subject) = match self.is_name {
            true if self.is_suffix => return 1,
            true => (&self.text[..], split(path).1),
            false => (self.text.strip_prefix(b"/").unwrap_or(&self.text), path),
        };
        let literal = self.literal - (self.text.len() - text.len());
        let Some(subject) = subject.strip_prefix(&text[..literal]) else { return 1 };
        let (text, length) = (&text[literal..], subject.len() as u64);
        if text.is_empty() {
            return 1;
        }
        if self.is_tail {
            return 1 + length.min(text.len() as u64);
        }
        let below = text.strip_prefix(b"**/").unwrap_or(text);
        // `**` may be tried for each directory.
        let directories = match below.contains_str("**") {
            true => subject.find_iter("/").count() as u64,
            false => 0,
        };
        (text.len() as u64 + 1) * (length + 1) * (directories + 1)
    }

    /// Whether the rule names a directory, from the root on and without a wildcard, that is
    /// `folder` or above it or beneath it, so that it may match something in `folder`.
    /// `config/*.env` so leads into `config`, and `*.env` and `**/*.env` lead nowhere. Case counts.
    pub(crate) fn leads_into(&self, folder: &[u8]) -> bool {
        let text = self.text.strip_prefix(b"/").unwrap_or(&self.text);
        let literal = &text[..self.literal - (self.text.len() - text.len())];
        let Some(slash) = literal.rfind_byte(b'/').filter(|_| !self.negative) else { return false };
        let (named, rest) = (&text[..slash], &text[slash + 1..]);
        let is_in = |path: &[u8], folder: &[u8]| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"));
        let is_deep = || rest.contains(&b'/') || rest.contains_str("**");
        named == folder || is_in(named, folder) || (is_in(folder, named) && is_deep())
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
        if self.is_tail {
            // Once, and not for each directory: a path may have thousands.
            let tail = &text[b"**/".len()..];
            let Some(before) = path.len().checked_sub(tail.len()) else { return false };
            let is_whole = before == 0 || path[before - 1] == b'/';
            return is_whole && same(tail, &path[before..], ignore_case);
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
    use super::{Patterns, Rule, wildmatch, without_trailing_spaces};

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
        let ignores = |path: &str| patterns.rule(path.as_bytes(), false, false).map(|rule| rule.ignores());
        assert_eq!(ignores("sub/x"), Some(true));
        assert_eq!(ignores("sub/s/x"), None);
        assert_eq!(ignores("sub/y/z"), Some(true));
        assert_eq!(ignores("sub/s/name"), Some(false));
    }

    #[test]
    fn literal_end_of_a_path_is_compared_once() {
        for pattern in ["**/a", "**/a/b", "**/A/b", "a/**/b", "/a/**/b/a", "ab**/a/b", "**//", "**/ab"] {
            let rule = Rule::parse(pattern.as_bytes(), 1).unwrap();
            assert!(rule.is_tail, "{pattern}");
            for path in ["a", "b", "ab", "a/b", "a/a/b", "b/a/b", "xa/b", "ab/b", "abx/y/a/b", "a/x/b/a", "x/ab", "A/B"]
            {
                for ignores_case in [false, true] {
                    let text = pattern.strip_prefix('/').unwrap_or(pattern).as_bytes();
                    let text = if rule.must_be_dir { &text[..text.len() - 1] } else { text };
                    // Git compares the literal part, and matches what follows by itself.
                    let literal = super::literal_length(text);
                    let (before, after) = (&text[..literal], path.as_bytes().get(literal..));
                    let expected = after.is_some_and(|after| {
                        super::same(before, &path.as_bytes()[..literal], ignores_case)
                            && wildmatch::matches_path(&text[literal..], after, ignores_case)
                    });
                    assert_eq!(rule.matches(path.as_bytes(), true, ignores_case), expected, "{pattern} {path}");
                }
            }
            let deep = "a/".repeat(2_000) + "b";
            assert!(rule.effort(deep.as_bytes()) <= 1 + pattern.len() as u64, "{pattern}");
        }
        for pattern in ["**", "**/*", "**/a*", "*/a", "**/**/a", "a", "a/b", "*a"] {
            assert!(!Rule::parse(pattern.as_bytes(), 1).unwrap().is_tail, "{pattern}");
        }
    }

    #[test]
    fn rule_leads_only_into_directories_that_it_names() {
        let leads = |rule: &str, folder: &str| {
            let patterns = Patterns::parse(rule.as_bytes(), b"");
            patterns.rules().iter().any(|rule| rule.leads_into(folder.as_bytes()))
        };
        for (rule, folder) in [
            ("config/*.env", "config"),
            ("/config/*.env", "config"),
            ("a/b/c", "a"),
            ("a/b/c", "a/b"),
            ("a/b/", "a"),
            ("a/*/c", "a/x"),
            ("a/**", "a/x/y"),
        ] {
            assert!(leads(rule, folder), "{rule} {folder}");
        }
        for (rule, folder) in [
            (".env", "config"),
            ("*", "config"),
            ("**/.env", "config"),
            ("*/.env", "config"),
            ("/config", "config"),
            ("!config/.env", "config"),
            ("a/b/c", "a/b/c"),
            ("a/b/c", "a/x"),
            ("a/*.env", "a/x"),
            ("ab/c", "a"),
            ("", "a"),
            ("/", "a"),
        ] {
            assert!(!leads(rule, folder), "{rule} {folder}");
        }
    }

    #[test]
    fn rule_has_its_line_and_what_is_written_there() {
        let patterns = Patterns::parse(b"\xef\xbb\xbf# all\n\n*.o  \r\n!keep.o\n/target/\n", b"");
        let rule = |path: &str, is_dir| {
            let rule = patterns.rule(path.as_bytes(), is_dir, false)?;
            Some((rule.line(), String::from_utf8(rule.written()).unwrap()))
        };
        assert_eq!(rule("a.o", false), Some((3, "*.o".into())));
        assert_eq!(rule("keep.o", false), Some((4, "!keep.o".into())));
        assert_eq!(rule("target", true), Some((5, "/target/".into())));
        assert_eq!(rule("target", false), None);
    }
}
