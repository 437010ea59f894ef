//! A VM's life, from its supervisor's first breath to its last.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{self, ExitCode};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::boot::{self, Attempt, Booted, Console};
use super::monitor::{Ended, Monitor, Wishes};
use super::owner;
use super::ports::PortListeners;
use super::shutdown_requests::ShutdownRequests;
use super::snapshot::{Restore, Source};
use super::socket::{self, Requests};
use super::state::State;
use super::ways::{Found, Wanted, Way, kvm_support, ways};
use super::{FindBackend, StartReport, blocking};
use crate::activity::LastActivity;
use crate::backend::{VmDefinition, net_plan};
use crate::console::ConsoleLog;
use crate::error::{Error, Failure, FailureKind, IoContext, Result};
use crate::kvm::{self, Accelerator, AcceleratorChoice};
use crate::launch::{Launch, StartEvent};
use crate::ports::PortState;
use crate::record::{BackendKind, VmRecord};
use crate::run::{self, RunInfo};
use crate::vm::Vm;
use crate::wire::{SOCKET, SupervisorFrame};
use crate::{file, host, snapshot, store};

/// How long clients may take to hear that the VM is down.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the VM. Returns when it is gone.
pub(super) fn live(launch: &Launch, find: FindBackend<'_>, mut report: StartReport) -> ExitCode {
    match claim_and_run(launch, find, &mut report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report.send(&StartEvent::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

fn claim_and_run(launch: &Launch, find: FindBackend<'_>, report: &mut StartReport) -> Result<(), Failure> {
    let folder = &launch.folder;
    let record = VmRecord::read(&folder.join(Vm::RECORD))?;
    let lock = run::supervise(folder)?.ok_or_else(|| Error::Running(record.name.clone()))?;
    if RunInfo::read(folder)?.is_some() {
        // It ended badly, and nobody has looked what is in it since.
        LastActivity::forget_changes(folder)?;
    }
    // Nobody else writes: who starts a VM holds its lock, and there is no other supervisor.
    file::sweep_unfinished(folder)?;
    snapshot::finish(folder)?;
    // One thread: the VMM's death is bound to the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().at("watch", folder)?;
    let ended = runtime.block_on(run(launch, record, find, report));
    let removed = file::remove_if_there(&folder.join(SOCKET));
    match ended {
        Ok(Ended::Stopped) | Err(_) => RunInfo::remove(folder)?,
        Ok(Ended::Crashed) => {}
        // The lock is still held: nobody else starts or deletes it.
        Ok(Ended::Abandoned) => store::discard(folder)?,
    }
    drop(lock);
    ended?;
    Ok(removed?)
}

async fn run(
    launch: &Launch,
    record: VmRecord,
    find: FindBackend<'_>,
    report: &mut StartReport,
) -> Result<Ended, Failure> {
    let folder = &launch.folder;
    let pid = process::id().cast_signed();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let info = RunInfo::new(pid, host::start_time(pid)?, host::boot_id()?, now);
    info.write(folder)?;

    let state = Arc::new(State::new(folder, pid, record.idle_timeout_ms));
    let (sender, stops) = mpsc::channel(4);
    let terminate = signal(SignalKind::terminate()).at("watch", folder)?;
    let owner = Box::pin(ended(record.ephemeral, folder.clone()));
    let mut shutdown = ShutdownRequests::new(stops, terminate, owner, Arc::clone(&state));
    let ports = Arc::new(PortListeners::new(Arc::clone(&state)));
    let restoring = Arc::clone(&ports);
    for port in blocking(move || restoring.restore()).await? {
        if let PortState { forward, problem: Some(problem) } = port {
            report.send(&StartEvent::NotForwarded { forward, problem });
        }
    }
    let hangup = signal(SignalKind::hangup()).at("watch", folder)?;
    let socket = socket::bind(folder)?;
    let (actions, mut wanted) = mpsc::channel(1);
    let requests = Requests { stops: sender, actions };
    let serving =
        tokio::spawn(socket::serve(socket, folder.clone(), hangup, Arc::clone(&state), Arc::clone(&ports), requests));

    let console = Console::new(ConsoleLog::start(folder)?);
    let kept = record.clone();
    let ended = match boot(launch, record, find, &console, report, &mut shutdown).await {
        Ok((way, booted)) => {
            let source = Source {
                launch: launch.clone(),
                record: kept,
                backend: way.backend.kind(),
                accelerator: way.accelerator,
            };
            let mut requests = Wishes { shutdown: &mut shutdown, actions: &mut wanted };
            Ok(Monitor::new(folder, info, &state, source).watch(&way, booted, report, &mut requests).await)
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &ended {
        state.down(failure.clone());
    }
    serving.abort();
    ports.close();
    for client in &mut shutdown.waiting {
        let _ = timeout(ANSWER_PATIENCE, socket::reply(client, SupervisorFrame::Ok(()))).await;
    }
    let _ = timeout(ANSWER_PATIENCE, state.clients_gone()).await;
    if shutdown.abandoned { Ok(Ended::Abandoned) } else { ended }
}

/// Completes when the command that the VM is for has ended; never for a VM that stays.
async fn ended(ephemeral: bool, folder: PathBuf) {
    match ephemeral {
        true => owner::ended(&folder).await,
        false => pending().await,
    }
}

/// Boots, until somebody wants the VM to stop.
async fn boot(
    launch: &Launch,
    record: VmRecord,
    find: FindBackend<'_>,
    console: &Console,
    report: &mut StartReport,
    shutdown: &mut ShutdownRequests,
) -> Result<(Way, Booted), Failure> {
    let vm = VmDefinition {
        net: net_plan(record.net, BackendKind::Qemu),
        record,
        kernel: launch.kernel.clone(),
        vmlinux: launch.vmlinux.clone(),
        initramfs: launch.initramfs.clone(),
        base: launch.base.clone(),
        disk: launch.folder.join(Vm::DISK),
        workspace: workspace(launch),
        modules: launch.modules.clone(),
    };
    let cancel = CancellationToken::new();
    let mut booting = pin!(boot_somehow(launch, vm, find, console, report, &cancel));
    loop {
        tokio::select! {
            booted = &mut booting => return booted,
            _ = shutdown.next() => cancel.cancel(),
        }
    }
}

/// Boots in the first way that works.
async fn boot_somehow(
    launch: &Launch,
    mut vm: VmDefinition,
    find: FindBackend<'_>,
    console: &Console,
    report: &mut StartReport,
    cancel: &CancellationToken,
) -> Result<(Way, Booted), Failure> {
    if launch.accelerator == AcceleratorChoice::Kvm {
        kvm::ask_device().map_err(|problem| {
            let failure = Failure::new(problem);
            match kvm::access_hint() {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            }
        })?;
    }
    let restore = launch.restore.as_deref().map(Restore::open).transpose()?;
    let wanted = Wanted { backend: vm.record.backend, accelerator: launch.accelerator };
    let found = |kind| find_for(&vm, kind, find, launch);
    let host = launch.host.clone();
    let support = kvm_support(launch.accelerator, move || kvm::support(&host, Path::new("/proc/self/exe"))).await;
    let mut ways = ways(wanted, support, || found(BackendKind::Firecracker), || found(BackendKind::Qemu))?;
    if let Some(restore) = &restore {
        let way = restore.way(ways)?;
        restore.prepare(launch, &vm.record, &way).await?;
        vm.workspace = workspace(launch);
        ways = vec![way];
    }
    let mut ways = ways.into_iter();
    // What KVM failed with, so that it is not tried again.
    let mut problem: Option<String> = None;
    let mut next = ways.next();
    while let Some(way) = next {
        report.send(&StartEvent::Booting {
            backend: way.backend.name().to_owned(),
            accelerator: way.accelerator,
            fallback: way.fallback.clone(),
            reason: way.reason.clone(),
        });
        vm.net = net_plan(vm.record.net, way.backend.kind());
        let attempt = Attempt {
            backend: &*way.backend,
            accelerator: way.accelerator,
            limit: way.limit(launch.boot_timeout),
            snapshot: restore.as_ref().map(|restore| &*restore.directory),
        };
        match boot::boot(&vm, attempt, console, cancel).await {
            Ok(booted) => {
                // Only now: a guest that comes up in no way says nothing about KVM.
                if way.is_trial || problem.is_some() {
                    boot::remember(&launch.host, problem).await;
                }
                return Ok((way, booted));
            }
            Err(failure) => {
                let is_unfit = failure.kind == FailureKind::KvmUnfit;
                let fits = |other: &Way| !is_unfit || other.accelerator != Accelerator::Kvm;
                let goes_on = (is_unfit || way.is_trial) && !cancel.is_cancelled();
                let Some(other) = goes_on.then(|| ways.by_ref().find(fits)).flatten() else {
                    return Err(last_failure(failure, launch.accelerator));
                };
                let reason = Some(format!("the VM did not come up under it: {}", failure.message));
                let mut other = Way { reason: other.reason.or(reason), ..other };
                if other.accelerator == Accelerator::Tcg {
                    let failed = format!("a first guest under KVM failed: {}", failure.message);
                    other.fallback = Some(failed.clone());
                    problem = Some(failed);
                }
                next = Some(other);
            }
        }
    }
    unreachable!("there is a way, and each returns or leads to the next one")
}

/// The failure after which no other way is tried.
fn last_failure(failure: Failure, wanted: AcceleratorChoice) -> Failure {
    match wanted {
        AcceleratorChoice::Kvm => {
            let message = format!("under KVM, which was asked for: {}", failure.message);
            Failure { message, ..failure }
        }
        AcceleratorChoice::Auto | AcceleratorChoice::Tcg => failure,
    }
}

/// The disk that a workspace comes on, if the VM has one.
fn workspace(launch: &Launch) -> Option<PathBuf> {
    Some(launch.folder.join(Vm::WORKSPACE)).filter(|path| path.exists())
}

/// The backend of this kind, if it can run the VM.
fn find_for(vm: &VmDefinition, kind: BackendKind, find: FindBackend<'_>, launch: &Launch) -> Found {
    let backend = find(kind, &launch.programs)?;
    backend.check(vm)?;
    Ok(Rc::from(backend))
}
