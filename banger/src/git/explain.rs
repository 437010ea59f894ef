//! Why a path of a workspace travels to the guest, or does not: the answer of [`super::list`] for
//! one path, found by the same rules.

use std::collections::HashMap;
use std::path::PathBuf;

use gix::bstr::ByteSlice;
use gix::index::State;

use super::dot_git::{DotGit, probe};
use super::excludes::{Excludes, IgnoreRule};
use super::walk::{Standing, Status, Tracked, full_path, is_absence};
use super::worktree_include::WorktreeInclude;
use super::{GitError, RelPath, Repository, Result, Workspace};

/// Why a path travels, or does not.
#[derive(Debug)]
pub struct Explanation {
    /// What decides.
    pub reason: Reason,
    /// The rule that decides, if a rule does: one that ignores the path or a directory above it, an
    /// exception (`!`) to such rules, or a line of `.worktreeinclude`.
    pub rule: Option<IgnoreRule>,
}

/// What decides whether a path travels.
#[derive(Debug)]
pub enum Reason {
    /// Git tracks it.
    Tracked,
    /// Git would track it: no rule ignores it, or one makes an exception.
    Untracked,
    /// It is ignored, and `.worktreeinclude` names it.
    Included,
    /// It is ignored, and `.worktreeinclude` names it, which the user does not trust.
    Withheld,
    /// It is ignored, or is in a directory that is.
    Ignored {
        /// What is ignored: the path itself, or a directory above it.
        at: RelPath,
    },
    /// A directory that is not ignored: what is in it is decided by itself.
    Directory,
    /// The directory of a nested repository, whose files are decided by its own rules.
    Repository,
    /// The empty directory of a submodule that is not populated.
    EmptySubmodule,
    /// It is in the directory of a submodule that is not populated: git does not look there.
    InEmptySubmodule {
        /// The submodule.
        at: RelPath,
    },
    /// It belongs to git: what travels of a repository is not files.
    GitDirectory {
        /// The `.git`.
        at: RelPath,
    },
    /// It has the name of git's directory, and what it is in is no repository: git passes it over.
    NoRepository {
        /// The `.git`.
        at: RelPath,
    },
    /// It is behind a symbolic link that travels, where nothing exists as far as git is concerned.
    BeyondLink {
        /// The link.
        at: RelPath,
    },
    /// It is a device, FIFO or socket.
    Special,
    /// There is nothing.
    Absent {
        /// Whether git tracks it: then it is deleted, and that travels.
        is_tracked: bool,
        /// What would be ignored: the path itself, perhaps only as a directory, or a directory
        /// above it; none: nothing, or `.worktreeinclude` lists the path.
        at: Option<RelPath>,
        /// Whether `.worktreeinclude` lists the path, and the user does not trust it.
        is_withheld: bool,
    },
    /// It, or something above it, cannot be read.
    Unreadable {
        /// What cannot be read.
        at: RelPath,
        /// Why it cannot.
        error: GitError,
    },
}

impl Reason {
    /// Whether what is at the path is in the [`super::Listing`], as a file or as an empty directory.
    pub fn travels(&self) -> bool {
        matches!(self, Reason::Tracked | Reason::Untracked | Reason::Included | Reason::EmptySubmodule)
    }
}

/// Explains paths of a workspace, by rules that are read once.
pub struct Explainer<'a> {
    workspace: &'a Workspace,
    /// The rules of the repositories that were met, by the paths of these.
    met: HashMap<RelPath, Rules>,
}

impl Explainer<'_> {
    /// Reads the rules of the workspace's own repository.
    ///
    /// # Errors
    /// If its index or configuration cannot be read.
    pub fn new(workspace: &Workspace) -> Result<Explainer<'_>> {
        let own = Rules::of(workspace.repository.clone())?;
        Ok(Explainer { workspace, met: HashMap::from([(RelPath::root(), own)]) })
    }

    /// Says why `path`, relative to the workspace's root, travels or does not.
    pub fn explain(&mut self, path: &RelPath) -> Explanation {
        let (mut repository, mut rest) = (RelPath::root(), path.as_bytes());
        loop {
            let rules = self.met.get_mut(&repository).expect("its rules are read before it is entered");
            let (length, git_dir, file) = match rules.explain(rest) {
                Step::Explained(explanation) => return explanation,
                Step::Nested { length, git_dir, file } => (length, git_dir, file),
            };
            let at = repository.join(&rest[..length]);
            if !self.met.contains_key(&at) {
                match self.open(&at, git_dir, file) {
                    Ok(rules) => _ = self.met.insert(at.clone(), rules),
                    Err(error) => return Reason::Unreadable { at, error }.into(),
                }
            }
            match rest.get(length + 1..) {
                Some(below) => (repository, rest) = (at, below),
                None => return Reason::Repository.into(),
            }
        }
    }

    /// Reads the rules of the nested repository at `at`.
    fn open(&self, at: &RelPath, git_dir: PathBuf, file: Option<PathBuf>) -> Result<Rules> {
        let own = &self.workspace.repository;
        let (host, boundary) = (own.host.clone(), own.boundary.clone());
        let worktree = at.under(&self.workspace.root);
        Rules::of(Repository::open(&worktree, git_dir, file.as_deref(), at.clone(), host, boundary)?)
    }
}

