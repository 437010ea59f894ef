//! What the guest's side of `make bench` does without banger: `bench/floor.c`.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::Home;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{BenchError, run_info, succeed};

/// What is sent and read at once.
const CHUNK: usize = 1 << 18;
/// How long a guest may take to say or to take anything, its boot included, and to power off.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// How often a guest is started that dies while it boots: two translated processors now and then
/// disagree about code that the kernel patches while they run it ("Oops: int3").
const BOOTS: usize = 3;

/// The kernel that banger boots, as it boots it, with an initramfs that does next to nothing.
pub(super) struct Floor {
    kernel: PathBuf,
    initramfs: PathBuf,
    parameters: String,
    cpu: String,
    /// The program, which serves connections where it is not /init.
    pub(super) program: PathBuf,
}

impl Floor {
    /// Learns from the VM that runs in `home` how it was started.
    pub(super) fn new(home: &Home) -> Result<Floor, BenchError> {
        let pid = &run_info(home)?["pid"];
        let vmm = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let line = fs::read(format!("/proc/{}/cmdline", vmm.trim()))?;
        let words: Vec<_> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let value = |option: &str| {
            let place = words.iter().position(|word| word == option).ok_or_else(|| format!("QEMU has no {option}"))?;
            Ok::<_, BenchError>(words[place + 1].clone())
        };
        let kernel = PathBuf::from(value("-kernel")?);
        let program = home.path().join("floor");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/floor.c");
        succeed(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(source))?;
        let boot = kernel.parent().ok_or("a kernel has a folder")?.join("boot");
        let mut modules: Vec<_> = fs::read_dir(boot)?.flatten().map(|entry| entry.path()).collect();
        modules.sort();
        let initramfs = banger_vmm::initramfs::ensure(&program, &modules, &home.path().join(".cache/banger"))?;
        Ok(Floor { kernel, initramfs, parameters: value("-append")?, cpu: value("-cpu")?, program })
    }

    fn boot(&self, floor: &str, port: Option<&UnixStream>) -> Result<Child, BenchError> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "microvm,acpi=on,rtc=on",
        ]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", &self.cpu, "-smp", &cpus(), "-m", "4096M"]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        qemu.arg("-append").arg(format!("{} {floor}", self.parameters));
        if let Some(port) = port {
            use nix::fcntl::{FcntlArg, FdFlag, fcntl};
            fcntl(port, FcntlArg::F_SETFD(FdFlag::empty()))?;
            qemu.arg("-chardev").arg(format!("socket,id=port,fd={}", port.as_raw_fd()));
            qemu.args(["-device", "virtio-serial-device", "-device", "virtserialport,chardev=port,name=banger.0"]);
        }
        Ok(qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    /// Boots, and powers off at once.
    pub(super) fn power_off(&self) -> Result<(), BenchError> {
        wait(&mut self.boot("floor=off", None)?, LIMIT)
    }

    /// A guest that has nothing to do but to serve its virtio-serial port: no frames, no streams,
    /// no windows.
    pub(super) fn port(&self) -> Result<Port, BenchError> {
        self.served("floor=port")
    }

    /// A guest that passes what comes from its virtio-serial port to a process by TCP: what any
    /// relay from the port to a process costs.
    pub(super) fn relay(&self) -> Result<Port, BenchError> {
        self.served("floor=relay")
    }

    fn served(&self, floor: &str) -> Result<Port, BenchError> {
        let mut boots = 1;
        loop {
            match Port::start(|theirs| self.boot(floor, Some(theirs)), LIMIT) {
                Err(_) if boots < BOOTS => boots += 1,
                started => return started,
            }
        }
    }
}

