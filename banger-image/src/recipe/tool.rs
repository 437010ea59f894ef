//! Programs of the host that a build runs. None outlives the build, however that ends.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};

use crate::error::{self, Error, Result};

/// How many lines of a program's standard error are kept for an error message.
const TAIL_LINES: usize = 30;

/// Longest line that an error message repeats in full, in bytes.
const SHOWN_LINE: usize = 300;

/// Longest line of standard error that is looked at, in bytes; a longer one is cut into several.
const MAX_LINE: u64 = 4096;

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
}

pub(crate) const MMDEBSTRAP: Tool = Tool { name: "mmdebstrap", package: "mmdebstrap" };
pub(crate) const NEWUIDMAP: Tool = Tool { name: "newuidmap", package: "uidmap" };
pub(crate) const UNSHARE: Tool = Tool { name: "unshare", package: "util-linux" };

impl Tool {
    /// Makes sure that the tool is installed.
    ///
    /// # Errors
    /// [`Error::MissingTool`].
    pub(crate) fn require(self) -> Result<()> {
        self.spawn::<&OsStr>(&[], &[]).map(drop)
    }

    /// Runs the tool to its end and returns the lines of its standard error.
    ///
    /// # Errors
    /// [`Error::MissingTool`], [`Error::ToolFailed`].
    pub(crate) fn run<A: AsRef<OsStr>>(self, args: &[A]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        self.stream(&[], args, |line| lines.push(line.to_owned()), |_| Ok(()))?;
        Ok(lines)
    }

    /// Runs the tool, lets `consume` read its standard output and `on_line` its standard error.
    ///
    /// `wrapper` is a command that is given the tool's to run, such as `env` with its arguments; it
    /// may be empty. When `consume` gives up, the tool is killed: nothing is asked of it, since all
    /// that it made is ours to remove. A failure of the tool comes before one of `consume` that is
    /// only its consequence.
    pub(crate) fn stream<A: AsRef<OsStr>, T>(
        self,
        wrapper: &[OsString],
        args: &[A],
        on_line: impl FnMut(&str) + Send,
        consume: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        let mut running = self.spawn(wrapper, args)?;
        let (Some(stdout), Some(stderr)) = (running.0.stdout.take(), running.0.stderr.take()) else {
            return Err(io::Error::other(format!("`{}` has no pipes", self.name)).into());
        };
        thread::scope(|scope| {
            let summary = scope.spawn(|| StderrSummary::read(stderr, on_line));
            let mut stdout = EofTracker { inner: stdout, ended: false };
            let consumed = consume(&mut stdout);
            if consumed.is_err() && !stdout.ended {
                running.kill();
                return consumed;
            }
            io::copy(&mut stdout, &mut io::sink())?;
            let status = running.0.wait()?;
            if status.success() {
                return consumed;
            }
            let StderrSummary { tail, hint } = summary.join().unwrap_or_default();
            Err(Error::ToolFailed { tool: self.name, status, tail: tail.into(), hint })
        })
    }

    fn spawn<A: AsRef<OsStr>>(self, wrapper: &[OsString], args: &[A]) -> Result<ChildGuard> {
        let mut commands = Vec::new();
        if let [wrapper, wrapper_args @ ..] = wrapper {
            let mut command = Command::new(wrapper);
            command.args(wrapper_args).arg(self.name);
            commands.push(command);
        } else {
            // An ordinary user of Debian has no sbin folder on the PATH, and e2fsprogs lives there.
            let places = [self.name.to_owned(), format!("/usr/sbin/{}", self.name), format!("/sbin/{}", self.name)];
            commands.extend(places.map(Command::new));
        }
        for mut command in commands {
            command.args(args).env("LC_ALL", "C.UTF-8");
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            // A group of its own: a Ctrl-C is for us, and what the tool has started ends with it.
            command.process_group(0);
            let parent = getpid();
            // SAFETY: prctl, getppid and the making of an io::Error from an errno are
            // async-signal-safe.
            unsafe { command.pre_exec(move || die_with(parent)) };
            match command.spawn() {
                Ok(child) => return Ok(ChildGuard(child)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A folder on the PATH that is closed to this user, as root's own is: execvp(3).
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_a_name(command.get_program()) => {}
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("cannot run `{}`: {error}", self.name)).into());
                }
            }
        }
        Err(Error::MissingTool { tool: self.name, package: self.package })
    }
}

