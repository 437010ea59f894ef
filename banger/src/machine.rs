//! The VM of a workspace: found, made, started, stopped.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use banger_agent::VERSION;
use banger_agent::protocol::{Request, Stat};
use banger_vmm::{
    AcceleratorChoice, Hold, NetMode, Programs, Ready, StartEvent, StartOptions, StorePaths, Vm, VmLock, VmRecord,
    VmState, VmStore, initramfs,
};

use crate::agent::Call;
use crate::belonging::{self, Belongs, Purpose};
use crate::config::Settings;
use crate::error::{CommandError, ErrorKind};
use crate::git::{Host, Workspace};
use crate::images::Images;
use crate::paths::{Paths, helper, search_path};
use crate::post_mortem;
use crate::report::{Phase, Report};
use crate::ui::Ui;
use crate::units;

/// The image that a new VM has if nothing else is said.
pub const DEFAULT_IMAGE: &str = "debian-bookworm";
/// The kernel that a pulled image boots if nothing else is said.
pub const DEFAULT_KERNEL: &str = "generic-6.12";
/// The accelerator to use (`kvm` or `tcg`), for who knows better than the probe.
const ACCELERATOR: &str = "BANGER_ACCELERATOR";
/// How long a guest may take until its agent answers, such as `5m`, for who has a machine that is slower than most.
const BOOT_TIMEOUT: &str = "BANGER_BOOT_TIMEOUT";
/// The most memory that a VM has by default, in MiB.
const DEFAULT_MEMORY: u64 = 4096;

/// What a command wants of its VM. None: what there is, or the default.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Image of a new VM.
    pub image: Option<String>,
    /// Image of a new VM where no other is wanted.
    pub default_image: Option<String>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Size of a new VM's disk, in bytes.
    pub disk_bytes: Option<u64>,
    /// Network of a new VM.
    pub net: Option<NetMode>,
    /// After how long without a command it stops by itself; zero: never.
    pub idle_timeout: Option<Duration>,
}

impl From<&Settings> for Wanted {
    fn from(settings: &Settings) -> Self {
        Wanted {
            image: settings.wanted_image().map(str::to_owned),
            default_image: Some(settings.image().to_owned()),
            cpus: settings.cpus(),
            memory_mib: settings.memory_mib(),
            disk_bytes: settings.disk_bytes(),
            net: settings.net(),
            idle_timeout: Some(settings.idle_timeout()),
        }
    }
}

/// A VM that runs.
pub struct Machine {
    /// The VM.
    pub vm: Vm,
    /// When it counts as started.
    pub ready: Ready,
    /// How it reaches other machines.
    pub net: NetMode,
    /// How long it took to start, if it had to be.
    pub boot: Option<Duration>,
    /// Its supervisor, if it was seen.
    pub(crate) supervisor: Option<i32>,
    /// It does not stop for being idle before this is dropped.
    _hold: Hold,
}

/// A VM that was found running, or started.
struct Up {
    ready: Ready,
    net: NetMode,
    boot: Option<Duration>,
    idle_timeout_ms: u64,
}

/// The VMs of workspaces.
pub struct Machines<'a> {
    store: VmStore,
    paths: &'a Paths,
    ui: &'a Ui,
    report: Option<&'a Report>,
}

impl<'a> Machines<'a> {
    /// All VMs below the user's folders.
    pub fn new(paths: &'a Paths, ui: &'a Ui) -> Self {
        let store = StorePaths { vms: paths.vms(), host: paths.data.join("host"), cache: paths.cache.clone() };
        Machines { store: VmStore::new(store, Programs::new(search_path())), paths, ui, report: None }
    }

    /// The same; what is done is noted in `report`.
    #[must_use]
    pub fn reported(mut self, report: &'a Report) -> Self {
        self.report = Some(report);
        self
    }

    fn time<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        match self.report {
            Some(report) => report.time(phase, work),
            None => work(),
        }
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn all(&self) -> Result<Vec<Vm>, CommandError> {
        Ok(self.store.list()?)
    }

