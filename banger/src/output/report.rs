//! `banger --report FILE`: a run's own account, for programs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use banger_agent::protocol::WireBytes;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use crate::error::{CommandError, ErrorAnswer, ErrorKind};
use crate::host::file::{parts, replace};

/// Of the file's format. It grows with a change that a reader has to know of; fields may be added
/// without.
const FORMAT_VERSION: u32 = 1;

/// The parts of a run. Each moment counts for one of them, so that all of them are the total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RunPhase {
    List,
    Image,
    Kernel,
    Boot,
    Sync,
    Certificates,
    Tools,
    Setup,
    Ready,
    Run,
    /// What is none of the others.
    Other,
}

/// What is known of a run so far. Several threads add to it.
#[derive(Debug)]
pub struct RunReport {
    start: Instant,
    state: Mutex<State>,
    clock: Mutex<Clock>,
}

/// Which phases are under way.
#[derive(Debug)]
struct Clock {
    /// In the order of their beginning.
    active: Vec<RunPhase>,
    /// Until when the time is accounted for.
    until: Instant,
}

impl Clock {
    /// What this moment counts for: the phase that began last. Listing goes on beside the start of
    /// the VM, which is what is waited for.
    fn current(&self) -> RunPhase {
        let of = |phases: &mut dyn Iterator<Item = &RunPhase>| phases.next().copied();
        let waited_for = of(&mut self.active.iter().rev().filter(|phase| **phase != RunPhase::List));
        waited_for.or_else(|| of(&mut self.active.iter())).unwrap_or(RunPhase::Other)
    }
}

#[derive(Debug, Default, Serialize)]
struct State {
    format_version: u32,
    banger_version: &'static str,
    workspace: Option<WireBytes>,
    vm: Option<String>,
    command: Vec<WireBytes>,
    /// The exit status of banger, which is the command's if that was run.
    exit_status: u8,
    /// Why banger failed, if it did.
    error: Option<ErrorAnswer>,
    /// Milliseconds from the start to the end.
    total_ms: f64,
    #[serde(skip)]
    phases: BTreeMap<RunPhase, Duration>,
    /// Milliseconds of each phase that there was.
    phases_ms: BTreeMap<RunPhase, f64>,
    counts: Option<SyncCounts>,
}

/// What a sync did, and what it found.
#[derive(Clone, Debug, Serialize)]
pub struct SyncCounts {
    /// What it did.
    #[serde(flatten)]
    pub sent: SentCounts,
    /// Files that changed in the guest alone; none: not known.
    pub guest_only_files: Option<u64>,
    /// Branches and tags that changed in the guest alone; none: not known.
    pub guest_only_references: Option<u64>,
}

/// What a sync did.
#[derive(Clone, Debug, Serialize)]
pub struct SentCounts {
    /// Files and links that travel.
    pub files_listed: usize,
    /// Of them, those that were sent.
    pub files_sent: u64,
    /// Files that were removed in the guest.
    pub files_removed: u64,
    /// Files that stay as the guest has them.
    pub files_kept: u64,
    /// Branches and tags that were moved in the guest.
    pub references_moved: u64,
    /// Bytes of content that were sent.
    pub bytes_sent: u64,
}

