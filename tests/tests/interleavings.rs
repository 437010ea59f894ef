//! Commands of all kinds from several processes on one workspace, in random order, some of them
//! killed. `BANGER_TEST_COMMANDS` says how many, `BANGER_TEST_SEED` which; the seed is printed.
//!
//! The guests are processes of this host. What a command wrote that ended well is there as long as
//! its VM; a command that nobody disturbs succeeds, whatever was killed before it; nothing is left
//! at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::{Signal, kill};

/// No command takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const WORKERS: u64 = 3;

/// Notes the VM's identity once, says it, and writes a line.
const WRITE: &str = "cat /proc/sys/kernel/random/uuid >/root/$0; ln /root/$0 /root/id 2>/dev/null; rm /root/$0; \
                     cat /root/id; echo $0 >>/root/log; cat $1";

/// A number for each step: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

struct Play<'a> {
    repository: Repository<'a>,
    /// One git at a time on the host, as its locks have it.
    git: Mutex<()>,
    /// How often a VM was stopped, deleted or killed: begun, and under way.
    disturbances: AtomicU64,
    disturbing: AtomicU64,
    deletions: AtomicU64,
    /// What was written by commands that ended well, by the identity of the VM.
    written: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// A command that has ended.
struct Outcome {
    output: Output,
    /// Nobody stopped, deleted or killed anything meanwhile.
    undisturbed: bool,
    what: String,
}

impl Outcome {
    /// It succeeded, or somebody has disturbed it; true if it did.
    #[track_caller]
    fn succeeded(&self) -> bool {
        let Output { status, stderr, .. } = &self.output;
        assert!(!stderr.contains("panicked"), "{}: {stderr}", self.what);
        let fails_well = matches!(status, 125 | 137) && !self.undisturbed;
        assert!(*status == 0 || fails_well, "{}: status {status}, {}\n{stderr}", self.what, self.output.text());
        *status == 0
    }
}

impl Play<'_> {
    fn run(&self, arguments: &[&str]) -> Outcome {
        let before = self.disturbances.load(Ordering::SeqCst);
        let calm = self.disturbing.load(Ordering::SeqCst) == 0;
        let mut command = self.repository.banger();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("banger runs");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().expect("banger ends") {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("{arguments:?} has not ended after {} s", PATIENCE.as_secs());
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        child.stdout.take().expect("a pipe").read_to_end(&mut stdout).expect("output");
        child.stderr.take().expect("a pipe").read_to_end(&mut stderr).expect("output");
        let undisturbed = calm && self.disturbances.load(Ordering::SeqCst) == before;
        let output = Output::from(std::process::Output { status, stdout, stderr });
        Outcome { output, undisturbed, what: format!("{arguments:?}") }
    }

    /// Does something that others may fail of.
    fn disturb<T>(&self, work: impl FnOnce() -> T) -> T {
        self.disturbing.fetch_add(1, Ordering::SeqCst);
        self.disturbances.fetch_add(1, Ordering::SeqCst);
        let done = work();
        self.disturbing.fetch_sub(1, Ordering::SeqCst);
        done
    }

    /// A run that writes in the guest, and reads a host's file that only this worker edits.
    fn write(&self, line: &str, file: &str, content: &str) {
        let done = self.run(&["-q", "--", "sh", "-c", WRITE, line, file]);
        if done.succeeded() {
            let text = done.output.text();
            let (id, read) = text.split_once('\n').expect("an identity");
            assert_eq!(read, content, "{}", done.what);
            self.written.lock().unwrap().entry(id.to_owned()).or_default().insert(line.to_owned());
        }
    }

    /// Checks that the VM there is has all that was written to it.
    fn check(&self) {
        // What is written from now on need not be seen.
        let written = self.written.lock().unwrap().clone();
        let done = self.run(&["-q", "--", "sh", "-c", "cat /root/id /root/log 2>/dev/null || true"]);
        if done.succeeded() {
            let text = done.output.text();
            let (id, log) = text.split_once('\n').unwrap_or_default();
            let log: BTreeSet<_> = log.lines().collect();
            let lost: Vec<_> = written.get(id).into_iter().flatten().filter(|line| !log.contains(&line[..])).collect();
            assert!(lost.is_empty(), "lost of the VM {id}: {lost:?}");
        }
    }

    fn kill_one(&self, random: &mut Random) {
        let programs = ["bin/banger", "lib/banger/banger-vmm", "lib/banger/banger-agent"];
        let processes = self.repository.home.own_processes(programs[random.below(3) as usize]);
        if let Some(pid) = processes.get(random.below(processes.len().max(1) as u64) as usize) {
            // One that has ended by itself is no matter.
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }

    fn work(&self, worker: u64, commands: u64, random: &mut Random) {
        let (file, mut content) = (format!("file-{worker}"), String::new());
        for number in 0..commands {
            if content.is_empty() || random.below(4) == 0 {
                content = format!("{worker} wrote {number}\n");
                self.repository.write(&file, &content);
            }
            match random.below(20) {
                0..=6 => self.write(&format!("{worker}-{number}"), &file, &content),
                7..=8 => self.check(),
                9 => {
                    let _git = self.git.lock().unwrap();
                    self.repository.commit(&format!("{worker} {number}"));
                }
                10 => _ = self.disturb(|| self.run(&["stop"])).succeeded(),
                11 => _ = self.disturb(|| self.run(&["restart"])).succeeded(),
                12 => {
                    self.deletions.fetch_add(1, Ordering::SeqCst);
                    self.disturb(|| self.run(&["delete", "--force"])).succeeded();
                }
                13 => _ = self.run(&["status", "--json"]).succeeded(),
                14 => _ = self.run(&["list", "--json"]).succeeded(),
                15 => _ = self.run(&["prune", "--dry-run"]).succeeded(),
                16 => {
                    let name = format!(":/root/copied-{worker}");
                    let done = self.run(&["cp", &file, &name]);
                    assert!(done.output.stderr.contains("has no VM") || done.succeeded() || !done.undisturbed);
                }
                17 => _ = self.run(&["--rm", "-q", "--", "cat", &file]).succeeded(),
                _ => self.disturb(|| self.kill_one(random)),
            }
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the runner shows the seed with a failure")]
fn concurrent_random_commands_lose_nothing_and_leave_nothing() {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let (commands, seed) = (number("BANGER_TEST_COMMANDS").unwrap_or(300), number("BANGER_TEST_SEED").unwrap_or(now));
    eprintln!("BANGER_TEST_SEED={seed}");
    let home = Home::with_process_guests();
    let play = Play {
        repository: home.repository("r"),
        git: Mutex::default(),
        disturbances: AtomicU64::new(0),
        disturbing: AtomicU64::new(0),
        deletions: AtomicU64::new(0),
        written: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let play = &play;
            scope.spawn(move || play.work(worker, commands.div_ceil(WORKERS), &mut Random(seed ^ (worker << 32))));
        }
    });
    play.check();
    play.repository.assert_same_files();
    // Throwaway VMs whose command and supervisor were both killed go with the next one.
    play.repository.run(["--rm", "--", "true"]).ok();
    let (identities, deletions) = (play.written.lock().unwrap().len() as u64, play.deletions.load(Ordering::SeqCst));
    assert!(identities <= 1 + deletions, "{identities} VMs, and {deletions} deletions");
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
    assert_eq!(home.vms().len(), 1);
    play.repository.run(["delete", "--force"]).ok();
    assert!(home.vms().is_empty() && home.leftovers().is_empty());
    eventually("the end of all processes", || home.nothing_runs());
}
