//! What a VM has that exists nowhere else: what stands between it and its deletion.

use banger_agent::protocol::AgentRequest;
use banger_agent::protocol::sync::{Counts, GuestOnly};
use banger_vmm::{Error, Vm, VmState};

use crate::error::{CommandError, ErrorKind};
use crate::output::units::count;
use crate::vm::agent::{AgentError, Call};
use crate::vm::checkout::GuestCheckout;
use crate::vm::ownership::VmOwner;

/// How many names fit on a line.
const NAMES: usize = 3;

/// What changed in the guest alone.
#[derive(Clone, Debug)]
pub enum UnsyncedChanges {
    /// This much, which may be nothing.
    Known(GuestOnly),
    /// Nobody knows: the VM was killed, or could not tell at its end.
    Unknown,
    /// It is a bare VM, and was used: whatever was done in it is only there.
    All,
}

impl UnsyncedChanges {
    /// What the VM had when it was last looked at. It is not asked.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn noted(vm: &Vm) -> Result<UnsyncedChanges, banger_vmm::Error> {
        if !is_counted(vm) {
            // A workspace's VM has nothing before it has the workspace.
            let has_nothing = is_for_workspace(vm) || !vm.was_started();
            return Ok(if has_nothing { UnsyncedChanges::Known(GuestOnly::default()) } else { UnsyncedChanges::All });
        }
        let only = vm.last_activity()?.and_then(|activity| activity.guest_only);
        Ok(only.map_or(UnsyncedChanges::Unknown, UnsyncedChanges::Known))
    }

    /// What the VM has now: one that runs is asked.
    ///
    /// # Errors
    /// If a VM that runs does not answer, or the file system refuses.
    pub fn now(vm: &Vm) -> Result<UnsyncedChanges, CommandError> {
        match vm.state()? {
            VmState::Running { .. } if is_counted(vm) => match Call::ask(vm, &AgentRequest::GuestOnly) {
                // It is counted on its way down.
                Err(AgentError::Vm(Error::GoingDown(_) | Error::NotRunning(_))) => {
                    vm.wait_until_down()?;
                    Ok(UnsyncedChanges::noted(vm)?)
                }
                only => Ok(UnsyncedChanges::Known(only?)),
            },
            VmState::Failed { .. } if is_counted(vm) => Ok(UnsyncedChanges::Unknown),
            _ => Ok(UnsyncedChanges::noted(vm)?),
        }
    }

    /// What the VM has now, for who only looks: one that runs is asked, and one that does not
    /// answer in time has what was noted.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn looked_at(vm: &Vm) -> Result<UnsyncedChanges, banger_vmm::Error> {
        if matches!(vm.state()?, VmState::Running { .. })
            && is_counted(vm)
            && let Ok(only) = Call::look(vm, &AgentRequest::GuestOnly)
        {
            return Ok(UnsyncedChanges::Known(only));
        }
        UnsyncedChanges::noted(vm)
    }

    /// A line for who leaves a shell in the VM: what exists only there now, and how it gets out.
    /// None: nothing does, or it is not known. `name` is that of a VM reached by name; without it,
    /// the hints are for the current directory's VM.
    pub fn hint(&self, name: Option<&str>) -> Option<String> {
        let UnsyncedChanges::Known(only) = self else { return None };
        if only.counts.is_nothing() {
            return None;
        }
        let names: Vec<_> = only.named.iter().take(NAMES).map(|path| banger_vmm::printable(&path.0)).collect();
        let has_more = only.counts.files.saturating_add(only.counts.references) > names.len() as u64;
        let (argument, vm) = (name.map(|name| format!(" {name}")).unwrap_or_default(), name.unwrap_or_default());
        let (etc, more) = match has_more {
            true => (", …", format!(" more names: banger status -v{argument};")),
            false => ("", String::new()),
        };
        let names = if names.is_empty() { String::new() } else { format!(" ({}{etc})", names.join(", ")) };
        Some(format!("only in the VM: {}{names};{more} to copy: banger cp {vm}:PATH .", describe(only.counts)))
    }

    /// How much it is, if that is known.
    pub fn counts(&self) -> Option<Counts> {
        match self {
            UnsyncedChanges::Known(only) => Some(only.counts),
            UnsyncedChanges::Unknown | UnsyncedChanges::All => None,
        }
    }

    /// Whether it is known that there is nothing.
    pub fn is_nothing(&self) -> bool {
        matches!(self, UnsyncedChanges::Known(only) if only.counts.is_nothing())
    }

    /// Whether who agrees to lose this loses no more if it is `now` that: the same, or nothing.
    pub fn covers(&self, now: &UnsyncedChanges) -> bool {
        match (self, now) {
            (UnsyncedChanges::Known(seen), UnsyncedChanges::Known(only)) => {
                now.is_nothing() || seen.counts == only.counts
            }
            (UnsyncedChanges::Known(_), _) => false,
            (UnsyncedChanges::Unknown | UnsyncedChanges::All, _) => true,
        }
    }

    /// The VM named `name` has something that would be lost, in words.
    pub fn error(&self, name: &str) -> CommandError {
        let (message, named) = match self {
            UnsyncedChanges::Unknown => {
                (format!("`{name}` ended before it could be asked for changes that exist only there"), &[][..])
            }
            UnsyncedChanges::All => {
                (format!("`{name}` is a bare VM: whatever was done in it exists only there"), &[][..])
            }
            UnsyncedChanges::Known(only) => {
                let what = describe(only.counts);
                (format!("`{name}` has changes that exist only there: {what}"), &only.named[..])
            }
        };
        let mut error = CommandError::new(message).kind(ErrorKind::GuestChanges);
        error.details = named.iter().take(10).map(|path| banger_vmm::printable(&path.0)).collect();
        error
    }
}

