//! `.worktreeinclude`: ignored files that travel all the same.
//!
//! The file at the workspace's root has the syntax of gitignore(5). What it matches **and** git
//! ignores travels: regular files only, and nothing behind a symbolic link. Other tools that copy
//! working trees read it in the same meaning. Case counts whatever `core.ignoreCase` says, which is
//! the repository's to set: so the user's trust in the file covers all that decides what it matches.
//!
//! It may be a stranger's, and is read before the user is asked about it: its length, its rules,
//! what is looked at and what matching takes have limits.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::bstr::ByteSlice;
use nix::dir::Type;

use super::boundary::read;
use super::discover::Identity;
use super::excludes::IgnoreRule;
use super::pattern::{Patterns, Rule};
use super::walk::{IgnoredEntry, Status, Tracked, WalkResult, full_path};
use super::{GitError, Repository, Result, names_git_dir};
use banger_agent::rooted_dir::split;

/// The name of the file, at the root of a workspace.
pub const INCLUDE_FILE: &str = ".worktreeinclude";
/// The longest such file, in bytes.
const MAX_LENGTH: u64 = 64 << 10;
/// The most rules in it, so that a person who is asked reads them all.
const MAX_RULES: usize = 100;
/// The longest of them, in bytes.
const MAX_RULE_LENGTH: usize = 200;
/// The most ignored files and directories that may match.
const MAX_MATCHES: usize = 10_000;
/// The most entries of ignored directories that are looked at.
const MAX_EXAMINED: usize = 100_000;
/// The most bytes of patterns and paths that are compared: seconds, at worst.
const MAX_EFFORT: u64 = 500_000_000;

/// Answers whether the user trusts a workspace with this `.worktreeinclude`.
type Trusted = dyn Fn(&Identity, &[u8]) -> bool + Send + Sync;

/// Whether a workspace's `.worktreeinclude` counts. Git's own rules keep secrets out of a guest, so
/// a repository that somebody else wrote may not undo them unasked.
#[derive(Clone, Default)]
pub enum IncludePolicy {
    /// It does not.
    #[default]
    Refuse,
    /// If the user trusts it.
    Trusted(Arc<Trusted>),
    /// It does.
    Allow,
}

impl fmt::Debug for IncludePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IncludePolicy::Refuse => "Refuse",
            IncludePolicy::Trusted(_) => "Trusted",
            IncludePolicy::Allow => "Allow",
        })
    }
}

/// A `.worktreeinclude` as it was read for a listing.
#[derive(Debug)]
pub struct IncludeFile {
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its rules, as they are written; without those that say nothing.
    pub rules: Vec<Vec<u8>>,
}

/// The rules of a workspace's `.worktreeinclude`.
pub(crate) struct WorktreeInclude {
    path: PathBuf,
    content: Vec<u8>,
    patterns: Patterns,
    /// Whether the files travel; false: they are only named.
    pub(crate) is_trusted: bool,
    /// What is left of [`MAX_EFFORT`].
    effort: Cell<u64>,
}

impl WorktreeInclude {
    /// The rules for the repository's ignored files; none without a file, or for a nested
    /// repository.
    ///
    /// # Errors
    /// If the file cannot be read, is too long, has too many rules or one that is too long.
    pub(crate) fn of(repository: &Repository) -> Result<Option<WorktreeInclude>> {
        if !repository.path.is_root() {
            return Ok(None);
        }
        let path = repository.worktree.join(INCLUDE_FILE);
        let Some(content) = read_file(repository, &path)? else { return Ok(None) };
        let is_trusted = match &repository.host.include {
            IncludePolicy::Refuse => false,
            IncludePolicy::Trusted(trusted) => trusted(&repository.identity()?, &content),
            IncludePolicy::Allow => true,
        };
        let patterns = Patterns::parse(&content, b"");
        let include = WorktreeInclude { path, content, patterns, is_trusted, effort: Cell::new(MAX_EFFORT) };
        let rules = include.rules();
        if rules.len() > MAX_RULES {
            return Err(include.exceeds(format!("has more than {MAX_RULES} rules")));
        }
        if rules.iter().any(|rule| rule.len() > MAX_RULE_LENGTH) {
            return Err(include.exceeds(format!("has a rule of more than {MAX_RULE_LENGTH} bytes")));
        }
        Ok(Some(include))
    }

    /// The rules as they are written, without those of spaces alone.
    fn rules(&self) -> Vec<Vec<u8>> {
        self.patterns.rules().iter().map(Rule::written).filter(|rule| !rule.is_empty()).collect()
    }

    /// The file as it was read.
    pub(crate) fn into_file(self) -> IncludeFile {
        IncludeFile { rules: self.rules(), content: self.content }
    }

    /// The rule by which `path`, which is ignored, travels if it is a regular file.
    ///
    /// # Errors
    /// If matching takes too much.
    pub(crate) fn rule(&self, path: &[u8]) -> Result<Option<IgnoreRule>> {
        self.effort.set(MAX_EFFORT);
        let Some(rule) = Matcher::new(self).rule(path, false)? else { return Ok(None) };
        let (file, line, pattern) = (self.path.clone(), rule.line(), rule.written());
        Ok(Some(IgnoreRule { file, is_staged: false, line, pattern, ignores: true }))
    }

