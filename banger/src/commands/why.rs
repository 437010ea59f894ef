//! `banger why`.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use banger_agent::protocol::WireBytes;
use banger_vmm::printable;
use serde::Serialize;

use crate::config::git_host;
use crate::error::CommandError;
use crate::git::{Explainer, Explanation, INCLUDE_FILE, Reason, RelPath, Workspace};
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Verbosity};
use crate::output::table::table;
use crate::output::units::count;
use crate::sync::{Listed, is_apart};

/// Why paths travel between a working tree and its VM, or do not.
#[derive(Clone, Debug, Serialize)]
pub struct Explanations {
    /// The root of the workspace.
    pub workspace: String,
    /// The paths, in the order in which they were asked for.
    pub paths: Vec<ExplainedPath>,
}

/// Whether a path travels, and why.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPath {
    /// The path as it was asked for.
    #[serde(skip)]
    pub asked: PathBuf,
    /// The path, relative to the root of the workspace; none: it is outside.
    pub path: Option<WireBytes>,
    /// Where it travels.
    pub travels: Direction,
    /// What decides: `tracked`, `untracked`, `included`, `not_trusted`, `ignored`, `directory`,
    /// `repository`, `empty_submodule`, `in_empty_submodule`, `git_directory`, `no_repository`,
    /// `beyond_link`, `special_file`, `absent`, `deleted`, `unreadable`, `own_directory` or `outside`.
    pub reason: &'static str,
    /// The path above, or the path itself, that the reason is about, relative to the root; none:
    /// the reason is about nothing else.
    pub at: Option<WireBytes>,
    /// The rule that decides; none: no rule does.
    pub rule: Option<RuleLine>,
    /// How many files and links in this directory travel; none: it is no directory.
    pub files: Option<usize>,
    /// How many repositories are in this directory, or at it, of which commits and references
    /// travel; none: it is no directory.
    pub repositories: Option<usize>,
    /// Whether the file, which does not exist, would travel with the user's trust.
    #[serde(skip)]
    pub needs_trust: bool,
    /// Why it cannot be read; none: it can.
    pub error: Option<String>,
}

/// Where a path travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// A sync sends it to the VM.
    ToVm,
    /// A sync sends some of it to the VM.
    Partly,
    /// It does not travel.
    None,
}

/// A line of a file with rules.
#[derive(Clone, Debug, Serialize)]
pub struct RuleLine {
    /// The file: relative to the workspace's root if it is below, else absolute.
    pub file: WireBytes,
    /// The number of the line, from 1.
    pub line: usize,
    /// The rule as it is written.
    pub pattern: WireBytes,
}

/// Explains whether `asked`, paths relative to `here`, travel between the workspace around `here`
/// and its VM, and which rule decides.
///
/// # Errors
/// If `here` is in no repository, or the repository cannot be read.
pub fn why(asked: &[PathBuf], here: &Path, paths: &Paths) -> Result<Explanations, CommandError> {
    let workspace = Workspace::discover(here, git_host(paths))?;
    let explainer = Explainer::new(&workspace)?;
    let mut asker = Asker { workspace: &workspace, own: paths.own(), here, explainer, listed: None };
    let paths = asked.iter().map(|path| asker.explain(path)).collect::<Result<_, _>>()?;
    Ok(Explanations { workspace: workspace.root.display().to_string(), paths })
}

struct Asker<'a> {
    workspace: &'a Workspace,
    own: [PathBuf; 2],
    here: &'a Path,
    explainer: Explainer<'a>,
    /// All that travels; none: no directory was asked about.
    listed: Option<Listed>,
}