    /// The names of all.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn names(&self) -> Result<Vec<String>, CommandError> {
        Ok(self.all()?.iter().map(|vm| vm.name().to_owned()).collect())
    }

    /// The VM of this name, if there is one.
    ///
    /// # Errors
    /// If it can be nobody's name, or the store cannot be read.
    pub fn named(&self, name: &str) -> Result<Option<Vm>, CommandError> {
        Ok(self.store.get(name)?)
    }

    /// The store that they are in.
    pub fn store(&self) -> &VmStore {
        &self.store
    }

    /// The VM of `workspace`, if it has one.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn find(&self, workspace: &Workspace) -> Result<Option<Vm>, CommandError> {
        Ok(belonging::find(&self.store, &name(workspace), workspace)?.map(|(vm, _)| vm))
    }

    /// The same; a VM whose repository was moved goes along, and one of a repository that was replaced is none.
    fn adopt(&self, workspace: &Workspace) -> Result<Option<Vm>, Started> {
        let found = belonging::find(&self.store, &name(workspace), workspace).map_err(CommandError::from)?;
        let Some((vm, belongs)) = found else { return Ok(None) };
        match belongs {
            Belongs::Here => {}
            Belongs::Moved { from } => {
                let lock = lock(&vm)?;
                let mut record = vm.record().map_err(CommandError::from)?;
                record.workspace = Purpose::new(workspace, false).to_value();
                vm.set_record(&lock, &record).map_err(CommandError::from)?;
                let (from, here) = (from.display(), workspace.root.display());
                self.ui.status(&format!("this repository was at {from}: its VM `{}` comes along to {here}", vm.name()));
            }
            Belongs::Replaced => {
                let message = format!(
                    "the VM `{}` belongs to another repository, which was at {} before this one",
                    vm.name(),
                    workspace.root.display()
                );
                let error = CommandError::new(message).kind(ErrorKind::RepositoryReplaced);
                return Err(error
                    .hint("make a new VM, without what that one has: banger delete")
                    .hint("get something out of it before: banger cp :PATH .")
                    .into());
            }
        }
        Ok(Some(vm))
    }

    /// A name for a new VM of `workspace`; none: there is one of it by now.
    fn free_name(&self, workspace: &Workspace) -> Result<Option<String>, CommandError> {
        let base = name(workspace);
        // One of the same name is for a repository that was here and is elsewhere now.
        for name in std::iter::once(base.clone()).chain((2..100).map(|number| format!("{base}-{number}"))) {
            match self.store.get(&name)? {
                None => return Ok(Some(name)),
                Some(vm) if belonging::is_at(&vm, &workspace.root) => return Ok(None),
                Some(_) => {}
            }
        }
        Err(CommandError::new(format!("there are too many VMs named `{base}`"))
            .hint("remove those nobody needs: banger prune"))
    }

    /// The VM of `workspace`, running: it is made and started if need be.
    ///
    /// # Errors
    /// If it cannot be made or started.
    pub fn ensure(&self, workspace: &Workspace, wanted: &Wanted) -> Result<Machine, CommandError> {
        loop {
            let vm = match self.adopt(workspace) {
                Ok(Some(vm)) => vm,
                Err(Started::Deleted) => continue,
                Err(Started::Failed(error)) => return Err(error),
                Ok(None) => match self.make(workspace, wanted) {
                    Ok(vm) => vm,
                    // Another command was faster.
                    Err(Made::Exists) => continue,
                    Err(Made::Failed(error)) => return Err(error),
                },
            };
            match self.machine(&vm, wanted) {
                Err(Started::Deleted) => continue,
                Err(Started::Failed(error)) => return Err(error),
                Ok(machine) => return Ok(machine),
            }
        }
    }

    /// A VM that [`Machines::find`] has found, running.
    ///
    /// # Errors
    /// If it cannot be started, or is gone.
    pub fn start_found(&self, vm: &Vm, wanted: &Wanted) -> Result<Machine, CommandError> {
        let start = || {
            self.machine(vm, wanted).map_err(|started| match started {
                Started::Deleted => CommandError::new("another command deleted the VM").kind(ErrorKind::VmNotFound),
                Started::Failed(error) => error,
            })
        };
        let machine = start()?;
        // One that was killed may have looked alive.
        match Call::ask::<Stat>(vm, &Request::Stat).map_err(CommandError::from) {
            Err(error) if error.kind.is_of_vm() && post_mortem::has_died(vm, Some(&machine)) => start(),
            _ => Ok(machine),
        }
    }

    fn make(&self, workspace: &Workspace, wanted: &Wanted) -> Result<Vm, Made> {
        let name = self.free_name(workspace)?.ok_or(Made::Exists)?;
        self.create(workspace, wanted, name, false)
    }

    /// Whether the VM of `workspace` has ended without anybody's wish, a moment ago or just now; or has been started again since it
    /// was `used`.
    pub fn has_died(&self, workspace: &Workspace, used: Option<&Machine>) -> bool {
        self.find(workspace).ok().flatten().is_some_and(|vm| post_mortem::has_died(&vm, used))
    }

    /// A VM for one command.
    ///
    /// # Errors
    /// If it cannot be made or started.
    pub fn throwaway(&self, workspace: &Workspace, wanted: &Wanted) -> Result<Machine, CommandError> {
        self.sweep();
        let random = RandomState::new().build_hasher().finish();
        let name = format!("{}-rm-{:08x}", name(workspace), random as u32);
        let vm = self.create(workspace, wanted, name, true).map_err(|made| match made {
            Made::Exists => CommandError::new("a throwaway VM of the same name exists").hint("run it again"),
            Made::Failed(error) => error,
        })?;
        self.machine(&vm, wanted).map_err(|started| {
            // What could not be started is of no use; that it could not be removed either is not the news.
            let _ = self.remove(&vm, Duration::ZERO);
            match started {
                Started::Deleted => {
                    CommandError::new("another command deleted the throwaway VM").kind(ErrorKind::VmNotFound)
                }
                Started::Failed(error) => error,
            }
        })
    }

    /// Stops and deletes a VM.
    ///
    /// # Errors
    /// If it does not stop or cannot be deleted.
    pub fn remove(&self, vm: &Vm, limit: Duration) -> Result<(), CommandError> {
        vm.stop(limit)?;
        Ok(self.store.delete(vm.name())?)
    }

    /// Removes throwaway VMs whose command was killed.
    fn sweep(&self) {
        for vm in self.store.list().unwrap_or_default() {
            let purpose = vm.record().ok().and_then(|record| Purpose::of(&record));
            if purpose.is_some_and(|purpose| belonging::is_abandoned(&purpose)) {
                self.ui.status(&format!("removing the throwaway VM `{}`, whose command was killed", vm.name()));
                // The next sweep tries again.
                let _ = self.remove(&vm, Duration::ZERO);
            }
        }
    }

    fn create(&self, workspace: &Workspace, wanted: &Wanted, name: String, throwaway: bool) -> Result<Vm, Made> {
        let images = Images::new(self.paths, self.ui);
        let named = wanted.image.as_deref().or(wanted.default_image.as_deref()).unwrap_or(DEFAULT_IMAGE);
        // From here on it cannot be deleted before the VM's record names it.
        let (image, _hold) = loop {
            let image = self.time(Phase::Image, || images.ensure(named))?;
            let hold = images.store().hold_images().map_err(CommandError::from)?;
            if images.store().image(&image.name).map_err(CommandError::from)?.is_some() {
                break (image, hold);
            }
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
        let mut record = VmRecord::new(&name, &image.name, &image.manifest.kernel, now);
        record.workspace = Purpose::new(workspace, throwaway).to_value();
        record.cpus = wanted.cpus.unwrap_or_else(default_cpus);
        record.memory_mib = wanted.memory_mib.unwrap_or_else(default_memory);
        record.disk_bytes = wanted.disk_bytes.unwrap_or(record.disk_bytes);
        record.net = wanted.net.unwrap_or_default();
        record.hostname = host_name(&workspace.root);
        record.throwaway = throwaway;
        // A throwaway VM goes with its command.
        adjust(&mut record, wanted);
        record.ready = match image.manifest.ready {
            banger_image::Ready::Agent => Ready::Agent,
            banger_image::Ready::System => Ready::System,
        };
        match self.store.create(&record) {
            Ok(vm) => Ok(vm),
            Err(banger_vmm::Error::Exists(_)) => Err(Made::Exists),
            Err(error) => Err(CommandError::from(error).into()),
        }
    }

    /// The VM, running, and in use. One that is going down comes up again.
    fn machine(&self, vm: &Vm, wanted: &Wanted) -> Result<Machine, Started> {
        let begin = Instant::now();
        let mut went_down = false;
        loop {
            let up = self.start(vm, wanted)?;
            if let Some(hold) = vm.hold(up.idle_timeout_ms).map_err(CommandError::from)? {
                let boot = if went_down { Some(begin.elapsed()) } else { up.boot };
                let supervisor = supervisor(vm);
                return Ok(Machine { vm: vm.clone(), ready: up.ready, net: up.net, boot, supervisor, _hold: hold });
            }
            self.ui.detail("the VM is going down: waiting for it to start it again");
            vm.wait_until_down().map_err(CommandError::from)?;
            went_down = true;
        }
    }

    /// Starts the VM if it does not run.
    fn start(&self, vm: &Vm, wanted: &Wanted) -> Result<Up, Started> {
        if let Some(report) = self.report {
            report.vm(vm.name());
        }
        check_memory(wanted)?;
        let mut record = vm.record().map_err(CommandError::from)?;
        let state = vm.state().map_err(CommandError::from)?;
        Self::check_network(&record, wanted)?;
        self.tell_changes(&record, wanted, matches!(state, VmState::Running { .. }));
        let up = |record: &VmRecord, boot| Up {
            ready: record.ready,
            net: record.net,
            boot,
            idle_timeout_ms: record.idle_timeout_ms,
        };
        if let VmState::Running { agent, .. } = &state {
            if adjust(&mut record, wanted) {
                record = change_record(vm, &lock(vm)?, wanted)?;
            }
            if agent.version != VERSION {
                let note = format!("the VM was started by banger {}, this is banger {VERSION}", agent.version);
                self.ui.warning(&format!("{note}: `banger restart` brings it up to date"));
            }
            return Ok(up(&record, None));
        }
        let begin = Instant::now();
        let lock = lock(vm)?;
        let record = change_record(vm, &lock, wanted)?;
        match vm.state().map_err(CommandError::from)? {
            // Another command has started it meanwhile.
            VmState::Running { .. } => return Ok(up(&record, None)),
            VmState::Failed { reason } => {
                self.ui.warning(&format!("the VM failed ({reason}): starting it again"));
                vm.stop(Duration::ZERO).map_err(CommandError::from)?;
            }
            VmState::Stopped { crash: Some(what) } => {
                self.ui.status(&format!("{what}: starting the VM again"));
            }
            VmState::Stopped { crash: None } | VmState::Starting => {}
        }
        let options = self.start_options(&record)?;
        let on_event = |event| {
            if let StartEvent::Booting { backend, accelerator, fallback } = event {
                self.ui.detail(&format!("starting `{}` on {backend} with {accelerator}", vm.name()));
                if let Some(reason) = fallback {
                    self.ui
                        .status(&format!("KVM does not work here, so the VM runs on {accelerator}, which is slower"));
                    self.ui.detail(&reason);
                }
            }
        };
        self.time(Phase::Boot, || vm.start(&lock, &options, on_event)).map_err(CommandError::from)?;
        Ok(up(&record, Some(begin.elapsed())))
    }

    /// A VM that has a network does not do where none is wanted: who says so counts on it.
    fn check_network(record: &VmRecord, wanted: &Wanted) -> Result<(), CommandError> {
        if wanted.net == Some(NetMode::None) && record.net == NetMode::User {
            let error = CommandError::new("this repository's VM has a network, and none is wanted");
            let hint =
                "use one of its own: banger --rm --net none; or delete this one, and have it made anew: banger delete";
            return Err(error.kind(ErrorKind::Usage).hint(hint));
        }
        Ok(())
    }

    /// Says when that takes effect which an existing VM has not.
    fn tell_changes(&self, record: &VmRecord, wanted: &Wanted, running: bool) {
        let new = |name: &str, what: &str, has: &str| {
            self.ui.warning(&format!(
                "{name} `{what}` takes effect in a new VM, after `banger delete`: this one keeps `{has}`"
            ));
        };
        let images = Images::new(self.paths, self.ui);
        if let Some(image) = wanted.image.as_deref().filter(|image| !images.is_called(&record.image, image)) {
            new("image", image, &record.image);
        }
        if wanted.net == Some(NetMode::User) && record.net == NetMode::None {
            new("network", "user", "none");
        }
        if let Some(disk) = wanted.disk_bytes.filter(|disk| *disk != record.disk_bytes) {
            let size = |bytes| units::size(bytes >> 20);
            new("disk", &size(disk), &size(record.disk_bytes));
        }
        let other = wanted.cpus.is_some_and(|cpus| cpus != record.cpus)
            || wanted.memory_mib.is_some_and(|memory| memory != record.memory_mib);
        if other && running {
            self.ui.warning("processors and memory take effect when the VM starts again, after `banger stop`");
        }
    }

    fn start_options(&self, record: &VmRecord) -> Result<StartOptions, CommandError> {
        let images = Images::new(self.paths, self.ui);
        let image = images.store().image(&record.image)?.ok_or_else(|| {
            CommandError::new(format!("the VM's image `{}` is not there any more", record.image))
                .kind(ErrorKind::UnknownImage)
                .hint("make a new VM, without what only this one has: banger delete --force")
        })?;
        let kernel = self.time(Phase::Kernel, || images.kernels().ensure(&record.kernel))?;
        let initramfs = initramfs::ensure(&helper("banger-agent")?, &kernel.boot_modules, &self.paths.cache)?;
        Ok(StartOptions {
            supervisor: helper("banger-vmm")?,
            kernel: kernel.vmlinuz,
            initramfs,
            base: image.rootfs,
            modules: kernel.modules_disk,
            accelerator: accelerator()?,
            owner: record.throwaway.then(std::process::id),
            boot_timeout: boot_timeout()?,
        })
    }
}

