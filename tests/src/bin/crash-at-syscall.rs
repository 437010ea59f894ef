//! Runs a command and kills it, or what it starts, at its n-th step. For tests.
//!
//! ```text
//! crash-at-syscall --of NAME… [--kill vmm] --at N --report FILE [--seize PID] [--linger MS] -- COMMAND…
//! ```
//!
//! A step is a system call that changes what others can see: files, names, locks, messages,
//! processes. Consecutive writes to one descriptor are one. The processes called NAME are counted,
//! and the one that is about to take the N-th step dies before it; with `--kill vmm` it is the VMM
//! that dies, with the guest that takes the step. The kernel tells of system calls (ptrace(2)), so
//! nothing of what is tested knows of this. With `--seize`, a process that runs already is followed
//! too; with `--linger`, what the command leaves running is followed for that long after its end.
//!
//! FILE gets one line of JSON: the command's `status`, the `steps` that were counted, and the
//! system call at which it crashed, `crashed_at`.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() -> ExitCode {
    match Injection::parse() {
        Some((mut injection, command)) => injection.run(command),
        None => ExitCode::from(2),
    }
}

#[derive(Default)]
struct Injection {
    of: Vec<String>,
    vmm: bool,
    at: u64,
    report: PathBuf,
    seize: Vec<i32>,
    linger: Duration,

    steps: u64,
    crashed_at: Option<String>,
    targets: Vec<Pid>,
    /// What was written to last: a process and its descriptor.
    written: Option<(i32, u64)>,
}

impl Injection {
    fn parse() -> Option<(Injection, Command)> {
        let mut injection = Injection { at: u64::MAX, ..Injection::default() };
        let mut arguments = std::env::args_os().skip(1);
        loop {
            let option = arguments.next()?;
            let mut value = || arguments.next()?.into_string().ok();
            match option.to_str()? {
                "--of" => injection.of.push(value()?),
                "--kill" => injection.vmm = value()? == "vmm",
                "--at" => injection.at = value()?.parse().ok()?,
                "--report" => injection.report = value()?.into(),
                "--seize" => injection.seize.push(value()?.parse().ok()?),
                "--linger" => injection.linger = Duration::from_millis(value()?.parse().ok()?),
                "--" => break,
                _ => return None,
            }
        }
        // It waits until it is followed.
        let mut command = Command::new("sh");
        command.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).args(arguments);
        Some((injection, command))
    }

    fn run(&mut self, mut command: Command) -> ExitCode {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        for pid in &self.seize {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let thread = thread.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw);
                // One that has ended is no matter.
                let _ = thread.map(|thread| ptrace::seize(thread, options).and_then(|()| ptrace::interrupt(thread)));
            }
        }
        let Ok(child) = command.spawn() else { return ExitCode::from(2) };
        let main = Pid::from_raw(child.id().cast_signed());
        // Those that are seized leave nothing behind, when they are let go of, that would stop
        // their children for ever.
        let stopped = matches!(waitpid(main, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(..)));
        if !stopped || ptrace::seize(main, options).and_then(|()| kill(main, Signal::SIGCONT)).is_err() {
            return ExitCode::from(2);
        }
        let status = self.follow(main);
        // A signal is sent before it is taken: the next command shall not meet who is as good as
        // dead.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.targets.iter().any(|target| is_alive(*target)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let line =
            serde_json::json!({ "status": status, "steps": self.steps, "crashed_at": self.crashed_at }).to_string();
        // What still runs is let go of by this process's end.
        if fs::write(&self.report, line).is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) }
    }

    /// Follows everybody until the command has ended, and what it left for as long as was asked.
    /// Returns its status.
    fn follow(&mut self, main: Pid) -> i32 {
        let mut ended = None;
        loop {
            let all = Pid::from_raw(-1);
            let waited = match &ended {
                None => waitpid(all, Some(WaitPidFlag::__WALL)),
                Some((status, at)) if self.crashed_at.is_some() || Instant::now() >= *at => return *status,
                Some(_) => waitpid(all, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)),
            };
            let over = |code: i32, linger: Duration| Some((code, Instant::now() + linger));
            match waited {
                Ok(WaitStatus::Exited(pid, code)) if pid == main => ended = over(code, self.linger),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => {
                    ended = over(128 + signal as i32, self.linger);
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    self.syscall(pid);
                    let _ = ptrace::syscall(pid, None);
                }
                // Nobody cares for what others do, and to be followed is slow.
                Ok(WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC)) if !self.cares_for(&name(pid)) => {
                    let _ = ptrace::detach(pid, None);
                }
                Ok(WaitStatus::PtraceEvent(pid, ..)) => _ = ptrace::syscall(pid, None),
                Ok(WaitStatus::Stopped(pid, signal)) => _ = ptrace::syscall(pid, signal),
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
                Ok(_) | Err(Errno::EINTR) => {}
                // Nobody is left.
                Err(_) => return ended.map_or(2, |(status, _)| status),
            }
        }
    }

    fn cares_for(&self, name: &str) -> bool {
        name.starts_with("banger") || self.of.iter().any(|of| of == name)
    }

    fn syscall(&mut self, thread: Pid) {
        if self.crashed_at.is_some() {
            return;
        }
        let Ok(info) = ptrace::syscall_info(thread) else { return };
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return;
        }
        // SAFETY: `op` says which of the union's fields is there.
        let (number, arguments) = unsafe { (info.u.entry.nr, info.u.entry.args) };
        let Some(step) = Step::of(thread, number as i64, &arguments) else { return };
        let Some(process) = process_of(thread) else { return };
        if !self.of.contains(&name(process)) {
            return;
        }
        let written = step.written.map(|descriptor| (process.as_raw(), descriptor));
        if written.is_some() && written == self.written {
            return;
        }
        self.written = written;
        self.steps += 1;
        if self.steps == self.at {
            self.crashed_at = Some(step.what);
            let target = if self.vmm { vmm_of(process) } else { Some(process) };
            // The one that stands before its step dies at once, whenever the news of its VMM's
            // death comes to the guest.
            for target in target.into_iter().chain(self.vmm.then_some(process)) {
                let _ = kill(target, Signal::SIGKILL);
                self.targets.push(target);
            }
        }
    }
}

