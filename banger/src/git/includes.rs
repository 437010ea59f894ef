//! Reading configuration with all that it includes, as git does: "Includes" and "Conditional
//! includes" in git-config(1), `config.c` in git.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::config::file::SectionRef;
use gix::config::{File, Source};

use super::config::{LIMIT, OWN_LIMIT, interpolate, parse_as, read_own};
use super::state::read_capped;
use super::wildmatch::matches_path;
use super::{GitError, Host, Repository, Result};

/// How deep files may include each other: git's `MAX_INCLUDE_DEPTH`.
const MAX_DEPTH: usize = 10;
/// How many files may be read in all. Files that include each other many times are few, and what
/// they stand for is not.
const MAX_FILES: usize = 1000;

/// The content of a level of the configuration.
#[derive(Clone)]
pub(super) enum LevelContent {
    /// A file of the user's or of the system's, or one of the repository's own.
    File(PathBuf),
    /// Text that is no file.
    Text(Vec<u8>),
}

/// What conditions ask of the repository.
#[derive(Clone)]
pub(super) struct Surroundings<'a> {
    pub(super) repository: &'a Repository,
    /// The name of the branch that is checked out, without `refs/heads/`.
    pub(super) branch: Option<Vec<u8>>,
}

/// Reads `levels`, the weakest first. Without `surroundings` no condition on a repository holds.
///
/// # Errors
/// A file that cannot be read or parsed, and includes that do not end.
pub(super) fn read(
    host: &Host,
    surroundings: Option<Surroundings<'_>>,
    levels: &[(Source, LevelContent)],
) -> Result<File> {
    let all = File::default();
    let mut reader = Reader { host, surroundings, levels, urls: Urls::Unknown, all, files: 0, budget: OWN_LIMIT };
    reader.read()?;
    Ok(reader.all)
}

/// The URLs of all remotes, for `hasconfig:remote.*.url:`.
enum Urls {
    /// Nobody has asked.
    Unknown,
    /// They are being looked for: no such condition holds, since what it includes may have none.
    Sought,
    Known(Vec<Vec<u8>>),
}

