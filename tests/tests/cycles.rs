//! VMs that come and go leave the machine as it was. `BANGER_TEST_CYCLES` says how often.

use banger_tests::leftovers::HostSnapshot;
use banger_tests::{Home, Repository, eventually};

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
fn create_run_delete_cycles_leave_nothing_behind() {
    let home = Home::new();
    let repository = home.repository("r");
    // What is kept for the next VM is made by the first.
    cycle(&repository, 0);
    let before = HostSnapshot::take(&home);
    let cycles = std::env::var("BANGER_TEST_CYCLES").ok().map_or(4, |count| count.parse().expect("a number"));
    for number in 1..=cycles {
        cycle(&repository, number);
        assert!(home.vms().is_empty());
    }
    assert_eq!(HostSnapshot::take(&home), before);
}
