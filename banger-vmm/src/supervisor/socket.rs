//! The VM's socket: who may connect, and what each connection asks for.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use banger_agent::link::{self, MuxStream};
use nix::unistd::geteuid;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, copy, copy_buf, sink};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::blocking;
use super::ports::PortListeners;
use super::shutdown_requests::StopRequest;
use super::snapshot::{Action, Request};
use super::state::{AgentPhase, State};
use crate::error::{Failure, FailureKind, IoContext, Result};
use crate::file;
use crate::wire::{self, CommandFrame, Hello, MAX_REQUEST, Operation, PortsAnswer, SOCKET, SupervisorFrame};

/// A client has this long to send what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// The agent has this long to end an operation whose client has gone. It gives a command five
/// seconds for that.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);
/// Who has just ended may still be counted for this long.
pub(super) const LEAVING: Duration = Duration::from_millis(500);
/// What a relay holds in each direction, in bytes: one frame of the link. The windows of the
/// streams hold more.
const RELAY_BUFFER: usize = link::PAYLOAD;

/// Who hears what clients want done with the VM.
#[derive(Clone)]
pub(super) struct Requests {
    pub(super) stops: mpsc::Sender<StopRequest>,
    pub(super) actions: mpsc::Sender<Request>,
}

/// Binds the socket in the VM's folder, in place of one that a supervisor left that was killed.
pub(super) fn bind(folder: &Path) -> Result<UnixListener> {
    let path = folder.join(SOCKET);
    file::remove_if_there(&path)?;
    // A socket's path ends at 107 bytes: through the folder's descriptor it is always short.
    let directory = File::open(folder).at("open", folder)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())).at("bind", &path)
}

/// What tells the socket at its place from others; none: there is none.
fn inode(folder: &Path) -> Option<u64> {
    std::fs::symlink_metadata(folder.join(SOCKET)).ok().map(|found| found.ino())
}

/// Serves clients for as long as it is polled. With a hangup, which is what a client sends that
/// finds no socket, it is made anew in `folder`.
pub(super) async fn serve(
    mut listener: UnixListener,
    folder: PathBuf,
    mut hangup: Signal,
    state: Arc<State>,
    ports: Arc<PortListeners>,
    requests: Requests,
) {
    let mut bound = inode(&folder);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = hangup.recv() => {
                // Several clients may have called. Where it cannot be, they say so.
                if inode(&folder) != bound
                    && let Ok(anew) = bind(&folder)
                {
                    (listener, bound) = (anew, inode(&folder));
                }
                continue;
            }
        };
        let Ok((mut client, _)) = accepted else {
            // No descriptors are left: some will be when a client goes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // The folder's mode keeps other users out; so does this, should somebody have changed it.
        if client.peer_cred().is_ok_and(|peer| peer.uid() != geteuid().as_raw()) {
            continue;
        }
        let Ok(permit) = Arc::clone(&state.clients).try_acquire_owned() else {
            let failure = Failure::new("too many commands use the VM at once").of_kind(FailureKind::Busy);
            // A fresh socket's buffer takes it at once.
            let _ = client.try_write(&wire::frame(&SupervisorFrame::<()>::Error(failure)));
            continue;
        };
        let (state, ports, requests) = (Arc::clone(&state), Arc::clone(&ports), requests.clone());
        tokio::spawn(async move {
            // A client that goes, whenever it likes, harms itself only.
            if let Ok(Ok(frame)) = timeout(REQUEST_PATIENCE, read_frame(&mut client)).await {
                let _ = answer(frame, client, &state, &ports, &requests).await;
            }
            drop(permit);
        });
    }
}

