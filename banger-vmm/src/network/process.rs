//! The process that connects a VMM's namespaces to other machines, without rights: slirp4netns(1),
//! or pasta(1).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{getpid, pipe2};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{MTU, UPLINK, USER_NETWORK};
use crate::complaint;
use crate::error::Failure;
use crate::host::die_with;

/// It may take this long until the network answers: it takes some 20 ms.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that does not tell when the network answers has connected it if it has not ended by now.
const SILENT_START: Duration = Duration::from_millis(100);

/// What connects a VMM's namespaces to other machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkProgram {
    /// slirp4netns, at this path.
    Slirp4netns(PathBuf),
    /// pasta, at this path.
    Pasta(PathBuf),
}

/// A network program that was started.
pub(crate) struct Starting {
    network: UserNetwork,
    /// Has a byte when the network answers; none: the program does not tell.
    ready: Option<pipe::Receiver>,
}

/// What connects a VMM's namespaces. Dropping it ends that; so does this process's end.
pub(crate) struct UserNetwork {
    child: Child,
    complaint: JoinHandle<Vec<u8>>,
    name: &'static str,
}

impl NetworkProgram {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            NetworkProgram::Slirp4netns(_) => "slirp4netns",
            NetworkProgram::Pasta(_) => "pasta",
        }
    }

    fn path(&self) -> &Path {
        match self {
            NetworkProgram::Slirp4netns(path) | NetworkProgram::Pasta(path) => path,
        }
    }

    /// Connects the namespaces of the process `launcher`, which has made the
    /// [devices](super::devices). The other end of `ended` is closed when they are not needed any
    /// more.
    pub(crate) fn start(&self, launcher: i32, ended: OwnedFd) -> Result<Starting, Failure> {
        let started = self.run(launcher, ended);
        started.map_err(|error| Failure::new(format!("cannot run {}: {error}", self.path().display())))
    }

    fn run(&self, launcher: i32, ended: OwnedFd) -> io::Result<Starting> {
        let mut command = Command::new(self.path());
        let supervisor = getpid();
        let (inherited, ready) = match self {
            NetworkProgram::Slirp4netns(_) => {
                let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
                command.args(slirp4netns(launcher, &ended, &writer, may_sandbox()));
                (vec![ended, writer], Some(pipe::Receiver::from_owned_fd(reader)?))
            }
            NetworkProgram::Pasta(_) => {
                command.args(pasta(launcher));
                (Vec::new(), None)
            }
        };
        command.env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: between fork and exec there are only system calls that signal-safety(7) allows,
        // and no allocation.
        unsafe {
            command.pre_exec(move || {
                die_with(supervisor)?;
                for descriptor in &inherited {
                    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let complaint = tokio::spawn(complaint::read_end(child.stderr.take()));
        Ok(Starting { network: UserNetwork { child, complaint, name: self.name() }, ready })
    }
}

impl Starting {
    /// Returns when the network answers.
    pub(crate) async fn ready(self) -> Result<UserNetwork, Failure> {
        let Starting { mut network, ready } = self;
        let name = network.name;
        let mut byte = [0];
        let answered = match ready {
            Some(mut ready) => tokio::select! {
                // Closed without a byte: it is about to end.
                read = ready.read(&mut byte) => matches!(read, Ok(1)),
                _ = network.child.wait() => false,
                () = sleep(PATIENCE) => {
                    let seconds = PATIENCE.as_secs();
                    return Err(Failure::new(format!("{name} has not connected the VM's network within {seconds} s")));
                }
            },
            None => timeout(SILENT_START, network.child.wait()).await.is_err(),
        };
        if answered { Ok(network) } else { Err(network.failure().await) }
    }
}

impl UserNetwork {
    /// What it complains of, at its end.
    async fn failure(mut self) -> Failure {
        let _ = self.child.start_kill();
        let status = self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        let complaint = self.complaint.await.unwrap_or_default();
        let complaint = complaint::shown(&complaint);
        let message = format!("{} has not connected the VM's network ({status})", self.name);
        Failure::new(if complaint.is_empty() { message } else { format!("{message}: {complaint}") })
    }
}

/// Whether slirp4netns finds this host's name servers in its sandbox, which has `/etc` and `/run`
/// only.
fn may_sandbox() -> bool {
    let file = Path::new("/etc/resolv.conf").canonicalize();
    file.is_ok_and(|file| ["/etc", "/run"].iter().any(|directory| file.starts_with(directory)))
}

/// The arguments of slirp4netns(1).
fn slirp4netns(launcher: i32, ended: &OwnedFd, ready: &OwnedFd, sandbox: bool) -> Vec<String> {
    let mut arguments =
        vec!["--disable-host-loopback".to_owned(), "--enable-seccomp".to_owned(), format!("--mtu={MTU}")];
    arguments.extend(sandbox.then(|| "--enable-sandbox".to_owned()));
    arguments.push(format!("--exit-fd={}", ended.as_raw_fd()));
    arguments.push(format!("--ready-fd={}", ready.as_raw_fd()));
    arguments.extend([launcher.to_string(), UPLINK.to_owned()]);
    arguments
}

/// The arguments of pasta(1). Without being told otherwise, it forwards ports in both directions,
/// also from the namespaces to this host's loopback. In the foreground it tells nobody when it is
/// ready: in a user namespace by then, it may not open the pid file (`--pid`) by a descriptor of
/// another process.
///
/// Trap: `-D` would have it forward DNS to itself (passt 0.0~git20230309).
fn pasta(launcher: i32) -> Vec<String> {
    let interface = &USER_NETWORK;
    let mut arguments: Vec<String> = ["--foreground", "--quiet", "--ipv4-only", "--no-map-gw"].map(Into::into).into();
    for (option, value) in [
        ("--ns-ifname", UPLINK.to_owned()),
        ("--address", interface.address.to_string()),
        ("--netmask", interface.prefix.to_string()),
        ("--gateway", interface.gateway.to_string()),
        ("--dns-forward", interface.dns.to_string()),
        ("--mtu", MTU.to_string()),
        ("--tcp-ports", "none".to_owned()),
        ("--udp-ports", "none".to_owned()),
        ("--tcp-ns", "none".to_owned()),
        ("--udp-ns", "none".to_owned()),
    ] {
        arguments.extend([option.to_owned(), value]);
    }
    arguments.push(launcher.to_string());
    arguments
}
