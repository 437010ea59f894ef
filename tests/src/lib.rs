//! The harness of the end-to-end tests: a home directory for each test, repositories in it, and the
//! installed `banger`.
//!
//! `scripts/test` builds the binaries and an image store, and says where they are:
//! `BANGER_TEST_DIST` is a directory as `make install` fills it, `BANGER_TEST_DATA` a data
//! directory whose images and kernels every test's home uses.

pub mod crash_at_syscall;
pub mod firecracker_guests;
pub mod guest_program;
pub mod inspect;
pub mod leftovers;
mod plugins;
mod process_guests;
pub mod python;
mod qemu_fault;
pub mod readme;
pub mod registry;
mod relay;
pub mod web;
mod workspace;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use self::plugins::path_with;
pub use self::workspace::SyncCounts;

fn required(variable: &str) -> PathBuf {
    PathBuf::from(env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run `make test`")))
}

/// The `banger` under test.
pub fn banger_binary() -> PathBuf {
    required("BANGER_TEST_DIST").join("bin/banger")
}

/// The directory of the kernel that tests share.
pub fn shared_kernel() -> PathBuf {
    required("BANGER_TEST_KERNEL_DIR")
}

/// Waits until `is_so` returns true. `what` describes the condition.
///
/// # Panics
/// If it does not within a minute.
#[track_caller]
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    within(Duration::from_secs(60), what, is_so);
}

/// Waits until `is_so` returns true, for at most `limit`. `what` describes the condition.
///
/// # Panics
/// If it does not within `limit`.
#[track_caller]
pub fn within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so after {} s: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A home directory with all of banger's state. Dropping it kills its VMs and removes it.
pub struct Home {
    folder: TempDir,
    banger: PathBuf,
    process_guests: bool,
    firecracker_guests: bool,
}

impl Home {
    /// A new home that uses the shared images and kernels.
    pub fn new() -> Home {
        Home::beneath(&env::temp_dir())
    }

    fn beneath(place: &Path) -> Home {
        let folder = tempfile::Builder::new().prefix("banger-test-").tempdir_in(place).expect("a temporary folder");
        let data = folder.path().join(".local/share/banger");
        fs::create_dir_all(&data).expect("a data folder");
        for store in ["images", "kernels"] {
            std::os::unix::fs::symlink(required("BANGER_TEST_DATA").join(store), data.join(store)).expect("a link");
        }
        // What the first VM of a boot finds out about KVM need not be found out by each test.
        let host = required("BANGER_TEST_DATA").join("host");
        if host.is_dir() {
            std::os::unix::fs::symlink(host, data.join("host")).expect("a link");
        }
        let home = Home { folder, banger: banger_binary(), process_guests: false, firecracker_guests: false };
        fs::write(home.path().join(".gitconfig"), "[user]\n\tname = T\n\temail = t@example.com\n[init]\n\tdefaultBranch = main\n[protocol \"file\"]\n\tallow = always\n")
            .expect("a git configuration");
        home
    }

    /// A home with an empty store of images, which it does not share.
    pub fn with_own_images() -> Home {
        let home = Home::new();
        home.make_own("images");
        home
    }

    /// A home with empty stores of images and kernels, which it does not share.
    pub fn with_own_kernels() -> Home {
        let home = Home::with_own_images();
        home.make_own("kernels");
        home
    }

    /// A home with an empty store of kernels, which it does not share, and the shared images.
    pub fn with_own_kernels_only() -> Home {
        let home = Home::new();
        home.make_own("kernels");
        home
    }

    /// Replaces the link to a shared store by an empty directory.
    fn make_own(&self, store: &str) {
        fs::remove_file(self.data().join(store)).expect("a link");
        fs::create_dir(self.data().join(store)).expect("a folder");
    }

    /// A home with banger as installed, but with the program `agent` as its agent.
    pub fn with_agent(agent: &Path) -> Home {
        Home::with_parts(agent, &required("BANGER_TEST_DIST").join("lib/banger/banger-vmm"))
    }

    /// A home in which VMs are started with an agent and a supervisor of another version.
    pub fn with_second_version() -> Home {
        let parts = required("BANGER_TEST_SECOND");
        Home::with_parts(&parts.join("banger-agent"), &parts.join("banger-vmm"))
    }

    fn with_parts(agent: &Path, supervisor: &Path) -> Home {
        let mut home = Home::new();
        home.install(agent, supervisor);
        home
    }

    /// A home whose VMs are on machines that look like Firecracker's.
    pub fn with_vsock_guests() -> Home {
        let mut home = Home::new();
        home.banger = required("BANGER_TEST_VSOCK").join("bin/banger");
        home
    }

    /// Installs banger in this home, with this agent and this supervisor.
    fn install(&mut self, agent: &Path, supervisor: &Path) {
        let (from, to) = (required("BANGER_TEST_DIST"), self.path().join("installed"));
        for folder in ["bin", "lib/banger"] {
            fs::create_dir_all(to.join(folder)).expect("a folder");
        }
        self.banger = to.join("bin/banger");
        fs::copy(from.join("bin/banger"), &self.banger).expect("a copy of banger");
        std::os::unix::fs::symlink("banger", to.join("bin/git-remote-banger")).expect("a link");
        fs::copy(from.join("bin/banger-vm"), to.join("bin/banger-vm")).expect("a copy of a plugin");
        fs::copy(supervisor, to.join("lib/banger/banger-vmm")).expect("a copy of banger-vmm");
        fs::copy(agent, to.join("lib/banger/banger-agent")).expect("a copy of the agent");
    }

