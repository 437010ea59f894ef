//! From a VMM's start to the agent's first word, under KVM if that works.

use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use banger_agent::boot_config::GuestIdentity;
use banger_agent::link::{self, GuestHello, HANDSHAKE_TIMEOUT, HostHello, LinkError, PROTOCOL};
use banger_agent::protocol::now_ns;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::backend::{AgentStream, Backend, Launched, VmDefinition, Vmm, VmmEvent};
use crate::confinement::Confinement;
use crate::console::ConsoleLog;
use crate::error::{Failure, FailureKind};
use crate::file;
use crate::kvm::{self, Accelerator, AcceleratorChoice, KvmSupport};
use crate::record::VmRecord;
use crate::wire::AgentInfo;

/// How long the first guest under KVM since the host booted may take.
const FIRST_KVM_BOOT: Duration = Duration::from_secs(10);

/// An ordinary image needs more to come up, in MiB.
const LITTLE_MEMORY_MIB: u64 = 256;

/// One way to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) accelerator: Accelerator,
    pub(super) limit: Duration,
    /// See [`BootPolicy::retry_after`].
    retry_after: Option<Duration>,
    /// Why it is not the fast one, if it is not and nobody asked for that.
    pub(super) fallback: Option<String>,
}

/// The way to boot that comes first, and whether it is tried only to see if KVM works. `support`
/// may block. `limit` is the user's.
pub(super) async fn first_attempt(
    backend: &dyn Backend,
    choice: AcceleratorChoice,
    support: impl FnOnce() -> KvmSupport + Send + 'static,
    limit: Option<Duration>,
) -> (Attempt, bool) {
    let kvm = |most| {
        let attempt = attempt(backend, Accelerator::Kvm, limit, None);
        Attempt { limit: attempt.limit.min(most), ..attempt }
    };
    match choice {
        AcceleratorChoice::Tcg => (tcg_attempt(backend, limit, None), false),
        AcceleratorChoice::Kvm => (kvm(Duration::MAX), false),
        AcceleratorChoice::Auto => match blocking(support).await {
            KvmSupport::Works => (kvm(Duration::MAX), false),
            KvmSupport::Unknown => (kvm(FIRST_KVM_BOOT), true),
            KvmSupport::Unusable(problem) => (tcg_attempt(backend, limit, Some(problem)), false),
        },
    }
}

/// The way to boot that works everywhere. `limit` is the user's.
pub(super) fn tcg_attempt(backend: &dyn Backend, limit: Option<Duration>, fallback: Option<String>) -> Attempt {
    attempt(backend, Accelerator::Tcg, limit, fallback)
}

