//! A command's end of a VM's socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use banger_util::process::Signal;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;

use crate::error::{Error, Failure, FailureKind, IoContext, Result};
use crate::run::{self, RunInfo, VmPhase};
use crate::wire::{self, Feature, Hello, MAX_REPLY, Operation, SOCKET, SupervisorFrame};

/// A supervisor takes a connection, and answers what needs no waiting, within this time,
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// and gives a stream to the agent within this: it waits for a boot.
const STREAM_LIMIT: Duration = Duration::from_secs(600);
/// What a supervisor needs to make its socket anew.
const SOCKET_PATIENCE: Duration = Duration::from_secs(5);

/// A connection on which nothing was sent yet.
pub(crate) struct Connection {
    vm: String,
    stream: UnixStream,
    /// How long the answer may take; none: as long as what is asked for does.
    patience: Option<Duration>,
    /// The supervisor's; empty before it has sent one, and in versions without hello.
    supervisor: Hello,
}

/// Connects to the VM's supervisor.
pub(crate) fn connect(vm: &str, folder: &Path) -> Result<Connection> {
    // A socket's path ends at 107 bytes: through the folder's descriptor it is always short.
    let directory = File::open(folder).at("open", folder)?;
    let stream = open(&format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()), REPLY_LIMIT);
    let stream = stream.at("connect to", &folder.join(SOCKET))?;
    // Whoever serves it is told what to run, and what to answer.
    let owner = getsockopt(&stream, PeerCredentials).at("look at", &folder.join(SOCKET))?.uid();
    if owner != geteuid().as_raw() {
        let reason = format!("its socket is served by another user, of uid {owner}");
        return Err(Error::Supervisor { name: vm.to_owned(), reason });
    }
    Ok(Connection { vm: vm.to_owned(), stream, patience: None, supervisor: Hello::default() })
}

/// Connects to the VM's supervisor, which makes its socket anew if that is gone.
///
/// # Errors
/// [`Error::NotRunning`] if there is no supervisor; [`Error::Supervisor`] if it makes no socket.
pub(crate) fn connect_or_restore(vm: &str, folder: &Path) -> Result<Connection> {
    match connect(vm, folder) {
        Err(error) if nobody_listens(&error) => {
            restore_socket(vm, folder)?.ok_or_else(|| Error::NotRunning(vm.to_owned()))
        }
        connection => connection,
    }
}

