//! One VM, as a command sees it.

mod ports;
mod snapshot;
mod stop;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use banger_util::file::is_at;

pub use self::stop::Stopped;
use crate::activity::LastActivity;
use crate::client::{self, Connection};
use crate::confinement::Confinement;
use crate::console::{self, ConsoleLines};
use crate::error::{Error, IoContext, Result};
use crate::kvm::Accelerator;
use crate::launch::{self, Running, StartEvent, StartOptions};
use crate::owner::{self, Owner};
use crate::paths::StorePaths;
use crate::program::Programs;
use crate::record::{BackendKind, VmRecord};
use crate::run::{self, RunInfo, VmPhase};
use crate::vm_host::{self, AgentAccess, VmHost};
use crate::wire::{AgentInfo, Operation, SOCKET, Status};
use crate::{disk, file};

/// Held by the command that starts, changes or deletes a VM.
pub(crate) const OPERATION_LOCK: &str = "operation.lock";
/// A start may take this long, with a fallback from one accelerator to another, so others wait that
/// long for the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(300);
/// What a supervisor may take to say whether its VM is going down.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// A VM of a [`crate::VmStore`].
#[derive(Clone, Debug)]
pub struct Vm {
    name: String,
    /// The machine that has the VM.
    lives_on: Arc<dyn VmHost>,
    folder: PathBuf,
    host: PathBuf,
    programs: Programs,
    /// What makes this process the owner of an ephemeral VM.
    owner: Arc<OnceLock<File>>,
}

/// The right to start, change or delete a VM; given back when dropped.
#[derive(Debug)]
pub struct VmLock(#[expect(dead_code, reason = "closing the file is what unlocks it")] File);

/// The use of a running VM, which does not stop for being idle meanwhile; ends when dropped.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "closing the connection is what ends it")] Option<UnixStream>);

/// Where a VM is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmState {
    /// Neither its VMM nor its supervisor runs.
    Stopped {
        /// What ended the VM, if nobody asked for that. The next start forgets it.
        crash: Option<String>,
    },
    /// The VM boots.
    Starting,
    /// The VM's agent answers.
    Running {
        /// What runs the VM.
        backend: BackendKind,
        /// What runs the guest's instructions.
        accelerator: Accelerator,
        /// Why it is not Firecracker under KVM, if it is not and nobody asked for that.
        reason: Option<String>,
        /// The agent, as it introduced itself.
        agent: AgentInfo,
        /// The supervisor.
        pid: i32,
        /// What confines the VMM; none: nothing does, as under a supervisor of an earlier version.
        confinement: Option<Confinement>,
    },
    /// The VM runs, and its agent is lost. All that can be done is to stop it.
    Failed {
        /// What happened.
        reason: String,
    },
}

impl Vm {
    /// The record in a VM's folder.
    pub(crate) const RECORD: &str = vm_host::RECORD;
    /// The disk in a VM's folder.
    pub(crate) const DISK: &str = "disk.ext4";
    /// The workspace's disk in a VM's folder.
    pub(crate) const WORKSPACE: &str = vm_host::WORKSPACE;

    pub(crate) fn new(name: String, lives_on: Arc<dyn VmHost>, paths: &StorePaths, programs: Programs) -> Self {
        let (folder, host) = (paths.vms.join(&name), paths.host.clone());
        Vm { name, lives_on, folder, host, programs, owner: Arc::default() }
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The VM's folder. What others keep in it goes with the VM.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads what is written down about the VM.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was deleted meanwhile, [`Error::Newer`], [`Error::Damaged`], or
    /// the file system's refusal.
    pub fn record(&self) -> Result<VmRecord> {
        self.lives_on.record(&self.name)
    }

    /// Whether the VM is there. One that cannot be looked for is not.
    pub fn exists(&self) -> bool {
        self.lives_on.has(&self.name).unwrap_or(false)
    }

    /// Whether the VM has ever been started. One that has not holds no work of anybody.
    pub fn was_started(&self) -> bool {
        console::is_there(&self.folder)
    }

    /// Writes the record anew, for the next start. Disk size, name and identity are the disk's and
    /// stay what they are.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn set_record(&self, _lock: &VmLock, record: &VmRecord) -> Result<()> {
        record.check()?;
        record.write(&self.folder.join(Self::RECORD))
    }