/// Waits for a process to end, and kills it after `limit`.
fn wait(child: &mut Child, limit: Duration) -> Result<(), BenchError> {
    // Readable when the process has ended: pidfd_open(2).
    // SAFETY: the new descriptor is owned by nobody else.
    let pidfd = unsafe {
        let fd = nix::libc::syscall(nix::libc::SYS_pidfd_open, child.id(), 0);
        nix::errno::Errno::result(fd)?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let has_ended = poll(&mut polled, PollTimeout::try_from(limit)?)? > 0;
    if !has_ended {
        child.kill()?;
    }
    child.wait()?;
    if has_ended { Ok(()) } else { Err("the guest does not end".into()) }
}

/// The host's end of a virtio-serial port, and its guest.
pub(super) struct Port {
    served: Served<UnixStream>,
    qemu: Child,
}

impl Port {
    /// Has `start` start a guest with the other end of its port, and waits until it answers,
    /// `limit` at most.
    fn start(
        start: impl FnOnce(&UnixStream) -> Result<Child, BenchError>,
        limit: Duration,
    ) -> Result<Port, BenchError> {
        let (ours, theirs) = UnixStream::pair()?;
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&ours, Some(limit))?;
        }
        let qemu = start(&theirs)?;
        // Only the guest has it now: when that dies, reading from ours ends.
        drop(theirs);
        let mut port = Port { served: Served(ours), qemu };
        // It has booted when it answers.
        port.echo(1)?;
        Ok(port)
    }
}

impl std::ops::Deref for Port {
    type Target = Served<UnixStream>;

    fn deref(&self) -> &Self::Target {
        &self.served
    }
}

impl std::ops::DerefMut for Port {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.served
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // It would power off at the port's end, and has nothing to lose.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A stream to where the program `floor.c` serves.
pub(super) struct Served<S>(pub(super) S);

impl<S: Read + Write> Served<S> {
    /// How long it takes to send as many bytes and to hear that all were taken.
    pub(super) fn give(&mut self, bytes: u64) -> Result<Duration, BenchError> {
        let start = self.ask(b't', bytes)?;
        let chunk = vec![0x5a; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let count = left.min(CHUNK as u64) as usize;
            self.0.write_all(&chunk[..count])?;
            left -= count as u64;
        }
        self.0.read_exact(&mut [0])?;
        Ok(start.elapsed())
    }

    /// How long it takes to get as many bytes.
    pub(super) fn take(&mut self, bytes: u64) -> Result<Duration, BenchError> {
        let start = self.ask(b'g', bytes)?;
        let mut chunk = vec![0; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let most = left.min(CHUNK as u64) as usize;
            left -= match self.0.read(&mut chunk[..most])? {
                0 => return Err("the guest gives no more".into()),
                count => count as u64,
            };
        }
        Ok(start.elapsed())
    }

    /// How long each of so many bytes takes there and back, one after the other.
    pub(super) fn echo(&mut self, count: usize) -> Result<Vec<Duration>, BenchError> {
        self.ask(b'e', count as u64)?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.0.write_all(b"e")?;
            self.0.read_exact(&mut [0])?;
            times.push(start.elapsed());
        }
        Ok(times)
    }

    /// Says what is to be done, and waits until that is understood.
    fn ask(&mut self, what: u8, count: u64) -> Result<Instant, BenchError> {
        let words = [u64::from(what), count].map(u64::to_le_bytes).concat();
        self.0.write_all(&words)?;
        self.0.read_exact(&mut [0])?;
        Ok(Instant::now())
    }
}

fn cpus() -> String {
    std::thread::available_parallelism().map_or(1, usize::from).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process with a copy of the port on its standard input.
    fn guest(port: &UnixStream, command: &str) -> Result<Child, BenchError> {
        let port = OwnedFd::from(port.try_clone()?);
        Ok(Command::new("sh").args(["-c", command]).stdin(port).spawn()?)
    }

    #[test]
    fn dead_or_silent_guest_is_not_waited_for() {
        let start = Instant::now();
        assert!(Port::start(|port| guest(port, "exit 1"), LIMIT).is_err());
        assert!(start.elapsed() < LIMIT / 2, "{:?}", start.elapsed());
        let short = Duration::from_millis(100);
        assert!(Port::start(|port| guest(port, "exec sleep 600"), short).is_err());
        assert!(wait(&mut Command::new("sleep").arg("600").spawn().unwrap(), short).is_err());
        wait(&mut Command::new("true").spawn().unwrap(), LIMIT).unwrap();
        assert!(start.elapsed() < LIMIT / 2, "{:?}", start.elapsed());
    }
}