impl RunReport {
    /// Of a run of `command` that begins now.
    pub fn new(command: &[OsString]) -> RunReport {
        let state = State {
            format_version: FORMAT_VERSION,
            banger_version: banger_agent::VERSION,
            command: command.iter().map(|word| word.as_os_str().into()).collect(),
            ..State::default()
        };
        let start = Instant::now();
        let clock = Clock { active: Vec::new(), until: start };
        RunReport { start, state: Mutex::new(state), clock: Mutex::new(clock) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Does `work`, and notes how long it took, whatever comes of it.
    pub fn time<T>(&self, phase: RunPhase, work: impl FnOnce() -> T) -> T {
        self.account(|active| active.push(phase));
        let result = work();
        self.account(|active| {
            let index = active.iter().rposition(|active| *active == phase);
            index.map(|index| active.remove(index));
        });
        result
    }

    /// Counts the time until now for the phase that it was of, before `change` changes which are
    /// under way.
    fn account(&self, change: impl FnOnce(&mut Vec<RunPhase>)) {
        let mut clock = self.clock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = Instant::now();
        let mut state = self.state();
        // A phase that there was is in the report, however short it was.
        let spent = now.duration_since(std::mem::replace(&mut clock.until, now));
        *state.phases.entry(clock.current()).or_default() += spent;
        change(&mut clock.active);
        for phase in &clock.active {
            state.phases.entry(*phase).or_default();
        }
    }

    /// Notes where the workspace is.
    pub fn workspace(&self, root: &Path) {
        self.state().workspace = Some(root.as_os_str().into());
    }

    /// Notes which VM it is.
    pub fn vm(&self, name: &str) {
        self.state().vm = Some(name.to_owned());
    }

    /// Notes what was synced.
    pub fn synced(&self, counts: SyncCounts) {
        self.state().counts = Some(counts);
    }

    /// Writes it, the run being over with this exit status or error.
    ///
    /// # Errors
    /// If it cannot be written; what was in the file before is there then.
    pub fn write(&self, target: &Target, outcome: Result<u8, &CommandError>) -> Result<(), CommandError> {
        self.account(|_| {});
        let mut state = self.state();
        state.total_ms = ms(self.start.elapsed());
        state.phases_ms = state.phases.iter().map(|(phase, time)| (*phase, ms(*time))).collect();
        state.exit_status = outcome.unwrap_or_else(CommandError::status);
        state.error = outcome.err().map(CommandError::answer);
        let mut json = serde_json::to_vec_pretty(&*state).expect("plain data has a JSON form");
        json.push(b'\n');
        target.write(&json)
    }
}

fn ms(duration: Duration) -> f64 {
    // Microseconds are as exact as it gets.
    duration.as_micros() as f64 / 1000.0
}

/// The file that a report goes to.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
}

impl Target {
    /// Looks, before anything is done, whether a report can be written at `path`. A link is
    /// followed.
    ///
    /// # Errors
    /// If it cannot: there is no such folder, or something else than a file is there.
    pub fn new(path: &Path) -> Result<Target, CommandError> {
        let wrong = |why: &str| {
            let message = format!("cannot write a report to `{}`: {why}", path.display());
            CommandError::new(message).kind(ErrorKind::Usage)
        };
        if path == Path::new("-") {
            let error = CommandError::new("a report does not go to standard output, which is the command's");
            return Err(error.kind(ErrorKind::Usage).hint("name a file; one named so: --report ./-"));
        }
        let path = match fs::canonicalize(path) {
            Ok(path) if path.is_file() => path,
            Ok(_) => return Err(wrong("it is no file").hint("name a file, which is replaced when the run is over")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(wrong(&error.to_string())),
        };
        let (folder, _) = parts(&path).ok_or_else(|| wrong("it is no file's name"))?;
        access(&folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| wrong(error.desc()))?;
        Ok(Target { path })
    }

    /// Replaces the file: a reader finds the former content, or all of the new.
    fn write(&self, content: &[u8]) -> Result<(), CommandError> {
        replace(&self.path, content, 0o666).map_err(|error| CommandError::io("write the report to", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn report_replaces_only_regular_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        fs::write(&file, "old").unwrap();
        symlink("report.json", folder.path().join("link")).unwrap();
        let report = RunReport::new(&["make".into(), "test".into()]);
        report.vm("some-vm");
        report.time(RunPhase::Boot, || std::thread::sleep(Duration::from_millis(2)));
        // Two at a time count once, and what is of no phase counts too.
        report.time(RunPhase::List, || report.time(RunPhase::Sync, || std::thread::sleep(Duration::from_millis(2))));
        std::thread::sleep(Duration::from_millis(2));
        report.write(&Target::new(&folder.path().join("link")).unwrap(), Ok(3)).unwrap();
        let read = || -> serde_json::Value { serde_json::from_slice(&fs::read(&file).unwrap()).unwrap() };
        let json = read();
        assert_eq!((json["exit_status"].as_u64(), json["vm"].as_str()), (Some(3), Some("some-vm")));
        assert!(
            json["phases_ms"]["boot"].as_f64().unwrap() >= 2.0 && json["phases_ms"].get("setup").is_none(),
            "{json}"
        );
        let phases = json["phases_ms"].as_object().unwrap();
        let sum: f64 = phases.values().map(|ms| ms.as_f64().unwrap()).sum();
        assert!((sum - json["total_ms"].as_f64().unwrap()).abs() < 1.0, "{json}");
        assert!(phases["other"].as_f64().unwrap() >= 2.0 && phases["sync"].as_f64().unwrap() >= 2.0, "{json}");
        assert!(phases["list"].as_f64().unwrap() < 2.0, "{json}");
        assert!(json["error"].is_null() && json["counts"].is_null(), "{json}");

        let error = CommandError::new("no").kind(ErrorKind::CommandNotFound);
        report.write(&Target::new(&file).unwrap(), Err(&error)).unwrap();
        let json = read();
        assert_eq!(
            (json["exit_status"].as_u64(), json["error"]["kind"].as_str()),
            (Some(127), Some("command_not_found"))
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

        for wrong in
            [folder.path(), Path::new("/dev/null"), &folder.path().join("no/such"), Path::new(".."), Path::new("-")]
        {
            assert_eq!(Target::new(wrong).unwrap_err().kind, ErrorKind::Usage, "{}", wrong.display());
        }
    }
}