    /// Waits for the right to start, change or delete the VM.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was deleted meanwhile, [`Error::Busy`] after five minutes.
    pub fn lock(&self) -> Result<VmLock> {
        if !self.folder.is_dir() {
            return Err(Error::NotFound(self.name.clone()));
        }
        let path = self.folder.join(OPERATION_LOCK);
        let lock = match file::open_lock(&path) {
            Err(_) if !self.folder.exists() => return Err(Error::NotFound(self.name.clone())),
            lock => lock?,
        };
        if !file::lock_within(&lock, &path, LOCK_PATIENCE)? {
            return Err(Error::Busy(self.name.clone()));
        }
        if is_at(&lock, &path) { Ok(VmLock(lock)) } else { Err(Error::NotFound(self.name.clone())) }
    }

    /// Whether the command that an ephemeral VM is for lives.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn owner(&self) -> Result<Owner> {
        owner::state(&self.folder)
    }

    /// Makes this process the VM's owner until the last clone of this value is dropped.
    pub(crate) fn own(&self, lock: File) {
        // Of two, either will do.
        let _ = self.owner.set(lock);
    }

    /// Where the VM is in its life: a lock is probed and a small file read, the supervisor is not
    /// asked.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn state(&self) -> Result<VmState> {
        // In this order: a supervisor that goes in between has removed its note.
        let alive = run::is_supervised(&self.folder)?;
        Ok(match (alive, RunInfo::read(&self.folder)?) {
            (false, info) => VmState::Stopped { crash: info.map(|info| info.crash()).transpose()? },
            (true, None) => VmState::Starting,
            (true, Some(info)) => match info.phase {
                VmPhase::Starting => VmState::Starting,
                VmPhase::Running { backend, accelerator, reason, agent } => VmState::Running {
                    backend: backend.unwrap_or(BackendKind::Qemu),
                    accelerator,
                    reason,
                    agent,
                    pid: info.pid,
                    confinement: info.confinement,
                },
                VmPhase::Failed { reason } => VmState::Failed { reason },
            },
        })
    }

    /// Starts the VM, and follows it until its agent answers. Who holds the lock also waits for the
    /// VM if it was starting already.
    ///
    /// The VM goes on to boot if the caller dies. An ephemeral VM whose owner has ended is this
    /// process's from now on.
    ///
    /// # Errors
    /// [`Error::Boot`] with the last lines of the guest's console, [`Error::ProgramMissing`]
    /// without QEMU, or the file system's refusal.
    pub fn start(&self, _lock: &VmLock, options: &StartOptions, on_event: impl FnMut(StartEvent)) -> Result<Running> {
        if run::is_supervised(&self.folder)? {
            if options.restore.is_some() {
                return Err(Error::Running(self.name.clone()));
            }
            // Whoever started it is dead, or it would have the lock.
            match self.connect_agent().and_then(|_| self.status()) {
                Ok(Status { accelerator: Some(accelerator), agent: Some(agent), .. }) => {
                    let backend = match self.state()? {
                        VmState::Running { backend, .. } => backend,
                        _ => BackendKind::Qemu,
                    };
                    return Ok(Running { backend, accelerator, agent });
                }
                Ok(_) | Err(Error::GoingDown(_) | Error::NotRunning(_)) => self.wait_until_down()?,
                Err(error) => return Err(error),
            }
        }
        let record = self.record()?;
        if record.ephemeral
            && self.owner.get().is_none()
            && let Some(owner) = owner::claim(&self.folder)?
        {
            self.own(owner);
        }
        // A guest that goes on knows how large its disks are.
        if options.restore.is_none() {
            for disk in [Self::DISK, Self::WORKSPACE] {
                disk::grow(&self.folder.join(disk), record.disk_bytes)?;
            }
        }
        launch::start(&self.name, &self.folder, &self.host, &self.programs, options, on_event)
    }

    /// A stream to the guest's agent: each carries one operation. Waits while the VM starts.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or [`Error::Refused`] when the agent is lost.
    pub fn connect_agent(&self) -> Result<UnixStream> {
        self.lives_on.connect_agent(&self.name, AgentAccess::Use)
    }

    /// A stream to the guest's agent for looking how the VM is, which does not keep it from
    /// stopping for being idle. The stream is there within `limit`, or it is an error.
    ///
    /// # Errors
    /// As [`Vm::connect_agent`].
    pub fn watch_agent(&self, limit: Duration) -> Result<UnixStream> {
        self.lives_on.connect_agent(&self.name, AgentAccess::Look(limit))
    }

    /// Keeps a running VM from stopping for being idle, and sets its idle timeout, in milliseconds
    /// (0: never). None: the VM is going down, or down; see [`Vm::wait_until_down`]. A VM that has
    /// failed is not held, which is no error here: its next operation fails.
    ///
    /// # Errors
    /// [`Error::TooManyClients`], [`Error::Refused`], or the file system's refusal.
    pub fn hold(&self, idle_timeout_ms: u64) -> Result<Option<Hold>> {
        match self.connect().and_then(|connection| connection.hold(idle_timeout_ms)) {
            Ok(stream) => Ok(Some(Hold(stream))),
            // The last of these is what a supervisor that ends at this moment leaves one with.
            Err(Error::GoingDown(_) | Error::NotRunning(_) | Error::Supervisor { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is known of the VM's last use; of its changes, nothing if it ended badly since.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn last_activity(&self) -> Result<Option<LastActivity>> {
        let mut activity = LastActivity::read(&self.folder)?;
        if let Some(activity) = &mut activity
            && !run::is_supervised(&self.folder)?
            && RunInfo::read(&self.folder)?.is_some()
        {
            activity.guest_only = None;
        }
        Ok(activity)
    }

    /// Whether the VM is going down in order. False also if its supervisor does not answer within a
    /// second.
    pub fn is_going_down(&self) -> bool {
        let status = client::connect(&self.name, &self.folder)
            .and_then(|connection| connection.within(LOOK_PATIENCE).ask::<Status>(&Operation::Status));
        status.is_ok_and(|status| status.going_down)
    }

    /// Asks the supervisor how the VM is.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or [`Error::Supervisor`] if it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.connect()?.ask(&Operation::Status)
    }

    /// The last lines of the guest's console, made printable.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn console_tail(&self, lines: usize) -> Result<Vec<String>> {
        console::tail(&self.folder, lines)
    }

    /// The last lines of the guest's console in its last boot, made printable. Of a boot with much
    /// output the beginning may be missing.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn console_tail_of_boot(&self, lines: usize) -> Result<Vec<String>> {
        console::tail_of_boot(&self.folder, lines)
    }

    /// Opens a file for a file system with the VM's workspace, as long as the VM's disk.
    /// [`Vm::upload_workspace`] brings it to the VM.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn open_workspace(&self) -> Result<File> {
        self.lives_on.open_workspace(&self.name)
    }

    /// Brings a file of [`Vm::open_workspace`] to the VM as its workspace's disk. Only before the
    /// guest has been told to take that disk, which is blank in a new VM: from then on it is the
    /// guest's.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn upload_workspace(&self, disk: File) -> Result<()> {
        self.lives_on.upload_workspace(&self.name, disk)
    }

    /// All that is kept of the guest's console, as the guest wrote it, and a reader of what
    /// follows.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn console(&self) -> Result<(Vec<u8>, ConsoleLines)> {
        ConsoleLines::open(&self.folder)
    }

    /// The space that the VM's disks take on the host, in bytes.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn disk_allocated(&self) -> Result<u64> {
        let allocated = |path: PathBuf| Ok(fs::metadata(&path).at("read", &path)?.blocks() * 512);
        // A VM of a version before there was one has no disk for its workspace.
        let workspace = fs::metadata(self.folder.join(Self::WORKSPACE)).map_or(0, |metadata| metadata.blocks() * 512);
        Ok(allocated(self.folder.join(Self::DISK))? + workspace)
    }

    /// Has the supervisor make its socket anew if somebody has removed it. True: the socket was
    /// gone. Every operation that connects does this too.
    ///
    /// # Errors
    /// [`Error::Supervisor`] if it does not.
    pub fn restore_socket(&self) -> Result<bool> {
        let is_there = fs::symlink_metadata(self.folder.join(SOCKET)).is_ok();
        Ok(!is_there && client::restore_socket(&self.name, &self.folder)?.is_some())
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        client::connect_or_restore(&self.name, &self.folder)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::LocalHost;
    use crate::error::{Failure, FailureKind};
    use crate::wire::{self, Hello, SupervisorFrame};

    /// What comes of holding a VM whose supervisor, of a version without hello, gives this answer
    /// to everything, or none.
    fn held(answer: Option<Failure>) -> Result<Option<Hold>> {
        let answer = answer.map(|failure| wire::frame(&SupervisorFrame::<()>::Error(failure)));
        held_by(&answer.unwrap_or_default())
    }

    /// What comes of holding a VM whose supervisor sends its hello, and this answer.
    fn held_after_hello(answer: Failure) -> Result<Option<Hold>> {
        let hello = wire::frame(&SupervisorFrame::<()>::Hello(Hello::of_supervisor()));
        held_by(&[hello, wire::frame(&SupervisorFrame::<()>::Error(answer))].concat())
    }

    fn held_by(sent: &[u8]) -> Result<Option<Hold>> {
        let folder = tempfile::tempdir().unwrap();
        let [vms, host, cache] = ["vms", "host", "cache"].map(|name| folder.path().join(name));
        let lives_on = Arc::new(LocalHost::new(&vms));
        let vm = Vm::new("vm".into(), lives_on, &StorePaths { vms, host, cache }, Programs::new("/usr/bin"));
        fs::create_dir_all(vm.folder()).unwrap();
        let socket = UnixListener::bind(vm.folder().join(SOCKET)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut client, _) = socket.accept().unwrap();
                client.write_all(sent).unwrap();
            });
            vm.hold(1000)
        })
    }

    #[test]
    fn supervisor_without_hold_request_need_not_be_held() {
        let failure = Failure::new("its supervisor does not know this request: unknown variant `use`");
        assert!(held(Some(failure)).unwrap().is_some());
    }

    #[test]
    fn hold_of_failed_vm_leaves_the_failure_to_the_next_operation() {
        let failed = || Failure::new("the guest's agent is gone").of_kind(FailureKind::VmFailed);
        assert!(held_after_hello(failed()).unwrap().is_some());
        // Versions without hello do not say which kind it is.
        assert!(held(Some(Failure::new("the guest's agent is gone"))).unwrap().is_some());
    }

    #[test]
    fn hold_fails_on_other_refusals_of_supervisor_with_idle_time() {
        let other = Failure::new("the guest's agent takes no more streams");
        let unknown = Failure::new("unknown").of_kind(FailureKind::UnknownOperation);
        for failure in [other, unknown] {
            let error = held_after_hello(failure).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error}");
        }
        assert!(held_after_hello(Failure::going_down()).unwrap().is_none());
    }

    #[test]
    fn hold_fails_while_the_supervisor_has_too_many_clients() {
        let failure = Failure::new("too many commands use the VM at once").of_kind(FailureKind::Busy);
        let error = held(Some(failure)).unwrap_err();
        assert!(matches!(error, Error::TooManyClients(_)), "{error}");
        assert_eq!(error.hint().as_deref(), Some("wait for one of them to end"));
    }

    #[test]
    fn stopping_vm_cannot_be_held() {
        assert!(held(Some(Failure::going_down())).unwrap().is_none());
        assert!(held(None).unwrap().is_none());
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn socket_of_another_user_is_refused() {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
        use nix::unistd::geteuid;
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can be another user");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let [vms, host, cache] = ["vms", "host", "cache"].map(|name| folder.path().join(name));
        let lives_on = Arc::new(LocalHost::new(&vms));
        let vm = Vm::new("vm".into(), lives_on, &StorePaths { vms, host, cache }, Programs::new("/usr/bin"));
        fs::create_dir_all(vm.folder()).unwrap();
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let path = vm.folder().join(SOCKET);
        bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(&path).unwrap()).unwrap();
        // Who listens is who the client sees. The system call is of this thread alone, as glibc's
        // function is not.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: changes the identity of a thread that ends.
                assert_eq!(unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, -1, 65534, -1) }, 0);
                listen(&listener, Backlog::new(1).unwrap()).unwrap();
            });
        });
        let error = vm.connect_agent().unwrap_err().to_string();
        assert!(error.contains("served by another user, of uid 65534"), "{error}");
    }
}
