//! A VM's disk: as large as is wanted, and on this machine no larger than what is on it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use banger_tests::{Home, Output, eventually};

/// MiB of the root's and the workspace's file systems.
fn sizes(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[test]
fn disk_grows_on_restart_and_discards_deleted_blocks() {
    let home = Home::new();
    let repository = home.repository("r");
    let with = |disk: &str, script: &str| repository.run(["--disk", disk, "--", "sh", "-c", script]).ok();
    let measure = "cat /kept kept; df --block-size=1M --output=size / /root/repo";
    with("1G", "echo of the root >/kept; echo of the workspace >kept");
    let before = with("1G", measure);
    assert!(sizes(&before.text()).iter().all(|size| *size < 1024), "{}", before.text());

    // A running VM keeps what it has, and says so; the next start brings it.
    let running = with("3G", measure);
    assert_eq!(running.text(), before.text());
    assert!(running.stderr.contains("take effect when the VM starts again"), "{}", running.stderr);
    repository.run(["stop"]).ok();
    let grown = repository.run(["--", "sh", "-c", measure]).ok().text();
    assert!(grown.starts_with("of the root\nof the workspace\n"), "{grown}");
    let grown = sizes(&grown);
    assert!(grown.len() == 2 && grown.iter().all(|size| *size > 2900), "{grown:?}");
    let smaller = with("1G", "true");
    assert!(smaller.stderr.contains("disk `1G` takes effect in a new VM"), "{}", smaller.stderr);

    let [vm] = &home.vms()[..] else { panic!("one VM") };
    let allocated = || fs::metadata(vm.join("disk.ext4")).unwrap().blocks() * 512;
    repository.sh("head -c 200M /dev/urandom >/large && sync").ok();
    let full = allocated();
    assert!(full > 200 << 20, "{full}");
    repository.sh("rm /large && sync").ok();
    eventually("what was deleted takes no room", || allocated() < full - (190 << 20));
    let du = repository.run(["du", "--json"]).ok().document();
    assert!(du["vms"][0]["bytes"].as_u64().unwrap() < 100 << 20, "{du}");

    // What is configured counts at a restart too.
    home.configure("disk = \"4G\"\n");
    repository.run(["restart"]).ok();
    let grown = sizes(&repository.run(["--", "sh", "-c", measure]).ok().text());
    assert!(grown.len() == 2 && grown.iter().all(|size| *size > 3900), "{grown:?}");

    // A disk that is full ends a copy, and what is there stays.
    let filled = repository.sh("fallocate -l 3800M /filled; head -c 300M /dev/zero >/rest");
    assert_ne!(filled.status, 0, "{filled:?}");
    repository.write("large", vec![1; 50 << 20]);
    let mut copy = home.command("timeout");
    copy.arg("60")
        .arg(repository.banger().get_program())
        .args(["cp", "large", ":/large"])
        .current_dir(&repository.root);
    let copy = Output::from(copy.output().unwrap());
    assert!(copy.status == 125 && copy.stderr.contains("No space left"), "{copy:?}");
    assert_eq!(repository.run(["cp", ":/kept", "-"]).ok().status, 0);

    // Nor does it keep anybody out: what is small still comes, from the room that is kept for
    // syncs, and with what is large the command runs as the guest is.
    let filled = repository.run(["vm", "exec", &name(vm), "--", "sh", "-c", FILL]);
    assert_ne!(filled.status, 0, "{filled:?}");
    fs::remove_file(repository.root.join("large")).unwrap();
    repository.write("small", "edited\n");
    let small = repository.run(["--", "cat", "small"]).ok();
    assert!(small.text() == "edited\n" && !small.stderr.contains("full"), "{small:?}");
    repository.write("large", vec![1; 24 << 20]);
    let without = repository.run(["--", "rm", "big"]).ok();
    assert!(without.stderr.contains("disk is full") && without.stderr.contains("banger vm exec"), "{without:?}");
    let later = repository.run(["--", "sh", "-c", "wc -c <large"]).ok();
    assert!(later.text() == format!("{}\n", 24 << 20) && !later.stderr.contains("full"), "{later:?}");
}

/// Fills the disk that the working tree is on, beside that of the root.
const FILL: &str = "cd /root/repo && fallocate -l 3800M big; head -c 300M /dev/zero >rest";

fn name(vm: &Path) -> String {
    vm.file_name().unwrap().to_string_lossy().into_owned()
}