fn attempt(
    backend: &dyn Backend,
    accelerator: Accelerator,
    limit: Option<Duration>,
    fallback: Option<String>,
) -> Attempt {
    let policy = backend.boot_policy(accelerator);
    Attempt { accelerator, limit: limit.unwrap_or(policy.limit), retry_after: policy.retry_after, fallback }
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
    async fn follow(self, mut stream: impl AsyncRead + Unpin) {
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
    /// What carries the agent's link, after the handshake.
    pub(super) stream: AgentStream,
}

/// Boots; where a guest fails that its backend starts anew, once more. Nothing has been run in it
/// yet.
pub(super) async fn boot(
    backend: &dyn Backend,
    vm: &VmDefinition,
    attempt: &Attempt,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<Booted, Failure> {
    let Some(retry_after) = attempt.retry_after else {
        return boot_once(backend, vm, attempt, attempt.limit, console, cancel).await;
    };
    let start = Instant::now();
    let first = attempt.limit.min(retry_after);
    match boot_once(backend, vm, attempt, first, console, cancel).await {
        Err(failure) if !cancel.is_cancelled() => {
            let left = attempt.limit.saturating_sub(start.elapsed());
            let is_late = start.elapsed() >= first && !left.is_zero();
            if !is_late && failure.kind != FailureKind::GuestReset {
                return Err(failure);
            }
            boot_once(backend, vm, attempt, left, console, cancel).await
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
async fn boot_once(
    backend: &dyn Backend,
    definition: &VmDefinition,
    attempt: &Attempt,
    patience: Duration,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<Booted, Failure> {
    let start = Instant::now();
    let plan = backend.plan(definition, attempt.accelerator).await?;
    let Launched { mut vmm, confinement, agent, console: output } = backend.spawn(plan)?;
    let following = tokio::spawn(console.clone().follow(output));
    let greeted = tokio::select! {
        greeted = greet(agent, &mut vmm, definition.identity(), start + patience, late(&definition.record, attempt)) => greeted,
        () = cancel.cancelled() => Err(Failure::new("it was stopped while it booted")),
    };
    match greeted {
        Ok((stream, hello)) => {
            let boot_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let agent = AgentInfo { version: hello.version, guest_boot_ms: hello.uptime_ms, boot_ms };
            Ok(Booted { vmm, accelerator: attempt.accelerator, confinement, agent, stream })
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

/// Waits until the agent has opened its device, and exchanges greetings.
async fn greet(
    agent: impl Future<Output = AgentStream>,
    vmm: &mut Vmm,
    identity: GuestIdentity,
    deadline: Instant,
    late: Failure,
) -> Result<(AgentStream, GuestHello), Failure> {
    let mut last = None;
    let connected = async {
        tokio::select! {
            stream = agent => Ok(stream),
            failure = vmm_ended(vmm, &mut last) => Err(failure),
        }
    };
    let mut stream = timeout_at(deadline, connected).await.map_err(|_| late)??;

    // Not before: the guest sets its clock by this.
    let ours = HostHello {
        nonce: file::random_hex(16),
        version: banger_agent::VERSION.to_owned(),
        protocol: PROTOCOL,
        clock_ns: now_ns(),
        identity: Some(identity),
    };
    let patience = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
    let greetings = async {
        tokio::select! {
            hello = link::handshake(&mut stream, &ours) => hello.map_err(|error| match error {
                LinkError::Protocol { .. } => Failure::new(error.to_string()).with_hint("install banger anew: its parts do not fit together"),
                error => Failure::new(error.to_string()),
            }),
            failure = vmm_ended(vmm, &mut last) => Err(failure),
        }
    };
    let hello = timeout_at(patience, greetings).await.unwrap_or_else(|_| {
        Err(Failure::new("the guest's agent opened its port, and then did not say what an agent says"))
    })?;
    Ok((stream, hello))
}

/// The last that was heard of a guest before its VMM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastSign {
    AgentClosed,
    PoweredOff,
    Reset,
}

impl LastSign {
    /// Why the boot failed.
    fn failure(self) -> Failure {
        match self {
            LastSign::AgentClosed => Failure::new("the guest's agent ended before it answered"),
            LastSign::PoweredOff => Failure::new("the guest switched itself off before its agent answered"),
            LastSign::Reset => {
                Failure::new("the guest's kernel panicked, or the guest reset itself, before its agent answered")
                    .of_kind(FailureKind::GuestReset)
            }
        }
    }
}

/// Waits for an event that ends the boot, and says what it means.
async fn vmm_ended(vmm: &mut Vmm, last: &mut Option<LastSign>) -> Failure {
    loop {
        if let Some(failure) = ended(vmm.events.recv().await, last) {
            return failure;
        }
    }
}

/// Whether this event ends the boot, and what that means. `last` is what went before it.
fn ended(event: Option<VmmEvent>, last: &mut Option<LastSign>) -> Option<Failure> {
    let sign = match event {
        // A guest that goes down closes its device on its way: what follows says more.
        Some(VmmEvent::AgentClosed) => LastSign::AgentClosed,
        Some(VmmEvent::Reset) => LastSign::Reset,
        Some(VmmEvent::PoweredOff) => LastSign::PoweredOff,
        Some(VmmEvent::Stuck(failure)) => return Some(failure),
        Some(VmmEvent::Exited(failure)) => return Some(last.map_or(failure, LastSign::failure)),
        None => return Some(Failure::new("the VMM is gone")),
    };
    *last = Some(sign);
    None
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::{pending, ready};

    use futures::FutureExt;
    use futures::future::LocalBoxFuture;
    use tokio::io::{BufReader, DuplexStream};
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::backend::{BootPolicy, SocketPair, VmmPlan, net_plan};
    use crate::error::Result;

    const KVM_BOOT: Duration = Duration::from_secs(30);
    const TCG_BOOT: Duration = Duration::from_secs(120);
    const RETRY_AFTER: Duration = Duration::from_secs(40);

    fn record() -> VmRecord {
        VmRecord::new("vm", "image", "kernel", 0)
    }

    /// What a guest does.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Guest {
        Answers,
        KeepsSilent,
        PowersOff,
        Resets,
    }

    /// A backend whose guests do, one after the other, what a test says.
    struct Scripted {
        guests: Mutex<VecDeque<Guest>>,
        retry_after: Option<Duration>,
    }

    impl Scripted {
        fn of<const N: usize>(guests: [Guest; N]) -> Scripted {
            Scripted { guests: Mutex::new(guests.into()), retry_after: Some(RETRY_AFTER) }
        }

        /// Boots under TCG: what comes of it, how long it took, and how many guests were not
        /// started.
        async fn boot(&self) -> (Result<Booted, Failure>, Duration, usize) {
            let folder = tempfile::tempdir().unwrap();
            let vm = VmDefinition {
                net: net_plan(&record()),
                record: record(),
                kernel: "/k".into(),
                initramfs: "/i".into(),
                base: "/b".into(),
                disk: "/d".into(),
                workspace: None,
                modules: None,
            };
            let console = Console::new(ConsoleLog::start(folder.path()).unwrap());
            let start = Instant::now();
            let attempt = tcg_attempt(self, None, None);
            let booted = boot(self, &vm, &attempt, &console, &CancellationToken::new()).await;
            (booted, start.elapsed(), self.guests.lock().unwrap().len())
        }
    }

    impl Backend for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        fn boot_policy(&self, accelerator: Accelerator) -> BootPolicy {
            match accelerator {
                Accelerator::Kvm => BootPolicy { limit: KVM_BOOT, retry_after: None },
                Accelerator::Tcg => BootPolicy { limit: TCG_BOOT, retry_after: self.retry_after },
            }
        }

        fn plan<'a>(&'a self, _: &'a VmDefinition, _: Accelerator) -> LocalBoxFuture<'a, Result<VmmPlan>> {
            let pair = || SocketPair::new(Path::new("/vmm")).unwrap();
            let (program, arguments) = ("/vmm".into(), Vec::new());
            let plan = VmmPlan { program, arguments, rules: None, agent: pair(), console: pair(), control: None };
            ready(Ok(plan)).boxed_local()
        }

        fn spawn(&self, _: VmmPlan) -> Result<Launched> {
            let guest = self.guests.lock().unwrap().pop_front().expect("there is no guest left");
            let (ours, theirs) = tokio::io::duplex(1 << 12);
            let (sender, events) = mpsc::channel(16);
            let (quit, quit_asked) = oneshot::channel();
            tokio::spawn(play(guest, theirs, quit_asked, sender));
            let agent: AgentStream = Box::new(ours);
            Ok(Launched {
                vmm: Vmm::new(1, events, quit),
                confinement: None,
                agent: if guest == Guest::Answers { ready(agent).boxed() } else { pending().boxed() },
                console: Box::new(tokio::io::empty()),
            })
        }
    }

    async fn play(guest: Guest, port: DuplexStream, quit: oneshot::Receiver<()>, events: mpsc::Sender<VmmEvent>) {
        match guest {
            Guest::Answers => {
                let hello = |host: &HostHello| {
                    let identity = host.identity.as_ref().expect("the host says who the guest is");
                    assert_eq!((identity.hostname.as_str(), identity.net), ("vm", net_plan(&record()).interface));
                    let (nonce, version) = (host.nonce.clone(), "test".into());
                    GuestHello { nonce, version, protocol: PROTOCOL, uptime_ms: 1 }
                };
                link::answer(&mut BufReader::new(port), hello).await.unwrap();
                let _ = quit.await;
            }
            Guest::KeepsSilent => drop(quit.await),
            Guest::PowersOff => events.send(VmmEvent::PoweredOff).await.unwrap(),
            Guest::Resets => events.send(VmmEvent::Reset).await.unwrap(),
        }
        let _ = events.send(VmmEvent::Exited(Failure::new("the VMM ended"))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_resets_is_started_once_more_if_the_backend_says_so() {
        let (booted, took, left) = Scripted::of([Guest::Resets, Guest::Answers]).boot().await;
        assert_eq!((booted.unwrap().agent.version.as_str(), left), ("test", 0));
        assert!(took < RETRY_AFTER);

        let (booted, _, left) = Scripted::of([Guest::Resets, Guest::Resets, Guest::Answers]).boot().await;
        assert_eq!((booted.err().unwrap().kind, left), (FailureKind::GuestReset, 1));

        let once = Scripted { retry_after: None, ..Scripted::of([Guest::Resets, Guest::Answers]) };
        let (booted, _, left) = once.boot().await;
        assert_eq!((booted.err().unwrap().kind, left), (FailureKind::GuestReset, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_is_late_is_started_once_more_within_the_limit() {
        let (booted, took, left) = Scripted::of([Guest::KeepsSilent, Guest::Answers]).boot().await;
        assert_eq!((booted.unwrap().agent.version.as_str(), left), ("test", 0));
        assert!((RETRY_AFTER..KVM_BOOT * 2).contains(&took), "{took:?}");

        let (booted, took, left) = Scripted::of([Guest::KeepsSilent; 3]).boot().await;
        assert!(booted.err().unwrap().message.contains("did not answer within 120 s"));
        assert!((TCG_BOOT..TCG_BOOT * 2).contains(&took) && left == 1, "{took:?}");

        let once = Scripted { retry_after: None, ..Scripted::of([Guest::KeepsSilent, Guest::Answers]) };
        let (booted, took, left) = once.boot().await;
        assert!(booted.is_err() && took >= TCG_BOOT && left == 1, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_powers_off_is_not_started_again() {
        let (booted, _, left) = Scripted::of([Guest::PowersOff, Guest::Answers]).boot().await;
        assert!(booted.err().unwrap().message.contains("switched itself off"));
        assert_eq!(left, 1);
    }

    #[tokio::test]
    async fn kvm_probe_does_not_block_the_runtime() {
        let (sender, receiver) = std::sync::mpsc::channel();
        // A probe takes as long as the other tasks of this thread like.
        let support = move || match receiver.recv_timeout(Duration::from_secs(10)) {
            Ok(()) => KvmSupport::Works,
            Err(error) => KvmSupport::Unusable(error.to_string()),
        };
        tokio::spawn(async move { sender.send(()) });
        let (attempt, _) = first_attempt(&Scripted::of([]), AcceleratorChoice::Auto, support, None).await;
        assert_eq!((attempt.accelerator, attempt.fallback), (Accelerator::Kvm, None));
    }

    #[tokio::test]
    async fn auto_accelerator_tries_kvm_unless_unusable() {
        let backend = &Scripted::of([]);
        let first = |choice, support, limit| first_attempt(backend, choice, || support, limit);
        let (attempt, trial) = first(AcceleratorChoice::Auto, KvmSupport::Unknown, None).await;
        assert_eq!((attempt.accelerator, attempt.limit, trial), (Accelerator::Kvm, FIRST_KVM_BOOT, true));
        let (attempt, trial) = first(AcceleratorChoice::Auto, KvmSupport::Works, None).await;
        assert_eq!((attempt.accelerator, attempt.limit, trial), (Accelerator::Kvm, KVM_BOOT, false));
        let (attempt, trial) = first(AcceleratorChoice::Auto, KvmSupport::Unusable("no".into()), None).await;
        assert_eq!((attempt.accelerator, attempt.fallback.as_deref(), trial), (Accelerator::Tcg, Some("no"), false));

        let short = Some(Duration::from_secs(3));
        assert_eq!(first(AcceleratorChoice::Auto, KvmSupport::Unknown, short).await.0.limit, Duration::from_secs(3));
        let never = || unreachable!("whoever forces an accelerator gets it");
        assert_eq!(
            first_attempt(backend, AcceleratorChoice::Tcg, never, None).await.0,
            tcg_attempt(backend, None, None)
        );
        assert!(!first_attempt(backend, AcceleratorChoice::Kvm, never, None).await.1);
    }

    #[test]
    fn late_boot_hint_names_longer_timeout_and_causes() {
        let hint = |cpus, memory_mib| {
            let record = VmRecord { cpus, memory_mib, ..VmRecord::new("vm", "image", "kernel", 0) };
            late(&record, &tcg_attempt(&Scripted::of([]), Some(Duration::from_secs(20)), None)).hint.unwrap()
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
    fn reset_before_exit_is_reported_as_panic() {
        let mut last = None;
        assert_eq!(ended(Some(VmmEvent::Reset), &mut last), None);
        let failure = ended(Some(VmmEvent::Exited(Failure::new("QEMU ended"))), &mut last).unwrap();
        assert!(failure.message.contains("panicked"));
    }
}
