//! VMs that come and go leave the machine as it was. `BANGER_TEST_CYCLES` says how often.

use std::fs;
use std::path::{Path, PathBuf};

use banger_tests::machine::allocated;
use banger_tests::{Home, Repository, eventually};

/// What a VM could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    processes: usize,
    mounts: usize,
    /// Sockets and other things of the unix domain, by path.
    sockets: Vec<String>,
    /// Everything in the home folder, and what it takes of the disk.
    files: Vec<(PathBuf, u64)>,
}

impl Machine {
    fn now(home: &Home) -> Machine {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        let of_home = |line: &&str| line.contains(home.path().to_str().unwrap());
        let mut files = Vec::new();
        collect(home.path(), &mut files);
        files.sort();
        Machine {
            processes: home.processes().len(),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            sockets: sockets.lines().filter(of_home).map(str::to_owned).collect(),
            files,
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let bytes = if metadata.is_file() { allocated(&entry.path()) } else { 0 };
        files.push((entry.path(), bytes));
        if metadata.is_dir() {
            collect(&entry.path(), files);
        }
    }
}

fn cycle(repository: &Repository<'_>, number: usize) {
    match number % 3 {
        0 => _ = repository.run(["--rm", "--", "true"]).ok(),
        1 => {
            repository.sh("sleep 1000 & echo work >/root/work").ok();
            repository.run(["stop"]).ok();
            repository.run(["delete"]).ok();
        }
        _ => {
            repository.run(["--", "true"]).ok();
            repository.run(["delete", "--force"]).ok();
        }
    }
    eventually("the end of the VM's processes", || repository.home.processes().is_empty());
}

#[test]
fn cycles_of_create_run_and_delete_leave_nothing() {
    let home = Home::new();
    let repository = home.repository("r");
    // What is kept for the next VM is made by the first.
    cycle(&repository, 0);
    let before = Machine::now(&home);
    let cycles = std::env::var("BANGER_TEST_CYCLES").ok().map_or(4, |count| count.parse().expect("a number"));
    for number in 1..=cycles {
        cycle(&repository, number);
        assert!(home.vms().is_empty());
    }
    assert_eq!(Machine::now(&home), before);
}
