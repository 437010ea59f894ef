//! The SSH server of one connection.

mod backlog;
mod forward;
mod guest;
mod session;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banger::banger_agent::frame::CHUNK;
use banger::banger_agent::protocol::WireBytes;
use banger::banger_agent::protocol::exec::{Exec, Size};
use banger::banger_agent::protocol::forward::Address;
use banger::error::{CommandError, ErrorKind};
use russh::keys::PublicKey;
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Preferred, Pty, Sig, SshId, cipher, mac};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::AbortHandle;

use self::guest::Tasks;
pub(crate) use self::guest::{Guest, Up};
use self::session::Control;
use crate::keys::Keys;

/// How long a client may take to authenticate: a user may have to type a passphrase.
const LOGIN_LIMIT: Duration = Duration::from_secs(120);
/// How many channels a client may have open.
const MAX_CHANNELS: usize = 64;
/// How many variables a client may set for a session.
const MAX_VARIABLES: usize = 64;
/// The longest packet that a client may send: one frame to the guest, of which each costs.
const PACKET: u32 = CHUNK as u32;
/// How many packets russh keeps of a channel before the whole connection waits: `backlog` keeps the
/// others.
const WAITING_PACKETS: usize = 16;

/// Serves a client until it disconnects.
///
/// # Errors
/// If the client does not speak SSH, or does not authenticate.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    keys: Keys,
    guest: Guest,
) -> Result<(), CommandError> {
    let config = Arc::new(configuration(&keys));
    let (logged_in, login) = oneshot::channel();
    let (refused, identity) = (Arc::new(AtomicBool::new(false)), keys.identity);
    let connection = Connection {
        refused: Arc::clone(&refused),
        key: keys.user,
        user: String::new(),
        guest,
        logged_in: Some(logged_in),
        sessions: HashMap::new(),
        tasks: Tasks::new(),
        listeners: HashMap::new(),
        agent: Arc::default(),
    };
    let failed = |error: russh::Error| {
        let error = CommandError::new(format!("the SSH client is not understood: {error}")).kind(ErrorKind::Usage);
        error.hint("this is for ssh to run, as ProxyCommand: banger ssh-config")
    };
    let late = || CommandError::new(format!("the SSH client has not logged in within {} s", LOGIN_LIMIT.as_secs()));
    // OpenSSH's client, when it leaves, hangs up on its ProxyCommand at once.
    let mut left = signal(SignalKind::hangup())
        .map_err(|error| CommandError::new(format!("cannot take signals: {error}")).kind((&error).into()))?;
    let deadline = tokio::time::Instant::now() + LOGIN_LIMIT;
    let running = tokio::time::timeout_at(deadline, russh::server::run_stream(config, stream, connection)).await;
    let mut running = running.map_err(|_| late())?.map_err(failed)?;
    // A connection that ends before is no login.
    let login = async {
        if login.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut login = std::pin::pin!(tokio::time::timeout_at(deadline, login));
    tokio::select! {
        ended = &mut running => {
            return match ended {
                // ssh says no more than that permission is denied.
                _ if refused.load(Ordering::Relaxed) => Err(wrong_key(&identity)),
                Err(error) if !is_end(&error) => Err(failed(error)),
                _ => Ok(()),
            };
        }
        _ = left.recv() => return if refused.load(Ordering::Relaxed) { Err(wrong_key(&identity)) } else { Ok(()) },
        login = &mut login => login.map_err(|_| late())?,
    }
    // From here on, how it ends is the client's own business.
    tokio::select! {
        _ = running => {}
        _ = left.recv() => {}
    }
    Ok(())
}

/// The error for a client without the user's key.
fn wrong_key(identity: &Path) -> CommandError {
    let error = CommandError::new(format!("the SSH client has not shown the key `{}`", identity.display()));
    error.kind(ErrorKind::Usage).hint(
        "what `banger ssh-config` printed before `ssh_key_path` was changed leads to the former key: print it anew",
    )
}

/// Whether an error means that the client has disconnected.
fn is_end(error: &russh::Error) -> bool {
    matches!(error, russh::Error::IO(_) | russh::Error::HUP | russh::Error::Disconnect)
}

fn configuration(keys: &Keys) -> Config {
    // One that is fast here, and one that all clients know.
    const CIPHERS: &[cipher::Name] = &[cipher::AES_256_GCM, cipher::AES_256_CTR];
    const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA256];
    Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-banger")),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::ZERO,
        keys: vec![keys.host.clone()],
        preferred: Preferred { cipher: Cow::Borrowed(CIPHERS), mac: Cow::Borrowed(MACS), ..Preferred::DEFAULT },
        maximum_packet_size: PACKET,
        channel_buffer_size: WAITING_PACKETS,
        // Who has logged in may be silent for as long as they like.
        inactivity_timeout: None,
        ..Config::default()
    }
}

