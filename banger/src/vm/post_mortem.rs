//! What has become of a VM that does not answer any more.

use std::time::{Duration, Instant};

use banger_vmm::{Vm, VmState};

use crate::error::{CommandError, ErrorKind};
use crate::vm::running::RunningVm;

/// Lines of the guest's console in which a kernel that panics says why: a trace follows.
const LAST_WORDS: usize = 200;
/// How that line begins: kernel/panic.c.
const PANIC: &str = "Kernel panic - ";
/// How often a command starts a VM again that somebody stops before it has begun.
pub(crate) const RESTARTS: usize = 3;
/// What a supervisor needs to see that its VMM is gone; there is no event for who is not its child.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has become of a VM.
enum Fate {
    /// It runs, as when it was used.
    Lives,
    /// It ended without anybody's wish, for this reason.
    Died(String),
    /// It runs again, or is about to.
    Restarted,
    /// Somebody stopped it, or it switched itself off. It may still be going down.
    Stopped,
    /// It is not there any more.
    Deleted,
}

impl Fate {
    fn of(vm: &Vm, used: Option<&RunningVm>) -> Fate {
        if vm.is_going_down() {
            return Fate::Stopped;
        }
        let state = state_after_failure(vm, used);
        if !vm.exists() {
            return Fate::Deleted;
        }
        match state {
            Ok(VmState::Stopped { crash: Some(reason) } | VmState::Failed { reason }) => Fate::Died(reason),
            Ok(VmState::Stopped { crash: None }) => Fate::Stopped,
            Ok(VmState::Running { pid, .. }) if used.and_then(|machine| machine.supervisor) == Some(pid) => Fate::Lives,
            Ok(VmState::Running { .. } | VmState::Starting) => Fate::Restarted,
            Err(_) => Fate::Lives,
        }
    }
}

/// Whether `error` is the news that a VM has ended, or is going down, since it was `used`.
pub(crate) fn is_over(error: &CommandError, vm: &Vm, used: Option<&RunningVm>) -> bool {
    match error.kind {
        ErrorKind::VmEnded => true,
        kind => kind.is_of_vm() && !matches!(Fate::of(vm, used), Fate::Lives),
    }
}

/// How a VM gets more memory: commands to paste. A VM that is deleted with its command cannot be
/// restarted.
fn more_memory(vm: &Vm) -> String {
    match vm.record().is_ok_and(|record| record.ephemeral) {
        true => "banger config set memory SIZE".to_owned(),
        false => format!("banger config set memory SIZE && banger restart {}", vm.name()),
    }
}

/// The warning about a VM that ran out of memory while a command ran.
pub(crate) fn out_of_memory(vm: &Vm) -> String {
    let logs = match vm.record().is_ok_and(|record| record.ephemeral) {
        true => String::new(),
        false => format!(" (see banger logs {})", vm.name()),
    };
    let more = more_memory(vm);
    format!("the VM ran out of memory and its kernel killed a process{logs}. To give it more: {more}")
}

/// The failure of what banger ran in a VM that ran out of memory, if it did.
pub(crate) fn of_memory(error: CommandError, vm: &Vm, out_of_memory: bool) -> CommandError {
    if !out_of_memory {
        return error;
    }
    let message = format!("{}: the VM ran out of memory", error.message);
    let error = CommandError { message, ..error };
    error.hint(format!("to give it more: {}", more_memory(vm)))
}

/// Whether somebody has stopped the VM of a command that has just ended.
pub(crate) fn was_stopped(machine: &RunningVm) -> bool {
    let stopped = |state| match state {
        VmState::Stopped { crash: None } => true,
        VmState::Running { pid, .. } => machine.supervisor.is_some_and(|supervisor| supervisor != pid),
        _ => false,
    };
    machine.vm.is_going_down() || machine.vm.state().is_ok_and(stopped)
}

/// The failure of what precedes a command: of the kind [`ErrorKind::VmEnded`] if that is because
/// somebody has stopped the VM meanwhile.
pub(crate) fn of_preparation(error: CommandError, machine: &RunningVm) -> CommandError {
    if matches!(error.kind, ErrorKind::Agent | ErrorKind::Setup | ErrorKind::Guest) && was_stopped(machine) {
        return stopped(error, machine);
    }
    error
}

/// Does `work`, and does it again if somebody stopped the VM before it began: `work` waits for
/// that, and starts the VM.
pub(crate) fn unless_stopped<T>(mut work: impl FnMut() -> Result<T, CommandError>) -> Result<T, CommandError> {
    for _ in 0..RESTARTS {
        match work() {
            Err(error) if error.kind == ErrorKind::VmEnded => {}
            done => return done,
        }
    }
    work()
}

fn stopped(error: CommandError, machine: &RunningVm) -> CommandError {
    let message = format!("the VM `{}` was stopped while the command ran", machine.vm.name());
    let error = CommandError { message, hints: Vec::new(), ..error };
    error.kind(ErrorKind::VmEnded).hint("run it again: the VM is started again, or made anew if it was deleted")
}

/// The state of a VM whose agent cannot be asked any more: another one than when it was `used`, if
/// it changes soon.
fn state_after_failure(vm: &Vm, used: Option<&RunningVm>) -> banger_vmm::Result<VmState> {
    let used = used.and_then(|machine| machine.supervisor);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match vm.state() {
            Ok(VmState::Running { pid, .. }) if used == Some(pid) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            state => return state,
        }
    }
}

/// The failure of what ran in a VM, with what became of the VM itself.
pub(crate) fn explained(error: CommandError, machine: &RunningVm) -> CommandError {
    let mut error = error.in_vm(machine.vm.name());
    if !error.kind.is_of_vm() && error.kind != ErrorKind::VmEnded {
        return error;
    }
    let reason = match Fate::of(&machine.vm, Some(machine)) {
        Fate::Died(reason) => reason,
        Fate::Stopped => return stopped(error, machine),
        Fate::Deleted => {
            let message = format!("the VM `{}` was deleted while the command ran", machine.vm.name());
            let error = CommandError { message, hints: Vec::new(), ..error };
            return error.kind(ErrorKind::VmEnded).hint("run it again, in a new VM: what was only in this one is gone");
        }
        Fate::Lives | Fate::Restarted => return error,
    };
    error.details.push(format!("what became of the VM: {reason}"));
    let console = machine.vm.console_tail_of_boot(LAST_WORDS).unwrap_or_default();
    if let Some(panic) = console.iter().rfind(|line| line.contains(PANIC)) {
        error.details.push(format!("the guest's kernel: {panic}"));
        error.hints.push(format!("all that it said: banger logs {}", machine.vm.name()));
    }
    error
}
