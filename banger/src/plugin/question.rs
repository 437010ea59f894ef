//! Asking a program something: it has so much time and so many bytes, and is killed with all that
//! it has started.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Environment;
use crate::cli::Global;

/// What a program is asked.
pub(super) struct Question<'a> {
    /// Its arguments.
    pub(super) arguments: &'a [OsString],
    /// Where it is run.
    pub(super) folder: &'a Path,
    /// The most that it may say, in bytes.
    pub(super) most: usize,
    /// How long the answer may take.
    pub(super) limit: Duration,
}

impl Question<'_> {
    /// All that `program` prints, if it then ends with success, in time.
    pub(super) fn ask(&self, program: &Path, environment: &Environment) -> Option<Vec<u8>> {
        let mut command = Command::new(program);
        command.args(self.arguments).current_dir(self.folder).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        for (name, value) in environment.changes(&Global::default()) {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // SAFETY: between fork and exec it makes this one system call.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        let mut child = command.spawn().ok()?;
        let answer = self.read_answer(&mut child, Instant::now() + self.limit);
        // Whatever it has started goes with it.
        let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        let _ = child.wait();
        answer.ok()?
    }

    fn read_answer(&self, child: &mut Child, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let mut stdout = child.stdout.take().expect("it is piped");
        let mut answer = Vec::new();
        let mut chunk = [0; 4 << 10];
        while answer.len() <= self.most {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
                return Ok(None);
            }
            match stdout.read(&mut chunk)? {
                0 => {
                    while Instant::now() < deadline {
                        if let Some(status) = child.try_wait()? {
                            return Ok(status.success().then_some(answer));
                        }
                        thread::sleep(Duration::from_millis(1));
                    }
                    return Ok(None);
                }
                count => answer.extend_from_slice(&chunk[..count]),
            }
        }
        Ok(None)
    }
}
