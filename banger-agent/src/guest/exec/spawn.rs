//! From a request to a process.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc;
use nix::unistd::Pid;

use super::Program;
use super::cgroup::Cgroup;
use super::pty::{self, Pty};
use crate::guest::sftp;
use crate::guest::users::User;
use crate::protocol::exec::{DEFAULT_PATH, Exec};
use crate::protocol::{AgentFailure, AgentFailureKind};

/// A command that runs.
pub(super) struct Spawned {
    /// The direct child of the agent: the command, or the session leader of its terminal.
    pub(super) child: std::process::Child,
    pub(super) streams: Streams,
    pub(super) cgroup: Option<Cgroup>,
}

/// What the agent holds of a command's standard streams.
pub(super) enum Streams {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Terminal { master: OwnedFd, report: OwnedFd },
}

/// Starts `exec`.
///
/// # Errors
/// Kinds: no such user, folder or command; not executable.
pub(super) fn spawn(exec: &Exec, program: Program) -> Result<Spawned, AgentFailure> {
    let user = User::find(exec.user.as_deref())?;
    let cwd = folder(exec, &user);
    if exec.make_cwd {
        // What comes of it is seen next.
        let _ = fs::create_dir_all(&cwd);
    }
    if !cwd.is_dir() {
        let message = match fs::symlink_metadata(&cwd) {
            Ok(_) => format!("`{}` is no folder in the guest, so nothing can run in it", exec.cwd),
            Err(_) => format!("the folder `{}` does not exist in the guest", exec.cwd),
        };
        return Err(AgentFailure::new(AgentFailureKind::NoSuchFolder, message));
    }
    let mut command = match program {
        Program::Asked => command(exec, &user)?,
        Program::Sftp => own(sftp::NAME),
    };
    command.current_dir(&cwd).env_clear().envs(environment(exec, &user, &cwd));
    let cgroup = Cgroup::new();
    let procs = cgroup.as_ref().and_then(|cgroup| cgroup.procs().ok()).map(OwnedFd::from);
    let other =
        |what: &str, error: io::Error| AgentFailure::new(AgentFailureKind::Other, format!("cannot {what}: {error}"));
    let (streams, report) = match exec.tty {
        Some(size) => {
            let pty = Pty::open(size).map_err(|error| other("open a terminal in the guest", error))?;
            let (report, child_report) =
                pty::report_pipe().map_err(|error| other("make a pipe in the guest", error))?;
            let copy = || pty::duplicate(&pty.slave).map_err(|error| other("copy a terminal in the guest", error));
            command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
            (Some(Streams::Terminal { master: pty.master, report }), Some(child_report))
        }
        None => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            (None, None)
        }
    };
    let setup = ChildSetup::new(&user, procs.as_ref(), report.as_ref());
    // SAFETY: the closure makes async-signal-safe calls only.
    unsafe { command.pre_exec(move || setup.apply()) };
    let mut child = command.spawn().map_err(|error| not_started(exec, &cwd, &error))?;
    let streams = streams.unwrap_or_else(|| Streams::Pipes {
        stdin: child.stdin.take().expect("piped").into(),
        stdout: child.stdout.take().expect("piped").into(),
        stderr: child.stderr.take().expect("piped").into(),
    });
    Ok(Spawned { child, streams, cgroup })
}

/// Where it runs.
fn folder(exec: &Exec, user: &User) -> PathBuf {
    match exec.cwd.0.is_empty() {
        // As login(1) does.
        true if !user.home.is_dir() => PathBuf::from("/"),
        true => user.home.clone(),
        false => PathBuf::from(exec.cwd.as_os_str()),
    }
}

/// The agent's own program by another name: its file is in no file system that the guest sees.
fn own(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name);
    command
}

fn command(exec: &Exec, user: &User) -> Result<Command, AgentFailure> {
    if exec.argv.iter().any(|argument| argument.0.contains(&0)) {
        return Err(AgentFailure::new(AgentFailureKind::BadRequest, "an argument holds a NUL byte"));
    }
    if exec.shell {
        return of_line(exec, user);
    }
    if let Some((program, arguments)) = exec.argv.split_first() {
        let mut command = Command::new(program.as_os_str());
        command.args(arguments.iter().map(|argument| argument.as_os_str()));
        return Ok(command);
    }
    let shell = shell(user).ok_or_else(|| {
        AgentFailure::new(
            AgentFailureKind::CommandNotFound,
            format!("the image has no shell (`{}`)", user.shell.display()),
        )
    })?;
    let mut command = Command::new(shell);
    // A leading dash makes it a login shell: login(1).
    command.arg0(format!("-{}", shell.file_name().unwrap_or(OsStr::new("sh")).to_string_lossy()));
    Ok(command)
}

fn shell(user: &User) -> Option<&Path> {
    [user.shell.as_path(), Path::new("/bin/sh")].into_iter().find(|shell| shell.exists())
}

