//! Ports of the host that lead into the guest: one stream to the agent for each connection.

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use banger_agent::frame::{Frame, FrameCodec, FrameError};
use banger_agent::protocol::forward::{Address, Forward};
use banger_agent::protocol::{AgentReply, AgentRequest, WireBytes};
use banger_agent::relay::relay;
use futures::{SinkExt, StreamExt};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::geteuid;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::either::Either;

use super::state::State;
use crate::error::Result as VmResult;
use crate::ports::{self, GuestEnd, HostEnd, PortForward, PortName, PortState};

/// Connections at a time: the link has some streams more, which are for commands. Those that come
/// then wait.
const MAX_CONNECTIONS: usize = 32;
/// How long the agent may take to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// What is read of the agent's stream at once, in bytes.
const CHUNK: usize = 64 << 10;
/// How long to wait when no descriptors are left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// All forwards of a VM, and who listens for them.
pub(super) struct PortListeners {
    state: Arc<State>,
    entries: Mutex<Vec<Entry>>,
    places: Arc<Semaphore>,
}

struct Entry {
    forward: PortForward,
    /// Or why nothing listens.
    listener: Result<Listener, String>,
}

/// Listens, and serves who has connected, until dropped.
struct Listener {
    task: JoinHandle<()>,
    file: Option<SocketFile>,
}

impl Listener {
    /// Returns when nobody listens any more, so that another one can. To be called on a thread that
    /// may wait.
    fn end(mut self) {
        self.stop();
        // It was aborted: that is its end.
        let _ = Handle::current().block_on(&mut self.task);
    }