/// Why no VM was made.
enum Made {
    Exists,
    Failed(CommandError),
}

impl From<CommandError> for Made {
    fn from(error: CommandError) -> Self {
        Made::Failed(error)
    }
}

/// Why a VM was not started.
enum Started {
    Deleted,
    Failed(CommandError),
}

impl From<CommandError> for Started {
    fn from(error: CommandError) -> Self {
        Started::Failed(error)
    }
}

/// The supervisor of a VM that runs.
fn supervisor(vm: &Vm) -> Option<i32> {
    match vm.state() {
        Ok(VmState::Running { pid, .. }) => Some(pid),
        _ => None,
    }
}

fn lock(vm: &Vm) -> Result<VmLock, Started> {
    vm.lock().map_err(|error| match error {
        banger_vmm::Error::NotFound(_) => Started::Deleted,
        error => Started::Failed(error.into()),
    })
}

/// The user's side of git.
pub fn git_host(paths: &Paths) -> Host {
    Host {
        home: paths.home.clone(),
        xdg_config_home: std::env::var_os("XDG_CONFIG_HOME").filter(|value| !value.is_empty()).map(Into::into),
        system_config: Some("/etc/gitconfig".into()),
        path: Some(search_path()),
        index_file: std::env::var_os("GIT_INDEX_FILE").filter(|value| !value.is_empty()).map(Into::into),
        sudo_uid: std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()),
    }
}

