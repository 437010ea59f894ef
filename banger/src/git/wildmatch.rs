//! Matching a path as git's `wildmatch` does with `WM_PATHNAME`, in a time that no pattern makes
//! exponential.
//!
//! git and gix try for each `**/` whether it stands for nothing, and then for one directory more
//! each time: with `**/a/**/a/…` both double the time with every `**/`. Here, what is between two
//! `**/` is taken where it matches first, since what comes after can then begin wherever it could
//! after a later match.

use gix::bstr::BStr;
use gix::glob::wildmatch::Mode;

/// A pattern, cut at the first `**/` that stands for any number of directories.
struct Split<'a> {
    /// What is before. Its wildcards match no slash.
    before: &'a [u8],
    /// How many slashes that has.
    slashes: usize,
    /// Whether the slash after `**` is escaped: then it stands for one directory at least.
    is_escaped: bool,
    after: &'a [u8],
}

/// Whether `pattern` matches all of `text`, where only `**` matches a slash.
pub(super) fn matches_path(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let case = if ignore_case { Mode::IGNORE_CASE } else { Mode::empty() };
    let matches = |pattern: &[u8], text: &[u8]| {
        gix::glob::wildmatch(BStr::new(pattern), BStr::new(text), Mode::NO_MATCH_SLASH_LITERAL | case)
    };
    let Some(mut split) = Split::first(pattern) else { return matches(pattern, text) };
    // What is left of `text` after what is before the cut.
    let rest = |split: &Split<'_>, text: &'_ [u8]| {
        let end = nth_directory(text, split.slashes)?;
        matches(split.before, &text[..end]).then_some(end)
    };
    let Some(mut at) = rest(&split, text) else { return false };
    loop {
        if split.is_escaped {
            match nth_directory(&text[at..], 1) {
                Some(length) => at += length,
                None => return false,
            }
        }
        let mut starts = std::iter::successors(Some(at), |at| Some(at + nth_directory(&text[*at..], 1)?));
        let Some(next) = Split::first(split.after) else { return starts.any(|at| matches(split.after, &text[at..])) };
        match starts.find_map(|at| Some(at + rest(&next, &text[at..])?)) {
            Some(end) => at = end,
            None => return false,
        }
        split = next;
    }
}

/// Where `text` goes on after `count` slashes.
fn nth_directory(text: &[u8], count: usize) -> Option<usize> {
    match count {
        0 => Some(0),
        _ => text.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(count - 1).map(|(at, _)| at + 1),
    }
}

impl<'a> Split<'a> {
    fn first(pattern: &'a [u8]) -> Option<Self> {
        let (mut at, mut slashes) = (0, 0);
        while at < pattern.len() {
            match pattern[at] {
                b'*' => {
                    let stars = pattern[at..].iter().take_while(|byte| **byte == b'*').count();
                    let rest = &pattern[at + stars..];
                    let is_whole = stars > 1 && (at == 0 || pattern[at - 1] == b'/');
                    let after = rest.strip_prefix(b"/").or_else(|| rest.strip_prefix(b"\\/"));
                    if let (true, Some(after)) = (is_whole, after) {
                        let before = &pattern[..at];
                        return Some(Self { before, slashes, is_escaped: rest[0] == b'\\', after });
                    }
                    at += stars;
                }
                b'\\' => {
                    slashes += usize::from(pattern.get(at + 1) == Some(&b'/'));
                    at += 2;
                }
                b'[' => at = end_of_class(pattern, at + 1),
                byte => {
                    slashes += usize::from(byte == b'/');
                    at += 1;
                }
            }
        }
        None
    }
}

/// Where the pattern goes on after a bracket expression, whose `[` is before `at`.
fn end_of_class(pattern: &[u8], mut at: usize) -> usize {
    if matches!(pattern.get(at), Some(b'!' | b'^')) {
        at += 1;
    }
    let first = at;
    while let Some(byte) = pattern.get(at) {
        match byte {
            b']' if at > first => return at + 1,
            b'\\' => at += 2,
            b'[' if pattern.get(at + 1) == Some(&b':') => {
                // `[:alpha:]`, else a bracket like any other byte.
                let close = pattern[at..].iter().position(|byte| *byte == b']').unwrap_or(0);
                at += if close > 2 && pattern[at + close - 1] == b':' { close + 1 } else { 1 };
            }
            _ => at += 1,
        }
    }
    pattern.len()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn matches_path_agrees_with_wildmatch() {
        let mut seed = 1u64;
        let mut next = |limit: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % limit
        };
        let words = ["**/", "**/", "/**/", "**", "*", "?", "a", "a/", "b", "/", "\\/", "\\", "[a]", "[!b/]", "**\\/"];
        let mut matched = 0;
        for _ in 0..100_000 {
            let pattern: String = (0..next(8)).map(|_| words[next(words.len())]).collect();
            let text: String = (0..next(9)).map(|_| ["a", "b", "/", "a/"][next(4)]).collect();
            let expected = gix::glob::wildmatch(
                BStr::new(pattern.as_bytes()),
                BStr::new(text.as_bytes()),
                Mode::NO_MATCH_SLASH_LITERAL,
            );
            assert_eq!(matches_path(pattern.as_bytes(), text.as_bytes(), false), expected, "{pattern:?} {text:?}");
            matched += usize::from(expected);
        }
        assert!(matched > 5_000, "{matched}");
    }

    #[test]
    fn no_pattern_takes_exponential_time() {
        let begin = Instant::now();
        let text = "a/".repeat(2000) + "c";
        for separator in ["**/", "***/", "**\\/", "[a]**/**/"] {
            let pattern = format!("{separator}a/").repeat(60) + "b";
            assert!(!matches_path(pattern.as_bytes(), text.as_bytes(), false), "{separator}");
        }
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}
