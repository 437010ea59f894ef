//! Effective configuration: every level git reads, includes resolved.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice;
use gix::config::file::{includes, init};
use gix::config::{File, Source, file::Metadata};

use super::error::describe;
use super::includes::{LevelContent, Surroundings};
use super::refs::link_to_ref;
use super::{Boundary, GitError, Host, Repository, Result};

/// The longest configuration file of the user or the system, in bytes.
pub(crate) const LIMIT: u64 = 16 << 20;

/// How much a repository's own configuration may [cost](cost) with all that it includes.
pub(crate) const OWN_LIMIT: u64 = 1 << 20;

/// The longest `HEAD`, in bytes.
const HEAD_LIMIT: u64 = 64 << 10;

/// Files that a repository's own configuration may include, in all: more than anybody has.
const MAX_INCLUDES: usize = 100;

/// How many `**` a condition of an include may have: git takes twice as long with each.
const MAX_DOUBLE_STARS: usize = 8;

/// A file that the configuration names.
pub(crate) enum Named {
    /// Named by the user's configuration: opened without a boundary.
    ByUser(PathBuf),
    /// Named by the repository's configuration, or in its working tree: opened within its
    /// [`super::Boundary`].
    ByRepository(PathBuf),
}

impl Named {
    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        let (Named::ByUser(path) | Named::ByRepository(path)) = self;
        path
    }
}

impl Repository {
    /// System, user, repository and worktree configuration, and the environment's, later ones last.
    pub(crate) fn config(&self) -> Result<File> {
        let mut own = vec![(Source::Local, self.common_dir.join("config"))];
        if self.format.worktree_config {
            own.push((Source::Worktree, self.git_dir.join("config.worktree")));
        }
        let mut levels = user_levels(&self.host);
        for (source, path) in own {
            let Some(real) = self.boundary.real(&path)? else { continue };
            let mut budget = OWN_LIMIT;
            let Some(bytes) = read_own(&self.boundary, &real, &mut budget)? else { continue };
            self.check_includes(&bytes, &path, &mut Vec::new(), &mut budget)?;
            levels.push((source, LevelContent::File(path)));
        }
        levels.push((Source::Env, LevelContent::Text(self.host.environment_config()?)));
        let branch = self.head()?.and_then(|name| Some(name.strip_prefix(b"refs/heads/")?.to_vec()));
        super::includes::read(&self.host, Some(Surroundings { repository: self, branch }), &levels)
    }

    /// The reference that `HEAD` names.
    fn head(&self) -> Result<Option<Vec<u8>>> {
        let path = self.git_dir.join("HEAD");
        if let Some(name) = link_to_ref(&self.boundary, &path) {
            return Ok(Some(name));
        }
        let content = self.boundary.read(&path, HEAD_LIMIT)?;
        Ok(content.and_then(|head| Some(head.bytes.strip_prefix(b"ref: ")?.trim_ascii().to_vec())))
    }

