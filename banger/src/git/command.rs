//! The one place where the `git` binary is run, for what gix cannot do.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use super::config::Named;
use super::refs::link_to_ref;
use super::{GitError, Repository, Result};

/// How long a command may run, and how much it may print. A repository can make git wait (for a
/// FIFO among its files) or print without end.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) time: Duration,
    /// The most bytes on standard output, unless it is a file.
    pub(super) output: u64,
}

/// Files in a git directory that git opens for every command.
const FILES: [&str; 9] =
    ["HEAD", "config", "config.worktree", "index", "packed-refs", "shallow", "refs", "reftable", "info/attributes"];

pub(super) const LIMITS: Limits = Limits { time: Duration::from_secs(600), output: 256 << 20 };

/// Most bytes of standard error that are kept.
const ERRORS: u64 = 64 << 10;

impl Repository {
    /// Runs `git` on this repository without input, and returns its standard output.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        self.git_with(arguments, b"", None)
    }

    /// Runs `git` on this repository with `input` on its standard input. Returns its standard
    /// output, which is empty if it is written to the file `output`.
    pub(crate) fn git_with(&self, arguments: &[&str], input: &[u8], output: Option<File>) -> Result<Vec<u8>> {
        let output = self.run(arguments, input, output)?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(self.failed(arguments, String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    /// Runs a `git` that answers by its exit status. Returns whether the status is 0.
    pub(crate) fn agrees(&self, arguments: &[&str]) -> Result<bool> {
        Ok(self.run(arguments, b"", None)?.status.success())
    }

    fn run(&self, arguments: &[&str], input: &[u8], output: Option<File>) -> Result<Output> {
        self.run_command(self.command(arguments), arguments, input, output)
    }

    /// Runs a git `command` on this repository, which errors show with `arguments`.
    pub(super) fn run_command(
        &self,
        mut command: Command,
        arguments: &[&str],
        input: &[u8],
        output: Option<File>,
    ) -> Result<Output> {
        self.check_for_git()?;
        command.stdout(output.map_or_else(Stdio::piped, Stdio::from));
        run(&mut command, input, LIMITS).map_err(|reason| self.failed(arguments, reason))
    }

    pub(super) fn failed(&self, arguments: &[&str], reason: String) -> GitError {
        GitError::Command { arguments: arguments.join(" "), git_dir: self.git_dir.clone(), reason }
    }

    /// git opens the repository's files itself, through links and alternates: none may lead outside
    /// unless that is allowed, and none that git always opens may be one that it would wait for.
    fn check_for_git(&self) -> Result<()> {
        let config = self.config()?;
        self.object_folders()?;
        for folder in [&self.git_dir, &self.common_dir] {
            for name in FILES {
                let path = folder.join(name);
                if link_to_ref(&self.boundary, &path).is_none() {
                    self.boundary.stat(&path)?.map_or(Ok(()), |metadata| check_kind(&path, &metadata))?;
                }
            }
        }
        if let Some(Named::ByRepository(path)) = self.global_attributes_file(&config)? {
            self.boundary.stat(&path)?.map_or(Ok(()), |metadata| check_kind(&path, &metadata))?;
        }
        Ok(())
    }

    /// The environment is made from nothing, so no `GIT_*` variable leaks in but the user's own
    /// configuration, and what a repository's configuration could have executed is turned off. A
    /// missing object of a partial clone would be fetched, by a program that the configuration
    /// names. No transport is allowed, whatever `protocol.<name>.allow` says: git older than 2.45
    /// does not know `GIT_NO_LAZY_FETCH`.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
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

/// Refuses what git would wait for, or read without end: a FIFO, a device.
fn check_kind(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() || metadata.is_dir() {
        return Ok(());
    }
    Err(GitError::io("read", path, io::Error::other("it is no regular file")))
}

/// Runs `command` with `input` on its standard input until it ends, and kills it at a limit.
///
/// # Errors
/// Why it did not start, or that it reached a limit.
pub(super) fn run(command: &mut Command, input: &[u8], limits: Limits) -> Result<Output, String> {
    let words = |error: io::Error| error.to_string();
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() }).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(words)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // A git that ends before it has read all says why itself.
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input)));
        // A message says that the output is too long; the channel is closed when both have come to
        // their end.
        let (too_long, ended) = mpsc::channel();
        let both = too_long.clone();
        let stdout = scope.spawn(move || {
            let mut bytes = Vec::new();
            let Some(stdout) = stdout else { return Ok(bytes) };
            stdout.take(limits.output + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > limits.output {
                let _ = too_long.send(());
            }
            Ok(bytes)
        });
        let stderr = scope.spawn(move || {
            let (mut bytes, _both) = (Vec::new(), both);
            let Some(mut stderr) = stderr else { return Ok(bytes) };
            stderr.by_ref().take(ERRORS).read_to_end(&mut bytes)?;
            io::copy(&mut stderr, &mut io::sink())?;
            Ok(bytes)
        });
        let reached = match ended.recv_timeout(limits.time) {
            Ok(()) => Some(format!("it printed more than {} bytes", limits.output)),
            Err(RecvTimeoutError::Timeout) => Some(format!("it did not end within {} s", limits.time.as_secs())),
            Err(RecvTimeoutError::Disconnected) => None,
        };
        if reached.is_some() {
            let _ = child.kill();
        }
        let status = child.wait().map_err(words)?;
        let read = |thread: ScopedJoinHandle<'_, io::Result<Vec<u8>>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("its output was not read"))).map_err(words)
        };
        let (stdout, stderr) = (read(stdout)?, read(stderr)?);
        reached.map_or(Ok(Output { status, stdout, stderr }), Err)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn git_command_is_killed_at_time_or_output_limit() {
        let limits = |time, output| Limits { time: Duration::from_millis(time), output };
        let start = |script: &str, limits| {
            run(Command::new("sh").args(["-c", script]).stdout(Stdio::piped()), b"input", limits)
        };
        let begin = Instant::now();
        let error = start("exec sleep 600", limits(50, 100)).unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        let error = start("exec cat /dev/zero", limits(600_000, 100)).unwrap_err();
        assert!(error.contains("more than 100 bytes"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(60));
        let output = start("cat; head -c 1000000 /dev/zero >&2; exit 3", limits(600_000, 5)).unwrap();
        let found = (&output.stdout[..], output.stderr.len() as u64, output.status.code());
        assert_eq!(found, (&b"input"[..], ERRORS, Some(3)));
    }
}
