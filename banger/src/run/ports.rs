//! `--ports auto`: ports that something begins to listen at in the VM lead there from this machine,
//! for as long as the command runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use banger_agent::frame::FrameError;
use banger_agent::protocol::AgentRequest;
use banger_agent::protocol::forward::{Address, Forward, Listeners};
use banger_agent::relay::relay;
use banger_vmm::{GuestEnd, PortState, Vm};
use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::error::CommandError;
use crate::output::ui::Ui;
use crate::vm::agent::{AgentError, Reader, Writer, begin};

/// ForwardedPorts at a time: a guest may listen at all that there are.
const MAX_PORTS: usize = 32;
/// Connections at a time, to all of them: the VM has some streams more, which are for commands.
/// Those that come then wait.
const MAX_CONNECTIONS: usize = 32;
/// The guest is not heard more often than this, whatever it has to tell.
const PACE: Duration = Duration::from_millis(500);
/// How long to wait when no descriptors are left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Below it, a port is for servers of the machine's own.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Watches a VM for what begins to listen.
pub(super) struct AutoPorts {
    vm: Vm,
    reader: Reader,
    /// Its end is the watch's.
    _writer: Writer,
    ports: ForwardedPorts,
}

/// Which ports are whose.
#[derive(Default)]
struct ForwardedPorts {
    /// The user has said where these lead, whether something listens there or not.
    published: BTreeSet<u16>,
    /// What listened when the command began, or cannot be forwarded: until it goes.
    others: BTreeSet<u16>,
    /// Those that are forwarded, by number in the guest. To drop one ends its connections.
    forwarded: BTreeMap<u16, JoinSet<()>>,
    /// Where they were last: one that comes back is not announced twice.
    announced: BTreeMap<u16, SocketAddr>,
    /// The warning that there are too many was printed.
    full: bool,
}

impl AutoPorts {
    /// From now on. What listens already is the VM's own affair, or an earlier command's.
    ///
    /// # Errors
    /// If the VM or its agent is gone, or the agent is of a version that cannot do it.
    pub(super) async fn new(vm: &Vm) -> Result<AutoPorts, AgentError> {
        let (Listeners { ports }, reader, writer) = begin(vm, &AgentRequest::Listeners).await?;
        let others = ports.into_iter().collect();
        let number = |port: PortState| match port.forward.guest {
            GuestEnd::Port(number) => Some(number),
            GuestEnd::Unix(_) => None,
        };
        let published = vm.ports()?.into_iter().filter_map(number).collect();
        let ports = ForwardedPorts { published, others, ..ForwardedPorts::default() };
        Ok(AutoPorts { vm: vm.clone(), reader, _writer: writer, ports })
    }

    /// Forwards, for as long as it is polled. Without the guest it does nothing more: the command
    /// has its own connection, and tells.
    pub(super) async fn forward(mut self, ui: &Ui) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Some(Ok(frame)) = self.reader.next().await {
            let Ok(Listeners { ports }) = frame.message() else { break };
            for port in self.ports.changed(&ports.into_iter().collect(), ui) {
                match bind(port, self.ports.announced.get(&port)).await {
                    Ok((listener, address)) => {
                        let mut task = JoinSet::new();
                        task.spawn(serve(listener, port, self.vm.clone(), Arc::clone(&places)));
                        self.ports.take(port, task, address, ui);
                    }
                    Err(error) => {
                        self.ports.others.insert(port);
                        ui.warning(&format!("nothing leads to port {port} in the guest: {error}"));
                    }
                }
            }
            sleep(PACE).await;
        }
        std::future::pending().await
    }
}

impl ForwardedPorts {
    /// Lets go of what is gone of those that listen `now`, and returns what is new, as far as there
    /// is room.
    fn changed(&mut self, now: &BTreeSet<u16>, ui: &Ui) -> Vec<u16> {
        self.forwarded.retain(|port, _| now.contains(port));
        self.others.retain(|port| now.contains(port));
        let has_its_way = |port: &u16| {
            [&self.published, &self.others].iter().any(|set| set.contains(port)) || self.forwarded.contains_key(port)
        };
        let mut new: Vec<_> = now.iter().filter(|port| !has_its_way(port)).copied().collect();
        let room = MAX_PORTS - self.forwarded.len();
        if new.len() > room {
            new.truncate(room);
            if !self.full {
                ui.warning(&format!(
                    "something listens at more than {MAX_PORTS} ports of the guest: no more of them are forwarded"
                ));
            }
            self.full = true;
        }
        new
    }