struct Reader<'a> {
    host: &'a Host,
    surroundings: Option<Surroundings<'a>>,
    levels: &'a [(Source, LevelContent)],
    urls: Urls,
    all: File,
    files: usize,
    /// How much the repository's own files may still cost: each counts as often as it is included.
    budget: u64,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<()> {
        for (source, place) in self.levels {
            match place {
                LevelContent::File(path) => self.add_file(*source, path, 0)?,
                LevelContent::Text(text) => self.add(*source, text, None, 0)?,
            }
        }
        Ok(())
    }

    /// Adds the file at `path` if there is one.
    fn add_file(&mut self, source: Source, path: &Path, depth: usize) -> Result<()> {
        let malformed = |reason| Err(GitError::malformed("the configuration", path, reason));
        if depth > MAX_DEPTH {
            return malformed("files include each other too deep");
        }
        self.files += 1;
        if self.files > MAX_FILES {
            return malformed("it includes too many files");
        }
        let bytes = match (source, &self.surroundings) {
            (Source::Local | Source::Worktree, Some(Surroundings { repository, .. })) => {
                // The place is admitted by the check of what the repository's own configuration
                // includes.
                let Ok(real) = fs::canonicalize(path) else { return Ok(()) };
                read_own(&repository.boundary, &real, &mut self.budget)?
            }
            _ => read_capped(path, LIMIT)?,
        };
        match bytes {
            Some(bytes) => self.add(source, &bytes, Some(path), depth),
            None => Ok(()),
        }
    }

    /// Adds what is in `bytes`, which were read at `path`. What it includes comes where it is
    /// included.
    fn add(&mut self, source: Source, bytes: &[u8], path: Option<&Path>, depth: usize) -> Result<()> {
        let file = parse_as(source, bytes, path)?;
        let mut sections = Vec::new();
        for section in file.sections() {
            sections.extend_from_slice(&section.to_bstring());
            // The last line of a file may have no end.
            sections.push(b'\n');
            let included = self.included(&section, path)?;
            if included.is_empty() {
                continue;
            }
            self.append(source, &std::mem::take(&mut sections), path)?;
            for path in included {
                self.add_file(source, &path, depth + 1)?;
            }
        }
        self.append(source, &sections, path)
    }

    fn append(&mut self, source: Source, sections: &[u8], path: Option<&Path>) -> Result<()> {
        let failed =
            |error: gix::Error| GitError::malformed("the configuration", named(path), super::error::describe(&error));
        self.all.append(parse_as(source, sections, path)?).map(|_| ()).map_err(failed)
    }

    /// The files that a section includes, if it is one that does and its condition holds.
    fn included(&mut self, section: &SectionRef<'_>, path: Option<&Path>) -> Result<Vec<PathBuf>> {
        let header = section.header();
        let holds = match header.subsection_name() {
            None => header.name().eq_ignore_ascii_case(b"include"),
            Some(condition) => header.name().eq_ignore_ascii_case(b"includeIf") && self.holds(condition, path)?,
        };
        if !holds {
            return Ok(Vec::new());
        }
        let values = section.values("path").into_iter();
        // A relative one is beside the file, and nowhere where there is none.
        let beside = |value: PathBuf| match path.and_then(Path::parent) {
            Some(folder) => Some(folder.join(value)),
            None => value.is_absolute().then_some(value),
        };
        Ok(values.filter_map(|value| interpolate(self.host, &value).and_then(beside)).collect())
    }

    fn holds(&mut self, condition: &[u8], path: Option<&Path>) -> Result<bool> {
        let strip = |prefix: &str| condition.strip_prefix(prefix.as_bytes());
        if let Some(pattern) = strip("gitdir:") {
            return Ok(self.is_git_dir(pattern, path, false));
        }
        if let Some(pattern) = strip("gitdir/i:") {
            return Ok(self.is_git_dir(pattern, path, true));
        }
        if let Some(pattern) = strip("onbranch:") {
            let branch = self.surroundings.as_ref().and_then(|surroundings| surroundings.branch.as_ref());
            return Ok(branch.is_some_and(|branch| matches_path(&with_all_below(pattern.to_vec()), branch, false)));
        }
        match strip("hasconfig:remote.*.url:") {
            Some(pattern) => Ok(self.urls()?.iter().any(|url| matches_path(pattern, url, false))),
            None => Ok(false),
        }
    }

    fn urls(&mut self) -> Result<&[Vec<u8>]> {
        if matches!(self.urls, Urls::Unknown) {
            let (surroundings, all) = (self.surroundings.clone(), File::default());
            let mut all = Reader { surroundings, urls: Urls::Sought, all, ..*self };
            all.read()?;
            let remotes = all.all.sections_by_name("remote").into_iter().flatten();
            let named = remotes.filter(|section| section.header().subsection_name().is_some());
            self.urls = Urls::Known(named.flat_map(|section| section.values("url")).map(Vec::from).collect());
        }
        Ok(match &self.urls {
            Urls::Known(urls) => urls,
            Urls::Unknown | Urls::Sought => &[],
        })
    }

    /// Whether the git directory is one that `pattern` in the file at `path` means: by its
    /// canonical path, else by the one that git came by.
    fn is_git_dir(&self, pattern: &[u8], path: Option<&Path>, ignore_case: bool) -> bool {
        let Some(Surroundings { repository, .. }) = &self.surroundings else { return false };
        let Some((literal, pattern)) = self.place_pattern(pattern, path) else { return false };
        let is_meant = |git_dir: &Path| {
            let text = git_dir.as_os_str().as_bytes();
            text.split_at_checked(literal.len()).is_some_and(|(first, rest)| {
                let is_below = if ignore_case { first.eq_ignore_ascii_case(&literal) } else { first == literal };
                is_below && matches_path(&pattern, rest, ignore_case)
            })
        };
        is_meant(&repository.git_dir) || repository.git_dir_by_name().is_some_and(|git_dir| is_meant(&git_dir))
    }

    /// What a path has to begin with literally, and the pattern for the rest of it.
    fn place_pattern(&self, pattern: &[u8], path: Option<&Path>) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut pattern = pattern.to_vec();
        if let Some(rest) = pattern.strip_prefix(b"~/")
            && let Some(home) = self.host.home.as_ref().and_then(|home| fs::canonicalize(home).ok())
        {
            pattern = [home.as_os_str().as_bytes(), b"/", rest].concat();
        }
        let mut literal = Vec::new();
        if let Some(rest) = pattern.strip_prefix(b"./") {
            let file = fs::canonicalize(path?).ok()?;
            literal = [file.parent()?.as_os_str().as_bytes(), b"/"].concat();
            pattern = rest.to_vec();
        } else if !pattern.starts_with(b"/") {
            pattern.splice(0..0, *b"**/");
        }
        Some((literal, with_all_below(pattern)))
    }
}

impl Repository {
    /// The path of the git directory by the name of the work tree that one stands in, as git has
    /// it: `.git` below `$PWD` at the root, else below the canonical root. None if a file `.git`
    /// names the git directory.
    fn git_dir_by_name(&self) -> Option<PathBuf> {
        let is_dir = |root: &Path| fs::metadata(root.join(".git")).is_ok_and(|metadata| metadata.is_dir());
        let is_root = |pwd: &&PathBuf| fs::canonicalize(pwd).is_ok_and(|real| real == self.worktree);
        let root = self.host.pwd.as_ref().filter(is_root).unwrap_or(&self.worktree);
        is_dir(root).then(|| root.join(".git"))
    }
}

/// A pattern that ends with a slash means all that is below.
fn with_all_below(mut pattern: Vec<u8>) -> Vec<u8> {
    if pattern.ends_with(b"/") {
        pattern.extend_from_slice(b"**");
    }
    pattern
}

fn named(path: Option<&Path>) -> &Path {
    path.unwrap_or(Path::new(OsStr::new("the environment")))
}
