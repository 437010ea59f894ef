//! What a program that a launcher has started can do, tried by one: as this user, and where this is
//! root, as an ordinary one too.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;

use nix::unistd::{geteuid, setgroups, setresgid, setresuid};
use tempfile::TempDir;

use super::*;

/// Each check is a test as this user, and one as an ordinary user.
macro_rules! checks {
    ($($name:ident)*) => {
        mod as_this_user {
            $(#[test] fn $name() { super::run(super::$name) })*
        }
        mod as_ordinary_user {
            $(#[test] fn $name() { super::become_ordinary_user(); super::run(super::$name) })*
        }
    };
}

checks! {
    ends_with_the_status_of_the_vmm
}

/// nobody(5).
const NOBODY: u32 = 65534;

fn become_ordinary_user() {
    if !geteuid().is_root() {
        return;
    }
    // Each test is a process of its own.
    setgroups(&[]).unwrap();
    setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into()).unwrap();
    setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into()).unwrap();
}

fn run(check: impl AsyncFnOnce(Host)) {
    // The launcher dies with the thread that starts it: all is on this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(check(Host::new()));
}

/// Files as a user has them, with a VM's among them.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Host {
        let directory = tempfile::tempdir().unwrap();
        for file in ["home/.ssh/id_ed25519", "vms/own/disk", "vms/own/vm.json", "vms/other/disk", "images/rootfs"] {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        fs::create_dir(directory.path().join("vms/own/run")).unwrap();
        symlink("../disk", directory.path().join("vms/own/run/disk")).unwrap();
        Host { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A shell that runs a script in the VM's run directory.
    fn shell(&self, script: &str) -> ConfinedCommand {
        let system = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"].into_iter().map(PathBuf::from);
        ConfinedCommand {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), self.directory.path().into()],
            directory: self.path("vms/own/run"),
            rules: Rules {
                readable: system.chain([self.path("images/rootfs")]).collect(),
                writable: vec![self.path("vms/own/disk")],
                devices: vec!["/dev/null".into()],
                directories: vec![self.path("vms/own/run")],
                network: false,
            },
            descriptors: Vec::new(),
            stdin: Stdio::null(),
            stdout: Stdio::piped(),
            stderr: Stdio::piped(),
            network: None,
        }
    }

    async fn launch(&self, command: ConfinedCommand) -> Result<Confined, Failure> {
        launch(&launcher(self.directory.path()), command).await
    }
}

/// The binary `banger-vmm`, where an ordinary user may run it.
fn launcher(directory: &Path) -> PathBuf {
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("banger-vmm");
    let installed =
        || Path::new(&std::env::var_os("BANGER_TEST_DIST").expect("BANGER_TEST_DIST")).join("lib/banger/banger-vmm");
    let copy = directory.join("banger-vmm");
    if !copy.exists() {
        fs::copy(if built.exists() { built } else { installed() }, &copy).unwrap();
    }
    copy
}

async fn ends_with_the_status_of_the_vmm(host: Host) {
    let mut confined = host.launch(host.shell("exit 37")).await.unwrap();
    assert_eq!(confined.child.wait().await.unwrap().code(), Some(37));
    let mut confined = host.launch(host.shell("sleep 60")).await.unwrap();
    confined.kill();
    assert_eq!(confined.child.wait().await.unwrap().signal(), Some(libc::SIGKILL));
}
