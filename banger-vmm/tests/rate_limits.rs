//! Real VMs whose disks are limited.

mod real_vm;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use banger_vmm::{RateLimits, VmRecord};
use real_vm::{Home, ONE_VM_AT_A_TIME, wait_for};

#[test]
#[ignore = "needs BANGER_TEST_KERNEL_DIR"]
fn disks_together_are_as_slow_as_their_limits_and_discards_are_not() {
    let _alone = ONE_VM_AT_A_TIME.lock();
    let home = Home::new();
    let vm = home.vm("measures-its-disks");
    let limits = RateLimits { disk_iops: 20, disk_bandwidth: 4 << 20, net_bandwidth: 0 };
    let record = VmRecord { limits, ..vm.record().unwrap() };
    vm.set_record(&vm.lock().unwrap(), &record).unwrap();
    home.start(&vm).unwrap();
    let took = || {
        let lines = vm.console_tail_of_boot(100).unwrap().into_iter();
        let times = lines.filter_map(|line| {
            let (what, time) = line.strip_suffix(" ms")?.split_once(" in ")?;
            Some((what.to_owned(), Duration::from_millis(time.parse().ok()?)))
        });
        times.collect::<BTreeMap<_, _>>()
    };
    // A discard of 16 GiB would take more than an hour if it counted as written.
    wait_for("the end of the discard", || took().contains_key("discarded"));
    let took = took();
    // 16 MiB at 4 MiB/s; 100 operations at 20/s. QEMU lets the first tenth of a second pass at once.
    assert!(took["wrote"] > Duration::from_millis(3500), "{took:?}");
    assert!(took["read"] > Duration::from_millis(3500), "{took:?}");
    assert!(took["wrote small blocks"] > Duration::from_millis(4500), "{took:?}");
    vm.stop(Duration::ZERO).unwrap();
    for disk in ["disk.ext4", "workspace.ext4"] {
        let allocated = std::fs::metadata(vm.folder().join(disk)).unwrap().blocks() * 512;
        // Less than was written.
        assert!(allocated < 4 << 20, "{disk} takes {allocated} bytes after the discard");
    }
}
