//! The environment of the user that git depends on, passed in by the caller.

use std::ffi::OsString;
use std::path::PathBuf;

use super::outside::OutsidePolicy;
use super::worktree_include::IncludePolicy;

/// The environment of the user, as far as git depends on it. Of the `GIT_*` variables only the
/// index and the configuration count: the directory one stands in names the workspace, also inside
/// a hook, where git sets `GIT_DIR` too.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The home folder: `~/.gitconfig`, and `~` in configuration.
    pub home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`, when set; else `~/.config` is meant.
    pub xdg_config_home: Option<PathBuf>,
    /// The system-wide configuration, usually `/etc/gitconfig`.
    pub system_config: Option<PathBuf>,
    /// The variables `GIT_CONFIG_*` of the user's environment: git-config(1), ENVIRONMENT.
    pub variables: Vec<(OsString, OsString)>,
    /// `$PWD`: the directory one stands in, by the name that one came by. `includeIf "gitdir:…"`
    /// knows that too.
    pub pwd: Option<PathBuf>,
    /// `$PATH`, to find `git` for what gix cannot do.
    pub path: Option<OsString>,
    /// `$GIT_INDEX_FILE`: in a hook of `git commit --all`, say, the index of the commit to be.
    /// Heeded in its own repository alone.
    pub index_file: Option<PathBuf>,
    /// `$SUDO_UID`: root also trusts the repositories of the user who called sudo, as git does.
    pub sudo_uid: Option<u32>,
    /// Which places outside of a workspace its repositories may lead to.
    pub outside: OutsidePolicy,
    /// Whether a workspace's `.worktreeinclude` counts.
    pub include: IncludePolicy,
}

impl Host {
    /// The folder of git's per-user files other than `~/.gitconfig`.
    pub(crate) fn xdg_git_folder(&self) -> Option<PathBuf> {
        let config = match &self.xdg_config_home {
            Some(folder) if !folder.as_os_str().is_empty() => folder.clone(),
            _ => self.home.as_ref()?.join(".config"),
        };
        Some(config.join("git"))
    }
}