/// Has a supervisor that lives and has lost its socket make another one, and connects to it.
/// None: there is no supervisor, or it comes or goes just now.
pub(crate) fn restore_socket(vm: &str, folder: &Path) -> Result<Option<Connection>> {
    if !run::is_supervised(folder)? {
        return Ok(None);
    }
    // One that starts has its socket before it notes anything else.
    let Some(info) = RunInfo::read(folder)?.filter(|info| info.restores_socket() && info.phase != VmPhase::Starting)
    else {
        return Ok(None);
    };
    if !info.signal(Signal::HUP)? {
        return Ok(None);
    }
    let start = Instant::now();
    while start.elapsed() < SOCKET_PATIENCE {
        match connect(vm, folder) {
            Err(error) if nobody_listens(&error) => {}
            connection => return connection.map(Some),
        }
        // On its way down it removes the socket last.
        if !run::is_supervised(folder)? {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let reason = "its socket is gone, and it makes no new one".to_owned();
    Err(Error::Supervisor { name: vm.to_owned(), reason })
}

/// Whether this is what connecting says to a socket that is not there, or that nobody serves.
fn nobody_listens(error: &Error) -> bool {
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    matches!(error, Error::Io { source, .. } if kinds.contains(&source.kind()))
}

/// Connects to the socket at `path`. One whose queue stays full for `limit` is an error.
fn open(path: &str, limit: Duration) -> io::Result<UnixStream> {
    let socket: OwnedFd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    // unix(7), socket(7): a connect waits for the queue as long as SO_SNDTIMEO says.
    stream.set_write_timeout(Some(limit))?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}

impl Connection {
    /// Turns the connection into a stream to the agent, which is use of the VM unless it is
    /// `only_look`.
    pub(crate) fn agent(mut self, only_look: bool) -> Result<UnixStream> {
        self.exchange::<()>(&Operation::Agent { only_look }, STREAM_LIMIT)?;
        Ok(self.stream)
    }

    /// Uses the VM for as long as the returned stream is open. None: it is not held, and does not
    /// stop for being idle, since it has failed or its supervisor is of a version without idle
    /// time.
    pub(crate) fn hold(mut self, idle_timeout_ms: u64) -> Result<Option<UnixStream>> {
        match self.exchange::<()>(&Operation::Use { idle_timeout_ms }, REPLY_LIMIT) {
            Ok(()) => Ok(Some(self.stream)),
            // Versions without hello have no kind for either.
            Err(Error::Refused { .. }) if !self.supervisor.has(Feature::IdleTimeout) => Ok(None),
            Err(Error::Refused { failure, .. }) if failure.kind == FailureKind::VmFailed => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An answer that does not come within `patience` is none.
    pub(crate) fn within(self, patience: Duration) -> Connection {
        Connection { patience: Some(patience), ..self }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask<T: DeserializeOwned>(mut self, operation: &Operation) -> Result<T> {
        self.exchange(operation, REPLY_LIMIT)
    }

    fn exchange<T: DeserializeOwned>(&mut self, operation: &Operation, limit: Duration) -> Result<T> {
        let deadline = Instant::now() + self.patience.unwrap_or(limit);
        // A supervisor that has no room for another client answers, and closes, before it has read
        // anything.
        let asked = self.stream.write_all(&wire::command_frame(operation));
        let failure = match self.answer(deadline).map_err(|error| asked.err().unwrap_or(error)) {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(error) => return Err(Error::Supervisor { name: self.vm.clone(), reason: error.to_string() }),
        };
        let name = self.vm.clone();
        Err(match failure.kind {
            FailureKind::GoingDown => Error::GoingDown(name),
            FailureKind::InUse => Error::InUse(name),
            FailureKind::Busy => Error::TooManyClients(name),
            FailureKind::Other
            | FailureKind::UnknownOperation
            | FailureKind::VmFailed
            | FailureKind::GuestReset
            | FailureKind::ProgramMissing
            | FailureKind::KvmUnfit
            | FailureKind::Stopped => Error::Refused { name, failure },
        })
    }

    /// Reads the supervisor's hello, if it sends one, and its answer.
    fn answer<T: DeserializeOwned>(&mut self, deadline: Instant) -> io::Result<Result<T, Failure>> {
        let mut frame = read_frame(&mut self.stream, deadline)?;
        if let SupervisorFrame::Hello(hello) = frame {
            self.supervisor = hello;
            frame = read_frame(&mut self.stream, deadline)?;
        }
        match frame {
            SupervisorFrame::Ok(answer) => Ok(Ok(answer)),
            SupervisorFrame::Error(failure) => Ok(Err(failure)),
            SupervisorFrame::Hello(_) => Err(io::Error::other("a second hello")),
        }
    }
}

/// Reads a frame, all of which comes before `deadline`. What follows it on the connection may take
/// its time.
fn read_frame<T: DeserializeOwned>(stream: &mut UnixStream, deadline: Instant) -> io::Result<T> {
    let mut length = [0; 4];
    read_by(stream, &mut length, deadline)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_REPLY {
        return Err(io::Error::other(format!("a reply of {length} bytes")));
    }
    let mut json = vec![0; length];
    read_by(stream, &mut json, deadline)?;
    stream.set_read_timeout(None)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Fills `buffer` before `deadline`, however few bytes come at a time.
fn read_by(stream: &mut UnixStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn dripping_reply_times_out() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut sent = client.write_all(&[0, 0, 0x40, 0]);
            while sent.is_ok() {
                thread::sleep(Duration::from_millis(5));
                sent = client.write_all(b" ");
            }
        });
        let start = Instant::now();
        let connection = connect("vm", folder.path()).unwrap().within(Duration::from_millis(200));
        let error = connection.agent(true).unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn connect_to_full_backlog_times_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        let listener = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        socket::listen(&listener, socket::Backlog::new(1).unwrap()).unwrap();
        let path = path.to_str().unwrap();
        let connect = || open(path, Duration::from_millis(100));
        let connected: Vec<_> = std::iter::repeat_with(connect).take(10).take_while(io::Result::is_ok).collect();
        assert!(connected.len() < 10);
    }
}
