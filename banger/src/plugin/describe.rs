//! What plugins say of themselves.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::Environment;
use crate::cli::Global;

/// The argument that asks a plugin to describe itself.
pub(super) const ARGUMENT: &str = "--banger-describe";
/// How long it may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How much it may say, in bytes.
const MAX_ANSWER: usize = 4 << 10;
/// How much of it is shown, in characters.
const MAX_SHOWN: usize = 200;
/// How many plugins are asked at a time.
const AT_A_TIME: usize = 32;

/// A plugin's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The version of the contract that it needs.
    pub api: u32,
    /// What it does, in one line.
    pub description: String,
}

/// Asks programs to describe themselves, all at the same time. One that does not within a second, or whose answer makes no sense,
/// has no description.
pub fn describe(programs: &[&Path], environment: &Environment) -> Vec<Option<Description>> {
    let next = Mutex::new(programs.iter().enumerate());
    let answers = Mutex::new(vec![None; programs.len()]);
    thread::scope(|scope| {
        for _ in 0..programs.len().min(AT_A_TIME) {
            scope.spawn(|| {
                // What is given back is taken under the lock, and worked on without it.
                let take = || next.lock().expect("nothing panics under it").next();
                while let Some((number, program)) = take() {
                    let answer = ask(program, environment);
                    answers.lock().expect("nothing panics under it")[number] = answer;
                }
            });
        }
    });
    answers.into_inner().expect("nothing panics under it")
}

fn ask(program: &Path, environment: &Environment) -> Option<Description> {
    let mut command = Command::new(program);
    command.arg(ARGUMENT).current_dir("/").process_group(0);
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
    let answer = read_answer(&mut child, Instant::now() + LIMIT);
    // Whatever it has started goes with it.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = child.wait();
    let mut description: Description = serde_json::from_slice(&answer.ok()??).ok()?;
    let line = description.description.lines().next().unwrap_or_default().trim();
    description.description = banger_vmm::printable(line.as_bytes()).chars().take(MAX_SHOWN).collect();
    Some(description)
}

/// All that the plugin prints, if it then ends with success.
fn read_answer(child: &mut Child, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut answer = Vec::new();
    let mut chunk = [0; MAX_ANSWER];
    while answer.len() <= MAX_ANSWER {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_plugin_that_answers_as_it_should_not_has_no_description() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = |name: &str, body: &str| script(folder.path(), name, body);
        let good = r#"{"api": 1, "description": "Says \u001b[31mhi\nand more", "of a later version": []}"#;
        let programs = [
            script("good", &format!("[ \"$1\" = --banger-describe ] && [ \"$BANGER\" = /b ] && cat <<'E'\n{good}\nE")),
            script("floods", "exec yes '{\"api\": 1, \"description\": \"x\"}'"),
            script("hangs", &format!("sleep 1000 & echo $! >{}; wait", pid.display())),
            script("holds-the-pipe", "echo '{\"api\": 1, \"description\": \"x\"}'; sleep 1000 &"),
            script("fails", "echo '{\"api\": 1, \"description\": \"x\"}'; exit 1"),
            script("crashes", "kill -SEGV $$"),
            script("reads", "read line && echo '{\"api\": 1, \"description\": \"x\"}'"),
            script("talks", "echo usage: talks"),
            folder.path().join("missing"),
        ];
        let environment = Environment::new("/b".into(), None).unwrap();
        let start = Instant::now();
        let answers = describe(&programs.each_ref().map(PathBuf::as_path), &environment);
        assert!(start.elapsed() < LIMIT * 3, "{:?}", start.elapsed());
        let described = Description { api: 1, description: "Says ^[[31mhi".to_owned() };
        assert_eq!(answers[0], Some(described));
        assert!(answers[1..].iter().all(Option::is_none), "{answers:?}");
        // What a plugin has started is gone too.
        let child: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let is_gone = || match fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
            Err(_) => true,
        };
        while !is_gone() {
            assert!(start.elapsed() < Duration::from_secs(30), "process {child} lives on");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