fn accelerator() -> Result<AcceleratorChoice, CommandError> {
    match std::env::var(ACCELERATOR).as_deref() {
        Ok("kvm") => Ok(AcceleratorChoice::Kvm),
        Ok("tcg") => Ok(AcceleratorChoice::Tcg),
        Ok("auto" | "") | Err(_) => Ok(AcceleratorChoice::Auto),
        Ok(other) => {
            let message = format!("{ACCELERATOR} is `{other}`");
            Err(CommandError::new(message).kind(ErrorKind::Usage).hint("it may be `auto`, `kvm` or `tcg`"))
        }
    }
}

fn boot_timeout() -> Result<Option<Duration>, CommandError> {
    let Some(text) = std::env::var_os(BOOT_TIMEOUT).filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.to_string_lossy();
    let duration = units::option(units::duration)(&text);
    let wrong =
        |error: String| CommandError::new(format!("{BOOT_TIMEOUT} is `{text}`")).kind(ErrorKind::Usage).hint(error);
    duration.map(Some).map_err(wrong)
}

/// Puts into a record what may change in the life of a VM. True if the record is another now.
fn adjust(record: &mut VmRecord, wanted: &Wanted) -> bool {
    let before = (record.cpus, record.memory_mib, record.idle_timeout_ms);
    record.cpus = wanted.cpus.unwrap_or(record.cpus);
    record.memory_mib = wanted.memory_mib.unwrap_or(record.memory_mib);
    if record.throwaway {
        record.idle_timeout_ms = 0;
    } else if let Some(timeout) = wanted.idle_timeout {
        record.idle_timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    }
    before != (record.cpus, record.memory_mib, record.idle_timeout_ms)
}

