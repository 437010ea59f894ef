//! The server: answers the host on the agent's port, one task for each stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::sys::statvfs::statvfs;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio_util::codec::{FramedRead, FramedWrite};

use super::authorize::authorize;
use super::clock::set_clock;
use super::console::console;
use super::disks::sync_file_system;
use super::farewell::Farewell;
use super::files::File;
use super::identity::Identity;
use super::init::{Boot, Init, ServeContext, power_off_by_force};
use super::own::own;
use super::stream::{Reader, Writer};
use super::sync::Workspaces;
use super::transport::{AgentPort, Hosts, Port, SharedPipe, VsockListener};
use super::{copy, exec, forward, sync, terminfo};
use crate::boot_config::GuestIdentity;
use crate::frame::{Frame, FrameCodec, MAX_DATA};
use crate::link::{self, GuestHello, HostHello, MuxStream, PROTOCOL};
use crate::protocol::{
    self, AgentFailure, AgentFailureKind, AgentReply, AgentRequest, FileInfo, PowerState, Readiness, Stat,
};

/// How long a stream may take to say what it is for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the image's init may take to stop, before the power goes off all the same.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// What all operations share.
struct Agent {
    /// The folder on the VM's disk that only the agent sees.
    disk: OwnedFd,
    workspaces: Arc<Workspaces>,
    init: Init,
    boot: Boot,
    /// Operations that run a command, from before its start until its end is reported.
    commands: AtomicU32,
    execs: Arc<exec::Registry>,
    /// Connections from the guest that the host has not taken yet.
    waiting: Arc<forward::Waiting>,
    farewell: Arc<Farewell>,
    /// Nothing needs to be safe on an ephemeral disk.
    ephemeral: bool,
}

/// Serves the host until the guest is powered off. The caller is single-threaded.
///
/// # Errors
/// If the runtime cannot be set up or the port fails.
pub fn serve(context: ServeContext) -> io::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    runtime.block_on(async move {
        let agent = Arc::new(Agent {
            workspaces: Arc::new(Workspaces::new(context.disk.as_fd(), context.workspace_disk)?),
            disk: context.disk,
            init: context.init,
            boot: context.boot,
            commands: AtomicU32::new(0),
            execs: Arc::default(),
            waiting: Arc::default(),
            farewell: Farewell::new(),
            ephemeral: context.volatile,
        });
        tokio::spawn(Arc::clone(&agent.farewell).follow(context.power));
        let on_stream = |stream| drop(tokio::spawn(Arc::clone(&agent).operation(stream)));
        match context.agent_port {
            AgentPort::Pipe(pipe) => answer_hosts(SharedPipe::new(File::new(pipe)?), context.identity, on_stream).await,
            AgentPort::Vsock(socket) => answer_hosts(VsockListener::new(socket)?, context.identity, on_stream).await,
        }
    })
}

/// Answers every host that greets the guest: follows its clock, takes on the identity that it
/// gives, and hands each of its streams to `on_stream`.
async fn answer_hosts(port: impl Port, identity: Identity, mut on_stream: impl FnMut(MuxStream)) -> ! {
    let identity = Arc::new(Mutex::new(identity));
    let mut hosts = Hosts::new(port, hello);
    let mut next = hosts.next().await;
    loop {
        let (mut pipe, host) = next;
        set_clock(host.clock_ns);
        if let Some(wanted) = host.identity {
            assume(&identity, wanted).await;
        }
        next = tokio::select! {
            newer = hosts.next() => {
                console("another link takes this one's place");
                newer
            }
            reason = link::serve(&mut pipe, &mut on_stream) => {
                console(&format!("the link ended: {reason}"));
                hosts.ended(pipe);
                hosts.next().await
            }
        };
    }
}

/// Gives the guest the identity `wanted`, before a command can see the former one.
async fn assume(identity: &Arc<Mutex<Identity>>, wanted: GuestIdentity) {
    fn lock(identity: &Mutex<Identity>) -> MutexGuard<'_, Identity> {
        identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
    if !lock(identity).differs_from(&wanted) {
        return;
    }
    let identity = Arc::clone(identity);
    let assumed = tokio::task::spawn_blocking(move || lock(&identity).assume(&wanted)).await;
    for error in assumed.unwrap_or_else(|error| vec![error.to_string()]) {
        console(&format!("cannot take on the identity that the host gives: {error}"));
    }
}

fn hello(host: &HostHello) -> GuestHello {
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    GuestHello {
        nonce: host.nonce.clone(),
        version: crate::VERSION.into(),
        protocol: PROTOCOL,
        uptime_ms: uptime.as_millis() as u64,
    }
}

/// What systemd gives its services: programs that know how may raise their own limit far.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, setrlimit};
    // A kernel with a lower maximum keeps its own limit.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, 1024, 524_288);
}

