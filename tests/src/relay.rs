//! Where guests of [`crate::firecracker_guests`] get their agents: as soon as Firecracker has its
//! vsock socket, the relay listens beside it for the guest's connection to port 6000, and gives it
//! to an agent that is a process of this host. What the agent keeps is in the VM's directory.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{getsockopt, sockopt};

use crate::firecracker_guests::GuestPort;
use crate::required;

/// Firecracker's vsock socket, and the one that it connects to for port 6000.
const VSOCK: &str = "v.sock";
const AGENT: &str = "v.sock_6000";

/// Gives agents to the guests of all VMs in the directory `vms`, until that is removed. What agents
/// print is appended to the file `log`.
pub(crate) fn start(vms: &Path, log: &Path) {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
    let mut watcher = Watcher { inotify, paths: HashMap::new(), vms: vms.to_owned(), log: log.to_owned() };
    watcher.add(vms);
    thread::spawn(move || watcher.run());
}

/// Follows what appears in the directories `vms`, `vms/NAME` and `vms/NAME/run`.
struct Watcher {
    inotify: Inotify,
    paths: HashMap<WatchDescriptor, PathBuf>,
    vms: PathBuf,
    log: PathBuf,
}

impl Watcher {
    fn run(&mut self) {
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                let Some(directory) = self.paths.get(&event.wd).cloned() else { continue };
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.paths.remove(&event.wd);
                    if directory == self.vms {
                        return;
                    }
                } else if let Some(name) = event.name {
                    self.see(&directory.join(name));
                }
            }
        }
    }

    /// Follows a directory, and sees what is in it already.
    fn add(&mut self, directory: &Path) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        // One that is gone again is no matter.
        let Ok(watch) = self.inotify.add_watch(directory, flags) else { return };
        self.paths.insert(watch, directory.to_owned());
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            self.see(&entry.path());
        }
    }

    fn see(&mut self, path: &Path) {
        let is_in = |directory: &Path| path.parent() == Some(directory);
        let is_below = |name: &str| path.parent().is_some_and(|parent| parent.ends_with(name));
        if is_in(&self.vms) || (path.ends_with("run") && path.is_dir()) {
            self.add(path);
        } else if path.ends_with(VSOCK) && is_below("run") {
            self.listen(path);
        }
    }

    fn listen(&self, vsock: &Path) {
        let Some(vm) = vsock.ancestors().nth(2).map(Path::to_owned) else { return };
        // It listens already, or the directory is gone.
        let Ok(listener) = through_directory(vsock, AGENT, |path| UnixListener::bind(path)) else { return };
        let log = self.log.clone();
        thread::spawn(move || {
            let served = Vm { listener, directory: vm, log: log.clone(), vmm: None, agent: None }.serve();
            if let Err(error) = served {
                let _ = append(&log).and_then(|mut log| writeln!(log, "the relay ended: {error}"));
            }
        });
    }
}

/// A VM that runs. The thread that serves it lives as long as the VM: agents die with it.
struct Vm {
    listener: UnixListener,
    directory: PathBuf,
    log: PathBuf,
    /// A descriptor of Firecracker's process.
    vmm: Option<OwnedFd>,
    agent: Option<Agent>,
}

/// An agent, and a descriptor of its process.
struct Agent {
    child: Child,
    process: OwnedFd,
}

impl Vm {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let (vmm, agent) = (self.vmm.as_ref(), self.agent.as_ref().map(|agent| &agent.process));
            let (has_vmm, has_agent) = (vmm.is_some(), agent.is_some());
            let mut polled = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            polled.extend(vmm.into_iter().chain(agent).map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            poll(&mut polled, PollTimeout::NONE)?;
            let is_ready: Vec<_> = polled.iter().map(|fd| fd.any().unwrap_or_default()).collect();
            if has_vmm && is_ready[1] {
                return Ok(());
            }
            if has_agent && is_ready[is_ready.len() - 1] {
                self.follow_agent()?;
            } else if is_ready[0] {
                self.give_agent()?;
            }
        }
    }

    /// The guest goes as its agent went.
    fn follow_agent(&mut self) -> io::Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        let port = if agent.child.wait()?.success() { GuestPort::PowerOff } else { GuestPort::TripleFault };
        ask(&self.directory.join("run"), port).map(drop)
    }

    /// Takes the guest's connection; the agent of an earlier one goes.
    fn give_agent(&mut self) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        if self.vmm.is_none() {
            self.vmm = Some(process(getsockopt(&stream, sockopt::PeerCredentials)?.pid())?);
        }
        self.agent = None;
        let record: serde_json::Value = fs::read(self.directory.join("vm.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let folder = self.directory.join("guest");
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(required("BANGER_TEST_PROCESS").join("banger-agent-process"));
        command.arg(folder).arg(record["hostname"].as_str().unwrap_or("guest"));
        command.args((record["throwaway"] == true).then_some("volatile")).env_clear().stdin(OwnedFd::from(stream));
        let log = append(&self.log)?;
        let child = command.stdout(Stdio::from(log.try_clone()?)).stderr(log).spawn()?;
        self.agent = Some(Agent { process: process(child.id().cast_signed())?, child });
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks Firecracker, which runs in this directory, for a connection to a port of the guest. In one
/// write: Firecracker takes half a line for a wrong one.
pub(crate) fn ask(run: &Path, port: GuestPort) -> io::Result<UnixStream> {
    let mut stream = through_directory(&run.join(VSOCK), VSOCK, |path| UnixStream::connect(path))?;
    stream.write_all(format!("CONNECT {}\n", port as u32).as_bytes())?;
    Ok(stream)
}

/// Does something with the file `name` beside `file`, whose path is then a short one.
fn through_directory<T>(file: &Path, name: &str, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = File::open(file.parent().ok_or(io::ErrorKind::NotFound)?)?;
    with(Path::new(&format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())))
}

/// A descriptor of a process, readable when that has ended: pidfd_open(2).
fn process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor is owned by nobody else.
    unsafe {
        let fd = nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0);
        nix::errno::Errno::result(fd)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn append(log: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(log)
}
