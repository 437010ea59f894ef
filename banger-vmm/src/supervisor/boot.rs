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
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::backend::{AgentConnector, AgentStream, Backend, Launched, VmDefinition, Vmm, VmmEvent};
use crate::confinement::Confinement;
use crate::console::ConsoleLog;
use crate::error::{Failure, FailureKind};
use crate::file;
use crate::kvm::{self, Accelerator};
use crate::record::VmRecord;
use crate::wire::AgentInfo;

/// An ordinary image needs more to come up, in MiB.
const LITTLE_MEMORY_MIB: u64 = 256;

/// How long to wait before an agent is greeted again whose connection has ended.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// One boot: a backend, and how long it may take.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) backend: &'a dyn Backend,
    pub(super) accelerator: Accelerator,
    pub(super) limit: Duration,
    /// The snapshot to go on from.
    pub(super) snapshot: Option<&'a Path>,
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
    /// What confines the VMM.
    pub(super) confinement: Option<Confinement>,
    /// The way to the agent, for another connection.
    pub(super) connector: Box<dyn AgentConnector>,
    pub(super) agent: AgentInfo,
    /// What carries the agent's link, after the handshake.
    pub(super) stream: AgentStream,
    /// Who the guest was told to be.
    pub(super) identity: GuestIdentity,
}

/// Boots; where a guest fails that its backend starts anew, once more. Nothing has been run in it
/// yet.
pub(super) async fn boot(
    vm: &VmDefinition,
    attempt: Attempt<'_>,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<Booted, Failure> {
    let retry_after = attempt.backend.boot_policy(attempt.accelerator).retry_after;
    // A guest that has gone on has written to the disks, which do not fit its snapshot any more.
    let Some(retry_after) = retry_after.filter(|_| attempt.snapshot.is_none()) else {
        return boot_once(vm, attempt, attempt.limit, console, cancel).await;
    };
    let start = Instant::now();
    let first = attempt.limit.min(retry_after);
    match boot_once(vm, attempt, first, console, cancel).await {
        Err(failure) if !cancel.is_cancelled() => {
            let left = attempt.limit.saturating_sub(start.elapsed());
            let is_late = start.elapsed() >= first && !left.is_zero();
            if !is_late && failure.kind != FailureKind::GuestReset {
                return Err(failure);
            }
            boot_once(vm, attempt, left, console, cancel).await
        }
        booted => booted,
    }
}

