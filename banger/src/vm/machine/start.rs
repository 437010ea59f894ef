//! Starting a VM, with what a command wants of it.

use std::time::{Duration, Instant};

use banger_agent::VERSION;
use banger_vmm::{
    AcceleratorChoice, BackendChoice, BackendKind, NetMode, NetPlan, Ready, StartEvent, StartOptions, Vm, VmLock,
    VmRecord, VmState, initramfs,
};

use super::fits::check_fits;
use super::{Machines, VmSpec};
use crate::config::expanded;
use crate::error::{CommandError, ErrorKind};
use crate::host::hardware;
use crate::host::paths::helper;
use crate::output::report::RunPhase;
use crate::output::units;
use crate::store::images::Images;
use crate::vm::authorized_key;
use crate::vm::running::RunningVm;

/// The variable with the accelerator to use, `auto`, `kvm` or `tcg`: it overrides the probe.
const ACCELERATOR: &str = "BANGER_ACCELERATOR";
/// The variable with the time that a guest may take until its agent answers, such as `5m`: for slow
/// machines.
const BOOT_TIMEOUT: &str = "BANGER_BOOT_TIMEOUT";

/// Why a VM was not started.
pub(super) enum StartError {
    /// Another command has deleted the VM.
    Deleted,
    /// The VM ended on another command's wish, or did not come up for it: this one may start it.
    Ended(CommandError),
    Failed(CommandError),
}

impl From<CommandError> for StartError {
    fn from(error: CommandError) -> Self {
        StartError::Failed(error)
    }
}

impl From<banger_vmm::Error> for StartError {
    fn from(error: banger_vmm::Error) -> Self {
        match error {
            banger_vmm::Error::NotFound(_) => StartError::Deleted,
            // This command's own start: another one would fail as it did.
            banger_vmm::Error::Boot { .. } if !error.is_stopped_boot() => StartError::Failed(error.into()),
            error => match CommandError::from(error) {
                error if error.kind.is_of_vm() || error.kind == ErrorKind::VmEnded => StartError::Ended(error),
                error => StartError::Failed(error),
            },
        }
    }
}

impl From<StartError> for CommandError {
    fn from(started: StartError) -> Self {
        match started {
            StartError::Deleted => CommandError::new("another command deleted the VM").kind(ErrorKind::VmNotFound),
            StartError::Ended(error) | StartError::Failed(error) => error,
        }
    }
}

/// A VM that was found running, or started: what its record says of it.
struct StartOutcome {
    ready: Ready,
    net: NetPlan,
    /// How long the start took; none: it ran already.
    boot: Option<Duration>,
    /// 0: it never stops for being idle.
    idle_timeout_ms: u64,
}

