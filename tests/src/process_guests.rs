//! Homes whose VMs are processes of this host: a real agent in namespaces of its own, which starts
//! in milliseconds.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, geteuid};

use crate::{Home, required};

impl Home {
    /// A home whose VMs are processes, in memory if possible: a guest that syncs its disk does not
    /// wait for the disks of others.
    ///
    /// # Panics
    /// Without root, which alone may give a namespace the users that commands in the guest are run
    /// as.
    pub fn with_process_guests() -> Home {
        assert!(geteuid().is_root(), "guests that are processes need root");
        Home::with_process_agent(&required("BANGER_TEST_PROCESS").join("banger-agent-process"))
    }

    /// A home whose VMs are processes of the program `agent`: `agent DIRECTORY HOSTNAME`, with the
    /// link as standard input and the console as output. Only what the program itself does may need
    /// root.
    pub fn with_process_agent(agent: &Path) -> Home {
        let memory = Path::new("/dev/shm");
        let mut home = if memory.is_dir() { Home::beneath(memory) } else { Home::new() };
        home.install(agent, &required("BANGER_TEST_PROCESS").join("banger-vmm-process"));
        home.process_guests = true;
        let _ = fs::remove_file(home.data().join("host"));
        home
    }

    /// A home for tests in which the guest's kernel plays no part: its VMs are processes for root,
    /// and real VMs for other users.
    pub fn with_any_guests() -> Home {
        if geteuid().is_root() { Home::with_process_guests() } else { Home::new() }
    }

    /// The processes of banger's programs in this home, those of agents in guests included; with
    /// `program`, a path below the prefix, of this program only.
    pub fn own_processes(&self, program: &str) -> Vec<Pid> {
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let runs = |pid: &i32| {
            let program = self.path().join("installed").join(program);
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.starts_with(program))
        };
        pids.filter(runs).map(Pid::from_raw).collect()
    }

    /// Whether neither a process of a VM nor a program of banger's runs in this home.
    pub fn nothing_runs(&self) -> bool {
        self.processes().is_empty() && self.own_processes("").is_empty()
    }

    /// Files that belong to nobody, in the directories of all VMs and in the cache: what was not
    /// finished, or not deleted completely.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let vms = self.data().join("vms");
        let mut found: Vec<_> =
            files(&vms).filter(|path| name(path).starts_with('.') && name(path) != ".lock").collect();
        for vm in self.vms() {
            found.extend(files(&vm).filter(|path| !OF_A_VM.contains(&&*name(path))));
            found.extend(files(&vm.join("sync")).filter(|path| !OF_A_SYNC.contains(&&*name(path))));
        }
        let cache = self.path().join(".cache/banger");
        let cached = files(&cache.join("disks")).chain(files(&cache.join("initramfs")));
        let is_made = |name: &str| name == ".lock" || name.starts_with("ext4-") || name.ends_with(".cpio");
        found.extend(cached.filter(|path| !is_made(&name(path))));
        found
    }
}

/// All entries that the directory of a VM may have.
const OF_A_VM: [&str; 17] = [
    "vm.json",
    "disk.ext4",
    "workspace.ext4",
    "sync",
    "repositories",
    "ports.json",
    "activity.json",
    "activity.prev.json",
    "operation.lock",
    "supervisor.lock",
    "owner.lock",
    "run.json",
    "s",
    "console.log",
    "console.log.1",
    "guest",
    "run",
];
const OF_A_SYNC: [&str; 4] = ["manifest", "filters", "history", "lock"];

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