    /// The file goes first: while somebody listens, nobody takes it for a stale one and puts
    /// another in its place, which would then be removed. The runtime ends the task when it next
    /// has its turn.
    fn stop(&mut self) {
        drop(self.file.take());
        self.task.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Entry {
    fn state(&self) -> PortState {
        PortState { forward: self.forward.clone(), problem: self.listener.as_ref().err().cloned() }
    }
}

impl PortListeners {
    /// None yet. Connections go to the agent of the VM with this state.
    pub(super) fn new(state: Arc<State>) -> PortListeners {
        PortListeners { state, entries: Mutex::default(), places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// How all are.
    pub(super) fn states(&self) -> Vec<PortState> {
        self.lock().iter().map(Entry::state).collect()
    }

    /// Listens for what is kept of the VM, as far as that can be. Returns how all are.
    pub(super) fn restore(&self) -> VmResult<Vec<PortState>> {
        let kept = ports::read(&self.state.folder)?;
        let mut entries = self.lock();
        *entries = kept.iter().map(|forward| self.entry(forward)).collect();
        let now = forwards(&entries);
        if now != kept {
            ports::write(&self.state.folder, now)?;
        }
        Ok(entries.iter().map(Entry::state).collect())
    }

    /// Listens for these too: for all, or for none. The error says why.
    pub(super) fn add(&self, wanted: &[PortForward]) -> Result<Vec<PortState>, String> {
        let mut entries = self.lock();
        let mut now = forwards(&entries);
        let mut made: Vec<(usize, Entry)> = Vec::new();
        let mut places = Vec::new();
        for forward in wanted {
            let place = ports::place(&now, forward)?;
            let index = place.unwrap_or(now.len());
            places.push(index);
            let listens = match place {
                Some(index) => entries.get(index).is_none_or(|entry| entry.listener.is_ok()),
                None => false,
            };
            if !listens {
                let entry = self.entry(place.map_or(forward, |index| &now[index]));
                entry.listener.as_ref().map_err(String::clone)?;
                match place {
                    Some(index) => now[index] = entry.forward.clone(),
                    None => now.push(entry.forward.clone()),
                }
                made.push((index, entry));
            }
        }
        if !made.is_empty() {
            ports::write(&self.state.folder, now).map_err(|error| error.to_string())?;
        }
        for (index, entry) in made {
            match entries.get_mut(index) {
                Some(there) => *there = entry,
                None => entries.push(entry),
            }
        }
        Ok(places.into_iter().map(|index| entries[index].state()).collect())
    }

    /// Listens for these no more, and ends their connections. The error says which has no such
    /// forward. To be called on a thread that may wait.
    pub(super) fn remove(&self, names: &[PortName]) -> Result<Vec<PortState>, String> {
        let mut entries = self.lock();
        let named = ports::matching(&forwards(&entries), names)?;
        let is_named = |index: usize| named[index];
        let kept = entries.iter().enumerate().filter(|(index, _)| !is_named(*index));
        ports::write(&self.state.folder, kept.map(|(_, entry)| entry.forward.clone()).collect())
            .map_err(|error| error.to_string())?;
        let mut index = 0;
        let removed = entries.extract_if(.., |_| {
            index += 1;
            is_named(index - 1)
        });
        let removed: Vec<_> = removed.collect();
        drop(entries);
        let states = removed.iter().map(Entry::state).collect();
        removed.into_iter().filter_map(|entry| entry.listener.ok()).for_each(Listener::end);
        Ok(states)
    }

    /// Listens for none any more. What is kept stays.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    /// Listens, if that can be. Where any port is as good, another one than before may be.
    fn entry(&self, forward: &PortForward) -> Entry {
        let mut forward = forward.clone();
        let listener = self.listen(&mut forward).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => format!("{} is in use already", forward.host),
            _ => format!("cannot listen at {}: {error}", forward.host),
        });
        Entry { forward, listener }
    }

    fn listen(&self, forward: &mut PortForward) -> io::Result<Listener> {
        let mut file = None;
        let socket = match &mut forward.host {
            HostEnd::Tcp(address) => {
                let bound = match StdTcpListener::bind(*address) {
                    Err(error) if forward.any && error.kind() == io::ErrorKind::AddrInUse => {
                        StdTcpListener::bind((address.ip(), 0))
                    }
                    bound => bound,
                }?;
                *address = bound.local_addr()?;
                bound.set_nonblocking(true)?;
                Either::Left(TcpListener::from_std(bound)?)
            }
            HostEnd::Unix(path) => {
                remove_stale(path)?;
                let bound = StdUnixListener::bind(&*path)?;
                file = Some(SocketFile::new(path)?);
                fs::set_permissions(&*path, Permissions::from_mode(0o600))?;
                bound.set_nonblocking(true)?;
                Either::Right(UnixListener::from_std(bound)?)
            }
        };
        let serving = serve(socket, address(&forward.guest), Arc::clone(&self.state), Arc::clone(&self.places));
        Ok(Listener { task: tokio::spawn(serving), file })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forwards(entries: &[Entry]) -> Vec<PortForward> {
    entries.iter().map(|entry| entry.forward.clone()).collect()
}

/// As ssh's `-L PORT:localhost:PORT` has it: the guest's loopback, of either family.
fn address(guest: &GuestEnd) -> Address {
    match guest {
        GuestEnd::Port(port) => Address::Tcp { host: "localhost".to_owned(), port: *port },
        GuestEnd::Unix(path) => Address::Unix { path: WireBytes::from(path.as_os_str()) },
    }
}

/// Serves who connects, for as long as it is polled.
async fn serve(listener: Either<TcpListener, UnixListener>, to: Address, state: Arc<State>, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = match &listener {
            Either::Left(listener) => listener.accept().await.map(|(socket, _)| Either::Left(socket)),
            Either::Right(listener) => listener.accept().await.map(|(socket, _)| Either::Right(socket)),
        };
        let Ok(socket) = accepted else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let (to, state) = (to.clone(), Arc::clone(&state));
        connections.spawn(async move {
            tokio::select! {
                // One that breaks, or that the guest does not take, is closed.
                _ = lead(socket, to, &state) => {}
                () = state.is_down() => {}
            }
            drop(place);
        });
    }
}

/// Leads one connection into the guest, whose user it is until its end.
async fn lead(socket: Either<TcpStream, UnixStream>, to: Address, state: &State) -> Result<(), FrameError> {
    if let Either::Left(tcp) = &socket {
        // What is typed shall go at once.
        tcp.set_nodelay(true)?;
    }
    let _user = state.enter();
    let stream = state.open_stream().await.map_err(|failure| io::Error::other(failure.message))?;
    let (read, write) = tokio::io::split(stream);
    let mut reader = FramedRead::with_capacity(read, FrameCodec, CHUNK);
    let mut writer = FramedWrite::new(write, FrameCodec);
    let connected = async {
        writer.send(Frame::control(&AgentRequest::Forward(Forward { to }))).await?;
        match reader.next().await.unwrap_or(Err(FrameError::Ended))?.message()? {
            AgentReply::Ok(()) => Ok(()),
            AgentReply::Error(failure) => Err(FrameError::Io(io::Error::other(failure.message))),
        }
    };
    timeout(CONNECT_PATIENCE, connected).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    relay(socket, reader, &mut writer).await?;
    writer.close().await
}

/// Removes a socket at which nobody listens any more: a supervisor that was killed leaves one.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() || metadata.uid() != geteuid().as_raw() {
        return Err(io::Error::other("something else is there"));
    }
    // One whose queue is full is not waited for.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(nix::errno::Errno::ECONNREFUSED) => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a socket, removed when dropped, if it is still that one.
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), id: Self::id(path)? })
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        let metadata = fs::symlink_metadata(path)?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::id(&self.path).is_ok_and(|id| id == self.id) {
            // One that stays is stale, and replaced.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdTcpStream;
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::super::blocking;
    use super::*;

    fn parsed(text: &str) -> PortForward {
        text.parse().unwrap()
    }

    fn port(state: &PortState) -> u16 {
        state.forward.host.port().unwrap()
    }

    fn listeners(folder: &Path) -> Arc<PortListeners> {
        Arc::new(PortListeners::new(Arc::new(State::new(folder, 1, 0))))
    }

    #[tokio::test]
    async fn forwards_are_added_all_or_none_and_restored() {
        let folder = tempfile::tempdir().unwrap();
        let first = listeners(folder.path());
        let taken = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let occupied = format!("{}:80", taken.local_addr().unwrap());
        let error = first.add(&[parsed("0:80"), parsed(&occupied)]).unwrap_err();
        assert!(error.contains("in use"), "{error}");
        assert!(first.states().is_empty() && ports::read(folder.path()).unwrap().is_empty());

        let added = first.add(&[parsed("0:80"), parsed("0:81"), parsed("0:80")]).unwrap();
        assert_eq!((added.len(), &added[0]), (3, &added[2]));
        assert_eq!(first.add(&[parsed("0:80")]).unwrap(), added[..1]);
        StdTcpStream::connect(("127.0.0.1", port(&added[0]))).unwrap();
        first.close();
        tokio::task::yield_now().await;
        assert!(StdTcpStream::connect(("127.0.0.1", port(&added[0]))).is_err());

        // A number that somebody has chosen is waited for; of those that were not, any will do.
        ports::write(folder.path(), [added[0].forward.clone(), added[1].forward.clone(), parsed(&occupied)].into())
            .unwrap();
        let theirs = StdTcpListener::bind(("127.0.0.1", port(&added[1]))).unwrap();
        let second = listeners(folder.path());
        let restored = second.restore().unwrap();
        assert_eq!(restored[0], added[0]);
        assert!(port(&restored[1]) != port(&added[1]) && restored[1].problem.is_none());
        assert!(restored[2].problem.as_ref().unwrap().contains("in use"));
        assert_eq!(ports::read(folder.path()).unwrap()[1], restored[1].forward);
        assert!(second.add(&[parsed(&occupied)]).is_err());
        drop((taken, theirs));
        assert_eq!(second.add(&[parsed(&occupied)]).unwrap()[0].problem, None);
        assert_eq!(second.states().len(), 3);

        let name = PortName::Port(port(&restored[0]));
        let remove = |names: Vec<PortName>| {
            let second = Arc::clone(&second);
            blocking(move || second.remove(&names))
        };
        assert!(remove(vec![name.clone(), PortName::Port(1)]).await.is_err());
        assert_eq!(remove(vec![name]).await.unwrap(), restored[..1]);
        // It is over when that returns.
        StdTcpListener::bind(("127.0.0.1", port(&restored[0]))).unwrap();
        assert_eq!(ports::read(folder.path()).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn forward_socket_replaces_only_a_stale_socket() {
        let folder = tempfile::tempdir().unwrap();
        let listeners = listeners(folder.path());
        let path = folder.path().join("s");
        let add = || listeners.add(&[parsed(&format!("{}:80", path.display()))]);
        fs::write(&path, "mine").unwrap();
        assert!(add().unwrap_err().contains("something else is there"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        let theirs = StdUnixListener::bind(&path).unwrap();
        assert!(add().unwrap_err().contains("in use"));
        drop(theirs);
        add().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        StdUnixStream::connect(&path).unwrap();
        // What another has put there is not this one's to remove.
        let theirs = folder.path().join("theirs");
        fs::rename(&path, &theirs).unwrap();
        fs::write(&path, "theirs").unwrap();
        listeners.close();
        assert!(path.exists() && theirs.exists());
        fs::remove_file(&path).unwrap();
        add().unwrap();
        // The file goes while somebody still listens there.
        let client = StdUnixStream::connect(&path).unwrap();
        listeners.close();
        assert!(!path.exists());
        let kept = folder.path().join("kept");
        add().unwrap();
        fs::hard_link(&path, &kept).unwrap();
        listeners.close();
        StdUnixStream::connect(&kept).unwrap();
        tokio::task::yield_now().await;
        assert_eq!(StdUnixStream::connect(&kept).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(client);
    }
}
