//! Inspects processes and files of VMs from the host.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::{Home, eventually};

impl Home {
    /// The directory of the only VM in this home.
    #[track_caller]
    pub fn vm(&self) -> PathBuf {
        let [vm] = self.vms().try_into().expect("exactly one VM");
        vm
    }

    /// Processes that have a file of a VM in this home open: supervisors, and what they run.
    pub fn processes(&self) -> Vec<Pid> {
        let vms = self.data().join("vms");
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| open_files(pid).any(|file| file.starts_with(&vms))).map(Pid::from_raw).collect()
    }

    /// The processes of VMs, and banger's own processes in this home, whose name (`comm`) is one of
    /// `names`.
    pub fn processes_named(&self, names: &[&str]) -> Vec<Pid> {
        let name = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let all: std::collections::BTreeSet<_> =
            self.processes().into_iter().chain(self.own_processes("")).map(Pid::as_raw).collect();
        all.into_iter().map(Pid::from_raw).filter(|pid| names.contains(&name(pid).trim_end())).collect()
    }

    /// The supervisor of the only VM in this home, and its VMM.
    #[track_caller]
    pub fn supervisor_and_vmm(&self) -> (Pid, Pid) {
        let name = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let processes = self.processes();
        let of = |start| *processes.iter().find(|pid| name(pid).starts_with(start)).expect(start);
        let vmm = if self.firecracker_guests { "firecracker" } else { "qemu" };
        (of("banger-vmm"), of(vmm))
    }

    /// Makes the directory of a stopped VM, as another command could have left it, for the
    /// workspace at `root`. `guest_files` is the number of files that changed in the guest alone,
    /// if it is known.
    pub fn fake_vm(&self, name: &str, root: &Path, guest_files: Option<u64>) {
        let vm = self.data().join("vms").join(name);
        let write = |file: &str, content: &[u8]| fs::write(vm.join(file), content).expect("a file");
        fs::create_dir_all(vm.join("sync")).expect("a folder");
        let record = json!({
            "format_version": 1, "name": name, "workspace": {"root": root, "git": [1, 1, 1], "owner": null}, "image": "i",
            "kernel": "k", "cpus": 1, "memory_mib": 512, "disk_bytes": 1 << 30, "net": "user",
            "machine_id": "0123456789abcdef0123456789abcdef", "hostname": "h", "created": 1_700_000_000, "throwaway": false,
            "ready": "agent",
        });
        write("vm.json", record.to_string().as_bytes());
        write("disk.ext4", &[1; 64 << 10]);
        write("sync/manifest", b"");
        if let Some(files) = guest_files {
            let only = json!({"counts": {"files": files, "references": 0}, "named": []});
            let activity = json!({"format_version": 1, "ended": 1_700_000_001, "guest_only": only});
            write("activity.json", activity.to_string().as_bytes());
        }
    }

    /// Checks that nothing is left of the only VM but its files: no process, no socket, no
    /// `run.json`.
    #[track_caller]
    pub fn assert_at_rest(&self) {
        eventually("the end of the VM's processes", || self.processes().is_empty());
        let vm = self.vm();
        for name in ["s", "run.json"] {
            assert!(!vm.join(name).exists(), "`{name}` is left");
        }
        let unfinished = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains("run.json");
        assert!(!fs::read_dir(&vm).expect("the VM's folder").flatten().any(|entry| unfinished(&entry)));
    }
}

fn open_files(pid: i32) -> impl Iterator<Item = PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| fs::read_link(entry.path()).ok())
}

/// The most memory that a process has had resident, in bytes.
pub fn peak_memory(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process with memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// What a file takes on the disk, in bytes.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).expect("a file").blocks() * 512
}

/// Sends a signal to a process of this test's own.
#[track_caller]
pub fn send(pid: Pid, signal: Signal) {
    kill(pid, signal).expect("the process lives");
}
