//! `banger-vmm confine`: the process between a supervisor and its VMM. It makes the
//! [namespaces](super::namespaces), the [root](super::root) and the network of the VMM, runs it, and
//! waits. Its end is that of the VMM, by the same status; it dies with its supervisor, and the VMM
//! with it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, io, process};

use banger_util::process::Process;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use serde::{Deserialize, Serialize};

use super::namespaces::{self, Namespace};
use super::{Confinement, Prepared, Rules, drop_capabilities, root};
use crate::error::Failure;
use crate::host::die_with;
use crate::network::{Obstacle, devices};

/// How `banger-vmm` is told to be a launcher, with the number of the descriptor of its [`Order`].
pub const CONFINE: &str = "confine";
/// Has a launcher kill its VMM. The launcher's own end is then still that of the VMM.
pub(super) const KILL: Signal = Signal::SIGUSR1;
/// No order is longer, in bytes.
const MAX_ORDER: u64 = 1 << 20;

/// What a launcher is to run: a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) rules: Rules,
    /// What the VMM inherits, besides standard input, output and error.
    pub(super) descriptors: Vec<RawFd>,
    /// Whether it needs a network device.
    pub(super) network: bool,
    /// A descriptor that the launcher holds until its end.
    pub(super) held: Option<RawFd>,
}

/// What a launcher reports: a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The network devices are there, in the namespaces of this process.
    Devices,
    /// The VMM runs. The last report.
    Started { pid: i32, confinement: Confinement },
    /// It does not. The last report.
    Failed(Failure),
}

