//! Commands on VMs that do not answer, or answer nonsense, without a VM: see
//! `src/bin/fake-supervisor.rs`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::Home;

/// A supervisor that is none; killed when dropped.
struct Fake(Child, PathBuf);

impl Fake {
    fn start(vm: &Path, case: &str) -> Fake {
        let mut fake = Command::new(env!("CARGO_BIN_EXE_fake-supervisor"));
        let mut fake = fake.arg(vm).arg(case).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(fake.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Fake(fake, vm.to_owned())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        // Its number may be another's soon.
        let _ = fs::remove_file(self.1.join("run.json"));
    }
}

#[test]
fn status_answers_in_seconds_with_unresponsive_peers() {
    const CASES: [&str; 4] = ["supervisor-silent", "supervisor-drips", "agent-silent", "agent-drips"];
    let home = Home::new();
    let repository = home.repository("r");
    let _fakes = CASES.map(|case| {
        home.fake_vm(case, Path::new("/nowhere"), Some(3));
        Fake::start(&home.data().join("vms").join(case), case)
    });
    let start = Instant::now();
    let listed = repository.run(["list", "--json"]).ok().document();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let vms = listed["vms"].as_array().unwrap();
    assert!(vms.len() == CASES.len() && vms.iter().all(|vm| vm["state"] == "running"), "{listed}");
    // All at once: each waits as long as the others.
    let asked = CASES.map(|case| {
        let mut status = repository.banger();
        status.args(["status", case, "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for (case, status) in CASES.iter().zip(asked) {
        let output = banger_tests::Output::from(status.wait_with_output().unwrap()).ok();
        let vm = &output.document()["vm"];
        assert_eq!((&vm["responds"], &vm["state"]), (&false.into(), &"running".into()), "{case}: {output:?}");
        assert_eq!(vm["guest_only"]["files"], 3, "{case}: what was written down");
        assert!(output.stderr.contains("last written down"), "{case}: {output:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[test]
fn inconsistent_guest_count_is_never_taken_for_zero() {
    let home = Home::new();
    let repository = home.repository("r");
    home.fake_vm("numbers", Path::new("/nowhere"), None);
    let folder = home.data().join("vms/numbers");
    let _fake = Fake::start(&folder, "numbers");
    let output = repository.run(["delete", "numbers", "--json"]);
    assert_eq!(output.status, 125, "{output:?}");
    assert_eq!(output.document()["kind"], "guest_changes", "{output:?}");
    assert!(fs::exists(folder.join("vm.json")).unwrap());
}