    /// Makes sure that what the repository's own configuration includes, under whatever condition,
    /// is its own.
    ///
    /// `path` is as it is written, and a relative path in the file is looked up beside it: so does
    /// gix, and so does git.
    fn check_includes(&self, bytes: &[u8], path: &Path, seen: &mut Vec<PathBuf>, budget: &mut u64) -> Result<()> {
        seen.push(path.to_owned());
        if seen.len() > MAX_INCLUDES {
            return Err(GitError::malformed("the configuration", path, "it includes too many files"));
        }
        let file = parse(bytes, path)?;
        let sections = file.sections().filter(|section| {
            let name = section.header().name();
            name.eq_ignore_ascii_case(b"include") || name.eq_ignore_ascii_case(b"includeIf")
        });
        let sections: Vec<_> = sections.collect();
        for condition in sections.iter().filter_map(|section| section.header().subsection_name()) {
            if condition.find_iter("**").count() > MAX_DOUBLE_STARS {
                let reason = format!("the condition `{condition}` has more than {MAX_DOUBLE_STARS} `**`");
                return Err(GitError::malformed("the configuration", path, reason));
            }
        }
        for value in sections.iter().flat_map(|section| section.values("path")) {
            if value.starts_with(b"~") && !value.starts_with(b"~/") {
                return Err(GitError::malformed("the configuration", path, "it includes a file of a user by name"));
            }
            let Some(named) = interpolate(&self.host, &value) else { continue };
            let named = path.parent().unwrap_or(Path::new("/")).join(named);
            let Ok(target) = std::fs::canonicalize(&named) else { continue };
            if !self.boundary.is_inside(&target) {
                self.boundary.admit(format!("`include.path` in {}", self.boundary.name(path)), &target)?;
            }
            // git would wait for a FIFO, and read a device without end.
            if self.boundary.stat(&target)?.is_some_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
                let reason = format!("it includes {}, which is no regular file", self.boundary.name(&target));
                return Err(GitError::malformed("the configuration", path, reason));
            }
            if !seen.contains(&named)
                && let Some(bytes) = read_own(&self.boundary, &target, budget)?
            {
                self.check_includes(&bytes, &named, seen, budget)?;
            }
        }
        Ok(())
    }

    /// The file that `key` names, else `default` in the user's XDG folder. One that the
    /// repository's own configuration names, or that is named relative to the work tree, has to be
    /// in the work tree.
    pub(crate) fn named_file(&self, config: &File, key: &str, default: &str) -> Result<Option<Named>> {
        let Some(value) = config.string(key) else {
            return Ok(self.host.xdg_git_folder().map(|folder| Named::ByUser(folder.join(default))));
        };
        let Some(named) = interpolate(&self.host, &value) else { return Ok(None) };
        let is_own = |meta: &Metadata| matches!(meta.source, Source::Local | Source::Worktree);
        if config.string_filter(key, is_own).is_none() && named.is_absolute() {
            return Ok(Some(Named::ByUser(named)));
        }
        let Ok(target) = std::fs::canonicalize(self.worktree.join(named)) else { return Ok(None) };
        if !self.is_in_worktree(&target) {
            self.boundary.admit(format!("`{key}` of the configuration of `{}`", self.worktree.display()), &target)?;
        }
        Ok(Some(Named::ByRepository(target)))
    }

    /// Reads a file that the configuration names, of at most `limit` bytes; `None` if there is
    /// none.
    pub(crate) fn read_named(&self, file: &Named, limit: u64) -> Result<Option<Vec<u8>>> {
        match file {
            Named::ByUser(path) => super::state::read_capped(path, limit),
            Named::ByRepository(path) => Ok(self.boundary.read(path, limit)?.map(|content| content.bytes)),
        }
    }

    /// Whether `path`, canonical, is in the work tree, and not git's.
    fn is_in_worktree(&self, path: &Path) -> bool {
        let is_git = |folder: &Path| path.starts_with(folder);
        path.strip_prefix(&self.worktree).is_ok_and(|below| !below.components().any(|part| part.as_os_str() == ".git"))
            && !is_git(&self.git_dir)
            && !is_git(&self.common_dir)
    }
}

/// The configuration of the system, the user and the environment only: what a repository cannot
/// influence.
pub(crate) fn protected(host: &Host) -> Result<File> {
    let mut levels = user_levels(host);
    levels.push((Source::Env, LevelContent::Text(host.environment_config()?)));
    super::includes::read(host, None, &levels)
}

/// What a file of configuration costs: its bytes and, since each section takes a kilobyte of
/// memory, 32 for every bracket.
pub(crate) fn cost(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + 32 * bytes.iter().filter(|byte| **byte == b'[').count() as u64
}