    /// Keeps one that is forwarded, and says where.
    fn take(&mut self, port: u16, task: JoinSet<()>, address: SocketAddr, ui: &Ui) {
        self.forwarded.insert(port, task);
        if self.announced.insert(port, address) != Some(address) {
            // What is spoken there is not known.
            ui.status(&format!("{address} → port {port} in the guest"));
        }
    }
}

/// Listens where it was before, at the same number, or else at any that is free. Nobody but this
/// machine can connect.
async fn bind(port: u16, before: Option<&SocketAddr>) -> io::Result<(TcpListener, SocketAddr)> {
    let same = (port >= FIRST_UNPRIVILEGED).then_some(port);
    for number in before.map(SocketAddr::port).into_iter().chain(same) {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).await {
            let address = listener.local_addr()?;
            return Ok((listener, address));
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves who connects, for as long as it is polled.
async fn serve(listener: TcpListener, port: u16, vm: Vm, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let vm = vm.clone();
        connections.spawn(async move {
            // One that breaks, or that the guest does not take, is closed.
            let _ = lead(socket, port, &vm).await;
            drop(place);
        });
    }
}

/// Leads one connection into the guest.
async fn lead(socket: TcpStream, port: u16, vm: &Vm) -> Result<(), CommandError> {
    // What is typed shall go at once. Where the kernel does not listen, it goes all the same.
    let _ = socket.set_nodelay(true);
    let to = Address::Tcp { host: "localhost".to_owned(), port };
    let ((), reader, mut writer) = begin(vm, &AgentRequest::Forward(Forward { to })).await?;
    relay(socket, reader, &mut writer).await.map_err(AgentError::from)?;
    Ok(writer.close().await.map_err(|error: FrameError| AgentError::from(error))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Global;

    fn quiet() -> Ui {
        Ui::new(&Global { quiet: true, ..Global::default() })
    }

    #[test]
    fn previously_open_ports_are_not_new_until_closed() {
        let ui = quiet();
        let mut ports =
            ForwardedPorts { published: [80].into(), others: [22, 3000].into(), ..ForwardedPorts::default() };
        assert!(ports.changed(&[22, 3000].into(), &ui).is_empty());
        assert_eq!(ports.changed(&[22, 8000].into(), &ui), [8000]);
        ports.take(8000, JoinSet::new(), "127.0.0.1:8000".parse().unwrap(), &ui);
        assert_eq!(ports.changed(&[22, 80, 3000, 8000].into(), &ui), [3000]);
        assert!(ports.changed(&BTreeSet::new(), &ui).is_empty());
        assert!(ports.forwarded.is_empty());
        assert_eq!(ports.changed(&[22, 8000].into(), &ui), [22, 8000]);
    }

    #[test]
    fn automatic_forwards_are_limited() {
        let ui = quiet();
        let mut ports = ForwardedPorts::default();
        let all: BTreeSet<u16> = (1..=u16::MAX).collect();
        let new = ports.changed(&all, &ui);
        assert_eq!((new.len(), ports.full), (MAX_PORTS, true));
        for port in new {
            ports.take(port, JoinSet::new(), "127.0.0.1:1".parse().unwrap(), &ui);
        }
        assert!(ports.changed(&all, &ui).is_empty());
        assert_eq!(ports.changed(&(2..=u16::MAX).collect(), &ui).len(), 1);
    }

    #[tokio::test]
    async fn taken_host_port_is_replaced_by_another() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let (other, address) = bind(port, None).await.unwrap();
        assert!(address.ip().is_loopback() && address.port() != port);
        drop((other, taken));
        assert_eq!(bind(port, Some(&address)).await.unwrap().1, address);
        assert_eq!(bind(port, None).await.unwrap().1.port(), port);
        assert!(bind(80, None).await.unwrap().1.port() >= FIRST_UNPRIVILEGED);
    }
}