impl Agent {
    async fn operation(self: Arc<Self>, stream: MuxStream) {
        let (read, write) = tokio::io::split(stream);
        let mut reader: Reader = FramedRead::with_capacity(read, FrameCodec, 64 << 10);
        let mut writer: Writer = FramedWrite::new(write, FrameCodec);
        writer.set_backpressure_boundary(64 << 10);
        let Ok(Some(Ok(first))) = tokio::time::timeout(REQUEST_TIMEOUT, reader.next()).await else { return };
        let request = match first.message() {
            Ok(request) => request,
            Err(error) => {
                let message = format!("the agent does not understand the request: {error}");
                return fail(writer, AgentFailure::new(AgentFailureKind::BadRequest, message)).await;
            }
        };
        match request {
            AgentRequest::Exec(request) => self.exec(request, exec::Program::Asked, reader, writer).await,
            AgentRequest::Sftp { user } => {
                let request = protocol::exec::Exec { user, ..Default::default() };
                self.exec(request, exec::Program::Sftp, reader, writer).await;
            }
            AgentRequest::Forward(request) => forward::connect(request, reader, writer).await,
            AgentRequest::Listen(request) => forward::listen(request, Arc::clone(&self.waiting), reader, writer).await,
            AgentRequest::Listeners => forward::watch(reader, writer).await,
            AgentRequest::Accept(request) => forward::accept(request, &self.waiting, reader, writer).await,
            AgentRequest::Sync(request) | AgentRequest::SyncAdditional(request) => {
                sync::run(&self.workspaces, request, reader, writer).await
            }
            AgentRequest::CopyOut(request) => copy::out(request, writer).await,
            AgentRequest::CopyIn(request) => copy::into(request, reader, writer, self.flush()).await,
            AgentRequest::ReadFile { path, limit } => read_file(&path, limit, writer).await,
            AgentRequest::GuestOnly => {
                let workspaces = Arc::clone(&self.workspaces);
                let found = tokio::task::spawn_blocking(move || workspaces.guest_only()).await;
                answer(
                    writer,
                    found.unwrap_or_else(|error| Err(AgentFailure::new(AgentFailureKind::Other, error.to_string()))),
                )
                .await;
            }
            AgentRequest::Ready { timeout_ms } => {
                let state = self.boot.system_ready(Duration::from_millis(timeout_ms)).await;
                answer(writer, Ok(Readiness { state: state.state, failed_units: state.failed_units })).await;
            }
            AgentRequest::Authorize(request) => answer(writer, authorize(&request)).await,
            AgentRequest::Own(request) => {
                let owned = tokio::task::spawn_blocking(move || own(&request)).await;
                let broken =
                    |_| AgentFailure::new(AgentFailureKind::Other, "the walk through the working tree broke off");
                answer(writer, owned.map_err(broken).flatten()).await;
            }
            AgentRequest::Terminfo(request) => answer(writer, terminfo::install(&request)).await,
            AgentRequest::Stat => answer(writer, self.stat()).await,
            AgentRequest::SyncDisks => {
                self.flush().await;
                answer(writer, Ok(())).await;
            }
            AgentRequest::Shutdown => {
                answer(writer, Ok(())).await;
                self.shut_down().await;
            }
            AgentRequest::Farewell => self.farewell.tell(reader, writer).await,
        }
    }

    async fn exec(&self, request: protocol::exec::Exec, program: exec::Program, reader: Reader, writer: Writer) {
        self.commands.fetch_add(1, Ordering::Relaxed);
        self.workspaces.forget_counts();
        set_clock(request.clock_ns);
        exec::run(&self.execs, request, program, reader, writer, self.flush()).await;
        if self.commands.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.workspaces.count_soon();
        }
    }

    /// Powers off, by the init if it does that in time.
    async fn shut_down(&self) {
        if let Init::Other(_) = self.init {
            // It ends the agent on its way.
            self.farewell.say(PowerState::PowerOff).await;
        }
        let init = self.init.clone();
        let _ = tokio::task::spawn_blocking(move || init.stop(SHUTDOWN_LIMIT)).await;
        self.farewell.say(PowerState::PowerOff).await;
        let _ = tokio::task::spawn_blocking(|| power_off_by_force()).await;
    }

    /// Makes what commands wrote safe from a VMM that is killed.
    async fn flush(&self) {
        if self.ephemeral {
            return;
        }
        let Ok(disk) = self.disk.try_clone() else { return };
        let workspaces = Arc::clone(&self.workspaces);
        // Each waits for a disk of its own.
        let disk = tokio::task::spawn_blocking(move || sync_file_system(&disk));
        let workspaces = tokio::task::spawn_blocking(move || workspaces.flush());
        let _ = tokio::join!(disk, workspaces);
    }

    fn stat(&self) -> Result<Stat, AgentFailure> {
        let other = |what: &str, error: String| {
            AgentFailure::new(AgentFailureKind::Other, format!("cannot read {what}: {error}"))
        };
        let disk = statvfs("/").map_err(|error| other("the disk's state", error.to_string()))?;
        let meminfo = std::fs::read_to_string("/proc/meminfo").map_err(|e| other("/proc/meminfo", e.to_string()))?;
        let memory = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Ok(Stat {
            commands: self.commands.load(Ordering::Relaxed),
            disk_total: disk.blocks() * disk.fragment_size(),
            disk_free: disk.blocks_available() * disk.fragment_size(),
            memory_total: memory("MemTotal:"),
            memory_available: memory("MemAvailable:"),
        })
    }
}

