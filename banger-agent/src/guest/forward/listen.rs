//! Listening in the guest.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use nix::libc;
use nix::unistd::{setfsgid, setfsuid};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio_util::either::Either;

use super::{Socket, describe, resolve};
use crate::frame::Frame;
use crate::guest::stream::{Reader, Writer};
use crate::guest::users::User;
use crate::protocol::forward::{Address, Incoming, Listen, Listening, MAX_WAITING};
use crate::protocol::{AgentFailure, AgentFailureKind, AgentReply, WireBytes};

/// How long a connection waits for the host to take it.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a new folder for a socket is called in `/tmp`, before random letters.
const FOLDER: &str = "banger-ssh-";

/// The connections that wait for the host, by their tokens.
#[derive(Default)]
pub(in crate::guest) struct Waiting(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    last: u64,
    all: HashMap<u64, (Socket, OwnedSemaphorePermit)>,
}

impl Waiting {
    pub(super) fn take(&self, token: u64) -> Option<Socket> {
        self.lock().all.remove(&token).map(|(socket, _)| socket)
    }

    fn put(&self, socket: Socket, place: OwnedSemaphorePermit) -> u64 {
        let mut inner = self.lock();
        inner.last += 1;
        let token = inner.last;
        inner.all.insert(token, (socket, place));
        token
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for as long as the stream is open.
pub(in crate::guest) async fn listen(request: Listen, waiting: Arc<Waiting>, mut reader: Reader, mut writer: Writer) {
    let at = request.at.clone();
    let (listener, at) = match Listener::new(request).await {
        Ok(bound) => bound,
        Err(Refused::Failure(failure)) => return refuse(writer, failure).await,
        Err(Refused::Io(error)) => {
            let message = format!("cannot listen at {} in the guest: {error}", describe(&at));
            return refuse(writer, AgentFailure::new(AgentFailureKind::Other, message)).await;
        }
    };
    if writer.send(Frame::control(&AgentReply::Ok(Listening { at }))).await.is_err() {
        return;
    }
    let places = Arc::new(Semaphore::new(MAX_WAITING));
    let accepting = async {
        loop {
            // It is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((socket, from)) = listener.accept().await else {
                // No descriptors are left: some will be when a connection ends.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let token = waiting.put(socket, place);
            let (address, port) = from.map_or_else(Default::default, |from| (from.ip().to_string(), from.port()));
            if writer.send(Frame::control(&Incoming { token, address, port })).await.is_err() {
                waiting.take(token);
                return;
            }
            let waiting = Arc::clone(&waiting);
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                waiting.take(token);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        // The host says nothing more.
        _ = reader.next() => {}
    }
}

async fn refuse(mut writer: Writer, failure: AgentFailure) {
    let _ = writer.send(Frame::control(&AgentReply::<Listening>::Error(failure))).await;
    let _ = writer.close().await;
}

/// What listens. Of a Unix socket nothing is left when it is dropped.
enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf, folder: Option<PathBuf> },
}

enum Refused {
    Failure(AgentFailure),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Io(error)
    }
}

impl Listener {
    /// Listens at what is asked for, and says where that is.
    async fn new(request: Listen) -> Result<(Listener, Address), Refused> {
        match request.at {
            Address::Tcp { host, port } => {
                let addresses = match host.as_str() {
                    // The first is both, where there are both.
                    "" => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
                    name => resolve::addresses(name).await?,
                };
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for address in addresses {
                    match TcpListener::bind((address, port)).await {
                        Ok(listener) => {
                            let port = listener.local_addr()?.port();
                            return Ok((Listener::Tcp(listener), Address::Tcp { host, port }));
                        }
                        // Half of a name is not what was asked for.
                        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error.into()),
                        Err(error) => last = error,
                    }
                }
                Err(last.into())
            }
            Address::Unix { path } => {
                let user = User::find(request.user.as_deref()).map_err(Refused::Failure)?;
                let bound = spawn_blocking(move || bind(Path::new(path.as_os_str()), &user)).await;
                let (listener, path, folder) = bound.map_err(io::Error::other)??;
                let at = Address::Unix { path: WireBytes::from(path.as_os_str()) };
                listener.set_nonblocking(true)?;
                Ok((Listener::Unix { listener: UnixListener::from_std(listener)?, path, folder }, at))
            }
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (socket, from) = listener.accept().await?;
                Ok((Either::Left(socket), Some(from)))
            }
            Listener::Unix { listener, .. } => Ok((Either::Right(listener.accept().await?.0), None)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix { path, folder, .. } = self {
            // Both fail only when somebody else has removed them.
            let _ = std::fs::remove_file(path);
            let _ = folder.as_ref().map(std::fs::remove_dir);
        }
    }
}

type Bound = (std::os::unix::net::UnixListener, PathBuf, Option<PathBuf>);

/// Makes a socket that is `user`'s, and nobody else's; without a path, in a new folder of theirs.
fn bind(path: &Path, user: &User) -> io::Result<Bound> {
    if !path.as_os_str().is_empty() {
        return Ok((bind_as(path, user)?, path.to_owned(), None));
    }
    let private = Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix(FOLDER).permissions(private).tempdir_in("/tmp")?;
    // Until it is theirs nobody else can put anything in it.
    chown(folder.path(), Some(user.uid), Some(user.gid))?;
    let path = folder.path().join("agent");
    let listener = bind_as(&path, user)?;
    Ok((listener, path, Some(folder.keep())))
}

/// Binds with `user`'s rights to files, which on Linux are a thread's own: setfsuid(2).
fn bind_as(path: &Path, user: &User) -> io::Result<std::os::unix::net::UnixListener> {
    setfsgid(user.gid.into());
    setfsuid(user.uid.into());
    let bound = bind_private(path);
    setfsuid(0.into());
    setfsgid(0.into());
    bound
}

/// A socket with the mode 0600: the kernel takes it from the descriptor's, which is set before
/// there is a file.
fn bind_private(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    std::fs::File::from(fd.try_clone()?).set_permissions(Permissions::from_mode(0o600))?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(libc::SOMAXCONN).unwrap_or(Backlog::MAXCONN))?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn listening_socket_is_private_to_its_user() {
        let user = User::find(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let me = User { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), ..user };
        let _listener = bind(&path, &me).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(bind(&path, &me).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn waiting_connection_is_taken_once() {
        let waiting = Waiting::default();
        let (socket, _other) = tokio::net::UnixStream::pair().unwrap();
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let token = waiting.put(Either::Right(socket), place);
        assert!(waiting.take(token + 1).is_none());
        assert!(waiting.take(token).is_some());
        assert!(waiting.take(token).is_none());
    }
}