    /// Whether the ignored directories at the `ends` of `path`, each in the one before, are looked
    /// into.
    ///
    /// # Errors
    /// If matching takes too much.
    pub(crate) fn enters(
        &self,
        repository: &Repository,
        path: &[u8],
        ends: impl Iterator<Item = usize>,
    ) -> Result<bool> {
        self.effort.set(MAX_EFFORT);
        let mut matcher = Matcher::new(self);
        for end in ends {
            if !matcher.wants(&path[..end], true)? || has_dot_git(repository, &path[..end]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds to `found` what travels of these ignored entries. What is tracked is found otherwise.
    ///
    /// # Errors
    /// If a limit is exceeded.
    pub(crate) fn select(
        &self,
        repository: &Repository,
        tracked: &Tracked<'_>,
        ignored: Vec<IgnoredEntry>,
        found: &mut WalkResult,
    ) -> Result<()> {
        let (mut matches, mut examined, mut matcher) = (0, 0, Matcher::new(self));
        // The first path is taken first. What is in a directory comes right after it, so its rule
        // is looked for once.
        let mut pending = ignored;
        pending.sort_unstable_by(|a, b| b.cmp(a));
        while let Some(IgnoredEntry { path, is_dir }) = pending.pop() {
            let is_other = || matches!(tracked.status(&path, is_dir), Status::File(_) | Status::Submodule(_));
            if !matcher.wants(&path, is_dir)? || is_other() {
                continue;
            }
            matches += 1;
            if matches > MAX_MATCHES {
                return Err(self.exceeds(format!("names more than {MAX_MATCHES} ignored files and directories")));
            }
            let full = full_path(repository, &path);
            let metadata = match repository.boundary.metadata(&full) {
                Ok(metadata) => metadata,
                Err(error) => {
                    found.vanished_or_warn(repository.path.join(&path), &full, error);
                    continue;
                }
            };
            if metadata.is_file() && self.is_trusted {
                found.file(repository.path.join(&path), &metadata);
            } else if metadata.is_file() {
                found.withheld.push(repository.path.join(&path));
            } else if metadata.is_dir() && !has_dot_git(repository, &path) {
                match children(repository, &path, MAX_EXAMINED - examined) {
                    Ok(Some(children)) => {
                        examined += children.len();
                        pending.extend(children);
                    }
                    Ok(None) => {
                        let what = format!("leads into ignored directories with more than {MAX_EXAMINED} entries");
                        return Err(self.exceeds(what));
                    }
                    Err(error) => found.vanished_or_warn(repository.path.join(&path), &full, error),
                }
            }
        }
        Ok(())
    }

    /// Takes from what matching may take.
    fn spend(&self, effort: u64) -> Result<()> {
        match self.effort.get().checked_sub(effort) {
            Some(rest) => {
                self.effort.set(rest);
                Ok(())
            }
            None => Err(self.exceeds("has too many wildcards for so many ignored files".to_owned())),
        }
    }

    fn exceeds(&self, what: String) -> GitError {
        GitError::IncludeTooLarge { path: self.path.clone(), what }
    }
}

/// Matches paths with the rules, and remembers what it found for the directories above the last one.
struct Matcher<'a> {
    include: &'a WorktreeInclude,
    directory: Vec<u8>,
    /// The length of the path of each directory above, and the rule that brings all that is in it.
    above: Vec<(usize, Option<&'a Rule>)>,
}

impl<'a> Matcher<'a> {
    fn new(include: &'a WorktreeInclude) -> Self {
        Self { include, directory: Vec::new(), above: Vec::new() }
    }

    /// Whether an ignored entry, or something in it, may travel: only if a rule matches it or names
    /// a path in it. Otherwise a rule such as `.env` would have every sync walk all of
    /// `node_modules`.
    fn wants(&mut self, path: &[u8], is_dir: bool) -> Result<bool> {
        if self.rule(path, is_dir)?.is_some() {
            return Ok(true);
        }
        if !is_dir || names_git_dir(path) {
            return Ok(false);
        }
        let rules = self.include.patterns.rules();
        self.include.spend(rules.len() as u64)?;
        Ok(rules.iter().any(|rule| rule.leads_into(path)))
    }

    /// The rule that brings `path`. What is in a directory that matches does too, whatever later
    /// rules say: as gitignore(5) has it. Nothing matches that git takes for a repository's own.
    fn rule(&mut self, path: &[u8], is_dir: bool) -> Result<Option<&'a Rule>> {
        if names_git_dir(path) {
            return Ok(None);
        }
        match self.enter(split(path).0)? {
            Some(rule) => Ok(Some(rule)),
            None => self.deciding(path, is_dir),
        }
    }

    /// The rule that brings all that is in `directory`.
    fn enter(&mut self, directory: &[u8]) -> Result<Option<&'a Rule>> {
        let is_above = |length: usize| {
            self.directory[..length] == directory[..length.min(directory.len())]
                && matches!(directory.get(length), None | Some(b'/'))
        };
        let kept = self.above.iter().take_while(|(length, _)| is_above(*length)).count();
        self.above.truncate(kept);
        self.directory = directory.to_vec();
        let known = self.above.last().map_or(0, |(length, _)| *length);
        let ends = directory.find_iter("/").chain((!directory.is_empty()).then_some(directory.len()));
        for length in ends.filter(|length| *length > known) {
            let rule = match self.above.last() {
                Some((_, Some(rule))) => Some(*rule),
                _ => self.deciding(&directory[..length], true)?,
            };
            self.above.push((length, rule));
        }
        Ok(self.above.last().and_then(|(_, rule)| *rule))
    }

    /// The last rule that matches, if it is no exception (`!`).
    fn deciding(&self, path: &[u8], is_dir: bool) -> Result<Option<&'a Rule>> {
        for rule in self.include.patterns.rules().iter().rev() {
            self.include.spend(rule.effort(path))?;
            if rule.matches(path, is_dir, false) {
                return Ok(Some(rule).filter(|rule| rule.ignores()));
            }
        }
        Ok(None)
    }
}