impl From<Reason> for Explanation {
    fn from(reason: Reason) -> Self {
        Explanation { reason, rule: None }
    }
}

/// What one repository says of a path.
enum Step {
    Explained(Explanation),
    /// The first bytes of the path are a repository of their own.
    Nested {
        length: usize,
        git_dir: PathBuf,
        file: Option<PathBuf>,
    },
}

impl From<Reason> for Step {
    fn from(reason: Reason) -> Self {
        Step::Explained(reason.into())
    }
}

/// The rules of one repository.
struct Rules {
    repository: Repository,
    index: State,
    excludes: Excludes,
    include: Option<WorktreeInclude>,
}

/// An ignored entry on the way to a path.
struct IgnoredAt {
    path: RelPath,
    rule: Option<IgnoreRule>,
}

impl Rules {
    fn of(repository: Repository) -> Result<Rules> {
        let index = repository.index()?;
        let excludes = Excludes::new(&repository, index.as_ref())?;
        // One that cannot be read counts for nothing: the listing has a warning of it.
        let include = WorktreeInclude::of(&repository).unwrap_or_default();
        let index = index.map_or_else(|| State::new(repository.format.object_hash), |index| index.state);
        Ok(Rules { repository, index, excludes, include })
    }

    /// Follows `path`, relative to the repository, as a walk does.
    fn explain(&mut self, path: &[u8]) -> Step {
        let mut ignored: Option<IgnoredAt> = None;
        let ends = path.find_iter("/").chain((!path.is_empty()).then_some(path.len()));
        for end in ends {
            let (part, is_last) = (&path[..end], end == path.len());
            let at = self.repository.path.join(part);
            if part == b".git" {
                return Reason::GitDirectory { at }.into();
            }
            if part.ends_with(b"/.git") {
                // A repository has rules of its own, so what is above is none that counts.
                return match ignored {
                    Some(ignored) => Step::Explained(self.ignored(part, ignored, false)),
                    None => Reason::NoRepository { at }.into(),
                };
            }
            let full = full_path(&self.repository, part);
            let metadata = match self.repository.boundary.metadata(&full) {
                Ok(metadata) => metadata,
                Err(error) if is_absence(&error) => return self.absent(path, ignored),
                Err(error) => return Reason::Unreadable { at, error: GitError::io("read", full, error) }.into(),
            };
            let is_dir = metadata.is_dir();
            let mut is_tracked = false;
            let mut rule = None;
            if ignored.is_none() {
                match self.standing(part, is_dir) {
                    Standing::Submodule(_) => return self.submodule(part, is_last),
                    Standing::Tracked(_) => is_tracked = true,
                    Standing::Ancestor => {}
                    Standing::Untracked if is_dir => match probe(&self.repository.boundary, &full) {
                        DotGit::Found { git_dir, file } => return Step::Nested { length: end, git_dir, file },
                        DotGit::Broken(error @ GitError::Outside { .. }) => {
                            return Reason::Unreadable { at, error }.into();
                        }
                        DotGit::Absent | DotGit::Broken(_) => {}
                    },
                    Standing::Untracked => rule = self.rule(part, false),
                    Standing::Ignored => {
                        let rule = self.rule(part, is_dir);
                        ignored = Some(IgnoredAt { path: at.clone(), rule });
                    }
                }
            } else {
                match Tracked::lookup(&self.index).status(part, is_dir) {
                    Status::Submodule(_) if is_dir => return self.submodule(part, is_last),
                    Status::File(_) | Status::Submodule(_) => is_tracked = true,
                    Status::Ancestor | Status::Untracked => {}
                }
            }
            if !is_last {
                if metadata.is_symlink() {
                    return match ignored {
                        Some(ignored) if !is_tracked => Step::Explained(self.ignored(part, ignored, false)),
                        _ => Reason::BeyondLink { at }.into(),
                    };
                }
                continue;
            }
            let is_special = !is_dir && !metadata.is_file() && !metadata.is_symlink();
            return Step::Explained(match ignored {
                _ if is_tracked && is_special => Reason::Special.into(),
                _ if is_tracked => Reason::Tracked.into(),
                Some(ignored) => self.ignored(part, ignored, metadata.is_file()),
                None if is_dir => Reason::Directory.into(),
                None if is_special => Reason::Special.into(),
                None => Explanation { reason: Reason::Untracked, rule },
            });
        }
        Reason::Directory.into()
    }