/// How much exists only in a VM, without what there is none of.
pub fn describe(counts: Counts) -> String {
    let files = (counts.files > 0).then(|| count(counts.files, "file", "files"));
    let references = (counts.references > 0).then(|| count(counts.references, "branch or tag", "branches and tags"));
    let parts: Vec<_> = files.into_iter().chain(references).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn is_for_workspace(vm: &Vm) -> bool {
    vm.record().is_ok_and(|record| VmOwner::of(&record).is_some())
}

/// Whether the guest counts what changed there: it has its workspace, or another one. Of a bare VM
/// that says little.
fn is_counted(vm: &Vm) -> bool {
    // What cannot be read may be anything.
    let checkouts = || GuestCheckout::all(vm).map_or(true, |checkouts| checkouts.iter().any(GuestCheckout::is_begun));
    vm.folder().join("sync/manifest").exists() || (is_for_workspace(vm) && checkouts())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reattach_hint_lists_unsynced_changes() {
        let work = |files, references, names: &[&str]| {
            let named = names.iter().map(|name| (*name).into()).collect();
            UnsyncedChanges::Known(GuestOnly { counts: Counts { files, references }, named }).hint(None)
        };
        assert_eq!(work(0, 0, &[]), None);
        assert_eq!(UnsyncedChanges::Unknown.hint(None), None);
        let one = work(1, 0, &["out/a\u{1b}b"]).unwrap();
        assert!(one.starts_with("only in the VM: 1 file (out/a^[b); to copy: banger cp :PATH ."), "{one}");
        assert!(work(0, 2, &[]).unwrap().starts_with("only in the VM: 2 branches and tags; "));
        let many = work(4, 1, &["a", "b", "c", "d", "refs/heads/x"]).unwrap();
        assert!(many.contains("4 files, 1 branch or tag (a, b, c, …); ") && many.contains("banger cp"), "{many}");
        let only = GuestOnly { counts: Counts { files: 1, references: 0 }, named: vec!["a".into()] };
        let named = UnsyncedChanges::Known(only).hint(Some("try")).unwrap();
        assert!(named.ends_with("1 file (a); to copy: banger cp try:PATH ."), "{named}");
        let only = GuestOnly { counts: Counts { files: 2, references: 0 }, named: vec!["a".into()] };
        let named = UnsyncedChanges::Known(only).hint(Some("try")).unwrap();
        assert!(named.ends_with("(a, …); more names: banger status -v try; to copy: banger cp try:PATH ."), "{named}");
    }

    #[test]
    fn inconsistent_counts_never_mean_no_changes() {
        let work = |files, references| {
            UnsyncedChanges::Known(GuestOnly { counts: Counts { files, references }, ..GuestOnly::default() })
        };
        assert!(work(0, 0).is_nothing());
        assert!(work(2, 1).covers(&work(2, 1)) && work(2, 1).covers(&work(0, 0)) && work(0, 0).covers(&work(0, 0)));
        assert!(!work(2, 1).covers(&work(3, 1)) && !work(0, 0).covers(&UnsyncedChanges::Unknown));
        assert!(UnsyncedChanges::Unknown.covers(&work(3, 1)) && !work(1, 0).covers(&UnsyncedChanges::All));
        assert!(!work(u64::MAX, 1).is_nothing() && !work(0, 1).is_nothing() && !work(1, 0).is_nothing());
    }
}
