//! `banger vm stats`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use banger::banger_agent::protocol::{Request, Stat};
use banger::banger_vmm::{Vm, VmState};
use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::table::table;
use banger::output::ui::Ui;
use banger::output::units::bytes;
use banger::vm::agent::Call;
use banger::vm::machine::{Machines, named};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// How long processors are watched.
const WATCHED: Duration = Duration::from_millis(500);

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    vms: Vec<Stats>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Stats {
    name: String,
    /// What it took of processors, 100 being one of them; none: not known.
    cpu_percent: Option<f64>,
    /// What it takes of this machine's memory.
    memory_bytes: u64,
    /// What it takes of this machine's disk.
    disk_bytes: u64,
    /// How long its supervisor has been running.
    uptime_ms: u64,
    /// What the guest says of itself; none: it does not answer.
    guest: Option<Guest>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Guest {
    memory_used: u64,
    memory_total: u64,
    disk_used: u64,
    disk_total: u64,
    /// How many commands run.
    commands: u32,
}

/// Shows what VMs that run take at the moment: those of these names, or all.
pub(super) fn stats(names: &[String], paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let vms = match names {
        [] => machines.all()?,
        names => names.iter().map(|name| named(name, &machines)).collect::<Result<_, _>>()?,
    };
    // Each is watched at the same time, and one that does not answer holds up no other.
    let watched: Vec<_> = thread::scope(|scope| {
        let watching: Vec<_> = vms.iter().map(|vm| scope.spawn(|| watch(vm))).collect();
        watching
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut answer = Answer { vms: Vec::new() };
    for (vm, stats) in vms.iter().zip(watched) {
        match stats {
            Ok(Some(stats)) => answer.vms.push(stats),
            // It is not asked for, and has just ended, or never ran.
            Ok(None) | Err(_) if names.is_empty() => {}
            Ok(None) => {
                let error = CommandError::new(format!("`{}` does not run", vm.name())).kind(ErrorKind::VmNotRunning);
                return Err(error.hint(format!("start it: banger vm start {}", vm.name())));
            }
            Err(error) => return Err(error),
        }
    }
    if answer.vms.is_empty() {
        ui.status("no VM runs");
    }
    ui.answer(&answer, || text(&answer))
}

/// None: it does not run.
fn watch(vm: &Vm) -> Result<Option<Stats>, CommandError> {
    if !matches!(vm.state()?, VmState::Running { .. } | VmState::Failed { .. }) {
        return Ok(None);
    }
    let status = vm.status()?;
    let start = (Instant::now(), status.vmm_pid.and_then(cpu_time));
    let guest = Call::look::<Stat>(vm, &Request::Stat).ok().map(|stat| Guest {
        memory_used: stat.memory_total.saturating_sub(stat.memory_available),
        memory_total: stat.memory_total,
        disk_used: stat.disk_total.saturating_sub(stat.disk_free),
        disk_total: stat.disk_total,
        commands: stat.commands,
    });
    thread::sleep(WATCHED.saturating_sub(start.0.elapsed()));
    let end = status.vmm_pid.and_then(cpu_time);
    let percent = |used: Duration| (used.as_secs_f64() / start.0.elapsed().as_secs_f64() * 1000.0).round() / 10.0;
    let cpu_percent = start.1.zip(end).map(|(start, end)| percent(end.saturating_sub(start)));
    Ok(Some(Stats {
        name: vm.name().to_owned(),
        cpu_percent,
        memory_bytes: status.memory_bytes,
        disk_bytes: vm.disk_allocated()?,
        uptime_ms: status.uptime_ms,
        guest,
    }))
}

/// What a process has had of processors so far: proc_pid_stat(5), fields 14 and 15.
fn cpu_time(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut field = || fields.next()?.parse::<u64>().ok();
    let ticks = field()? + field()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

fn text(answer: &Answer) -> String {
    if answer.vms.is_empty() {
        return String::new();
    }
    let unknown = || "unknown".to_owned();
    let of = |used: u64, total: u64| format!("{} / {}", bytes(used), bytes(total));
    let lines = answer.vms.iter().map(|stats| {
        let guest = stats.guest.as_ref();
        [
            stats.name.clone(),
            stats.cpu_percent.map_or_else(unknown, |percent| format!("{percent:.1} %")),
            bytes(stats.memory_bytes),
            bytes(stats.disk_bytes),
            guest.map_or_else(unknown, |guest| of(guest.memory_used, guest.memory_total)),
            guest.map_or_else(unknown, |guest| of(guest.disk_used, guest.disk_total)),
            guest.map_or_else(unknown, |guest| guest.commands.to_string()),
        ]
    });
    table(["NAME", "CPU", "MEMORY HERE", "DISK HERE", "MEMORY THERE", "DISK THERE", "COMMANDS"], lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_time_and_one_that_is_not_there_takes_none() {
        let this = std::process::id().cast_signed();
        let before = cpu_time(this).unwrap();
        while cpu_time(this).unwrap() == before {}
        assert_eq!(cpu_time(i32::MAX), None);
    }

    #[test]
    fn what_a_guest_does_not_say_is_unknown() {
        let guest = Guest { memory_used: 1, memory_total: 2_000, disk_used: 3, disk_total: 4_000_000, commands: 5 };
        let said = Stats { name: "a".into(), cpu_percent: Some(12.34), guest: Some(guest), ..Stats::default() };
        let silent = Stats { name: "b".into(), ..Stats::default() };
        let text = text(&Answer { vms: vec![said, silent] });
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "a 12.3 % 0 B 0 B 1 B / 2.0 kB 3 B / 4.0 MB 5");
        assert_eq!(lines[2], "b unknown 0 B 0 B unknown unknown unknown");
    }
}
