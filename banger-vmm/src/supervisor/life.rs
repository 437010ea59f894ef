//! A VM's life, from its supervisor's first breath to its last.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::boot::{self, Booted, Console};
use super::monitor::{Ended, Monitor};
use super::owner;
use super::ports::PortListeners;
use super::shutdown_requests::ShutdownRequests;
use super::socket;
use super::state::State;
use super::{FindBackend, StartReport, blocking};
use crate::activity::LastActivity;
use crate::backend::{Backend, VmDefinition, net_plan};
use crate::console::ConsoleLog;
use crate::error::{Error, Failure, IoContext, Result};
use crate::kvm::{self, AcceleratorChoice};
use crate::launch::{Launch, StartEvent};
use crate::ports::PortState;
use crate::record::VmRecord;
use crate::run::{self, RunInfo};
use crate::vm::Vm;
use crate::wire::{SOCKET, SupervisorFrame};
use crate::{file, host, store};

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
    let backend = find(record.backend, &launch.programs)?;
    let lock = run::supervise(folder)?.ok_or_else(|| Error::Running(record.name.clone()))?;
    if RunInfo::read(folder)?.is_some() {
        // It ended badly, and nobody has looked what is in it since.
        LastActivity::forget_changes(folder)?;
    }
    // Nobody else writes: who starts a VM holds its lock, and there is no other supervisor.
    file::sweep_unfinished(folder)?;
    // One thread: the VMM's death is bound to the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().at("watch", folder)?;
    let ended = runtime.block_on(run(launch, record, &*backend, report));
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
    backend: &dyn Backend,
    report: &mut StartReport,
) -> Result<Ended, Failure> {
    let folder = &launch.folder;
    let pid = process::id().cast_signed();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let info = RunInfo::new(pid, host::start_time(pid)?, host::boot_id()?, backend.name(), now);
    info.write(folder)?;

    let state = Arc::new(State::new(folder, backend.name(), pid, record.idle_timeout_ms));
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
    let serving =
        tokio::spawn(socket::serve(socket, folder.clone(), hangup, Arc::clone(&state), Arc::clone(&ports), sender));

    let console = Console::new(ConsoleLog::start(folder)?);
    let ended = match boot(launch, record, backend, &console, report, &mut shutdown).await {
        Ok(booted) => Ok(Monitor::new(folder, info, &state).watch(booted, report, &mut shutdown).await),
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
    backend: &dyn Backend,
    console: &Console,
    report: &mut StartReport,
    shutdown: &mut ShutdownRequests,
) -> Result<Booted, Failure> {
    let vm = VmDefinition {
        net: net_plan(&record),
        record,
        kernel: launch.kernel.clone(),
        initramfs: launch.initramfs.clone(),
        base: launch.base.clone(),
        disk: launch.folder.join(Vm::DISK),
        workspace: Some(launch.folder.join(Vm::WORKSPACE)).filter(|path| path.exists()),
        modules: launch.modules.clone(),
    };
    let cancel = CancellationToken::new();
    let mut booting = pin!(boot_somehow(launch, &vm, backend, console, report, &cancel));
    loop {
        tokio::select! {
            booted = &mut booting => return booted,
            _ = shutdown.next() => cancel.cancel(),
        }
    }
}

/// Boots, under TCG if it turns out that KVM does not work.
async fn boot_somehow(
    launch: &Launch,
    vm: &VmDefinition,
    backend: &dyn Backend,
    console: &Console,
    report: &mut StartReport,
    cancel: &CancellationToken,
) -> Result<Booted, Failure> {
    let mut booting = |attempt: &boot::Attempt| {
        report.send(&StartEvent::Booting {
            backend: backend.name().to_owned(),
            accelerator: attempt.accelerator,
            fallback: attempt.fallback.clone(),
        });
    };
    if launch.accelerator == AcceleratorChoice::Kvm {
        kvm::ask_device().map_err(Failure::new)?;
    }
    let host = launch.host.clone();
    let support = move || kvm::support(&host, Path::new("/proc/self/exe"));
    let (first, trial) = boot::first_attempt(backend, launch.accelerator, support, launch.boot_timeout).await;
    booting(&first);
    match boot::boot(backend, vm, &first, console, cancel).await {
        Err(failure) if trial && !cancel.is_cancelled() => {
            let problem = format!("a first guest under KVM failed: {}", failure.message);
            let second = boot::tcg_attempt(backend, launch.boot_timeout, Some(problem.clone()));
            booting(&second);
            let booted = boot::boot(backend, vm, &second, console, cancel).await?;
            // Only now: a guest that comes up under neither says nothing about KVM.
            boot::remember(&launch.host, Some(problem)).await;
            Ok(booted)
        }
        Ok(booted) if trial => {
            boot::remember(&launch.host, None).await;
            Ok(booted)
        }
        Err(failure) if launch.accelerator == AcceleratorChoice::Kvm => {
            let message = format!("under KVM, which was asked for: {}", failure.message);
            Err(Failure { message, ..failure })
        }
        booted => booted,
    }
}
