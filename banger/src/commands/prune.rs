//! `banger prune`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use banger_agent::protocol::sync::Counts;
use banger_image::oci;
use banger_vmm::{Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::output::units::{bytes, count};
use crate::store::disk_usage::allocated;
use crate::vm::machine::Machines;
use crate::vm::ownership::{self, Repository, VmOwner};
use crate::vm::unsynced::UnsyncedChanges;

/// What is looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prunes {
    /// VMs only.
    Vms,
    /// What was downloaded, and what was left of images, too.
    All,
}

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Pruned {
    /// Nothing was removed: this is what would be.
    dry_run: bool,
    removed: Vec<Removed>,
    /// VMs that would have gone, but for what they have, or may have, alone.
    kept: Vec<Kept>,
    /// Of what was downloaded from registries.
    blobs: Blobs,
    /// Of all that was removed.
    freed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Removed {
    /// The VM, or a folder that a killed command has left.
    name: String,
    why: Why,
    bytes: u64,
}

/// What can be downloaded again, and no pull is using.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Blobs {
    count: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Why {
    /// The repository is not there any more, or another one is in its place.
    RepositoryGone,
    /// Nobody has used it for as long as was said.
    Unused,
    /// A command that was killed has left it.
    Leftover,
}

#[derive(Debug, Serialize)]
struct Kept {
    name: String,
    why: Why,
    /// What exists only there; none: not known.
    guest_only: Option<Counts>,
    #[serde(skip)]
    work: UnsyncedChanges,
}

/// Removes VMs that are stopped and belong to no repository any more, or were not used for
/// `unused`, and what killed commands have left; and, if `what` says so, blobs of registries that
/// no pull is using, of which `unused` spares the others. A VM with changes that exist only there
/// goes with `force` alone.
///
/// # Errors
/// If the store cannot be read, or something cannot be removed.
pub fn prune(
    what: Prunes,
    dry_run: bool,
    unused: Option<Duration>,
    force: bool,
    paths: &Paths,
    ui: &Ui,
) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let blobs = match what {
        Prunes::Vms => Blobs::default(),
        Prunes::All => {
            let freed = oci::prune_cache(&paths.cache, unused.unwrap_or_default(), dry_run)?;
            Blobs { count: freed.blobs, bytes: freed.bytes }
        }
    };
    let mut pruned = Pruned { dry_run, removed: Vec::new(), kept: Vec::new(), blobs, freed_bytes: 0 };
    for folder in leftovers(what, &machines, paths)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        pruned.removed.push(Removed { name, why: Why::Leftover, bytes: allocated(&folder) });
    }
    if !dry_run {
        machines.store().sweep()?;
        if what == Prunes::All {
            banger_image::Store::new(&paths.data).sweep()?;
        }
    }
    for vm in machines.all()? {
        let Some(why) = reason(&vm, unused) else { continue };
        let name = vm.name().to_owned();
        let work = UnsyncedChanges::noted(&vm)?;
        if !force && !work.is_nothing() {
            pruned.kept.push(Kept { name, why, guest_only: work.counts(), work });
            continue;
        }
        let size = allocated(vm.folder());
        // A command may have come meanwhile, with another repository or new work.
        let still = |vm: &Vm| Ok(reason(vm, unused).is_some() && (force || UnsyncedChanges::noted(vm)?.is_nothing()));
        let gone = dry_run
            || match machines.store().delete_if(&name, still) {
                // Somebody uses it, or has deleted it.
                Err(banger_vmm::Error::Busy(_) | banger_vmm::Error::NotFound(_)) => false,
                deleted => deleted?,
            };
        if gone {
            pruned.removed.push(Removed { name, why, bytes: size });
        }
    }
    pruned.freed_bytes = blobs.bytes + pruned.removed.iter().map(|removed| removed.bytes).sum::<u64>();
    report(&pruned, ui);
    ui.answer(&pruned, || lines(&pruned))
}

/// Why the VM could go; none: it cannot, be it because nobody knows whose it is.
fn reason(vm: &Vm, unused: Option<Duration>) -> Option<Why> {
    let Ok(VmState::Stopped { .. }) = vm.state() else { return None };
    let record = vm.record().ok()?;
    if record.ephemeral {
        return ownership::is_abandoned(vm, &record).then_some(Why::Leftover);
    }
    // One by name was made to be there, whatever becomes of the repository.
    let is_gone = |owner: &VmOwner| !owner.by_name && ownership::repository(owner) != Repository::Present;
    if VmOwner::of(&record).as_ref().is_some_and(is_gone) {
        return Some(Why::RepositoryGone);
    }
    let last_use = vm.last_activity().ok()?.map_or(record.created, |last_use| last_use.ended.max(record.created));
    let since = SystemTime::UNIX_EPOCH.elapsed().ok()?.checked_sub(Duration::from_secs(last_use))?;
    unused.is_some_and(|unused| since >= unused).then_some(Why::Unused)
}

fn leftovers(what: Prunes, machines: &Machines<'_>, paths: &Paths) -> Result<Vec<PathBuf>, CommandError> {
    let mut folders = machines.store().leftovers()?;
    if what == Prunes::All {
        folders.extend(banger_image::Store::new(&paths.data).leftovers()?);
    }
    Ok(folders)
}

fn lines(pruned: &Pruned) -> String {
    let line = |removed: &Removed| {
        let why = match removed.why {
            Why::RepositoryGone => "its repository is gone",
            Why::Unused => "it was not used for long",
            Why::Leftover => "left by a command that was killed",
        };
        format!("{}  {} ({why})\n", banger_vmm::printable(removed.name.as_bytes()), bytes(removed.bytes))
    };
    let mut lines: String = pruned.removed.iter().map(line).collect();
    if pruned.blobs.count > 0 {
        let blobs = count(pruned.blobs.count, "blob", "blobs");
        lines.push_str(&format!("{blobs}  {} (can be downloaded again)\n", bytes(pruned.blobs.bytes)));
    }
    lines
}

fn report(pruned: &Pruned, ui: &Ui) {
    for kept in &pruned.kept {
        let what = match &kept.work {
            UnsyncedChanges::Unknown => "it may have changes that exist only there".to_owned(),
            UnsyncedChanges::All => "whatever was done in it exists only there".to_owned(),
            UnsyncedChanges::Known(only) => {
                let number = count(only.counts.files + only.counts.references, "change", "changes");
                format!("it has {number} that exist only there")
            }
        };
        ui.warning(&format!("`{}` stays: {what}; to remove it all the same: --force", kept.name));
    }
    let verb = if pruned.dry_run { "would be removed" } else { "removed" };
    let things = count(pruned.removed.len() as u64 + pruned.blobs.count, "thing", "things");
    ui.status(&format!("{things} {verb}, {} freed", bytes(pruned.freed_bytes)));
}
