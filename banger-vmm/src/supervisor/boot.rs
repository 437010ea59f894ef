//! From a VMM's start to the agent's first word, under KVM if that works.

use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use banger_agent::link::{self, GuestHello, HANDSHAKE_TIMEOUT, HostHello, LinkError, PROTOCOL};
use banger_agent::protocol::now_ns;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::backend::{Backend, Launched, Machine, Vmm, VmmEvent};
use crate::confinement::Confinement;
use crate::console::ConsoleLog;
use crate::error::{Failure, FailureKind};
use crate::file;
use crate::kvm::{self, Accelerator, AcceleratorChoice, KvmSupport};
use crate::record::VmRecord;
use crate::wire::AgentInfo;

/// How long a guest may take until its agent answers, if the caller does not say.
const TCG_BOOT: Duration = Duration::from_secs(120);
/// How long before a second one is started, which has the rest of the time.
const FIRST_TCG_BOOT: Duration = Duration::from_secs(40);
const KVM_BOOT: Duration = Duration::from_secs(30);
/// The same for the first guest under KVM since the host booted.
const FIRST_KVM_BOOT: Duration = Duration::from_secs(10);

/// An ordinary image needs more to come up, in MiB.
const LITTLE_MEMORY_MIB: u64 = 256;

/// What a guest does whose kernel panics.
const RESET: &str = "the guest's kernel panicked, or the guest reset itself, before its agent answered";

/// One way to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) accelerator: Accelerator,
    pub(super) limit: Duration,
    /// Why it is not the fast one, if it is not and nobody asked for that.
    pub(super) fallback: Option<String>,
}

/// The way to boot that comes first, and whether it is tried only to see if KVM works. `support`
/// may block.
pub(super) async fn first_attempt(
    choice: AcceleratorChoice,
    support: impl FnOnce() -> KvmSupport + Send + 'static,
    limit: Option<Duration>,
) -> (Attempt, bool) {
    let kvm =
        |most| Attempt { accelerator: Accelerator::Kvm, limit: limit.unwrap_or(KVM_BOOT).min(most), fallback: None };
    match choice {
        AcceleratorChoice::Tcg => (tcg_attempt(limit, None), false),
        AcceleratorChoice::Kvm => (kvm(Duration::MAX), false),
        AcceleratorChoice::Auto => match blocking(support).await {
            KvmSupport::Works => (kvm(Duration::MAX), false),
            KvmSupport::Unknown => (kvm(FIRST_KVM_BOOT), true),
            KvmSupport::Unusable(problem) => (tcg_attempt(limit, Some(problem)), false),
        },
    }
}

/// The way to boot that works everywhere.
pub(super) fn tcg_attempt(limit: Option<Duration>, fallback: Option<String>) -> Attempt {
    Attempt { accelerator: Accelerator::Tcg, limit: limit.unwrap_or(TCG_BOOT), fallback }
}

/// Notes what a boot under KVM has shown. Not being able to costs the next start a few seconds, and
/// nothing else.
pub(super) async fn remember(host: &Path, problem: Option<String>) {
    let host = host.to_owned();
    let _ = blocking(move || kvm::remember(&host, problem)).await;
}

/// The guest's console, shared between who writes it down and who quotes it.
#[derive(Clone)]
pub(super) struct Console(Arc<Mutex<ConsoleLog>>);

impl Console {
    pub(super) fn new(log: ConsoleLog) -> Self {
        Console(Arc::new(Mutex::new(log)))
    }

    /// The last lines of this boot.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.log().last_lines()
    }

    fn log(&self) -> std::sync::MutexGuard<'_, ConsoleLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what the guest says until the VMM is gone.
    async fn follow(self, mut stream: UnixStream) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            self.log().write(&buffer[..read]);
        }
    }
}

/// A guest whose agent answers.
pub(super) struct Booted {
    pub(super) vmm: Vmm,
    pub(super) accelerator: Accelerator,
    /// What confines the VMM.
    pub(super) confinement: Option<Confinement>,
    pub(super) agent: AgentInfo,
    /// The agent's pipe, after the handshake.
    pub(super) pipe: UnixStream,
}

