//! The one place where the `git` binary is run, for what gix cannot do.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use super::refs::link_to_ref;
use super::{GitError, Repository, Result};

impl Repository {
    /// Runs `git` on this repository and returns its standard output.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        self.git_with(arguments, b"", None)
    }

    /// The same with `input` on its standard input, and standard output into a file if there is one.
    pub(crate) fn git_with(&self, arguments: &[&str], input: &[u8], output: Option<File>) -> Result<Vec<u8>> {
        let failed = |reason: String| self.failed(arguments, reason);
        self.check_for_git()?;
        let mut command = self.command(arguments);
        command
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(output.map_or_else(Stdio::piped, Stdio::from))
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let stdin = child.stdin.take();
        let output = thread::scope(|scope| {
            // A git that ends before it has read all says why itself.
            scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input)));
            child.wait_with_output()
        });
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    /// Runs a `git` that answers with its exit status: whether that is success.
    pub(crate) fn agrees(&self, arguments: &[&str]) -> Result<bool> {
        self.check_for_git()?;
        let output = self.command(arguments).stdin(Stdio::null()).output();
        Ok(output.map_err(|error| self.failed(arguments, error.to_string()))?.status.success())
    }

    fn failed(&self, arguments: &[&str], reason: String) -> GitError {
        GitError::Command { arguments: arguments.join(" "), git_dir: self.git_dir.clone(), reason }
    }

    /// git opens the repository's files itself, through links and alternates: none may lead outside unless
    /// that is allowed.
    fn check_for_git(&self) -> Result<()> {
        self.config()?;
        self.object_folders()?;
        for folder in [&self.git_dir, &self.common_dir] {
            for name in ["HEAD", "index", "packed-refs", "shallow", "refs", "reftable", "info/attributes"] {
                let path = folder.join(name);
                if link_to_ref(&self.boundary, &path).is_none() {
                    self.boundary.stat(&path)?;
                }
            }
        }
        Ok(())
    }

    /// The environment is made from nothing, so no `GIT_*` variable leaks in but the user's own configuration, and what a repository's
    /// configuration could have executed is turned off. A missing object of a partial clone would be
    /// fetched, by a program that the configuration names. No transport is allowed, whatever
    /// `protocol.<name>.allow` says: git older than 2.45 does not know `GIT_NO_LAZY_FETCH`.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .envs(self.host.path.iter().map(|path| ("PATH", path)))
            .envs(self.host.home.iter().map(|home| ("HOME", home)))
            .envs(self.host.xdg_config_home.iter().map(|folder| ("XDG_CONFIG_HOME", folder)))
            .envs(self.host.variables.iter().map(|(name, value)| (name, value)))
            .env("LC_ALL", "C")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_ALLOW_PROTOCOL", "")
            .args(["--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"])
            .args(["-c", "protocol.allow=never"])
            .arg("--git-dir")
            .arg(&self.git_dir)
            .arg("--work-tree")
            .arg(&self.worktree)
            .args(arguments)
            .current_dir(&self.worktree);
        command
    }
}