/// Reads a file of a repository's own configuration at `path` and takes its cost from `budget`;
/// `None` if there is no regular file.
///
/// # Errors
/// A file that costs more than the budget.
pub(crate) fn read_own(boundary: &Boundary, path: &Path, budget: &mut u64) -> Result<Option<Vec<u8>>> {
    let too_long = || {
        let reason =
            format!("it is longer than {OWN_LIMIT} bytes with all that it includes (a section counts as 32 more)");
        GitError::malformed("the configuration", path, reason)
    };
    let content = match boundary.read(path, *budget) {
        Err(GitError::TooLarge { .. }) => return Err(too_long()),
        content => content?,
    };
    let Some(content) = content else { return Ok(None) };
    *budget = budget.checked_sub(cost(&content.bytes)).ok_or_else(too_long)?;
    Ok(Some(content.bytes))
}

/// One of git's own files as it is, for what git reads without includes; empty if it does not
/// exist.
pub(crate) fn single(boundary: &Boundary, path: &Path) -> Result<File> {
    match read_own(boundary, path, &mut { OWN_LIMIT })? {
        Some(bytes) => parse(&bytes, path),
        None => Ok(File::default()),
    }
}

/// Parses `bytes`, which were read from the repository's configuration file at `path`. Includes are
/// not followed.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<File> {
    parse_as(Source::Local, bytes, Some(path))
}

/// Parses configuration of the level `source`, which was read from the file at `path`, or from no
/// file. Includes are not followed.
pub(crate) fn parse_as(source: Source, bytes: &[u8], path: Option<&Path>) -> Result<File> {
    let meta = Metadata { path: path.map(Path::to_owned), ..Metadata::from(source).with(gix::sec::Trust::Full) };
    let options = init::Options { includes: includes::Options::no_follow(), lossy: false, ignore_io_errors: false };
    File::from_bytes_no_includes(bytes, meta, options).map_err(|error| {
        GitError::malformed("the configuration", path.unwrap_or(Path::new("the environment")), describe(&error))
    })
}

/// Adds `value`, quoted as git-config(1) unquotes it.
pub(crate) fn quote_value(text: &mut Vec<u8>, value: &[u8]) {
    text.push(b'"');
    for &byte in value {
        match byte {
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\t' => text.extend_from_slice(b"\\t"),
            0x08 => text.extend_from_slice(b"\\b"),
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            _ => text.push(byte),
        }
    }
    text.push(b'"');
}

/// Adds a section's own name, quoted: it has no escapes but for these.
pub(crate) fn quote_name(text: &mut Vec<u8>, name: &[u8]) {
    text.push(b'"');
    for &byte in name {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'"');
}

/// A path value: `~/` is the user's home, `~name/` is not supported.
pub(crate) fn interpolate(host: &Host, value: &[u8]) -> Option<PathBuf> {
    match value {
        b"" => None,
        b"~" => host.home.clone(),
        [b'~', b'/', rest @ ..] => Some(host.home.as_ref()?.join(OsStr::from_bytes(rest))),
        [b'~' | b'%', ..] => None,
        path => Some(PathBuf::from(OsStr::from_bytes(path))),
    }
}

/// A boolean as git reads it; what it cannot read is the default, as if it were not set.
pub(crate) fn boolean(config: &File, key: &str, default: bool) -> bool {
    config.boolean(key).ok().flatten().unwrap_or(default)
}

/// Files of the system and of the user.
fn user_levels(host: &Host) -> Vec<(Source, LevelContent)> {
    let system = host.system_config().map(|path| (Source::System, path));
    let of_user = match host.global_config() {
        Some(path) => vec![(Source::User, path)],
        None => {
            let xdg = host.xdg_git_folder().map(|folder| (Source::Git, folder.join("config")));
            let home = host.home.as_ref().map(|home| (Source::User, home.join(".gitconfig")));
            xdg.into_iter().chain(home).collect()
        }
    };
    let named = system.into_iter().chain(of_user).filter(|(_, path)| !path.as_os_str().is_empty());
    named.map(|(source, path)| (source, LevelContent::File(path))).collect()
}