async fn answer(
    frame: CommandFrame,
    mut client: UnixStream,
    state: &Arc<State>,
    ports: &Arc<PortListeners>,
    requests: &Requests,
) -> io::Result<()> {
    if frame.hello.is_some() {
        reply::<()>(&mut client, SupervisorFrame::Hello(Hello::of_supervisor())).await?;
    }
    match frame.operation {
        Err(failure) => reply::<()>(&mut client, SupervisorFrame::Error(failure)).await,
        Ok(Operation::Status) => reply(&mut client, SupervisorFrame::Ok(state.status())).await,
        Ok(Operation::Stop { timeout_ms, if_unused }) => {
            if if_unused {
                // Who is still there then is told by whoever stops the VM.
                let _ = timeout(LEAVING, state.usage.unused()).await;
            }
            let timeout = Duration::from_millis(timeout_ms);
            // Nobody takes it when the VM is down already: then the client sees the socket close.
            let _ = requests.stops.send(StopRequest { timeout, if_unused, client }).await;
            Ok(())
        }
        Ok(Operation::Pause) => ask(Action::Pause, client, state, requests).await,
        Ok(Operation::Resume) => ask(Action::Resume, client, state, requests).await,
        Ok(Operation::Snapshot { directory }) => ask(Action::Snapshot(directory), client, state, requests).await,
        Ok(Operation::Ports) => {
            let ports = Arc::clone(ports);
            reply(&mut client, SupervisorFrame::Ok(PortsAnswer::Ok(blocking(move || ports.states()).await))).await
        }
        Ok(Operation::RemovePorts { names }) => {
            let ports = Arc::clone(ports);
            reply(&mut client, SupervisorFrame::Ok(blocking(move || ports.remove(&names)).await)).await
        }
        Ok(Operation::AddPorts { ports: wanted }) => match state.failure() {
            Some(failure) => reply::<()>(&mut client, SupervisorFrame::Error(failure)).await,
            None => {
                let ports = Arc::clone(ports);
                reply(&mut client, SupervisorFrame::Ok(blocking(move || ports.add(&wanted)).await)).await
            }
        },
        Ok(Operation::Use { idle_timeout_ms }) => match state.failure() {
            Some(failure) => reply::<()>(&mut client, SupervisorFrame::Error(failure)).await,
            None => {
                let _user = state.enter();
                state.usage.set_limit(idle_timeout_ms);
                reply(&mut client, SupervisorFrame::Ok(())).await?;
                // It says nothing more. Where the VM goes first, who holds it may be the one that
                // waits for that.
                tokio::select! {
                    ended = client.read_u8() => ended.map(drop),
                    () = state.is_down() => Ok(()),
                }
            }
        },
        Ok(Operation::Agent { only_look }) => match state.failure() {
            // Who comes too late is no user: what was counted holds.
            Some(failure) => reply::<()>(&mut client, SupervisorFrame::Error(failure)).await,
            None => {
                let _user = (!only_look).then(|| state.enter());
                match state.open_stream().await {
                    Err(failure) => reply::<()>(&mut client, SupervisorFrame::Error(failure)).await,
                    Ok(stream) => {
                        reply(&mut client, SupervisorFrame::Ok(())).await?;
                        relay(client, stream).await
                    }
                }
            }
        },
    }
}

/// Has the task that runs the VM do something, once the VM is up.
async fn ask(action: Action, mut client: UnixStream, state: &State, requests: &Requests) -> io::Result<()> {
    let (done, result) = oneshot::channel();
    let result = match state.booted().await {
        AgentPhase::Down(failure) => Err(failure),
        // Nobody takes it when the VM is down already.
        _ => match requests.actions.send(Request { action, done }).await {
            Ok(()) => result.await.unwrap_or_else(|_| Err(Failure::going_down())),
            Err(_) => Err(Failure::going_down()),
        },
    };
    match result {
        Ok(()) => reply(&mut client, SupervisorFrame::Ok(())).await,
        Err(failure) => reply::<()>(&mut client, SupervisorFrame::Error(failure)).await,
    }
}

/// Carries bytes both ways. A client that has closed its end leaves: the agent must let go of the
/// stream in its turn.
async fn relay(mut client: UnixStream, stream: MuxStream) -> io::Result<()> {
    let (mut client_reader, mut client_writer) = client.split();
    let (agent_reader, mut agent_writer) = tokio::io::split(stream);
    let to_agent = async {
        copy_buf(&mut BufReader::with_capacity(RELAY_BUFFER, &mut client_reader), &mut agent_writer).await?;
        agent_writer.shutdown().await
    };
    let to_client = async {
        copy_buf(&mut BufReader::with_capacity(RELAY_BUFFER, agent_reader), &mut client_writer).await?;
        client_writer.shutdown().await
    };
    {
        let (mut to_agent, mut to_client) = (pin!(to_agent), pin!(to_client));
        tokio::select! {
            sent = &mut to_agent => {
                sent?;
                return timeout(LEAVE_PATIENCE, to_client).await?;
            }
            sent = &mut to_client => sent?,
        }
    }
    // The agent has said its last word, and may not take any more: what the client still says goes
    // nowhere, until it has read that.
    copy(&mut client_reader, &mut sink()).await.map(drop)
}