/// The same in the record on the disk, as it is under the lock: another command may have changed it.
fn change_record(vm: &Vm, lock: &VmLock, wanted: &Wanted) -> Result<VmRecord, CommandError> {
    let mut record = vm.record()?;
    if adjust(&mut record, wanted) {
        vm.set_record(lock, &record)?;
    }
    Ok(record)
}

/// A VM cannot have more memory than there is.
fn check_memory(wanted: &Wanted) -> Result<(), CommandError> {
    match (wanted.memory_mib, host_memory()) {
        (Some(memory), Some(host)) if memory > host => {
            let (memory, host) = (units::size(memory), units::size(host));
            Err(CommandError::new(format!(
                "a VM with {memory} of memory does not fit into this machine, which has {host}"
            ))
            .kind(ErrorKind::Usage)
            .hint("ask for less: --memory, BANGER_MEMORY, or `memory` in banger.toml"))
        }
        _ => Ok(()),
    }
}

/// The name of a workspace's VM: the folder's name, for people, and a digest of its path.
fn name(workspace: &Workspace) -> String {
    use std::os::unix::ffi::OsStrExt;
    let digest = blake3::hash(workspace.root.as_os_str().as_bytes()).to_hex();
    format!("{}-{}", host_name(&workspace.root), &digest[..8])
}

/// The folder's name as a host name: hostname(7).
fn host_name(root: &Path) -> String {
    let name = root.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = name.chars().map(letter).take(32).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "workspace".to_owned() } else { name.to_owned() }
}

pub(crate) fn default_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// Half of the host's memory, up to [`DEFAULT_MEMORY`].
pub(crate) fn default_memory() -> u64 {
    host_memory().map_or(1024, |total| total / 2).clamp(512, DEFAULT_MEMORY)
}

/// In MiB; none where the kernel does not say.
fn host_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    Some(total.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_host_names() {
        for (root, name) in
            [("/a/My Repo_2", "my-repo-2"), ("/", "workspace"), ("/x/-ü-", "workspace"), ("/x/.dot", "dot")]
        {
            assert_eq!(host_name(Path::new(root)), name);
        }
        assert_eq!(host_name(Path::new(&format!("/{}", "a".repeat(200)))).len(), 32);
    }
}