impl Asker<'_> {
    fn explain(&mut self, asked: &Path) -> Result<ExplainedPath, CommandError> {
        let root = &self.workspace.root;
        let mut explained = ExplainedPath {
            asked: asked.to_owned(),
            path: None,
            travels: Direction::None,
            reason: "outside",
            at: None,
            rule: None,
            files: None,
            repositories: None,
            needs_trust: false,
            error: None,
        };
        let Some(path) = path_in(root, &absolute(self.here, asked)) else { return Ok(explained) };
        explained.path = Some(wire(&path));
        if is_apart(&path, root, &self.own) {
            explained.reason = "own_directory";
            return Ok(explained);
        }
        let Explanation { reason, rule } = self.explainer.explain(&path);
        explained.rule = rule.map(|rule| RuleLine {
            file: rule.file.strip_prefix(root).unwrap_or(&rule.file).as_os_str().into(),
            line: rule.line,
            pattern: WireBytes(rule.pattern),
        });
        let metadata = self.workspace.repository.boundary().metadata(&path.under(root));
        if metadata.is_ok_and(|metadata| metadata.is_dir()) {
            let listed = self.listed()?;
            explained.files = Some(listed.files_in(&path));
            explained.repositories = Some(listed.repositories_in(&path));
        }
        explained.travels = match &reason {
            Reason::GitDirectory { .. } => Direction::Partly,
            reason if reason.travels() || explained.files.is_some_and(|files| files > 0) => Direction::ToVm,
            _ if explained.repositories.is_some_and(|repositories| repositories > 0) => Direction::Partly,
            _ => Direction::None,
        };
        explained.reason = name(&reason);
        match reason {
            Reason::Unreadable { at, error } => {
                (explained.at, explained.error) = (Some(wire(&at)), Some(error.to_string()));
            }
            Reason::Ignored { at }
            | Reason::InEmptySubmodule { at }
            | Reason::GitDirectory { at }
            | Reason::NoRepository { at }
            | Reason::BeyondLink { at } => explained.at = Some(wire(&at)),
            Reason::Absent { at, is_withheld, .. } => {
                (explained.at, explained.needs_trust) = (at.as_ref().map(wire), is_withheld);
            }
            _ => {}
        }
        Ok(explained)
    }

    /// All that travels.
    fn listed(&mut self) -> Result<&Listed, CommandError> {
        let listed = match self.listed.take() {
            Some(listed) => listed,
            None => Listed::new(self.workspace, &self.own)?,
        };
        Ok(self.listed.insert(listed))
    }
}

impl CommandOutput for Explanations {
    fn text(&self, _verbosity: Verbosity) -> String {
        let lines = self.paths.iter().map(|path| {
            let travels = match path.travels {
                Direction::ToVm => "to VM",
                Direction::Partly => "partly",
                Direction::None => "no",
            };
            // Names and rules are the repository's.
            [printable(path.asked.as_os_str().as_bytes()), travels.to_owned(), printable(text(path).as_bytes())]
        });
        table(["PATH", "TRAVELS", "WHY"], lines)
    }
}

fn wire(path: &RelPath) -> WireBytes {
    WireBytes(path.as_bytes().to_vec())
}

/// The name of a reason, for scripts.
fn name(reason: &Reason) -> &'static str {
    match reason {
        Reason::Tracked => "tracked",
        Reason::Untracked => "untracked",
        Reason::Included => "included",
        Reason::Withheld => "not_trusted",
        Reason::Ignored { .. } => "ignored",
        Reason::Directory => "directory",
        Reason::Repository => "repository",
        Reason::EmptySubmodule => "empty_submodule",
        Reason::InEmptySubmodule { .. } => "in_empty_submodule",
        Reason::GitDirectory { .. } => "git_directory",
        Reason::NoRepository { .. } => "no_repository",
        Reason::BeyondLink { .. } => "beyond_link",
        Reason::Special => "special_file",
        Reason::Absent { is_tracked: true, .. } => "deleted",
        Reason::Absent { is_tracked: false, .. } => "absent",
        Reason::Unreadable { .. } => "unreadable",
    }
}