/// The whole of `banger-vmm confine`.
pub fn run() -> ExitCode {
    let descriptor = env::args().nth(2).and_then(|number| number.parse().ok()).filter(|number| *number > 2);
    let Some(descriptor) = descriptor else { return ExitCode::FAILURE };
    // SAFETY: this process has opened nothing yet that could have this number.
    let control = unsafe { UnixStream::from_raw_fd(descriptor) };
    let mut reports = Reports(control);
    match reports.read_order().and_then(|order| Ok((start(&order, &mut reports)?, order.held))) {
        Ok((started, held)) => {
            let pid = Pid::from_raw(started.0);
            if reports.send(&Report::Started { pid: started.0, confinement: started.1 }).is_err() {
                // Nobody waits for the VMM any more.
                return ExitCode::FAILURE;
            }
            wait_for(pid, held)
        }
        Err(failure) => {
            // A supervisor that is gone has no use for it.
            let _ = reports.send(&Report::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// The whole of `banger-vmm probe-network`: makes what a VMM's network needs, in namespaces that go
/// with this process, and says on standard output what is wrong.
pub fn run_network_probe() -> ExitCode {
    let namespaces = namespaces::enter().unwrap_or_default();
    match make_devices(&namespaces) {
        Ok(()) => ExitCode::SUCCESS,
        Err(obstacle) => {
            // Whoever asked may be gone.
            let _ = serde_json::to_writer(io::stdout(), &obstacle);
            ExitCode::FAILURE
        }
    }
}

struct Reports(UnixStream);

impl Reports {
    fn read_order(&mut self) -> Result<Order, Failure> {
        let mut line = Vec::new();
        let read = BufReader::new(&self.0).take(MAX_ORDER).read_until(b'\n', &mut line);
        read.map_err(|error| failed("read what to run", &error))?;
        serde_json::from_slice(&line).map_err(|error| failed("understand what to run", &error.into()))
    }

    fn send(&mut self, report: &Report) -> io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

fn failed(action: &str, error: &io::Error) -> Failure {
    Failure::new(format!("cannot confine the VMM: cannot {action}: {error}"))
}

/// Starts the VMM, and returns its pid.
fn start(order: &Order, reports: &mut Reports) -> Result<(i32, Confinement), Failure> {
    let supervisor = getppid();
    block_signals().map_err(|error| failed("block signals", &error))?;
    let namespaces = namespaces::enter().map_err(|error| failed("make namespaces", &error))?;
    // Rights that are gained in a user namespace may have undone this: prctl(2).
    die_with(supervisor).map_err(|error| failed("watch the supervisor", &error))?;
    if order.network {
        make_devices(&namespaces).map_err(|Obstacle { reason, hint }| {
            Failure::new(format!("cannot connect the VM to a network: {reason}")).with_hint(hint)
        })?;
        reports.send(&Report::Devices).map_err(|error| failed("report", &error))?;
    }
    if namespaces.contains(&Namespace::Mount) {
        root::enter(&order.rules).map_err(|(action, error)| failed(&action, &error))?;
    }
    // In its new root, since these rules hold what they name open.
    let rules = order.rules.prepare().map_err(|error| failed("prepare its rules", &error))?;
    let confinement = rules.confinement().clone().within(namespaces, &order.rules);
    let pid = spawn(order, rules).map_err(|error| not_run(order, &error))?;
    Ok((pid, confinement))
}

/// Why the VMM's program could not be run where it sees the VM's files only.
fn not_run(order: &Order, error: &io::Error) -> Failure {
    let name = order.program.display();
    if error.kind() == io::ErrorKind::NotFound && order.program.exists() && order.directory.exists() {
        // execve(2): ENOENT is about the interpreter as well.
        let reason = "it is a script or needs shared libraries, and can see neither where it is confined";
        return Failure::new(format!("cannot run {name}: {reason}")).with_hint("use a statically linked program");
    }
    Failure::new(format!("cannot run {name}, confined to the VM's files: {error}"))
}

fn make_devices(namespaces: &[Namespace]) -> Result<(), Obstacle> {
    if namespaces.contains(&Namespace::Network) { devices::make() } else { Err(Obstacle::no_namespaces()) }
}

fn spawn(order: &Order, rules: Prepared) -> io::Result<i32> {
    let launcher = Process::open(getpid().as_raw())?.map(OwnedFd::from).ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(&order.program);
    command.args(&order.arguments).env_clear().current_dir(&order.directory);
    let descriptors = order.descriptors.clone();
    // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows, and no
    // allocation.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            rules.apply()?;
            for descriptor in &descriptors {
                // SAFETY: the supervisor has passed this descriptor on for the VMM.
                if libc::fcntl(*descriptor, libc::F_SETFD, 0) == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // Had the launcher died before that, nobody would tell this process. A parent in another
            // pid namespace has no number here: pid_namespaces(7).
            let mut ended = [PollFd::new(launcher.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ended, PollTimeout::ZERO)? == 0 { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
        });
    }
    Ok(command.spawn()?.id().cast_signed())
}

/// Signals that would end this process before the VMM, or that it waits for.
fn block_signals() -> io::Result<()> {
    Ok(waited().thread_block()?)
}

fn waited() -> SigSet {
    [Signal::SIGCHLD, KILL, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect()
}

/// Waits for the VMM, with nothing open but `held`, and ends as it did.
fn wait_for(vmm: Pid, held: Option<RawFd>) -> ! {
    close_all_but(held);
    // It is no harm if that fails: what it waits for cannot reach it.
    let _ = drop_capabilities();
    let signals = waited();
    loop {
        let mut status = 0;
        // SAFETY: the call writes to `status` only.
        match unsafe { libc::waitpid(vmm.as_raw(), &raw mut status, libc::WNOHANG) } {
            0 => {}
            ended if ended == vmm.as_raw() => end_as(status),
            _ => process::exit(1),
        }
        if signals.wait() == Ok(KILL) {
            // It is not reaped yet, so nobody else has its pid.
            let _ = kill(vmm, Signal::SIGKILL);
        }
    }
}

/// Ends this process with a status of wait(2).
fn end_as(status: i32) -> ! {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        // SAFETY: this process has one thread, and no handler that expects anything.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
            libc::kill(libc::getpid(), signal);
        }
    }
    process::exit(libc::WEXITSTATUS(status))
}

fn close_all_but(held: Option<RawFd>) {
    let close = |from: u32, to: u32| {
        // SAFETY: from here on, this process uses no descriptor.
        unsafe { libc::close_range(from, to, 0) };
    };
    match held.map(RawFd::cast_unsigned) {
        Some(held) => {
            close(0, held - 1);
            close(held + 1, u32::MAX);
        }
        None => close(0, u32::MAX),
    }
}
