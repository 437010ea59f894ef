//! `banger vm stats`.

use std::thread;
use std::time::{Duration, Instant};

use banger::banger_agent::protocol::{AgentRequest, Stat};
use banger::banger_vmm::{Vm, VmState};
use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::command_output::{CommandOutput, Message, Verbosity};
use banger::output::table::table;
use banger::output::ui::Ui;
use banger::output::units::bytes;
use banger::vm::agent::Call;
use banger::vm::machine::{Machines, named};
use banger_util::process;
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// How long processors are watched.
const WATCHED: Duration = Duration::from_millis(500);

/// What running VMs take at the moment.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StatsList {
    vms: Vec<VmStats>,
}

/// What a running VM takes at the moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct VmStats {
    /// The VM's name.
    name: String,
    /// Processor time of half a second, in percent of one processor; none: not known.
    cpu_percent: Option<f64>,
    /// Bytes of this machine's memory.
    memory_bytes: u64,
    /// Bytes of this machine's disks.
    disk_bytes: u64,
    /// How long the VM's supervisor has been running, in milliseconds.
    uptime_ms: u64,
    /// What the guest says of itself; none: its agent does not answer.
    guest: Option<GuestStats>,
}

/// What a guest says of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct GuestStats {
    /// Bytes of its memory that are in use.
    memory_used: u64,
    /// Bytes of its memory.
    memory_total: u64,
    /// Bytes of its disk that are in use.
    disk_used: u64,
    /// Bytes of its disk.
    disk_total: u64,
    /// How many commands run.
    commands: u32,
}

/// Measures for half a second what the running VMs of these names take, or without names all
/// running VMs.
///
/// # Errors
/// If a VM that is named does not exist, does not run, or cannot be measured.
pub(super) fn stats(names: &[String], paths: &Paths, ui: &Ui) -> Result<StatsList, CommandError> {
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
    let mut list = StatsList { vms: Vec::new() };
    for (vm, stats) in vms.iter().zip(watched) {
        match stats {
            Ok(Some(stats)) => list.vms.push(stats),
            // It is not asked for, and has just ended, or never ran.
            Ok(None) | Err(_) if names.is_empty() => {}
            Ok(None) => {
                let error = CommandError::new(format!("`{}` does not run", vm.name())).kind(ErrorKind::VmNotRunning);
                return Err(error.hint(format!("start it: banger vm start {}", vm.name())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(list)
}

impl CommandOutput for StatsList {
    fn messages(&self) -> Vec<Message> {
        self.vms.is_empty().then(|| Message::status("no VM runs")).into_iter().collect()
    }

    fn text(&self, _verbosity: Verbosity) -> String {
        text(self)
    }
}

/// What a VM takes; none: it does not run.
fn watch(vm: &Vm) -> Result<Option<VmStats>, CommandError> {
    if !matches!(vm.state()?, VmState::Running { .. } | VmState::Failed { .. }) {
        return Ok(None);
    }
    let status = vm.status()?;
    let start = (Instant::now(), status.vmm_pid.and_then(cpu_time));
    let guest = Call::look::<Stat>(vm, &AgentRequest::Stat).ok().map(|stat| GuestStats {
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
    Ok(Some(VmStats {
        name: vm.name().to_owned(),
        cpu_percent,
        memory_bytes: status.memory_bytes,
        disk_bytes: vm.disk_allocated()?,
        uptime_ms: status.uptime_ms,
        guest,
    }))
}

/// What a process has had of processors so far.
fn cpu_time(pid: i32) -> Option<Duration> {
    let ticks = process::Stat::read(pid).ok()?.cpu_ticks;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

fn text(list: &StatsList) -> String {
    if list.vms.is_empty() {
        return String::new();
    }
    let unknown = || "unknown".to_owned();
    let of = |used: u64, total: u64| format!("{} / {}", bytes(used), bytes(total));
    let lines = list.vms.iter().map(|stats| {
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
    fn cpu_time_grows_for_a_process_and_is_none_without_one() {
        let this = std::process::id().cast_signed();
        let before = cpu_time(this).unwrap();
        while cpu_time(this).unwrap() == before {}
        assert_eq!(cpu_time(i32::MAX), None);
    }

    #[test]
    fn missing_guest_stats_are_shown_as_unknown() {
        let guest =
            GuestStats { memory_used: 1, memory_total: 2_000, disk_used: 3, disk_total: 4_000_000, commands: 5 };
        let said = VmStats { name: "a".into(), cpu_percent: Some(12.34), guest: Some(guest), ..VmStats::default() };
        let silent = VmStats { name: "b".into(), ..VmStats::default() };
        let text = text(&StatsList { vms: vec![said, silent] });
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "a 12.3 % 0 B 0 B 1 B / 2.0 kB 3 B / 4.0 MB 5");
        assert_eq!(lines[2], "b unknown 0 B 0 B unknown unknown unknown");
    }
}