impl Machines<'_> {
    /// Starts the VM if it does not run, and holds it. A VM that is going down is started again.
    pub(super) fn machine(&self, vm: &Vm, spec: &VmSpec) -> Result<RunningVm, StartError> {
        let begin = Instant::now();
        let mut went_down = false;
        loop {
            let up = self.start(vm, spec)?;
            if let Some(hold) = vm.hold(up.idle_timeout_ms)? {
                let boot = if went_down { Some(begin.elapsed()) } else { up.boot };
                let supervisor = supervisor(vm);
                return Ok(RunningVm { vm: vm.clone(), ready: up.ready, net: up.net, boot, supervisor, _hold: hold });
            }
            self.ui.detail("the VM is going down: waiting for it to start it again");
            vm.wait_until_down()?;
            went_down = true;
        }
    }

    /// Starts the VM if it does not run.
    fn start(&self, vm: &Vm, spec: &VmSpec) -> Result<StartOutcome, StartError> {
        if let Some(report) = self.report {
            report.vm(vm.name());
        }
        check_fits(spec)?;
        let mut record = vm.record()?;
        let state = vm.state()?;
        Self::check_network(&record, spec)?;
        let running = match &state {
            VmState::Running { backend, .. } => Some(*backend),
            _ => None,
        };
        self.tell_changes(&record, spec, running);
        let up = |record: &VmRecord, backend, boot| StartOutcome {
            ready: record.ready,
            net: banger_vmm::net_plan(record.net, backend),
            boot,
            idle_timeout_ms: record.idle_timeout_ms,
        };
        if let VmState::Running { backend, agent, .. } = &state {
            if vm.restore_socket()? {
                self.ui.warning(&format!("the socket of `{}` was gone: its supervisor has made another", vm.name()));
            }
            if adjust(&mut record, spec) {
                record = change_record(vm, &lock(vm)?, spec)?;
            }
            if agent.version != VERSION {
                let note = format!("the VM was started by banger {}, this is banger {VERSION}", agent.version);
                self.ui.warning(&format!("{note}: `banger restart` brings it up to date"));
            }
            return Ok(up(&record, *backend, None));
        }
        let begin = Instant::now();
        let lock = lock(vm)?;
        let backend_before = vm.record()?.backend;
        let record = change_record(vm, &lock, spec)?;
        match vm.state()? {
            // Another command has started it meanwhile.
            VmState::Running { backend, .. } => {
                self.tell_backend(spec, backend);
                return Ok(up(&record, backend, None));
            }
            VmState::Failed { reason } => {
                self.ui.warning(&format!("the VM failed ({reason}): starting it again"));
                vm.stop(Duration::ZERO)?;
            }
            VmState::Stopped { crash: Some(what) } => {
                self.ui.status(&format!("{what}: starting the VM again"));
            }
            VmState::Stopped { crash: None } | VmState::Starting => {}
        }
        let options = self.start_options(&record, spec)?;
        let on_event = |event| match event {
            StartEvent::Booting { backend, accelerator, fallback, reason } => {
                self.ui.detail(&format!("starting `{}` on {backend} with {accelerator}", vm.name()));
                if let Some(problem) = fallback {
                    self.ui
                        .status(&format!("KVM does not work here, so the VM runs on {accelerator}, which is slower"));
                    self.ui.detail(&problem);
                } else if let Some(reason) = reason {
                    self.ui.detail(&format!("not on Firecracker: {reason}"));
                }
            }
            StartEvent::NotForwarded { forward, problem } => {
                self.ui.warning(&format!("nothing leads to {} in the VM: {problem}", forward.guest));
            }
            StartEvent::Ready(_) | StartEvent::Failed(_) => {}
        };
        let running = self.time(RunPhase::Boot, || vm.start(&lock, &options, on_event)).inspect_err(|_| {
            if record.backend != backend_before {
                // The next command would fail for a choice that it has not made. That this cannot be
                // written either is not the news.
                let _ = vm.set_record(&lock, &VmRecord { backend: backend_before, ..record.clone() });
            }
        })?;
        if running.backend == BackendKind::Qemu && record.net == NetMode::User && record.limits.net_bandwidth > 0 {
            self.ui
                .warning("`net_bandwidth` has no effect: QEMU does not limit the VM's network, only Firecracker does");
        }
        authorized_key::put(vm, false, self.paths, self.ui);
        Ok(up(&record, running.backend, Some(begin.elapsed())))
    }

    /// Refuses a VM with a network where none is wanted: whoever says so relies on it.
    fn check_network(record: &VmRecord, spec: &VmSpec) -> Result<(), CommandError> {
        if spec.net == Some(NetMode::None) && record.net == NetMode::User {
            let error = CommandError::new("this repository's VM has a network, and none is wanted");
            let hint =
                "use one of its own: banger --rm --net none; or delete this one, and have it made anew: banger delete";
            return Err(error.kind(ErrorKind::Usage).hint(hint));
        }
        Ok(())
    }

    /// Tells the user which wishes an existing VM does not fulfil, and when they take effect.
    /// `running`: what runs the VM, if it runs.
    fn tell_changes(&self, record: &VmRecord, spec: &VmSpec, running: Option<BackendKind>) {
        let new = |name: &str, what: &str, has: &str| {
            self.ui.warning(&format!(
                "{name} `{what}` takes effect in a new VM, after `banger delete`: this one keeps `{has}`"
            ));
        };
        let images = Images::new(self.paths, self.ui);
        if let Some(image) = spec.image.as_deref().filter(|image| !images.is_called(&record.image, image)) {
            new("image", image, &images.name_of(&record.image));
        }
        if spec.net == Some(NetMode::User) && record.net == NetMode::None {
            new("network", "user", "none");
        }
        if let Some(disk) = spec.disk_bytes.filter(|disk| *disk < record.disk_bytes) {
            let size = |bytes| units::size(bytes >> 20);
            new("disk", &size(disk), &size(record.disk_bytes));
        }
        let changes = [
            ("processors", spec.cpus.is_some_and(|cpus| cpus != record.cpus)),
            ("memory", spec.memory_mib.is_some_and(|memory| memory != record.memory_mib)),
            ("disk", spec.disk_bytes.is_some_and(|disk| disk > record.disk_bytes)),
            ("rate limits", spec.limits.is_some_and(|limits| limits != record.limits)),
        ];
        let changed: Vec<_> = changes.into_iter().filter(|(_, is_other)| *is_other).map(|(name, _)| name).collect();
        if let Some(backend) = running {
            self.tell_backend(spec, backend);
            if !changed.is_empty() {
                let changed = changed.join(", ");
                self.ui
                    .warning(&format!("{changed}: changes take effect when the VM starts again, after `banger stop`"));
            }
        }
    }

    /// Tells the user that a VM does not run on the backend that is wanted.
    fn tell_backend(&self, spec: &VmSpec, backend: BackendKind) {
        let wanted = spec.backend.and_then(BackendChoice::kind).filter(|wanted| *wanted != backend);
        if let Some(wanted) = wanted {
            self.ui.warning(&format!(
                "the VM runs on {backend}; {wanted} takes effect when it starts again, after `banger stop`"
            ));
        }
    }

    fn start_options(&self, record: &VmRecord, spec: &VmSpec) -> Result<StartOptions, CommandError> {
        let images = Images::new(self.paths, self.ui);
        let image = images.store().image(&record.image)?.ok_or_else(|| {
            CommandError::new(format!("the VM's image `{}` is not there any more", record.image))
                .kind(ErrorKind::UnknownImage)
                .hint(format!("make a new VM, without what only this one has: banger delete --force {}", record.name))
        })?;
        let kernel = self.time(RunPhase::Kernel, || images.kernels().ensure(&record.kernel))?;
        let initramfs = initramfs::ensure(&helper("banger-agent")?, &kernel.boot_modules, &self.paths.cache)?;
        Ok(StartOptions {
            supervisor: helper("banger-vmm")?,
            // One that Firecracker cannot boot is QEMU's alone.
            vmlinux: kernel.vmlinux.clone().filter(|_| kernel.firecracker_obstacle().is_none()),
            kernel: kernel.vmlinuz,
            initramfs,
            base: image.rootfs,
            modules: kernel.modules_disk,
            accelerator: accelerator()?,
            boot_timeout: boot_timeout()?,
            restore: None,
            firecracker: spec.firecracker.as_deref().map(|path| expanded(path, self.paths.home.as_deref())),
            jailer_user: spec.jailer_user.clone(),
        })
    }
}