/// The state of a connected client.
struct Connection {
    key: PublicKey,
    /// Whether the client has offered another key.
    refused: Arc<AtomicBool>,
    /// The user in the guest.
    user: String,
    guest: Guest,
    logged_in: Option<oneshot::Sender<()>>,
    sessions: HashMap<ChannelId, Client>,
    tasks: Tasks,
    /// The listeners of the client in the guest, by the address that the client has named.
    listeners: HashMap<(String, u32), AbortHandle>,
    agent: Arc<OnceCell<Option<Arc<WireBytes>>>>,
}

/// A session channel.
#[derive(Default)]
struct Client {
    /// The channel, until a command runs in the session.
    channel: Option<Channel<Msg>>,
    variables: Vec<(WireBytes, WireBytes)>,
    tty: Option<Size>,
    wants_agent: bool,
    /// Controls of the command that runs in the session.
    controls: Option<mpsc::Sender<Control>>,
}

/// What a client requests to run in a session.
enum What {
    Shell,
    Line(Vec<u8>),
    Sftp,
}

impl Connection {
    /// Whether one more channel may be opened. russh does not report when the client closes a
    /// channel that this side has closed.
    fn has_room(&mut self) -> bool {
        self.tasks.retain(|_, task| !task.is_finished());
        self.sessions.retain(|_, client| client.controls.as_ref().is_none_or(|controls| !controls.is_closed()));
        let connections = self.tasks.keys().filter(|id| !self.sessions.contains_key(id)).count();
        self.sessions.len() + connections < MAX_CHANNELS
    }

    /// Runs a session's command, if it has none yet.
    fn run(&mut self, id: ChannelId, what: What, session: &mut Session) -> Result<(), russh::Error> {
        let client = self.sessions.get_mut(&id);
        let Some((channel, client)) = client.and_then(|client| Some((client.channel.take()?, client))) else {
            return session.channel_failure(id);
        };
        let (sender, controls) = mpsc::channel(64);
        client.controls = Some(sender);
        let (requested, tty, wants_agent) = (std::mem::take(&mut client.variables), client.tty, client.wants_agent);
        let (guest, handle, user) = (self.guest.clone(), session.handle(), self.user.clone());
        let agent = Arc::clone(&self.agent);
        let start = {
            let handle = handle.clone();
            async move {
                let mut env = guest.up().await.map(|up| up.env.clone()).unwrap_or_default();
                env.extend(session::variables());
                env.extend(requested);
                if wants_agent {
                    let forwarding = forward_agent(guest.clone(), user.clone(), handle);
                    let listening = agent.get_or_init(|| forwarding).await;
                    env.extend(listening.as_ref().map(session::agent_variable));
                }
                if tty.is_some() {
                    session::bring_terminal(&guest, &mut env).await;
                }
                let user = Some(user);
                let (argv, shell) = match what {
                    What::Sftp => return guest.sftp(user).await,
                    What::Shell => (Vec::new(), false),
                    What::Line(line) => (vec![WireBytes(line)], true),
                };
                guest.spawn(Exec { argv, shell, env, user, tty, ..Exec::default() }).await
            }
        };
        let task = tokio::spawn(session::run(channel, start, handle, controls));
        self.tasks.insert(id, task.abort_handle());
        session.channel_success(id)
    }

    /// Sends a control to the command of a session. It is lost if the command does not take it in
    /// time.
    fn control(&self, id: ChannelId, control: Control) {
        if let Some(controls) = self.sessions.get(&id).and_then(|client| client.controls.as_ref()) {
            let _ = controls.try_send(control);
        }
    }

    fn connect(&mut self, channel: Channel<Msg>, to: Option<Address>, reply: ChannelOpenHandle) {
        // Without an answer it is refused.
        let Some(to) = to.filter(|_| self.has_room()) else { return };
        let id = channel.id();
        let task = tokio::spawn(forward::connect(channel, to, reply, self.guest.clone()));
        self.tasks.insert(id, task.abort_handle());
    }

    /// Listens in the guest, and returns the address.
    async fn listen(
        &mut self,
        at: Address,
        name: (String, u32),
        destination: impl FnOnce(&Address) -> forward::Destination,
        handle: Handle,
    ) -> Option<Address> {
        if self.listeners.len() >= MAX_CHANNELS || self.listeners.contains_key(&name) {
            return None;
        }
        let (at, reader) = forward::listen(&self.guest, at, Some(self.user.clone())).await.ok()?;
        let serving = forward::serve(reader, destination(&at), self.guest.clone(), handle);
        let name = match &at {
            // Where the system has chosen, this is how the client calls it from now on.
            Address::Tcp { port, .. } => (name.0, (*port).into()),
            Address::Unix { .. } => name,
        };
        self.listeners.insert(name, tokio::spawn(serving).abort_handle());
        Some(at)
    }

