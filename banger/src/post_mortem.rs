//! What has become of a VM that does not answer any more.

use std::time::{Duration, Instant};

use banger_vmm::{Vm, VmState};

use crate::error::CommandError;
use crate::machine::Machine;

/// Lines of the guest's console in which a kernel that panics says why: a trace follows.
const LAST_WORDS: usize = 200;
/// How that line begins: kernel/panic.c.
const PANIC: &str = "Kernel panic - ";
/// What a supervisor needs to see that its VMM is gone; there is no event for who is not its child.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a VM has ended without anybody's wish, a moment ago or just now; or has been started again since it was `used`.
pub(crate) fn has_died(vm: &Vm, used: Option<&Machine>) -> bool {
    match state_after_failure(vm, used) {
        Ok(VmState::Stopped { crash }) => crash.is_some(),
        Ok(VmState::Failed { .. } | VmState::Starting) => true,
        Ok(VmState::Running { pid, .. }) => used.and_then(|machine| machine.supervisor) != Some(pid),
        Err(_) => false,
    }
}

/// The state of a VM whose agent cannot be asked any more: another one than when it was `used`, if it changes soon.
fn state_after_failure(vm: &Vm, used: Option<&Machine>) -> banger_vmm::Result<VmState> {
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
pub(crate) fn explained(mut error: CommandError, machine: &Machine) -> CommandError {
    if !error.kind.is_of_vm() {
        return error;
    }
    let reason = match state_after_failure(&machine.vm, Some(machine)) {
        Ok(VmState::Stopped { crash: Some(reason) } | VmState::Failed { reason }) => reason,
        _ => return error,
    };
    error.details.push(format!("what became of the VM: {reason}"));
    let console = machine.vm.last_words(LAST_WORDS).unwrap_or_default();
    if let Some(panic) = console.iter().rfind(|line| line.contains(PANIC)) {
        error.details.push(format!("the guest's kernel: {panic}"));
        error.hints.push(format!("all that it said: banger logs {}", machine.vm.name()));
    }
    error
}