    /// An entry that git ignores, and does not track.
    fn ignored(&self, path: &[u8], ignored: IgnoredAt, is_file: bool) -> Explanation {
        let included = if is_file { self.included(path, &ignored.path) } else { Ok(None) };
        match included {
            Ok(Some((is_trusted, rule))) => {
                let reason = if is_trusted { Reason::Included } else { Reason::Withheld };
                Explanation { reason, rule: Some(rule) }
            }
            Ok(None) => Explanation { reason: Reason::Ignored { at: ignored.path }, rule: ignored.rule },
            Err(error) => Reason::Unreadable { at: self.repository.path.join(path), error }.into(),
        }
    }

    /// The rule of `.worktreeinclude` that lists the file `path`, which is ignored at `from`, and
    /// whether the user trusts it.
    fn included(&self, path: &[u8], from: &RelPath) -> Result<Option<(bool, IgnoreRule)>> {
        let Some(include) = &self.include else { return Ok(None) };
        // Only the workspace's own repository has such rules, so `from` is relative to it.
        let ends = path.find_iter("/").filter(|end| *end >= from.as_bytes().len());
        if !include.enters(&self.repository, path, ends)? {
            return Ok(None);
        }
        Ok(include.rule(path)?.map(|rule| (include.is_trusted, rule)))
    }

    /// Nothing is at `path`. The rule, if there is one, would ignore it.
    fn absent(&mut self, path: &[u8], ignored: Option<IgnoredAt>) -> Step {
        let is_tracked =
            matches!(Tracked::lookup(&self.index).status(path, false), Status::File(_) | Status::Submodule(_));
        if is_tracked {
            return Reason::Absent { is_tracked, at: None, is_withheld: false }.into();
        }
        let (at, rule) = match ignored {
            Some(ignored) => (Some(ignored.path), ignored.rule),
            None => {
                let above: Vec<_> = path.find_iter("/").map(|end| (&path[..end], true)).collect();
                let mut parts = above.into_iter().chain([(path, false), (path, true)]);
                let found = parts.find_map(|(part, is_dir)| {
                    let rule = self.rule(part, is_dir).filter(|rule| rule.ignores)?;
                    Some((self.repository.path.join(part), rule))
                });
                found.unzip()
            }
        };
        Step::Explained(match at.as_ref().map_or(Ok(None), |at| self.included(path, at)) {
            Ok(Some((is_trusted, rule))) => Explanation {
                reason: Reason::Absent { is_tracked, at: None, is_withheld: !is_trusted },
                rule: Some(rule),
            },
            Ok(None) => Explanation { reason: Reason::Absent { is_tracked, at, is_withheld: false }, rule },
            Err(error) => Reason::Unreadable { at: self.repository.path.join(path), error }.into(),
        })
    }

    /// What the walk makes of the directory that the index says is a submodule.
    fn submodule(&self, directory: &[u8], is_last: bool) -> Step {
        let at = self.repository.path.join(directory);
        match probe(&self.repository.boundary, &full_path(&self.repository, directory)) {
            DotGit::Found { git_dir, file } => Step::Nested { length: directory.len(), git_dir, file },
            DotGit::Broken(error @ GitError::Outside { .. }) => Reason::Unreadable { at, error }.into(),
            DotGit::Absent | DotGit::Broken(_) if is_last => Reason::EmptySubmodule.into(),
            DotGit::Absent | DotGit::Broken(_) => Reason::InEmptySubmodule { at }.into(),
        }
    }

    /// As the walk has it, a file of rules that cannot be read counts as empty.
    fn standing(&mut self, path: &[u8], is_dir: bool) -> Standing {
        let (tracked, excludes) = (Tracked::lookup(&self.index), &mut self.excludes);
        let first = tracked.standing(excludes, path, is_dir);
        first.or_else(|_| tracked.standing(excludes, path, is_dir)).unwrap_or(Standing::Untracked)
    }

    fn rule(&mut self, path: &[u8], is_dir: bool) -> Option<IgnoreRule> {
        let first = self.excludes.rule(path, is_dir);
        first.or_else(|_| self.excludes.rule(path, is_dir)).unwrap_or_default()
    }
}
