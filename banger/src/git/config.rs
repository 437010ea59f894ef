//! Effective configuration: every level git reads but the environment, includes resolved.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::config::file::{includes, init};
use gix::config::path::interpolate as interpolation;
use gix::config::{File, Source, file::Metadata};

use super::error::words;
use super::{GitError, Host, Repository, Result};

impl Repository {
    /// System, user, repository and worktree configuration, later ones last.
    pub(crate) fn config(&self) -> Result<File> {
        let mut files = user_files(&self.host);
        files.push(metadata(Source::Local, self.common_dir.join("config")));
        if self.format.worktree_config {
            files.push(metadata(Source::Worktree, self.git_dir.join("config.worktree")));
        }
        let branch = std::fs::read(self.git_dir.join("HEAD")).ok().and_then(|head| {
            let name = head.strip_prefix(b"ref: ")?.trim_ascii();
            gix::refs::FullName::try_from(gix::bstr::BStr::new(name)).ok()
        });
        let conditional = includes::conditional::Context {
            git_dir: Some(&self.git_dir),
            branch_name: branch.as_ref().map(|name| name.as_ref()),
        };
        load(&self.host, files, conditional, &self.git_dir)
    }
}

/// System and user configuration only: what a repository cannot influence.
pub(crate) fn protected(host: &Host) -> Result<File> {
    let anchor = host.home.clone().unwrap_or_default();
    load(host, user_files(host), includes::conditional::Context::default(), &anchor)
}

/// One file as it is, for what git reads without includes; empty if it does not exist.
pub(crate) fn single(path: &Path) -> Result<File> {
    if !path.exists() {
        return Ok(File::default());
    }
    File::from_path_no_includes(path.to_owned(), Source::Local)
        .map_err(|error| GitError::malformed("the configuration", path, words(&error)))
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

fn user_files(host: &Host) -> Vec<Metadata> {
    let system = host.system_config.clone().map(|path| (Source::System, path));
    let xdg = host.xdg_git_folder().map(|folder| (Source::Git, folder.join("config")));
    let home = host.home.as_ref().map(|home| (Source::User, home.join(".gitconfig")));
    [system, xdg, home].into_iter().flatten().map(|(source, path)| metadata(source, path)).collect()
}

fn metadata(source: Source, path: PathBuf) -> Metadata {
    Metadata::from(source).at(path).with(gix::sec::Trust::Full)
}

fn load(
    host: &Host,
    files: Vec<Metadata>,
    conditional: includes::conditional::Context<'_>,
    anchor: &Path,
) -> Result<File> {
    let context = interpolation::Context { git_install_dir: None, home_dir: host.home.as_deref(), home_for_user: None };
    let options = init::Options {
        includes: includes::Options::follow(context, conditional),
        lossy: true,
        ignore_io_errors: false,
    };
    let file = File::from_paths_metadata_buf(&mut files.into_iter(), &mut Vec::new(), false, options)
        .map_err(|error| GitError::malformed("the configuration", anchor, words(&error)))?;
    Ok(file.unwrap_or_default())
}