    /// Upgrades banger: commands of this home run the program under test from now on.
    pub fn upgrade(&mut self) {
        self.banger = banger_binary();
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// banger's data directory.
    pub fn data(&self) -> PathBuf {
        self.path().join(".local/share/banger")
    }

    /// Writes the user's configuration file.
    pub fn configure(&self, text: &str) {
        let folder = self.path().join(".config/banger");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("config.toml"), text).expect("a configuration file");
    }

    /// The directories of all VMs.
    pub fn vms(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data().join("vms")).into_iter().flatten().flatten();
        let is_vm = |path: &PathBuf| {
            path.is_dir() && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        };
        entries.map(|entry| entry.path()).filter(is_vm).collect()
    }

    /// Makes a git repository in the directory `name`, with one commit of a few files.
    pub fn repository(&self, name: &str) -> Repository<'_> {
        let root = self.path().join(name);
        fs::create_dir_all(&root).expect("a folder");
        let repository = Repository { home: self, root };
        repository.git(["init", "--quiet"]);
        repository.write("README", "a repository\n");
        repository.write("sub/folder/file", "below\n");
        repository.commit("first");
        repository
    }

    /// The repository, or worktree of a repository, at `root`, which exists already.
    pub fn at(&self, root: impl Into<PathBuf>) -> Repository<'_> {
        Repository { home: self, root: root.into() }
    }

    /// A command with the environment of this home only, and without standard input.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.path()).env("LANG", "C.UTF-8").env("TERM", "xterm-256color");
        command.env("PATH", env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        // The one with everything takes minutes to make, and longer to start: `golden` tests that.
        command.env("BANGER_DEFAULT_IMAGE_NAME", "debian-bookworm-minimal");
        command
    }
}

/// The `run.json` of the VM in the directory `folder`, if it has one.
fn run_info(folder: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&fs::read(folder.join("run.json")).ok()?).ok()
}

/// Prints what is known of a VM whose test has failed: `run.json` and the end of its console.
#[expect(clippy::print_stderr, reason = "the runner shows it with the failure")]
fn print_diagnostics(vm: &Path) {
    let read = |name: &str| String::from_utf8_lossy(&fs::read(vm.join(name)).unwrap_or_default()).into_owned();
    let console = read("console.log");
    qemu_fault::look_for_in(&read("console.log.1"));
    qemu_fault::look_for_in(&console);
    let last: Vec<_> = console.lines().rev().take(30).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    eprintln!("{}: run.json: {}\nconsole:\n{}", vm.display(), read("run.json"), last.join("\n"));
}

impl Default for Home {
    fn default() -> Self {
        Home::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for vm in self.vms() {
            if std::thread::panicking() {
                print_diagnostics(&vm);
            }
            // The pid of one that has ended may be another process's by now.
            let lock = fs::File::open(vm.join("supervisor.lock"));
            let lives = lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)));
            if let Some(pid) = run_info(&vm).filter(|_| lives).and_then(|info| info["pid"].as_i64()) {
                // The VMM dies with its supervisor.
                let _ =
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
            }
        }
        qemu_fault::report();
    }
}

/// A repository in a [`Home`].
pub struct Repository<'a> {
    /// The home that the repository is in.
    pub home: &'a Home,
    /// The root of the working tree.
    pub root: PathBuf,
}

/// The result of a finished command.
#[derive(Debug)]
pub struct Output {
    /// Exit status; 128 + n for a signal.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub fn document(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that the command has succeeded, and returns the output unchanged.
    ///
    /// # Panics
    /// If the exit status is not 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        // It quotes the console of a guest that is gone.
        qemu_fault::look_for_in(&stderr);
        Output { status, stdout: output.stdout, stderr }
    }
}

impl Repository<'_> {
    /// Writes a file, and makes the directories above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    /// The process id of the supervisor of the only VM in the home.
    ///
    /// # Panics
    /// If no VM runs.
    pub fn supervisor(&self) -> i32 {
        let info = self.home.vms().first().and_then(|vm| run_info(vm)).expect("a VM that runs");
        info["pid"].as_i64().expect("a process id") as i32
    }

    /// Runs git on the host and returns its output.
    ///
    /// # Panics
    /// If git fails.
    #[track_caller]
    pub fn git<const N: usize>(&self, arguments: [&str; N]) -> String {
        let output = self.home.command("git").args(arguments).current_dir(&self.root).output().expect("git runs");
        Output::from(output).ok().text()
    }

    /// Commits all changes.
    #[track_caller]
    pub fn commit(&self, message: &str) {
        self.git(["add", "--all"]);
        self.git(["commit", "--quiet", "--allow-empty", "--message", message]);
    }

    /// The command `banger`, to be run in the repository's root.
    pub fn banger(&self) -> Command {
        let mut command = self.home.command(&self.home.banger);
        if self.home.process_guests {
            // They say nothing about KVM.
            command.env("BANGER_ACCELERATOR", "tcg");
        }
        if self.home.firecracker_guests {
            self.home.tell_of_firecracker(&mut command);
        }
        command.current_dir(&self.root);
        command
    }

    /// Runs `banger <arguments>` to its end.
    pub fn run<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.banger().args(arguments).output().expect("banger runs").into()
    }

    /// Runs `banger -- sh -c <script>` to its end.
    pub fn sh(&self, script: &str) -> Output {
        self.run(["--", "sh", "-c", script])
    }

    /// Runs `banger <arguments>` to its end, with `input` on its standard input.
    pub fn with_input<const N: usize>(&self, arguments: [&str; N], input: &[u8]) -> Output {
        let mut child = self
            .banger()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("banger runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let feeding = std::thread::spawn(move || {
            // A command that does not read its input to the end is no error.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("banger ends");
        feeding.join().expect("the feeding thread");
        output.into()
    }
}