/// The content of a `.worktreeinclude`. A symbolic link is no such file: git follows none to rules
/// either.
fn read_file(repository: &Repository, path: &Path) -> Result<Option<Vec<u8>>> {
    use nix::libc::{EINVAL, ELOOP, ENOENT, ENXIO};
    match repository.boundary.open_file(path) {
        Ok(file) => Ok(read(path, file, MAX_LENGTH)?.map(|content| content.bytes)),
        Err(error) => match error.raw_os_error() {
            Some(EINVAL | ELOOP | ENOENT | ENXIO) => Ok(None),
            _ => Err(GitError::io("read", path, error)),
        },
    }
}

/// Whether a directory has a `.git`, whatever that is. It is looked at, and never followed.
fn has_dot_git(repository: &Repository, directory: &[u8]) -> bool {
    let dot_git = full_path(repository, directory).join(".git");
    !matches!(repository.boundary.metadata(&dot_git), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// The entries of a directory, which is no link, the last one first; none if there are more than
/// `limit`.
fn children(repository: &Repository, directory: &[u8], limit: usize) -> io::Result<Option<Vec<IgnoredEntry>>> {
    let mut children = Vec::new();
    for entry in repository.boundary.open_dir(&full_path(repository, directory))?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if children.len() == limit {
            return Ok(None);
        }
        let path = [directory, b"/", name].concat();
        let is_dir = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            // Not every file system says it.
            None => repository.boundary.metadata(&full_path(repository, &path)).is_ok_and(|found| found.is_dir()),
        };
        children.push(IgnoredEntry { path, is_dir });
    }
    children.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Some(children))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers for many paths in a row, in any order, are those for each alone.
    #[test]
    fn matcher_answers_alike_in_any_order() {
        let include = include(b"a/\n!a/b/c\nx/y\n*.env\n!no.env\nd/*/e\nlong\n");
        let parts = ["a", "b", "c", "x", "y", "d", "e", "1.env", "no.env", "lo", "long"];
        let mut seed = 7_u64;
        let mut next = |limit: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % limit
        };
        let mut matcher = Matcher::new(&include);
        let mut brought = 0;
        for _ in 0..20_000 {
            let path = (0..=next(4)).map(|_| parts[next(parts.len())]).collect::<Vec<_>>().join("/");
            let is_dir = next(2) == 0;
            // By gitignore(5): each directory from the root on, and then the path itself.
            let ends = path.match_indices('/').map(|(end, _)| (&path[..end], true));
            let expected = ends.chain([(&path[..], is_dir)]).find_map(|(path, is_dir)| {
                include.patterns.rule(path.as_bytes(), is_dir, false).filter(|rule| rule.ignores())
            });
            let line = |rule: Option<&Rule>| rule.map(Rule::line);
            assert_eq!(line(matcher.rule(path.as_bytes(), is_dir).unwrap()), line(expected), "{path}");
            brought += usize::from(expected.is_some());
        }
        assert!(brought > 2_000, "{brought}");
    }

    /// Rules that differ from each directory of a deep tree in the last byte only.
    #[test]
    fn matching_a_deep_tree_takes_limited_effort() {
        let rules: String = (0..30).map(|number| format!("**/{}b{number}\n", "a/".repeat(90))).collect();
        let include = include(rules.as_bytes());
        let mut matcher = Matcher::new(&include);
        let path = "a/".repeat(400);
        for depth in 1..=400 {
            assert!(!matcher.wants(&path.as_bytes()[..2 * depth - 1], true).unwrap());
        }
        let spent = MAX_EFFORT - include.effort.get();
        // Each rule is asked about each directory as an entry, and about it as what is above one.
        assert!(spent < 2 * 400 * 30 * 200, "{spent}");
    }

    fn include(content: &[u8]) -> WorktreeInclude {
        WorktreeInclude {
            path: INCLUDE_FILE.into(),
            content: content.to_vec(),
            patterns: Patterns::parse(content, b""),
            is_trusted: true,
            effort: Cell::new(MAX_EFFORT),
        }
    }
}