/// The reason for people, with the rule.
fn text(path: &ExplainedPath) -> String {
    let at = path.at.as_ref().map(|at| format!("`{at}`")).unwrap_or_default();
    let is_self = path.at == path.path;
    let what = match path.reason {
        "tracked" => "tracked by git".to_owned(),
        "untracked" if path.rule.is_some() => "not ignored".to_owned(),
        "untracked" => "not ignored: no rule matches".to_owned(),
        "included" => format!("ignored by git, but listed in {INCLUDE_FILE}"),
        "not_trusted" => format!("ignored by git; listed in {INCLUDE_FILE}, which needs trust: banger trust"),
        "ignored" if is_self => "ignored".to_owned(),
        "ignored" => format!("in {at}, which is ignored"),
        "directory" => "a directory".to_owned(),
        "repository" => "a repository in the repository".to_owned(),
        "empty_submodule" => "a submodule that is not checked out: an empty directory".to_owned(),
        "in_empty_submodule" => format!("in the submodule {at}, which is not checked out"),
        "git_directory" => {
            "git's own: commits, references and the index are sent; of the configuration only what is safe; no hooks"
                .to_owned()
        }
        "no_repository" => format!("{at} is named as git's directory, and is not of a repository: git passes it over"),
        "beyond_link" => format!("behind the symbolic link {at}, which travels as a link"),
        "special_file" => "a device, FIFO or socket".to_owned(),
        "deleted" => "tracked by git, and deleted here: the deletion is sent".to_owned(),
        "absent" if path.needs_trust => {
            format!("does not exist; ignored by git; listed in {INCLUDE_FILE}, which needs trust: banger trust")
        }
        "absent" if path.at.is_none() && path.rule.is_some() => {
            format!("does not exist; ignored by git, but listed in {INCLUDE_FILE}")
        }
        "absent" if path.at.is_none() => "does not exist; nothing would ignore it".to_owned(),
        "absent" if !is_self => format!("does not exist; it would be in {at}, which is ignored"),
        "absent" if path.rule.as_ref().is_some_and(|rule| rule.pattern.0.ends_with(b"/")) => {
            "does not exist; it would be ignored if it were a directory".to_owned()
        }
        "absent" => "does not exist; it would be ignored".to_owned(),
        "unreadable" => path.error.clone().unwrap_or_default(),
        "own_directory" => "a directory of banger's own".to_owned(),
        _ => "outside of the repository".to_owned(),
    };
    let rule = path.rule.as_ref().map(|rule| format!(" ({}:{}: {})", rule.file, rule.line, rule.pattern));
    let files = path.files.filter(|_| !matches!(path.reason, "empty_submodule" | "git_directory"));
    let files = files.map(|files| match files {
        0 => match path.repositories.unwrap_or_default() {
            0 => "; nothing in it travels".to_owned(),
            _ if path.reason == "repository" => "; no file in it travels, but its commits do".to_owned(),
            number => {
                let repositories = count(number as u64, "repository", "repositories");
                format!("; no file in it travels, but the commits of {repositories} do")
            }
        },
        files => format!("; {} in it", count(files as u64, "file travels", "files travel")),
    });
    [what, rule.unwrap_or_default(), files.unwrap_or_default()].concat()
}

/// `path`, which is relative to `here`, without `.` and `..`. Links are not followed: what is
/// behind one is nothing of the repository's.
fn absolute(here: &Path, path: &Path) -> PathBuf {
    let mut absolute = PathBuf::new();
    for part in here.join(path).components() {
        match part {
            Component::ParentDir => _ = absolute.pop(),
            Component::CurDir => {}
            part => absolute.push(part),
        }
    }
    absolute
}

/// The absolute `path` relative to `root`, which is canonical; none if it is outside. The root may
/// have another name there.
fn path_in(root: &Path, path: &Path) -> Option<RelPath> {
    let rest = path.strip_prefix(root).ok().or_else(|| {
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        let is_root = |above: &&Path| fs::canonicalize(above).is_ok_and(|real| real == root);
        path.strip_prefix(above.into_iter().find(is_root)?).ok()
    })?;
    RelPath::new(rest.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_below_a_root_of_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let root = folder.join("real");
        fs::create_dir_all(root.join("sub")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("name")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        let find = |here: &Path, path: &str| path_in(&root, &absolute(here, Path::new(path))).map(|p| p.to_string());
        assert_eq!(find(&root.join("sub"), "x").as_deref(), Some("sub/x"));
        assert_eq!(find(&root.join("sub"), "../y/./z").as_deref(), Some("y/z"));
        assert_eq!(find(&root, ".").as_deref(), Some(""));
        assert_eq!(find(&folder.join("name"), "gone/x").as_deref(), Some("gone/x"));
        assert_eq!(find(&root, folder.join("name/x").to_str().unwrap()).as_deref(), Some("x"));
        // A link within the repository is not followed.
        assert_eq!(find(&root, "up/real/x").as_deref(), Some("up/real/x"));
        assert_eq!(find(&root, ".."), None);
        assert_eq!(find(&root, "/"), None);
        assert_eq!(find(&root, folder.join("real2").to_str().unwrap()), None);
    }
}
