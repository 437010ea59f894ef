//! `banger-vmm confine`: the process between a supervisor and its VMM. It makes the
//! [namespaces](super::namespaces), the [root](super::root) and the network of the VMM, runs it, and
//! waits. Its end is that of the VMM, by the same status; it dies with its supervisor, and the VMM
//! with it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, io, process};

use banger_util::process::Process;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{ForkResult, Pid, Uid, fork, geteuid, getpid, getppid, pause};
use serde::{Deserialize, Serialize};

use super::jail::{Mounts, Owners};
use super::namespaces::{self, Namespace};
use super::{Confinement, Jail, Prepared, Rules, drop_capabilities, root};
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
    pub(super) jail: Option<Jail>,
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
        Ok((Started { vmm, first, confinement }, held)) => {
            if reports.send(&Report::Started { pid: vmm.as_raw(), confinement }).is_err() {
                // Nobody waits for the VMM any more.
                return ExitCode::FAILURE;
            }
            wait_for(vmm, first, held)
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
    let namespaces = namespaces::enter(&Namespace::ALL).unwrap_or_default();
    match make_devices(&namespaces, geteuid()) {
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

/// A VMM that runs.
struct Started {
    vmm: Pid,
    /// The first process of its pid namespace, with which it ends: it is that itself, or it is in a
    /// jail.
    first: Pid,
    confinement: Confinement,
}

/// Starts the VMM.
fn start(order: &Order, reports: &mut Reports) -> Result<Started, Failure> {
    let supervisor = getppid();
    block_signals().map_err(|error| failed("block signals", &error))?;
    let owners = order.jail.as_ref().map(Owners::map).transpose();
    let owners = owners.map_err(|error| failed("map the owners of files", &error))?;
    // The jailer makes devices, for which root of a user namespace has no right.
    let kinds = if order.jail.is_some() { &Namespace::WITHOUT_USER[..] } else { &Namespace::ALL };
    let namespaces = namespaces::enter(kinds).map_err(|error| failed("make namespaces", &error))?;
    // Rights that are gained in a user namespace may have undone this: prctl(2).
    die_with(supervisor).map_err(|error| failed("watch the supervisor", &error))?;
    if order.network {
        let user = order.jail.as_ref().map_or_else(geteuid, |jail| Uid::from_raw(jail.user));
        make_devices(&namespaces, user).map_err(|Obstacle { reason, hint }| {
            Failure::new(format!("cannot connect the VM to a network: {reason}")).with_hint(hint)
        })?;
        reports.send(&Report::Devices).map_err(|error| failed("report", &error))?;
    }
    if let Some((jail, owners)) = order.jail.as_ref().zip(owners) {
        return start_in(jail, &owners, namespaces, order);
    }
    if namespaces.contains(&Namespace::Mount) {
        root::enter(&order.rules, || Ok(())).map_err(|(action, error)| failed(&action, &error))?;
    }
    // In its new root, since these rules hold what they name open.
    let rules = order.rules.prepare().map_err(|error| failed("prepare its rules", &error))?;
    let confinement = rules.confinement().clone().within(namespaces, &order.rules);
    let program = Program { path: &order.program, arguments: &order.arguments, directory: &order.directory };
    let vmm = spawn(&program, &order.descriptors, rules).map_err(|error| not_run(order, &error))?;
    Ok(Started { vmm, first: vmm, confinement })
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

/// Starts the VMM by the jailer, which finds both programs and the jail, and no other file.
fn start_in(jail: &Jail, owners: &Owners, namespaces: Vec<Namespace>, order: &Order) -> Result<Started, Failure> {
    if !namespaces.contains(&Namespace::Mount) || !namespaces.contains(&Namespace::Pid) {
        let Obstacle { reason, hint } = Obstacle::no_namespaces();
        return Err(Failure::new(format!("the jailer cannot run the VMM: {reason}")).with_hint(hint));
    }
    let refused = |(action, error): (String, io::Error)| failed(&action, &error);
    let Order { rules, directory, program, arguments, .. } = order;
    let mounts = Mounts::new(jail, owners, directory, program, &rules.writable).map_err(refused)?;
    let arguments = mounts.arguments(jail, arguments);
    let programs = Rules { readable: vec![jail.jailer.clone(), program.clone()], ..Rules::default() };
    root::enter(&programs, || mounts.attach(jail)).map_err(refused)?;
    let prepared = rules.prepare_for(jail).map_err(|error| failed("prepare its rules", &error))?;
    let confinement = prepared.confinement().clone().within(namespaces, rules);
    let run = |error: io::Error| Failure::new(format!("cannot run {}: {error}", jail.jailer.display()));
    let first = spawn_first().map_err(run)?;
    let jailer = Program { path: &jail.jailer, arguments: &arguments, directory: Path::new("/") };
    let vmm = spawn(&jailer, &[], prepared).map_err(run)?;
    Ok(Started { vmm, first, confinement })
}

/// Starts a process that does nothing, as the first of the pid namespace: when it ends, the kernel
/// ends all others there (pid_namespaces(7)). It dies with the launcher. The VMM does not by itself
/// when the jailer runs it, because who becomes another user is told of no parent's death: prctl(2).
fn spawn_first() -> io::Result<Pid> {
    let launcher = this_process()?;
    // SAFETY: there is no other thread, so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let is_watched = drop_capabilities().and_then(|()| watch(&launcher)).is_ok();
            close_all_but(None);
            if !is_watched {
                process::exit(1);
            }
            loop {
                pause();
            }
        }
        ForkResult::Parent { child } => Ok(child),
    }
}

/// A descriptor of the launcher, for its children.
fn this_process() -> io::Result<OwnedFd> {
    Ok(Process::open(getpid().as_raw())?.map(OwnedFd::from).ok_or(io::ErrorKind::NotFound)?)
}

/// Has this process die with the launcher. It makes only system calls that signal-safety(7) allows.
fn watch(launcher: &OwnedFd) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Had the launcher died before that, nobody would tell this process. A parent in another pid
    // namespace has no number here: pid_namespaces(7).
    let mut ended = [PollFd::new(launcher.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ended, PollTimeout::ZERO)? == 0 { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
}

fn make_devices(namespaces: &[Namespace], user: Uid) -> Result<(), Obstacle> {
    if namespaces.contains(&Namespace::Network) { devices::make(user) } else { Err(Obstacle::no_namespaces()) }
}

/// What a launcher runs.
struct Program<'a> {
    path: &'a Path,
    arguments: &'a [OsString],
    directory: &'a Path,
}

fn spawn(program: &Program<'_>, descriptors: &[RawFd], rules: Prepared) -> io::Result<Pid> {
    let launcher = this_process()?;
    let mut command = Command::new(program.path);
    command.args(program.arguments).env_clear().current_dir(program.directory);
    let descriptors = descriptors.to_vec();
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
            watch(&launcher)
        });
    }
    Ok(Pid::from_raw(command.spawn()?.id().cast_signed()))
}

/// Signals that would end this process before the VMM, or that it waits for.
fn block_signals() -> io::Result<()> {
    Ok(waited().thread_block()?)
}

fn waited() -> SigSet {
    [Signal::SIGCHLD, KILL, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect()
}

/// Waits for the VMM, which ends with the process `first`, with nothing open but `held`, and ends as
/// it did.
fn wait_for(vmm: Pid, first: Pid, held: Option<RawFd>) -> ! {
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
            let _ = kill(first, Signal::SIGKILL);
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
