//! Commands that are killed at their n-th step, by the program `crash-at-syscall`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{Output, Repository};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The command itself.
    Command,
    /// The VM's supervisor.
    Supervisor,
    /// The VMM: at a step of its own, or of a guest that is a process.
    Vmm,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 3] = [Target::Command, Target::Supervisor, Target::Vmm];

    /// Names of the processes whose steps are counted.
    fn names(self) -> &'static [&'static str] {
        match self {
            Target::Command => &["banger"],
            Target::Supervisor => &["banger-vmm"],
            Target::Vmm => &["banger-agent", "@banger-agent", "qemu-system-x86", "firecracker"],
        }
    }
}

/// How such a command ended.
#[derive(Debug)]
pub struct CrashOutcome {
    /// What the command said.
    pub output: Output,
    /// Its own status.
    pub status: i32,
    /// How many steps were counted.
    pub steps: u64,
    /// The system call before which the target died; none: there were fewer steps.
    pub at: Option<String>,
}

impl Repository<'_> {
    /// Runs `banger <arguments>` and kills `target` at its `step`. What it leaves running is
    /// followed for `linger`.
    #[track_caller]
    pub fn crash_at_syscall(
        &self,
        injector: &OsStr,
        target: Target,
        step: u64,
        linger: Duration,
        arguments: &[&str],
    ) -> CrashOutcome {
        let report = self.home.path().join("crash.json");
        let banger = self.banger();
        let mut command = Command::new(injector);
        for name in target.names() {
            command.args(["--of", name]);
        }
        if target == Target::Vmm {
            command.args(["--kill", "vmm"]);
        }
        for pid in self.home.processes_named(target.names()) {
            command.arg("--seize").arg(pid.to_string());
        }
        command.arg("--at").arg(step.to_string()).arg("--linger").arg(linger.as_millis().to_string());
        command.arg("--report").arg(&report).arg("--").arg(banger.get_program()).args(arguments);
        command.current_dir(&self.root).env_clear();
        command.envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = Output::from(command.stdin(std::process::Stdio::null()).output().expect("the injector runs"));
        assert_eq!(output.status, 0, "{output:?}");
        let told: serde_json::Value = read(&report);
        CrashOutcome {
            output,
            status: told["status"].as_i64().expect("a status") as i32,
            steps: told["steps"].as_u64().expect("a count"),
            at: told["crashed_at"].as_str().map(str::to_owned),
        }
    }
}

#[track_caller]
fn read(report: &Path) -> serde_json::Value {
    let bytes = fs::read(report).expect("a report");
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}
