//! `banger status`.

use std::path::Path;

use banger_agent::protocol::sync::{Counts, GuestOnly};
use banger_agent::protocol::{Bytes, Request};
use banger_vmm::{Accelerator, Confinement, Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::confinement::describe;
use crate::output::table::facts;
use crate::output::ui::Ui;
use crate::output::units::{bytes, count};
use crate::store::images::Images;
use crate::vm::agent::Call;
use crate::vm::checkout::GuestCheckout;
use crate::vm::machine::Machines;
use crate::vm::ownership::{self, VmOwner};
use crate::vm::unsynced::{self, UnsyncedChanges};

/// How many names of what exists only in the VM are shown to who does not ask for all.
const NAMES: usize = 5;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Status {
    /// Where the workspace is; none: the VM is bare.
    workspace: Option<String>,
    /// Its VM; none: not made yet.
    vm: Option<VmStatus>,
}

#[derive(Debug, Serialize)]
struct VmStatus {
    name: String,
    /// It belongs to another repository, which was here before this one.
    replaced: bool,
    /// `stopped`, `starting`, `running` or `failed`.
    state: &'static str,
    accelerator: Option<Accelerator>,
    /// What confines the VMM that runs it; none: it does not run, or what started it does not
    /// confine it.
    confinement: Option<Confinement>,
    /// Whether its agent answered within a few seconds; none: it was not asked.
    responds: Option<bool>,
    image: String,
    kernel: String,
    cpus: u32,
    memory_mib: u64,
    net: banger_vmm::NetMode,
    /// What the disk takes on this machine.
    disk_bytes: u64,
    /// When it was made, in seconds since 1970.
    created: u64,
    /// What changed in the VM alone, as it says, or as it was when somebody last looked; none: not
    /// known, or bare and used, so that all of it is only there.
    guest_only: Option<Counts>,
    /// The first of these, paths and names of references.
    guest_only_names: Vec<Bytes>,
    /// Other repositories that were brought into it.
    repositories: Vec<Additional>,
    /// Why it failed.
    reason: Option<String>,
}

/// A repository in a VM that is not the VM's own.
#[derive(Debug, Serialize)]
struct Additional {
    workspace: String,
    guest_path: String,
}

/// Shows the VM named `name`, or the workspace's, on standard output.
///
/// # Errors
/// If there is none of this name, or the VM's state cannot be read.
pub fn status(name: Option<&str>, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let (workspace, vm) = match name {
        Some(name) => (None, Some(super::named(name, &machines)?)),
        None => {
            let (workspace, vm) = super::vm_of(here, paths, &machines)?;
            (Some(workspace), vm)
        }
    };
    let root = workspace.as_ref().map(|workspace| workspace.root.to_string_lossy().into_owned());
    let mut status = Status { workspace: root, vm: None };
    if let Some(vm) = vm {
        let record = vm.record()?;
        let owner = VmOwner::of(&record);
        status.workspace = status.workspace.or_else(|| owner.as_ref().map(|owner| owner.root.to_string()));
        let (mut accelerator, mut confinement, mut reason) = (None, None, None);
        let state = match vm.state()? {
            VmState::Stopped { .. } => "stopped",
            VmState::Starting => "starting",
            VmState::Running { accelerator: by, confinement: within, .. } => {
                (accelerator, confinement) = (Some(by), within);
                "running"
            }
            VmState::Failed { reason: why } => {
                reason = Some(why);
                "failed"
            }
        };
        let asked = (state == "running" && owner.is_some()).then(|| guest_only(&vm, ui));
        let responds = asked.as_ref().map(Option::is_some);
        let work =
            asked.flatten().map_or_else(|| UnsyncedChanges::noted(&vm), |only| Ok(UnsyncedChanges::Known(only)))?;
        let only = match work {
            UnsyncedChanges::Known(only) => Some(only),
            UnsyncedChanges::Unknown | UnsyncedChanges::All => None,
        };
        status.vm = Some(VmStatus {
            name: vm.name().to_owned(),
            replaced: workspace.zip(owner).is_some_and(|(workspace, owner)| {
                owner.path() == workspace.root && !ownership::is_same(&owner, &workspace.identity)
            }),
            state,
            accelerator,
            confinement,
            responds,
            image: Images::new(paths, ui).name_of(&record.image),
            kernel: record.kernel,
            cpus: record.cpus,
            memory_mib: record.memory_mib,
            net: record.net,
            disk_bytes: vm.disk_allocated()?,
            created: record.created,
            guest_only: only.as_ref().map(|only| only.counts),
            guest_only_names: only.map(|only| only.named).unwrap_or_default(),
            repositories: additional(&vm)?,
            reason,
        });
    }
    let names = if ui.is_verbose() { usize::MAX } else { NAMES };
    ui.answer(&status, || text(&status, name, names))
}

fn additional(vm: &Vm) -> Result<Vec<Additional>, CommandError> {
    let checkouts = GuestCheckout::all(vm)?.into_iter().filter(|checkout| !checkout.is_own() && checkout.was_synced());
    let shown = |path: &Path| path.display().to_string();
    Ok(checkouts
        .map(|checkout| Additional { workspace: shown(checkout.root()), guest_path: shown(checkout.guest_path()) })
        .collect())
}

/// What changed in the VM alone. A VM that cannot tell, and be it because it ends at this moment,
/// has a status all the same.
fn guest_only(vm: &Vm, ui: &Ui) -> Option<GuestOnly> {
    let answer = Call::look(vm, &Request::GuestOnly);
    answer.inspect_err(|error| ui.warning(&format!("{error}: what is shown is what was last written down"))).ok()
}

/// The facts, with so many names of what exists only in the VM. `name` is that of the command line.
fn text(status: &Status, name: Option<&str>, names: usize) -> String {
    let is_bare = status.workspace.is_none();
    let mut lines = vec![("workspace", status.workspace.clone().unwrap_or_else(|| "none".to_owned()))];
    match &status.vm {
        None => lines.push(("vm", "none yet: `banger` makes it".to_owned())),
        Some(vm) => {
            let accelerator = vm.accelerator.map(|accelerator| format!(" ({accelerator})")).unwrap_or_default();
            lines.push(("vm", vm.name.clone()));
            if vm.replaced {
                let whose =
                    "another repository, which was here before: `banger delete` makes room for a VM of this one";
                lines.push(("belongs to", whose.to_owned()));
            }
            let silent = if vm.responds == Some(false) { ", does not respond" } else { "" };
            lines.push(("state", format!("{}{accelerator}{silent}", vm.state)));
            if vm.state == "running" {
                let nothing = || "none: the VMM may do what you may; `banger restart` changes that".to_owned();
                lines.push(("confinement", vm.confinement.as_ref().map_or_else(nothing, describe)));
            }
            if let Some(reason) = &vm.reason {
                lines.push(("reason", reason.clone()));
            }
            lines.push(("image", vm.image.clone()));
            lines.push(("kernel", vm.kernel.clone()));
            lines.push((
                "size",
                format!("{}, {} MiB of memory", count(vm.cpus.into(), "processor", "processors"), vm.memory_mib),
            ));
            lines.push(("disk", bytes(vm.disk_bytes)));
            let only = vm
                .guest_only
                .map_or_else(|| if is_bare { "all of it" } else { "unknown" }.to_owned(), unsynced::describe);
            lines.push(("only there", only));
            lines.extend(vm.guest_only_names.iter().take(names).map(|name| ("", banger_vmm::printable(&name.0))));
            let all = vm.guest_only.map_or(0, |only| only.files.saturating_add(only.references));
            let shown = vm.guest_only_names.len().min(names);
            if all > shown as u64 {
                let how = match name {
                    _ if shown == vm.guest_only_names.len() => String::new(),
                    Some(name) => format!(": banger status -v {name}"),
                    None => ": banger status -v".to_owned(),
                };
                lines.push(("", format!("and {} more{how}", all - shown as u64)));
            }
            let also = vm
                .repositories
                .iter()
                .map(|additional| format!("{} at {}", additional.workspace, additional.guest_path));
            lines.extend(also.map(|also| ("also there", also)));
        }
    }
    facts(&lines)
}

#[cfg(test)]
mod tests {
    use banger_vmm::Gap;

    use super::*;

    #[test]
    fn one_of_a_thing_is_no_plural() {
        let vm = VmStatus {
            replaced: false,
            name: "a".into(),
            state: "running",
            accelerator: None,
            confinement: Some(Confinement { landlock_abi: Some(2), missing: vec![Gap::Signals] }),
            responds: Some(false),
            image: "debian".into(),
            kernel: "generic".into(),
            created: 0,
            cpus: 1,
            memory_mib: 512,
            net: banger_vmm::NetMode::None,
            disk_bytes: 0,
            guest_only: Some(Counts { files: 1, references: 1 }),
            guest_only_names: vec!["out/\u{1b}a".into(), "refs/heads/b".into()],
            repositories: vec![Additional { workspace: "/b".into(), guest_path: "/srv/b".into() }],
            reason: None,
        };
        let status = Status { workspace: Some("/a".into()), vm: Some(vm) };
        let all = text(&status, None, usize::MAX);
        assert!(all.contains(" out/^[a\n") && all.contains(" refs/heads/b\n") && !all.contains("more"), "{all}");
        let named = text(&status, Some("a"), 1);
        assert!(named.contains(" and 1 more: banger status -v a\n"), "{named}");
        let shown = text(&status, None, 1);
        assert!(shown.contains(" out/^[a\n") && shown.contains(" and 1 more: banger status -v\n"), "{shown}");
        assert!(shown.contains("1 processor, 512 MiB") && shown.contains("1 file, 1 branch or tag\n"), "{shown}");
        assert!(shown.contains("seccomp, Landlock (version 2 of its interface); not kept from: ending"), "{shown}");
        assert!(shown.contains("running, does not respond\n"), "{shown}");
        assert!(shown.ends_with("/b at /srv/b\n"), "{shown}");
    }
}