/// A line for the user's shell. Where the image has none, one that is words and no more is
/// understood without.
fn of_line(exec: &Exec, user: &User) -> Result<Command, AgentFailure> {
    let [line] = exec.argv.as_slice() else {
        return Err(AgentFailure::new(AgentFailureKind::BadRequest, "a shell is given one line"));
    };
    if let Some(shell) = shell(user) {
        let mut command = Command::new(shell);
        command.arg0(shell.file_name().unwrap_or(OsStr::new("sh"))).arg("-c").arg(line.as_os_str());
        return Ok(command);
    }
    let means_itself = |byte: &u8| byte.is_ascii_alphanumeric() || b" +,-./:=@_%^".contains(byte) || *byte >= 0x80;
    let mut words = line.0.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    match words.next().filter(|_| line.0.iter().all(means_itself)) {
        Some(program) => {
            let mut command = Command::new(OsStr::from_bytes(program));
            command.args(words.map(OsStr::from_bytes));
            Ok(command)
        }
        None => {
            let message = format!("the image has no shell (`{}`) to understand: {line}", user.shell.display());
            Err(AgentFailure::new(AgentFailureKind::CommandNotFound, message))
        }
    }
}

fn environment(exec: &Exec, user: &User, cwd: &Path) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let mut env: Vec<_> = [
        ("PATH", OsStr::new(DEFAULT_PATH)),
        ("HOME", user.home.as_os_str()),
        ("USER", OsStr::new(&user.name)),
        ("LOGNAME", OsStr::new(&user.name)),
        ("SHELL", user.shell.as_os_str()),
        ("PWD", cwd.as_os_str()),
    ]
    .map(|(name, value)| (name.into(), value.to_owned()))
    .into();
    // Files of the workspace are root's, or those of its `owner`, in which git sees a trap for
    // other users: "safe.directory", git-config(1).
    if user.uid != 0 || std::fs::metadata(cwd).is_ok_and(|cwd| cwd.uid() != user.uid) {
        let trust = [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")];
        env.extend(trust.map(|(name, value)| (name.into(), value.into())));
    }
    env.extend(exec.env.iter().map(|(name, value)| (name.as_os_str().to_owned(), value.as_os_str().to_owned())));
    env
}

/// Why the exec failed, as a shell would tell them apart.
fn not_started(exec: &Exec, cwd: &Path, error: &io::Error) -> AgentFailure {
    let name = exec.argv.first().map(ToString::to_string).unwrap_or_default();
    let name = if exec.shell { name.split(' ').find(|word| !word.is_empty()).unwrap_or_default() } else { &name };
    let is_path = name.contains('/');
    let exists = is_path && fs::symlink_metadata(cwd.join(name)).is_ok();
    match error.raw_os_error() {
        Some(libc::ENOENT) if exists => AgentFailure::new(
            AgentFailureKind::NotExecutable,
            format!("`{name}` cannot run in the guest: the interpreter or loader it names does not exist there"),
        ),
        Some(libc::ENOENT | libc::ENOTDIR) => {
            let what = if is_path { "no such file in the guest" } else { "command not found in the guest" };
            AgentFailure::new(AgentFailureKind::CommandNotFound, format!("`{name}`: {what}"))
        }
        _ => AgentFailure::new(
            AgentFailureKind::NotExecutable,
            format!("`{name}` cannot run in the guest: {}", reason(error)),
        ),
    }
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES) => "it is not executable".into(),
        Some(libc::ENOEXEC) => "it is no program for this machine".into(),
        Some(libc::E2BIG) => "its arguments and environment are too long".into(),
        _ => error.to_string(),
    }
}

/// What happens in the child between fork and exec. Everything that allocates was done before.
struct ChildSetup {
    procs: Option<RawFd>,
    report: Option<RawFd>,
    oom: CString,
    groups: Vec<libc::gid_t>,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

impl ChildSetup {
    fn new(user: &User, procs: Option<&OwnedFd>, report: Option<&OwnedFd>) -> Self {
        ChildSetup {
            procs: procs.map(AsRawFd::as_raw_fd),
            report: report.map(AsRawFd::as_raw_fd),
            oom: c"/proc/self/oom_score_adj".to_owned(),
            groups: user.groups.clone(),
            uid: user.uid,
            gid: user.gid,
        }
    }

    fn apply(&self) -> io::Result<()> {
        let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: async-signal-safe calls with pointers into `self`, which outlives them.
        unsafe {
            if let Some(procs) = self.procs {
                libc::write(procs, c"0".as_ptr().cast(), 1);
            }
            // The agent itself is exempt from the OOM killer; what it runs is not.
            let oom = libc::open(self.oom.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if oom >= 0 {
                libc::write(oom, c"0".as_ptr().cast(), 1);
                libc::close(oom);
            }
            libc::umask(0o022);
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            match self.report {
                Some(report) => pty::lead_session(report)?,
                None => check(libc::setsid())?,
            }
            check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
            check(libc::setgid(self.gid))?;
            check(libc::setuid(self.uid))
        }
    }
}

/// Sends `signal` to a command's process group, and if that is gone, nowhere.
pub(super) fn signal_group(group: Pid, signal: i32) {
    // SAFETY: kill(2) has no memory effects; the group is one that the agent made.
    unsafe { libc::kill(-group.as_raw(), signal) };
}