/// Reads what the client asks for.
async fn read_frame(client: &mut UnixStream) -> io::Result<CommandFrame> {
    let length = client.read_u32().await? as usize;
    if length > MAX_REQUEST {
        let failure = Failure::new(format!("a request of {length} bytes is too long"));
        return Ok(CommandFrame { hello: None, operation: Err(failure) });
    }
    let mut json = vec![0; length];
    client.read_exact(&mut json).await?;
    Ok(CommandFrame::parse(&json))
}

/// Answers a client.
pub(super) async fn reply<T: Serialize>(client: &mut UnixStream, answer: SupervisorFrame<T>) -> io::Result<()> {
    client.write_all(&wire::frame(&answer)).await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream as StdUnixStream;

    use banger_agent::link::Mux;
    use tokio::signal::unix::{SignalKind, signal};

    use super::super::state::{MAX_CLIENTS, RunningVmm};
    use super::*;
    use crate::client;
    use crate::error::Error;
    use crate::kvm::Accelerator;
    use crate::wire::{AgentInfo, Status};

    /// A supervisor without a VM, whose agent sends every stream back.
    async fn supervisor(folder: &Path) -> (Arc<State>, mpsc::Receiver<StopRequest>) {
        let state = Arc::new(State::new(folder, 1, 0));
        let (sender, stops) = mpsc::channel(1);
        let hangup = signal(SignalKind::hangup()).unwrap();
        let ports = Arc::new(PortListeners::new(Arc::clone(&state)));
        // Nobody carries out actions.
        let requests = Requests { stops: sender, actions: mpsc::channel(1).0 };
        tokio::spawn(serve(bind(folder).unwrap(), folder.to_owned(), hangup, Arc::clone(&state), ports, requests));
        (state, stops)
    }

    fn agent(state: &State) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mux, driver) = Mux::host(ours);
        tokio::spawn(driver);
        tokio::spawn(link::serve(theirs, |stream| {
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }));
        let agent = AgentInfo { version: "1".into(), guest_boot_ms: 1, boot_ms: 2 };
        state.up(mux, RunningVmm { backend: "QEMU", accelerator: Accelerator::Tcg, reason: None, pid: 1, agent });
    }

    #[tokio::test]
    async fn stream_waits_for_agent_and_relays_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _stops) = supervisor(folder.path()).await;
        let path = folder.path().to_owned();
        let client = tokio::task::spawn_blocking(move || {
            let mut stream = client::connect("vm", &path).unwrap().agent(false).unwrap();
            let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
            let mut writer = stream.try_clone().unwrap();
            let mut received = Vec::new();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                stream.read_to_end(&mut received).unwrap();
            });
            assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
            client::connect("vm", &path).unwrap().ask::<Status>(&Operation::Status).unwrap()
        });
        agent(&state);
        let status = client.await.unwrap();
        assert_eq!((status.accelerator, status.agent.unwrap().version.as_str()), (Some(Accelerator::Tcg), "1"));
    }

    #[tokio::test]
    async fn only_look_connection_does_not_count_as_use() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _stops) = supervisor(folder.path()).await;
        agent(&state);
        for (only_look, touched) in [(true, false), (false, true)] {
            let path = folder.path().to_owned();
            let stream = tokio::task::spawn_blocking(move || client::connect("vm", &path).unwrap().agent(only_look));
            let _stream = stream.await.unwrap().unwrap();
            assert_eq!(state.usage.is_touched(), touched);
        }
        // As a version asks that knows of no difference.
        assert_eq!(
            serde_json::from_str::<Operation>(r#"{"op":"agent"}"#).unwrap(),
            Operation::Agent { only_look: false }
        );
    }

    /// The frames that the supervisor in `folder` sends for this JSON.
    async fn frames(folder: &Path, json: &'static str) -> Vec<serde_json::Value> {
        let path = folder.join(SOCKET);
        let asked = move || {
            let mut stream = StdUnixStream::connect(&path).unwrap();
            stream.write_all(&(json.len() as u32).to_be_bytes()).unwrap();
            stream.write_all(json.as_bytes()).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
            while let Some((length, more)) = rest.split_first_chunk() {
                let (frame, after) = more.split_at(u32::from_be_bytes(*length) as usize);
                frames.push(serde_json::from_slice(frame).unwrap());
                rest = after;
            }
            frames
        };
        tokio::task::spawn_blocking(asked).await.unwrap()
    }

    #[tokio::test]
    async fn hello_is_sent_only_to_commands_that_sent_one() {
        let folder = tempfile::tempdir().unwrap();
        let (_state, _stops) = supervisor(folder.path()).await;
        let greeted = frames(folder.path(), r#"{"hello":{"version":"9","features":["x"]},"op":"status"}"#).await;
        let [hello, answer] = &greeted[..] else { panic!("{greeted:?}") };
        let expected = serde_json::json!({"version": banger_agent::VERSION, "features": ["idle_timeout", "restore_socket", "snapshots"]});
        assert_eq!(hello["hello"], expected);
        assert_eq!(answer["ok"]["pid"], 1);
        // As versions without hello ask.
        let plain = frames(folder.path(), r#"{"op":"status"}"#).await;
        let [answer] = &plain[..] else { panic!("{plain:?}") };
        assert_eq!(answer["ok"]["pid"], 1);
    }

    #[tokio::test]
    async fn operation_of_later_version_is_refused_with_kind_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let (_state, _stops) = supervisor(folder.path()).await;
        let refused = frames(folder.path(), r#"{"op":"fork","hello":{"version":"9"}}"#).await;
        let [hello, answer] = &refused[..] else { panic!("{refused:?}") };
        assert!(hello["hello"].is_object());
        assert_eq!(answer["error"]["kind"], "unknown_request");
        assert!(answer["error"]["message"].as_str().unwrap().contains("does not know this request"));
        assert!(answer["error"]["hint"].as_str().unwrap().contains("another version"));
    }

    #[tokio::test]
    async fn failed_vm_is_told_by_kind() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _stops) = supervisor(folder.path()).await;
        state.down(Failure::new("the guest's agent is gone"));
        let refused = frames(folder.path(), r#"{"op":"use","idle_timeout_ms":1}"#).await;
        assert_eq!(refused[0]["error"]["kind"], "vm_failed");
        assert_eq!(refused[0]["error"]["message"], "the guest's agent is gone");
    }

    #[tokio::test]
    async fn invalid_requests_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _stops) = supervisor(folder.path()).await;
        agent(&state);
        let path = folder.path().join(SOCKET);
        let refused = tokio::task::spawn_blocking(move || {
            let requests: [&[u8]; 4] = [&[0xff; 4], b"\0\0\0\x01{", b"\0\0\0\x0f{\"op\":\"unheard\"", b"\0\0\x80\x01"];
            requests.map(|request| {
                let mut stream = StdUnixStream::connect(&path).unwrap();
                stream.write_all(request).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut reply = Vec::new();
                stream.read_to_end(&mut reply).unwrap();
                String::from_utf8_lossy(&reply).into_owned()
            })
        });
        for reply in refused.await.unwrap() {
            assert!(reply.contains("\"error\""), "{reply:?}");
        }
    }

    #[tokio::test]
    async fn client_count_is_limited_and_boot_failure_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _stops) = supervisor(folder.path()).await;
        let connect = |path: std::path::PathBuf| {
            tokio::task::spawn_blocking(move || client::connect("vm", &path).unwrap().agent(false).map(drop))
        };
        let waiting: Vec<_> = (0..MAX_CLIENTS).map(|_| connect(folder.path().to_owned())).collect();
        while state.clients.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = connect(folder.path().to_owned()).await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("too many"), "{refused}");
        state.down(Failure::new("it did not boot"));
        for client in waiting {
            let Err(Error::Refused { failure, .. }) = client.await.unwrap() else {
                panic!("a stream without an agent")
            };
            assert_eq!(failure.message, "it did not boot");
        }
    }
}
