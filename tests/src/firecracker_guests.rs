//! Homes whose VMs run on real Firecracker, with the guest of `tests/guest/firecracker` as their
//! kernel.
//!
//! KVM on some machines cannot run a whole kernel, and that guest needs little of it. It joins each
//! connection to the agent's port with one to the host, where an agent waits that is a process:
//!
//! ```text
//! banger ─ banger-vmm ─ Firecracker ─ guest ─ Firecracker ─ relay ─ banger-agent-process
//!                 v.sock: CONNECT 1000              v.sock_6000
//! ```

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::{Home, relay, required};

/// The name of the kernel, and of the image for it, in such a home.
const NAME: &str = "test-guest";
/// How long the guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the guest does when it has printed what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtBoot {
    /// It serves.
    Serve = 0,
    /// It switches itself off.
    PowerOff = 9,
    /// It dies of a triple fault, as a kernel does that restarts with `reboot=t`.
    TripleFault = 10,
    /// Its processor stops for ever.
    Halt = 11,
}

/// A port of the guest's, at which a connection is its end or an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestPort {
    /// What is sent comes back.
    Echo = 7,
    /// The guest switches itself off.
    PowerOff = 9,
    /// The guest dies of a triple fault.
    TripleFault = 10,
    /// The guest's processor stops for ever.
    Halt = 11,
    /// The guest restarts, as Linux does with `reboot=k`.
    Restart = 12,
    /// The agent.
    Agent = 1000,
}

/// Why tests on Firecracker cannot run here; `None`: they can.
pub fn why_not() -> Option<String> {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    device.err().map(|error| format!("/dev/kvm: {error}"))
}

/// Real Firecracker.
pub fn firecracker_binary() -> PathBuf {
    required("BANGER_TEST_FIRECRACKER").join("firecracker")
}

/// The guest, compiled by the first test that wants it.
pub fn guest(at_boot: AtBoot) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/firecracker");
    let mut files: Vec<_> = fs::read_dir(&sources).expect("sources").flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    (at_boot as u32, files.iter().map(|file| fs::read(file).expect("a source")).collect::<Vec<_>>()).hash(&mut hasher);
    let cached = required("BANGER_TEST_DATA").with_file_name(format!("guest-{:016x}.elf", hasher.finish()));
    if cached.exists() {
        return cached;
    }
    // Several tests may compile it at once; each has a whole one.
    let folder = tempfile::tempdir_in(required("BANGER_TEST_DATA").with_file_name("")).expect("a directory");
    let new = folder.path().join("guest.elf");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static"]);
    // Integer instructions only, and none that processors got later.
    cc.args(["-march=x86-64", "-mgeneral-regs-only", "-mno-red-zone", "-fcf-protection=none"]);
    cc.args(["-fno-stack-protector", "-fno-pic", "-no-pie", "-fno-tree-loop-distribute-patterns"]);
    cc.arg(format!("-Wl,-T,{}", sources.join("guest.ld").display()));
    cc.args(["-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-z", "noexecstack"]);
    cc.arg(format!("-DAT_BOOT={}", at_boot as u32)).arg("-o").arg(&new);
    let is_code = |file: &&PathBuf| file.extension().is_some_and(|extension| extension == "c" || extension == "S");
    assert!(cc.args(files.iter().filter(is_code)).status().expect("cc runs").success());
    fs::rename(&new, &cached).expect("the guest");
    cached
}

impl Home {
    /// A home whose VMs run on real Firecracker.
    ///
    /// # Panics
    /// Where `/dev/kvm` cannot be opened: `scripts/test` leaves such tests out there.
    pub fn with_firecracker_guests() -> Home {
        Home::with_firecracker_guests_that(AtBoot::Serve)
    }

    /// A home whose VMs run on real Firecracker, with a guest that does this when it boots.
    ///
    /// # Panics
    /// Where `/dev/kvm` cannot be opened.
    pub fn with_firecracker_guests_that(at_boot: AtBoot) -> Home {
        let home = Home::for_firecracker(at_boot);
        home.start_relay();
        home
    }

    /// A home whose VMs run on real Firecracker, with their directories on a file system of this
    /// many bytes. This thread, and what it starts, sees it.
    ///
    /// # Panics
    /// Where `/dev/kvm` cannot be opened, or if this is not root.
    pub fn with_firecracker_guests_on_small_disk(bytes: u64) -> Home {
        let home = Home::for_firecracker(AtBoot::Serve);
        let none: Option<&Path> = None;
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of its own");
        let size = format!("size={bytes},mode=0700");
        mount(none, &home.data().join("vms"), Some("tmpfs"), MsFlags::empty(), Some(&*size)).expect("a file system");
        home.start_relay();
        home
    }