/// The process id of a running VM's supervisor; none: the VM does not run.
fn supervisor(vm: &Vm) -> Option<i32> {
    match vm.state() {
        Ok(VmState::Running { pid, .. }) => Some(pid),
        _ => None,
    }
}

pub(super) fn lock(vm: &Vm) -> Result<VmLock, StartError> {
    Ok(vm.lock()?)
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

/// Puts into a record what may change in the life of a VM: processors, memory, a larger disk, rate
/// limits and the idle time. Returns whether the record has changed.
pub(super) fn adjust(record: &mut VmRecord, spec: &VmSpec) -> bool {
    let values = |record: &VmRecord| {
        let VmRecord { cpus, memory_mib, disk_bytes, limits, idle_timeout_ms, backend, .. } = *record;
        (cpus, memory_mib, disk_bytes, limits, idle_timeout_ms, backend)
    };
    let before = values(record);
    record.disk_bytes = record.disk_bytes.max(spec.disk_bytes.unwrap_or_default());
    // It may have been made on a machine that has more, or where that was not checked.
    record.cpus = spec.cpus.unwrap_or(record.cpus).min(hardware::cpus());
    record.memory_mib = spec.memory_mib.unwrap_or(record.memory_mib);
    record.limits = spec.limits.unwrap_or(record.limits);
    if record.ephemeral {
        record.idle_timeout_ms = 0;
    } else if let Some(timeout) = spec.idle_timeout {
        record.idle_timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    }
    record.backend = spec.backend.unwrap_or(record.backend);
    before != values(record)
}

/// Adjusts the record on the disk, which another command may have changed before this one had the
/// lock, and returns it.
fn change_record(vm: &Vm, lock: &VmLock, spec: &VmSpec) -> Result<VmRecord, StartError> {
    let mut record = vm.record()?;
    // Who gave it its name may have been killed before the record had it.
    let renamed = record.rename(vm.name());
    if adjust(&mut record, spec) || renamed {
        vm.set_record(lock, &record)?;
    }
    Ok(record)
}