/// Sends a one-frame answer and ends the stream. A client that is gone needs none.
async fn answer<T: Serialize>(mut writer: Writer, result: Result<T, AgentFailure>) {
    let reply = match result {
        Ok(value) => AgentReply::Ok(value),
        Err(failure) => AgentReply::Error(failure),
    };
    let _ = writer.send(Frame::control(&reply)).await;
    let _ = writer.close().await;
}

async fn fail(writer: Writer, failure: AgentFailure) {
    answer::<()>(writer, Err(failure)).await;
}

async fn read_file(path: &protocol::WireBytes, limit: u64, mut writer: Writer) {
    let opened = async {
        let file = tokio::fs::File::open(path.as_os_str()).await?;
        let metadata = file.metadata().await?;
        io::Result::Ok((file, metadata))
    };
    let (file, size) = match opened.await {
        Ok((file, metadata)) if metadata.is_file() && metadata.len() <= limit => (file, metadata.len()),
        Ok((_, metadata)) => {
            let kind = if metadata.is_file() { AgentFailureKind::TooLong } else { AgentFailureKind::Other };
            let message = format!("`{path}` in the guest is no regular file of at most {limit} bytes");
            return fail(writer, AgentFailure::new(kind, message)).await;
        }
        Err(error) => {
            let missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
            let kind = if missing { AgentFailureKind::NoSuchFile } else { AgentFailureKind::Other };
            return fail(writer, AgentFailure::new(kind, format!("cannot read `{path}` in the guest: {error}"))).await;
        }
    };
    if writer.send(Frame::control(&AgentReply::Ok(FileInfo { size }))).await.is_err() {
        return;
    }
    let mut file = file.take(size);
    let mut buffer = vec![0; MAX_DATA];
    while let Ok(count @ 1..) = file.read(&mut buffer).await {
        if writer.send(Frame::Data(1, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            return;
        }
    }
    let _ = writer.close().await;
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::guest::identity::{ApplyIdentity, IdentityChange};

    struct Recorder(mpsc::UnboundedSender<IdentityChange>);

    impl ApplyIdentity for Recorder {
        fn apply(&mut self, change: &IdentityChange) -> Result<(), Box<dyn Error>> {
            Ok(self.0.send(change.clone())?)
        }
    }

    #[tokio::test]
    async fn second_greeting_with_another_identity_changes_the_guest() {
        let named = |name: &str| GuestIdentity { hostname: name.to_owned(), machine_id: None, net: None };
        let (tell, mut changes) = mpsc::unbounded_channel();
        let (mut host, guest) = tokio::io::duplex(1 << 16);
        let (streams, mut served) = mpsc::unbounded_channel();
        let on_stream = move |_| streams.send(()).unwrap();
        let port = SharedPipe::new(guest);
        let serving = answer_hosts(port, Identity::new(named("a"), Recorder(tell)), on_stream);
        let greeting = async {
            for (number, (identity, renamed)) in
                [(Some("a"), false), (None, false), (Some("b"), true), (Some("b"), false)].into_iter().enumerate()
            {
                let hello = HostHello {
                    nonce: format!("n{number}"),
                    version: "0".into(),
                    protocol: PROTOCOL,
                    // The clock is the host's own.
                    clock_ns: 0,
                    identity: identity.map(named),
                };
                link::handshake(&mut host, &hello).await.unwrap();
                // An open stream, as yamux has it: version, window update, SYN, stream 1. Its identity
                // is the guest's by then.
                host.write_all(&[0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
                served.recv().await.unwrap();
                let change = changes.try_recv().ok();
                let expected = IdentityChange::Hostname { from: "a".into(), to: "b".into() };
                assert_eq!(change, renamed.then_some(expected), "greeting {number}");
                // No mux sends that: the link ends.
                host.write_all(&[0xff; 12]).await.unwrap();
            }
        };
        tokio::select! {
            _ = serving => {}
            () = greeting => {}
        }
    }
}