/// The failure of a guest whose agent does not answer in time: how to give it more, and what about
/// the VM may make it slow.
fn late(record: &VmRecord, attempt: Attempt<'_>) -> Failure {
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
    definition: &VmDefinition,
    attempt: Attempt<'_>,
    patience: Duration,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<Booted, Failure> {
    let start = Instant::now();
    let launching = attempt.backend.launch(definition, attempt.accelerator, attempt.snapshot);
    let launched = tokio::select! {
        launched = timeout_at(start + patience, launching) => launched.map_err(|_| late(&definition.record, attempt))??,
        () = cancel.cancelled() => return Err(stopped()),
    };
    let Launched { mut vmm, confinement, mut agent, console: output } = launched;
    let following = tokio::spawn(console.clone().follow(output));
    let greeted = tokio::select! {
        greeted = greet(&mut *agent, &mut vmm, definition.identity(), start + patience, late(&definition.record, attempt)) => greeted,
        () = cancel.cancelled() => Err(stopped()),
    };
    match greeted {
        Ok((stream, hello)) => {
            let boot_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let info = AgentInfo { version: hello.version, guest_boot_ms: hello.uptime_ms, boot_ms };
            let identity = definition.identity();
            Ok(Booted { vmm, confinement, connector: agent, agent: info, stream, identity })
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

fn stopped() -> Failure {
    Failure::new("it was stopped while it booted").of_kind(FailureKind::Stopped)
}

/// Waits until the agent has opened its device, and exchanges greetings. Where the agent can be
/// reached on another connection, one that ends before the agent has answered is no failure.
pub(super) async fn greet(
    agent: &mut dyn AgentConnector,
    vmm: &mut Vmm,
    identity: GuestIdentity,
    deadline: Instant,
    late: Failure,
) -> Result<(AgentStream, GuestHello), Failure> {
    let mut last = None;
    loop {
        let connected = async {
            tokio::select! {
                stream = agent.connect() => Ok(stream),
                failure = vmm_ended(vmm, &mut last) => Err(failure),
            }
        };
        let mut stream = timeout_at(deadline, connected).await.map_err(|_| late.clone())??;

        // Not before: the guest sets its clock by this.
        let ours = HostHello {
            nonce: file::random_hex(16),
            version: banger_agent::VERSION.to_owned(),
            protocol: PROTOCOL,
            clock_ns: now_ns(),
            identity: Some(identity.clone()),
        };
        let patience = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
        let greetings = async {
            tokio::select! {
                hello = link::handshake(&mut stream, &ours) => Ok(hello),
                failure = vmm_ended(vmm, &mut last) => Err(failure),
            }
        };
        let hello = timeout_at(patience, greetings).await.unwrap_or_else(|_| {
            Err(Failure::new("the guest's agent opened its port, and then did not say what an agent says"))
        })?;
        match hello {
            Ok(hello) => return Ok((stream, hello)),
            Err(LinkError::Io(_)) if agent.can_connect_again() => sleep(AGAIN_AFTER).await,
            Err(error @ LinkError::Protocol { .. }) => {
                let hint = "install banger anew: its parts do not fit together";
                return Err(Failure::new(error.to_string()).with_hint(hint));
            }
            Err(error) => return Err(Failure::new(error.to_string())),
        }
    }
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
    use std::future::pending;

    use futures::FutureExt;
    use futures::future::{BoxFuture, LocalBoxFuture};
    use tokio::io::{BufReader, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::backend::{BootPolicy, SingleConnection, VmmCommand, net_plan};
    use crate::record::BackendKind;

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

        fn attempt(&self, limit: Duration) -> Attempt<'_> {
            Attempt { backend: self, accelerator: Accelerator::Tcg, limit, snapshot: None }
        }

        /// Boots under TCG: what comes of it, how long it took, and how many guests were not
        /// started.
        async fn boot(&self) -> (Result<Booted, Failure>, Duration, usize) {
            let folder = tempfile::tempdir().unwrap();
            let vm = VmDefinition::for_test(record(), BackendKind::Qemu);
            let console = Console::new(ConsoleLog::start(folder.path()).unwrap());
            let start = Instant::now();
            let booted = boot(&vm, self.attempt(TCG_BOOT), &console, &CancellationToken::new()).await;
            (booted, start.elapsed(), self.guests.lock().unwrap().len())
        }
    }

    impl Backend for Scripted {
        fn kind(&self) -> BackendKind {
            BackendKind::Qemu
        }

        fn name(&self) -> &'static str {
            "scripted"
        }

        fn boot_policy(&self, accelerator: Accelerator) -> BootPolicy {
            match accelerator {
                Accelerator::Kvm => BootPolicy { limit: KVM_BOOT, retry_after: None },
                Accelerator::Tcg => BootPolicy { limit: TCG_BOOT, retry_after: self.retry_after },
            }
        }

        fn check(&self, _: &VmDefinition) -> Result<(), Failure> {
            Ok(())
        }

        fn launch<'a>(
            &'a self,
            _: &'a VmDefinition,
            _: Accelerator,
            _: Option<&'a Path>,
        ) -> LocalBoxFuture<'a, Result<Launched, Failure>> {
            async {
                let guest = self.guests.lock().unwrap().pop_front().expect("there is no guest left");
                let (ours, theirs) = tokio::io::duplex(1 << 12);
                let (sender, events) = mpsc::channel(16);
                let (commands, told) = mpsc::channel(4);
                tokio::spawn(play(guest, theirs, told, sender));
                let agent = async move {
                    match guest {
                        Guest::Answers => Box::new(ours) as AgentStream,
                        _ => pending().await,
                    }
                };
                Ok(Launched {
                    vmm: Vmm::new(1, events, commands),
                    confinement: None,
                    agent: Box::new(SingleConnection::new(agent)),
                    console: Box::new(tokio::io::empty()),
                })
            }
            .boxed_local()
        }
    }

    async fn play(
        guest: Guest,
        port: DuplexStream,
        mut told: mpsc::Receiver<VmmCommand>,
        events: mpsc::Sender<VmmEvent>,
    ) {
        match guest {
            Guest::Answers => {
                let hello = |host: &HostHello| {
                    let identity = host.identity.as_ref().expect("the host says who the guest is");
                    assert_eq!(
                        (identity.hostname.as_str(), identity.net),
                        ("vm", net_plan(record().net, BackendKind::Qemu).interface)
                    );
                    let (nonce, version) = (host.nonce.clone(), "test".into());
                    GuestHello { nonce, version, protocol: PROTOCOL, uptime_ms: 1 }
                };
                link::answer(&mut BufReader::new(port), hello).await.unwrap();
                let _ = told.recv().await;
            }
            Guest::KeepsSilent => drop(told.recv().await),
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

    /// An agent with a connection for each call.
    struct Connections(VecDeque<DuplexStream>);

    impl AgentConnector for Connections {
        fn connect(&mut self) -> BoxFuture<'_, AgentStream> {
            let stream = self.0.pop_front().expect("there is no connection left");
            async { Box::new(stream) as AgentStream }.boxed()
        }

        fn can_connect_again(&self) -> bool {
            true
        }

        fn is_cut_by_snapshots(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn agent_whose_first_connection_ends_is_greeted_on_another() {
        let [(first, gone), (second, port)] = std::array::from_fn(|_| tokio::io::duplex(1 << 12));
        drop(gone);
        let (sender, events) = mpsc::channel(16);
        let (commands, told) = mpsc::channel(4);
        tokio::spawn(play(Guest::Answers, port, told, sender));
        let mut vmm = Vmm::new(1, events, commands);
        let mut connections = Connections([first, second].into());
        let identity = VmDefinition::for_test(record(), BackendKind::Qemu).identity();
        let deadline = Instant::now() + Duration::from_secs(5);
        let greeted = greet(&mut connections, &mut vmm, identity, deadline, Failure::new("late")).await;
        assert_eq!(greeted.unwrap().1.version, "test");
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_powers_off_is_not_started_again() {
        let (booted, _, left) = Scripted::of([Guest::PowersOff, Guest::Answers]).boot().await;
        assert!(booted.err().unwrap().message.contains("switched itself off"));
        assert_eq!(left, 1);
    }

    #[test]
    fn late_boot_hint_names_longer_timeout_and_causes() {
        let hint = |cpus, memory_mib| {
            let record = VmRecord { cpus, memory_mib, ..VmRecord::new("vm", "image", "kernel", 0) };
            late(&record, Scripted::of([]).attempt(Duration::from_secs(20))).hint.unwrap()
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