    fn cancel(&mut self, name: (String, u32)) -> bool {
        self.listeners.remove(&name).inspect(AbortHandle::abort).is_some()
    }
}

/// Makes a socket in the guest that is forwarded to the client's SSH agent; `None` if that fails,
/// since ssh works without.
async fn forward_agent(guest: Guest, user: String, handle: Handle) -> Option<Arc<WireBytes>> {
    let (at, reader) = forward::listen(&guest, forward::unix(""), Some(user)).await.ok()?;
    let Address::Unix { path } = at else { return None };
    tokio::spawn(forward::serve(reader, forward::Destination::Agent, guest, handle));
    Some(Arc::new(path))
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        Ok(self.judge(offer.public_key))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let judged = self.judge(key.public_key);
        if matches!(judged, Auth::Accept) {
            user.clone_into(&mut self.user);
            if let Some(logged_in) = self.logged_in.take() {
                let _ = logged_in.send(());
            }
        }
        Ok(judged)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        if self.has_room() {
            self.sessions.insert(channel.id(), Client { channel: Some(channel), ..Client::default() });
            reply.accept().await;
        } else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.sessions.remove(&id);
        if let Some(task) = self.tasks.remove(&id) {
            task.abort();
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(client) = self.sessions.get_mut(&id) else { return session.channel_failure(id) };
        client.tty = Some(size(columns, rows));
        client.variables.insert(0, ("TERM".into(), WireBytes::from(term)));
        session.channel_success(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let is_name = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        match self.sessions.get_mut(&id) {
            Some(client) if is_name && client.variables.len() < MAX_VARIABLES => {
                client.variables.push((name.into(), value.into()));
                session.channel_success(id)
            }
            _ => session.channel_failure(id),
        }
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.run(id, What::Shell, session)
    }

    async fn exec_request(&mut self, id: ChannelId, line: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        self.run(id, What::Line(line.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        match name {
            "sftp" => self.run(id, What::Sftp, session),
            _ => session.channel_failure(id),
        }
    }

    async fn agent_request(&mut self, id: ChannelId, _: &mut Session) -> Result<bool, russh::Error> {
        let client = self.sessions.get_mut(&id);
        Ok(client.map(|client| client.wants_agent = true).is_some())
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.control(id, Control::Resize(size(columns, rows)));
        Ok(())
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, _: &mut Session) -> Result<(), russh::Error> {
        if let Some(signal) = session::number(&signal) {
            self.control(id, Control::Signal(signal));
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.connect(channel, forward::tcp(host, port), reply);
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.connect(channel, Some(forward::unix(path)), reply);
        Ok(())
    }

    async fn tcpip_forward(&mut self, host: &str, port: &mut u32, session: &mut Session) -> Result<bool, russh::Error> {
        let Some(at) = forward::tcp(host, *port) else { return Ok(false) };
        let wanted = *port;
        let destination = |at: &Address| match at {
            Address::Tcp { port, .. } if wanted == 0 => forward::Destination::Tcp(host.to_owned(), (*port).into()),
            _ => forward::Destination::Tcp(host.to_owned(), wanted),
        };
        match self.listen(at, (host.to_owned(), wanted), destination, session.handle()).await {
            Some(Address::Tcp { port: chosen, .. }) => {
                *port = chosen.into();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn cancel_tcpip_forward(&mut self, host: &str, port: u32, _: &mut Session) -> Result<bool, russh::Error> {
        Ok(self.cancel((host.to_owned(), port)))
    }

    async fn streamlocal_forward(&mut self, path: &str, session: &mut Session) -> Result<bool, russh::Error> {
        if path.is_empty() {
            return Ok(false);
        }
        let destination = |_: &Address| forward::Destination::Unix(path.to_owned());
        Ok(self.listen(forward::unix(path), (path.to_owned(), 0), destination, session.handle()).await.is_some())
    }

    async fn cancel_streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Result<bool, russh::Error> {
        Ok(self.cancel((path.to_owned(), 0)))
    }
}

impl Connection {
    fn judge(&self, key: &PublicKey) -> Auth {
        if key.key_data() == self.key.key_data() {
            return Auth::Accept;
        }
        self.refused.store(true, Ordering::Relaxed);
        Auth::reject()
    }
}

fn size(columns: u32, rows: u32) -> Size {
    let short = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    Size { rows: short(rows), columns: short(columns) }
}
