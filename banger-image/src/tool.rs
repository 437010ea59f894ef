//! Programs of the host that a build runs. None outlives the build, however that ends.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};

use crate::error::{Error, Result};

/// How many lines of a program's standard error are kept for an error message.
const TAIL_LINES: usize = 30;

/// Longest line of standard error that is looked at, in bytes; a longer one is cut into several.
const MAX_LINE: u64 = 4096;

/// How long a program may take to clean up after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
}

pub(crate) const DEBUGFS: Tool = Tool { name: "debugfs", package: "e2fsprogs" };
pub(crate) const MKE2FS: Tool = Tool { name: "mke2fs", package: "e2fsprogs" };
pub(crate) const MMDEBSTRAP: Tool = Tool { name: "mmdebstrap", package: "mmdebstrap" };
pub(crate) const NEWUIDMAP: Tool = Tool { name: "newuidmap", package: "uidmap" };

impl Tool {
    /// Runs the tool to its end and returns the lines of its standard error.
    pub(crate) fn run<A: AsRef<OsStr>>(self, args: &[A]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        self.stream(args, None, |line| lines.push(line.to_owned()), |_| Ok(()))?;
        Ok(lines)
    }

    /// Runs the tool, lets `consume` read its standard output and `on_line` its standard error.
    ///
    /// `temp_dir` is where the tool keeps its own temporary files; it decides itself if `None`.
    /// A failure of the tool comes before one of `consume` that is only its consequence.
    pub(crate) fn stream<A: AsRef<OsStr>, T>(
        self,
        args: &[A],
        temp_dir: Option<&Path>,
        mut on_line: impl FnMut(&str) + Send,
        consume: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        let mut running = self.spawn(args, temp_dir)?;
        let (Some(stdout), Some(stderr)) = (running.0.stdout.take(), running.0.stderr.take()) else {
            return Err(io::Error::other(format!("`{}` has no pipes", self.name)).into());
        };
        thread::scope(|scope| {
            let tail = scope.spawn(move || read_lines(stderr, &mut on_line));
            let mut stdout = EndNoting { inner: stdout, ended: false };
            let consumed = consume(&mut stdout);
            let status = match &consumed {
                Err(_) if !stdout.ended => {
                    running.terminate();
                    None
                }
                _ => {
                    io::copy(&mut stdout, &mut io::sink())?;
                    Some(running.0.wait()?)
                }
            };
            let tail = tail.join().unwrap_or_default();
            match status {
                Some(status) if !status.success() => Err(Error::ToolFailed { tool: self.name, status, tail }),
                _ => consumed,
            }
        })
    }

    /// Makes sure that the tool is there.
    pub(crate) fn require(self) -> Result<()> {
        self.spawn::<&OsStr>(&[], None).map(drop)
    }

    fn spawn<A: AsRef<OsStr>>(self, args: &[A], temp_dir: Option<&Path>) -> Result<Running> {
        // An ordinary user of Debian has no sbin folder on the PATH, and e2fsprogs lives there.
        let places = [self.name.to_owned(), format!("/usr/sbin/{}", self.name), format!("/sbin/{}", self.name)];
        for place in &places {
            let mut command = Command::new(place);
            command.args(args).env("LC_ALL", "C.UTF-8");
            if let Some(temp_dir) = temp_dir {
                command.env("TMPDIR", temp_dir);
            }
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            // A group of its own: a Ctrl-C is for us, and what the tool has started ends with it.
            command.process_group(0);
            let parent = getpid();
            // SAFETY: prctl, getppid and the making of an io::Error from an errno are async-signal-safe.
            unsafe { command.pre_exec(move || die_with(parent)) };
            match command.spawn() {
                Ok(child) => return Ok(Running(child)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("cannot run `{place}`: {error}")).into());
                }
            }
        }
        Err(Error::MissingTool { tool: self.name, package: self.package })
    }
}

/// Asks the kernel for a SIGTERM when `parent` is gone, however it went.
fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// A child that does not outlive this value.
struct Running(Child);

impl Running {
    /// Ends the child and its process group: politely, so that it can remove what it made, then for sure.
    fn terminate(&mut self) {
        let group = Pid::from_raw(self.0.id().cast_signed());
        // Each of these fails only when there is nobody left to signal.
        let _ = killpg(group, Signal::SIGTERM);
        let deadline = Instant::now() + GRACE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}

/// A reader that remembers whether its end was seen.
struct EndNoting<R> {
    inner: R,
    ended: bool,
}

impl<R: Read> Read for EndNoting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.ended |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

/// Hands each line to `on_line`, free of control characters, and returns the last ones.
fn read_lines(stderr: ChildStderr, on_line: &mut impl FnMut(&str)) -> Vec<String> {
    let mut reader = BufReader::new(stderr);
    let mut tail = VecDeque::with_capacity(TAIL_LINES);
    let mut line = Vec::new();
    while let Ok(1..) = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line).replace(char::is_control, "");
        on_line(&text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
        line.clear();
    }
    tail.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: Tool = Tool { name: "sh", package: "dash" };

    #[test]
    fn a_failure_carries_the_last_lines_without_control_characters() {
        let script = "i=0; while [ $i -lt 40 ]; do printf 'line %s\\033[31m\\n' $i >&2; i=$((i+1)); done; exit 3";
        let Err(Error::ToolFailed { tail, status, .. }) = SH.run(&["-c", script]) else { panic!() };
        assert_eq!(status.code(), Some(3));
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail[29], "line 39[31m");
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let missing = Tool { name: "banger-no-such-tool", package: "nothing" };
        let error = missing.require().unwrap_err();
        assert!(error.hint().unwrap().contains("apt-get install nothing"));
    }

    #[test]
    fn the_tools_own_failure_comes_first() {
        let eof = |reader: &mut dyn Read| -> Result<()> {
            io::copy(reader, &mut io::sink())?;
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        };
        let error = SH.stream(&["-c", "exit 1"], None, |_| (), eof).unwrap_err();
        assert!(matches!(error, Error::ToolFailed { .. }), "{error}");
    }

    #[test]
    fn a_consumer_that_gives_up_ends_the_tool_and_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("sleep 600 & echo $! > {}/pid; echo; wait", dir.path().display());
        let give_up = |reader: &mut dyn Read| -> Result<()> {
            reader.read_exact(&mut [0])?;
            Err(io::Error::from(io::ErrorKind::StorageFull).into())
        };
        let error = SH.stream(&["-c", &script], None, |_| (), give_up).unwrap_err();
        assert!(error.hint().unwrap().contains("disk space"));
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        // The orphan is reaped by somebody else, so it may be a zombie for a moment, but it runs no more.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
}