    fn for_firecracker(at_boot: AtBoot) -> Home {
        assert_eq!(why_not(), None);
        let mut home = Home::with_own_kernels();
        home.firecracker_guests = true;
        let _ = fs::remove_file(home.data().join("host"));
        home.import_kernel(&guest(at_boot));
        home.make_image();
        fs::create_dir_all(home.data().join("vms")).expect("a directory");
        home
    }

    fn start_relay(&self) {
        relay::start(&self.data().join("vms"), &self.path().join("agent.log"));
    }

    fn import_kernel(&self, elf: &Path) {
        let mut import = self.command(&self.banger);
        import.args(["kernel", "import", "--quiet", "--name", NAME, "--kernel"]).arg(elf).current_dir(self.path());
        crate::Output::from(import.output().expect("banger runs")).ok();
    }

    /// An image with an empty file system, which no kernel will mount.
    fn make_image(&self) {
        let image = self.data().join("images").join(NAME);
        fs::create_dir(&image).expect("a directory");
        let rootfs = image.join("rootfs.ext4");
        let mut mke2fs = Command::new("/usr/sbin/mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-L", "the-base"]).arg(&rootfs).arg("1M");
        assert!(mke2fs.status().expect("mke2fs runs").success());
        let manifest = json!({
            "format_version": 1, "name": NAME, "description": "empty", "kernel": NAME, "ready": "agent",
            "source": "a test", "created": 1_700_000_000, "rootfs_bytes": 1 << 20,
        });
        fs::write(image.join("manifest.json"), manifest.to_string()).expect("a manifest");
    }

    /// What commands in this home are told besides, so that they use Firecracker.
    pub(crate) fn tell_of_firecracker(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::iter::once(required("BANGER_TEST_FIRECRACKER")).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(programs).expect("a path without colons"));
        // Forced, KVM is not probed: the probe's guest needs more of it than this guest.
        command.env("BANGER_ACCELERATOR", "kvm").env("BANGER_BACKEND", "firecracker").env("BANGER_NET", "none");
        command.env("BANGER_DEFAULT_IMAGE_NAME", NAME);
    }
}

/// A guest on Firecracker, reached from the host as its supervisor reaches it.
#[derive(Debug)]
pub struct FirecrackerGuest {
    vm: PathBuf,
}

impl FirecrackerGuest {
    /// The guest of the VM in the directory `vm`.
    pub fn of(vm: &Path) -> FirecrackerGuest {
        FirecrackerGuest { vm: vm.to_owned() }
    }

    /// The directory that Firecracker runs in.
    pub fn run_directory(&self) -> PathBuf {
        self.vm.join("run")
    }

    /// Asks for a connection to a port of the guest.
    ///
    /// # Panics
    /// If Firecracker does not listen.
    pub fn ask(&self, port: GuestPort) -> UnixStream {
        relay::ask(&self.run_directory(), port).expect("Firecracker listens")
    }

    /// Connects to a port of the guest, and waits for it to be taken. `None` if it is not.
    ///
    /// # Panics
    /// If Firecracker does not answer.
    pub fn connect(&self, port: GuestPort) -> Option<UnixStream> {
        let mut stream = self.ask(port);
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while answer.last() != Some(&b'\n') {
            if stream.read(&mut byte).expect("an answer in time") == 0 {
                return None;
            }
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"OK "), "{}", String::from_utf8_lossy(&answer));
        Some(stream)
    }

    /// Sends bytes through the guest and back, in one connection, and says whether they came back
    /// unchanged.
    pub fn echoes(&self, bytes: &[u8]) -> bool {
        let Some(mut stream) = self.connect(GuestPort::Echo) else { return false };
        let (mut sending, sent) = (stream.try_clone().expect("a descriptor"), bytes.to_vec());
        let sender = std::thread::spawn(move || sending.write_all(&sent));
        let mut back = vec![0; bytes.len()];
        let is_back = stream.read_exact(&mut back).is_ok();
        sender.join().expect("the sending thread").is_ok() && is_back && back == bytes
    }

    /// What the guest has printed since it booted last, by line.
    pub fn printed(&self) -> Vec<String> {
        let console = fs::read(self.vm.join("console.log")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        let start = console.rfind("guest: command line: ").unwrap_or(console.len());
        console[start..].lines().filter_map(|line| line.strip_prefix("guest: ")).map(str::to_owned).collect()
    }
}