/// [`boot`] for a guest that is to be translated: where its kernel panics, or is not up when it
/// well could be, it is started once more. Two translated processors now and then disagree about
/// code that the kernel patches while they run it ("Oops: int3"), or wait for each other without
/// end, and nothing has been run yet.
pub(super) async fn boot_translated(
    backend: &dyn Backend,
    machine: &Machine,
    attempt: &Attempt,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<Booted, Failure> {
    let start = Instant::now();
    let first = attempt.limit.min(FIRST_TCG_BOOT);
    match boot(backend, machine, attempt, first, console, cancel).await {
        Err(failure) if !cancel.is_cancelled() => {
            let left = attempt.limit.saturating_sub(start.elapsed());
            let is_late = start.elapsed() >= first && !left.is_zero();
            if !is_late && failure.kind != FailureKind::GuestReset {
                return Err(failure);
            }
            boot(backend, machine, attempt, left, console, cancel).await
        }
        booted => booted,
    }
}

/// The failure of a guest whose agent does not answer in time: how to give it more, and what about
/// the VM may make it slow.
fn late(record: &VmRecord, attempt: &Attempt) -> Failure {
    let limit = attempt.limit.as_secs_f32();
    let failure = Failure::new(format!("the guest's agent did not answer within {limit} s"));
    let more = format!("to wait longer: BANGER_BOOT_TIMEOUT={}s", (limit * 4.0).ceil());
    let unusual = unusual(record, attempt.accelerator, available_parallelism().map_or(1, NonZero::get));
    let unusual = unusual.map(|unusual| format!("this VM has {unusual}\n")).unwrap_or_default();
    failure.with_hint(unusual + &more)
}

/// What about a VM may keep it from coming up on a host with so many processors.
fn unusual(record: &VmRecord, accelerator: Accelerator, host_cpus: usize) -> Option<String> {
    let mut unusual = Vec::new();
    if record.cpus as usize > host_cpus {
        unusual.push(format!("{} processors on a machine with {host_cpus}", record.cpus));
    }
    if record.memory_mib < LITTLE_MEMORY_MIB {
        unusual.push(format!("only {}M of memory", record.memory_mib));
    }
    if accelerator == Accelerator::Tcg && !unusual.is_empty() {
        unusual.push("no KVM, so its processors are translated".to_owned());
    }
    (!unusual.is_empty()).then(|| unusual.join(", "))
}

/// Starts the VMM, and waits so long for the agent. On failure nothing runs any more.
pub(super) async fn boot(
    backend: &dyn Backend,
    machine: &Machine,
    attempt: &Attempt,
    patience: Duration,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<Booted, Failure> {
    let start = Instant::now();
    let Launched { mut vmm, confinement, agent: mut pipe, console: stream } =
        backend.launch(machine, attempt.accelerator).await?;
    let following = tokio::spawn(console.clone().follow(stream));
    let greeted = tokio::select! {
        greeted = greet(&mut pipe, &mut vmm, start + patience, late(&machine.record, attempt)) => greeted,
        () = cancel.cancelled() => Err(Failure::new("it was stopped while it booted")),
    };
    match greeted {
        Ok(hello) => {
            let boot_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let agent = AgentInfo { version: hello.version, guest_boot_ms: hello.uptime_ms, boot_ms };
            Ok(Booted { vmm, accelerator: attempt.accelerator, confinement, agent, pipe })
        }
        Err(mut failure) => {
            vmm.kill().await;
            // The console ends with the VMM.
            let _ = following.await;
            failure.console_tail = console.last_lines();
            Err(failure)
        }
    }
}

/// Waits until the agent opens its port, and exchanges greetings.
async fn greet(pipe: &mut UnixStream, vmm: &mut Vmm, deadline: Instant, late: Failure) -> Result<GuestHello, Failure> {
    timeout_at(deadline, port_opened(vmm)).await.map_err(|_| late)??;

    // Not before: the guest sets its clock by this.
    let ours = HostHello {
        nonce: file::random_hex(16),
        version: banger_agent::VERSION.to_owned(),
        protocol: PROTOCOL,
        clock_ns: now_ns(),
    };
    let patience = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
    let greetings = async {
        tokio::select! {
            hello = link::handshake(pipe, &ours) => hello.map_err(|error| match error {
                LinkError::Protocol { .. } => Failure::new(error.to_string()).with_hint("install banger anew: its parts do not fit together"),
                error => Failure::new(error.to_string()),
            }),
            failure = port_closed(vmm) => Err(failure),
        }
    };
    timeout_at(patience, greetings).await.unwrap_or_else(|_| {
        Err(Failure::new("the guest's agent opened its port, and then did not say what an agent says"))
    })
}

async fn port_opened(vmm: &mut Vmm) -> Result<(), Failure> {
    let mut last = None;
    loop {
        match vmm.events.recv().await {
            Some(VmmEvent::AgentPort { open: true }) => return Ok(()),
            event => ended(event, &mut last).map_or(Ok(()), Err)?,
        }
    }
}

async fn port_closed(vmm: &mut Vmm) -> Failure {
    let mut last = None;
    loop {
        match vmm.events.recv().await {
            // A guest that goes down closes the port on its way: what follows says more.
            Some(VmmEvent::AgentPort { open: false }) => last = Some("the guest's agent ended before it answered"),
            event => {
                if let Some(failure) = ended(event, &mut last) {
                    return failure;
                }
            }
        }
    }
}

/// Whether this event ends the boot, and what that means. `last` is what went before it.
fn ended(event: Option<VmmEvent>, last: &mut Option<&'static str>) -> Option<Failure> {
    match event {
        Some(VmmEvent::AgentPort { .. }) => None,
        Some(VmmEvent::Reset) => {
            *last = Some(RESET);
            None
        }
        Some(VmmEvent::PoweredOff) => {
            *last = Some("the guest switched itself off before its agent answered");
            None
        }
        Some(VmmEvent::Stuck(failure)) => Some(failure),
        Some(VmmEvent::Exited(failure)) => Some(match *last {
            None => failure,
            Some(RESET) => Failure::new(RESET).of_kind(FailureKind::GuestReset),
            Some(before) => Failure::new(before),
        }),
        None => Some(Failure::new("the VMM is gone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn to_ask_about_kvm_keeps_nobody_waiting() {
        let (sender, receiver) = std::sync::mpsc::channel();
        // A probe takes as long as the other tasks of this thread like.
        let support = move || match receiver.recv_timeout(Duration::from_secs(10)) {
            Ok(()) => KvmSupport::Works,
            Err(error) => KvmSupport::Unusable(error.to_string()),
        };
        tokio::spawn(async move { sender.send(()) });
        let (attempt, _) = first_attempt(AcceleratorChoice::Auto, support, None).await;
        assert_eq!((attempt.accelerator, attempt.fallback), (Accelerator::Kvm, None));
    }

    #[tokio::test]
    async fn kvm_is_tried_where_it_may_work() {
        let first = |choice, support, limit| first_attempt(choice, || support, limit);
        let (attempt, trial) = first(AcceleratorChoice::Auto, KvmSupport::Unknown, None).await;
        assert_eq!((attempt.accelerator, attempt.limit, trial), (Accelerator::Kvm, FIRST_KVM_BOOT, true));
        let (attempt, trial) = first(AcceleratorChoice::Auto, KvmSupport::Works, None).await;
        assert_eq!((attempt.accelerator, attempt.limit, trial), (Accelerator::Kvm, KVM_BOOT, false));
        let (attempt, trial) = first(AcceleratorChoice::Auto, KvmSupport::Unusable("no".into()), None).await;
        assert_eq!((attempt.accelerator, attempt.fallback.as_deref(), trial), (Accelerator::Tcg, Some("no"), false));

        let short = Some(Duration::from_secs(3));
        assert_eq!(first(AcceleratorChoice::Auto, KvmSupport::Unknown, short).await.0.limit, Duration::from_secs(3));
        let never = || unreachable!("whoever forces an accelerator gets it");
        assert_eq!(first_attempt(AcceleratorChoice::Tcg, never, None).await.0, tcg_attempt(None, None));
        assert!(!first_attempt(AcceleratorChoice::Kvm, never, None).await.1);
    }

    #[test]
    fn a_guest_that_is_late_is_given_more_time_and_its_oddities_are_named() {
        let hint = |cpus, memory_mib| {
            let record = VmRecord { cpus, memory_mib, ..VmRecord::new("vm", "image", "kernel", 0) };
            late(&record, &tcg_attempt(Some(Duration::from_secs(20)), None)).hint.unwrap()
        };
        assert_eq!(hint(1, 1024), "to wait longer: BANGER_BOOT_TIMEOUT=80s");
        let odd = hint(100_000, 128);
        for part in [
            "this VM has 100000 processors on a machine with ",
            ", only 128M of memory",
            "no KVM",
            "\nto wait longer: ",
        ] {
            assert!(odd.contains(part), "{odd}");
        }
    }

    #[test]
    fn what_went_before_explains_the_end() {
        let mut last = None;
        assert_eq!(ended(Some(VmmEvent::Reset), &mut last), None);
        let failure = ended(Some(VmmEvent::Exited(Failure::new("QEMU ended"))), &mut last).unwrap();
        assert!(failure.message.contains("panicked"));
    }
}