struct Step {
    what: String,
    /// The descriptor, where it is a write.
    written: Option<u64>,
}

impl Step {
    /// None: a system call that changes nothing for others.
    fn of(thread: Pid, number: i64, arguments: &[u64; 6]) -> Option<Step> {
        let described = |name: &str, at: usize| {
            let path = read_path(thread, arguments[at]);
            Some(Step { what: format!("{name} {path}"), written: None })
        };
        let plain = |name: &str| Some(Step { what: name.to_owned(), written: None });
        let on = |name: &str| {
            let file = fs::read_link(format!("/proc/{thread}/fd/{}", arguments[0])).unwrap_or_default();
            Some(Step { what: format!("{name} {}", file.display()), written: None })
        };
        match number {
            libc::SYS_openat if arguments[2] as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0 => described("openat", 1),
            libc::SYS_openat2 => {
                let flags = ptrace::read(thread, arguments[2] as *mut _).unwrap_or(0) as i32;
                (flags & (libc::O_CREAT | libc::O_TRUNC) != 0).then(|| described("openat2", 1)).flatten()
            }
            libc::SYS_open if arguments[1] as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0 => described("open", 0),
            libc::SYS_mkdir => described("mkdir", 0),
            libc::SYS_mkdirat => described("mkdirat", 1),
            libc::SYS_rename => described("rename", 0),
            libc::SYS_renameat | libc::SYS_renameat2 => described("renameat", 1),
            libc::SYS_unlink => described("unlink", 0),
            libc::SYS_rmdir => described("rmdir", 0),
            libc::SYS_unlinkat => described("unlinkat", 1),
            libc::SYS_link => described("link", 0),
            libc::SYS_linkat => described("linkat", 1),
            libc::SYS_symlink => described("symlink", 0),
            libc::SYS_symlinkat => described("symlinkat", 0),
            libc::SYS_chmod => described("chmod", 0),
            libc::SYS_fchmodat => described("fchmodat", 1),
            libc::SYS_utimensat => plain("utimensat"),
            libc::SYS_execve => described("execve", 0),
            libc::SYS_fsync => on("fsync"),
            libc::SYS_fdatasync => on("fdatasync"),
            libc::SYS_syncfs => on("syncfs"),
            libc::SYS_ftruncate => on("ftruncate"),
            libc::SYS_fallocate => on("fallocate"),
            libc::SYS_fchmod => on("fchmod"),
            libc::SYS_flock => on("flock"),
            libc::SYS_copy_file_range => plain("copy_file_range"),
            libc::SYS_sync => plain("sync"),
            libc::SYS_bind => plain("bind"),
            libc::SYS_listen => plain("listen"),
            libc::SYS_connect => plain("connect"),
            libc::SYS_shutdown => plain("shutdown"),
            libc::SYS_kill => plain("kill"),
            libc::SYS_mount => plain("mount"),
            libc::SYS_umount2 => plain("umount"),
            libc::SYS_unshare => plain("unshare"),
            libc::SYS_pivot_root => plain("pivot_root"),
            libc::SYS_reboot => plain("reboot"),
            libc::SYS_setsid => plain("setsid"),
            libc::SYS_fork | libc::SYS_vfork => plain("fork"),
            libc::SYS_clone if arguments[0] & libc::CLONE_THREAD as u64 == 0 => plain("clone"),
            libc::SYS_clone3 => {
                let flags = ptrace::read(thread, arguments[0] as *mut _).unwrap_or(0) as u64;
                (flags & libc::CLONE_THREAD as u64 == 0).then(|| plain("clone3")).flatten()
            }
            libc::SYS_exit_group => plain("exit_group"),
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
            | libc::SYS_sendto
            | libc::SYS_sendmsg => {
                let file = fs::read_link(format!("/proc/{thread}/fd/{}", arguments[0])).ok()?;
                // That wakes up a thread of its own.
                if file.as_os_str().as_encoded_bytes().starts_with(b"anon_inode:") {
                    return None;
                }
                Some(Step { what: format!("write {}", file.display()), written: Some(arguments[0]) })
            }
            _ => None,
        }
    }
}

/// A C string of a process that stands still.
fn read_path(thread: Pid, address: u64) -> String {
    let mut bytes = Vec::new();
    'words: while bytes.len() < 4096 {
        let Ok(word) = ptrace::read(thread, (address + bytes.len() as u64) as *mut _) else { break };
        for byte in word.to_ne_bytes() {
            if byte == 0 {
                break 'words;
            }
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status_field(pid: Pid, field: &str) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}

/// Whether it is there, and no zombie: proc_pid_status(5).
fn is_alive(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains(['Z', 'X']))
}

fn process_of(thread: Pid) -> Option<Pid> {
    status_field(thread, "Tgid:").map(Pid::from_raw)
}

fn name(process: Pid) -> String {
    fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The VMM that `process` is a guest's of: what a supervisor has started.
fn vmm_of(process: Pid) -> Option<Pid> {
    let mut process = process;
    loop {
        let parent = status_field(process, "PPid:").filter(|parent| *parent > 1).map(Pid::from_raw)?;
        if name(parent) == "banger-vmm" {
            return Some(process);
        }
        process = parent;
    }
}