/// Whether the program is looked for on the PATH.
fn is_a_name(program: &OsStr) -> bool {
    !program.as_encoded_bytes().contains(&b'/')
}

/// Asks the kernel for a SIGKILL when the calling thread of `parent` is gone, however it went
/// (prctl(2)).
///
/// That is the thread that waits for the tool, so it is not gone before.
fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// A child process that is killed, with its process group, when this value is dropped.
struct ChildGuard(Child);

impl ChildGuard {
    /// Ends the child and its process group.
    fn kill(&mut self) {
        // Both fail only when there is nobody left to kill.
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// A reader that records whether its end was reached.
struct EofTracker<R> {
    inner: R,
    ended: bool,
}

impl<R: Read> Read for EofTracker<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.ended |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

/// The last lines of a tool's standard error, and a hint for the first line with a known cause.
#[derive(Default)]
struct StderrSummary {
    tail: VecDeque<String>,
    hint: Option<String>,
}

impl StderrSummary {
    /// Reads all, and hands each line to `on_line`, free of control characters.
    fn read(stderr: ChildStderr, mut on_line: impl FnMut(&str)) -> StderrSummary {
        let mut reader = BufReader::new(stderr);
        let mut summary = StderrSummary::default();
        let mut line = Vec::new();
        while let Ok(1..) = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            let mut text = String::from_utf8_lossy(&line).replace(char::is_control, "");
            line.clear();
            on_line(&text);
            summary.hint = summary.hint.or_else(|| error::hint_for(&text));
            if summary.tail.len() == TAIL_LINES {
                summary.tail.pop_front();
            }
            // apt and dpkg are called with thousands of file names, which they like to repeat.
            if text.len() > SHOWN_LINE {
                text.truncate(text.floor_char_boundary(SHOWN_LINE));
                text.push('…');
            }
            summary.tail.push_back(text);
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: Tool = Tool { name: "sh", package: "dash" };

    #[test]
    fn tool_failure_carries_last_lines_escaped() {
        let script = "i=0; while [ $i -lt 40 ]; do printf 'line %s\\033[31m\\n' $i >&2; i=$((i+1)); done; exit 3";
        let Err(Error::ToolFailed { tail, status, .. }) = SH.run(&["-c", script]) else { panic!() };
        assert_eq!(status.code(), Some(3));
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail[29], "line 39[31m");
    }

    #[test]
    fn known_failure_cause_gives_a_hint() {
        let script = "echo 'tar: No space left on device' >&2; seq 100 >&2; printf '%01000d\\n' 0 >&2; exit 1";
        let error = SH.run(&["-c", script]).unwrap_err();
        assert!(error.hint().unwrap().contains("disk space"));
        assert!(error.to_string().lines().all(|line| line.len() < 350), "{error}");
    }

    #[test]
    fn missing_tool_error_names_its_package() {
        let missing = Tool { name: "banger-no-such-tool", package: "nothing" };
        let error = missing.require().unwrap_err();
        assert!(error.hint().unwrap().contains("apt-get install nothing"));
    }

    #[test]
    fn tool_failure_takes_precedence_over_reader_error() {
        let eof = |reader: &mut dyn Read| -> Result<()> {
            io::copy(reader, &mut io::sink())?;
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        };
        let error = SH.stream(&[], &["-c", "exit 1"], |_| (), eof).unwrap_err();
        assert!(matches!(error, Error::ToolFailed { .. }), "{error}");
    }

    #[test]
    fn failing_reader_kills_the_tool_and_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("sleep 600 & echo $! > {}/pid; echo; wait", dir.path().display());
        let give_up = |reader: &mut dyn Read| -> Result<()> {
            reader.read_exact(&mut [0])?;
            Err(io::Error::from(io::ErrorKind::StorageFull).into())
        };
        let error = SH.stream(&[], &["-c", &script], |_| (), give_up).unwrap_err();
        assert!(error.hint().unwrap().contains("disk space"));
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        // Its end takes a moment, and then somebody else has to reap it.
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        while !state().is_empty() && !state().contains(") Z ") {
            thread::yield_now();
        }
    }
}
