//! `banger prune`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use banger_agent::protocol::sync::Counts;
use banger_image::oci;
use banger_vmm::{Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message, Verbosity};
use crate::output::ui::Ui;
use crate::output::units::{bytes, count};
use crate::store::disk_usage::allocated;
use crate::vm::machine::Machines;
use crate::vm::ownership::{self, Repository, VmOwner};
use crate::vm::unsynced::UnsyncedChanges;

/// What a prune removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prunes {
    /// VMs alone.
    Vms,
    /// VMs, downloads, and what killed commands left of images.
    All,
}

/// What a prune removed, or with `dry_run` would remove.
#[derive(Clone, Debug, Serialize)]
pub struct PruneReport {
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// VMs, and directories that killed commands left.
    pub removed: Vec<PrunedItem>,
    /// VMs that were kept because they have, or may have, changes that exist only there.
    pub kept: Vec<KeptVm>,
    /// Downloads of registries.
    pub blobs: PrunedBlobs,
    /// Bytes of all that was removed.
    pub freed_bytes: u64,
}

/// A VM or directory that was removed.
#[derive(Clone, Debug, Serialize)]
pub struct PrunedItem {
    /// The name of the VM or the directory.
    pub name: String,
    /// Why it was removed.
    pub why: PruneReason,
    /// Bytes that it took on this machine's disks.
    pub bytes: u64,
}

/// Blobs that can be downloaded again, and that no pull uses.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PrunedBlobs {
    /// How many.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Why something is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneReason {
    /// The VM's repository is gone, or another one is in its place.
    RepositoryGone,
    /// The VM was not used for as long as was asked for.
    Unused,
    /// A command that was killed left it.
    Leftover,
}

/// A VM that was kept although there is a reason to remove it.
#[derive(Clone, Debug, Serialize)]
pub struct KeptVm {
    /// The VM's name.
    pub name: String,
    /// The reason to remove the VM.
    pub why: PruneReason,
    /// How much exists only in the VM; none: not known.
    pub guest_only: Option<Counts>,
    /// What exists only in the VM.
    #[serde(skip)]
    pub changes: UnsyncedChanges,
}

/// Removes stopped VMs whose repository is gone, or that were not used for `unused`, and what
/// killed commands left; with [`Prunes::All`] also blobs that no pull uses, and that were not used
/// for `unused`. A VM with changes that exist only there is removed with `force` alone. With
/// `dry_run`, nothing is removed.
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
) -> Result<PruneReport, CommandError> {
    let machines = Machines::new(paths, ui);
    let blobs = match what {
        Prunes::Vms => PrunedBlobs::default(),
        Prunes::All => {
            let freed = oci::prune_cache(&paths.cache, unused.unwrap_or_default(), dry_run)?;
            PrunedBlobs { count: freed.blobs, bytes: freed.bytes }
        }
    };
    let mut report = PruneReport { dry_run, removed: Vec::new(), kept: Vec::new(), blobs, freed_bytes: 0 };
    for folder in leftovers(what, &machines, paths)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        report.removed.push(PrunedItem { name, why: PruneReason::Leftover, bytes: allocated(&folder) });
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
        let changes = UnsyncedChanges::noted(&vm)?;
        if !force && !changes.is_nothing() {
            report.kept.push(KeptVm { name, why, guest_only: changes.counts(), changes });
            continue;
        }
        let size = allocated(vm.folder());
        // A command may have come meanwhile, with another repository or new work.
        let may_go = |vm: &Vm| Ok(reason(vm, unused).is_some() && (force || UnsyncedChanges::noted(vm)?.is_nothing()));
        let gone = dry_run
            || match machines.store().delete_if(&name, may_go) {
                // Somebody uses it, or has deleted it.
                Err(banger_vmm::Error::Busy(_) | banger_vmm::Error::NotFound(_)) => false,
                deleted => deleted?,
            };
        if gone {
            report.removed.push(PrunedItem { name, why, bytes: size });
        }
    }
    report.freed_bytes = blobs.bytes + report.removed.iter().map(|removed| removed.bytes).sum::<u64>();
    Ok(report)
}

impl CommandOutput for PruneReport {
    fn messages(&self) -> Vec<Message> {
        let mut messages: Vec<_> = self.kept.iter().map(|kept| Message::warning(kept.describe())).collect();
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        let things = count(self.removed.len() as u64 + self.blobs.count, "thing", "things");
        messages.push(Message::status(format!("{things} {verb}, {} freed", bytes(self.freed_bytes))));
        messages
    }

    fn text(&self, _verbosity: Verbosity) -> String {
        let mut lines: String = self.removed.iter().map(PrunedItem::line).collect();
        if self.blobs.count > 0 {
            let blobs = count(self.blobs.count, "blob", "blobs");
            lines.push_str(&format!("{blobs}  {} (can be downloaded again)\n", bytes(self.blobs.bytes)));
        }
        lines
    }
}

impl PrunedItem {
    fn line(&self) -> String {
        let why = match self.why {
            PruneReason::RepositoryGone => "its repository is gone",
            PruneReason::Unused => "it was not used for long",
            PruneReason::Leftover => "left by a command that was killed",
        };
        format!("{}  {} ({why})\n", banger_vmm::printable(self.name.as_bytes()), bytes(self.bytes))
    }
}

impl KeptVm {
    fn describe(&self) -> String {
        let what = match &self.changes {
            UnsyncedChanges::Unknown => "it may have changes that exist only there".to_owned(),
            UnsyncedChanges::All => "whatever was done in it exists only there".to_owned(),
            UnsyncedChanges::Known(only) => {
                let number = count(only.counts.files + only.counts.references, "change", "changes");
                format!("it has {number} that exist only there")
            }
        };
        format!("`{}` stays: {what}; to remove it all the same: --force", self.name)
    }
}

/// Why the VM may be removed; none: it may not, or nobody knows whose it is.
fn reason(vm: &Vm, unused: Option<Duration>) -> Option<PruneReason> {
    let Ok(VmState::Stopped { .. }) = vm.state() else { return None };
    let record = vm.record().ok()?;
    if record.ephemeral {
        return ownership::is_abandoned(vm, &record).then_some(PruneReason::Leftover);
    }
    // One by name was made to be there, whatever becomes of the repository.
    let is_gone = |owner: &VmOwner| !owner.by_name && ownership::repository(owner) != Repository::Present;
    if VmOwner::of(&record).as_ref().is_some_and(is_gone) {
        return Some(PruneReason::RepositoryGone);
    }
    let used = vm.last_activity().ok()?.map_or(record.created, |activity| activity.ended.max(record.created));
    let since = SystemTime::UNIX_EPOCH.elapsed().ok()?.checked_sub(Duration::from_secs(used))?;
    unused.is_some_and(|unused| since >= unused).then_some(PruneReason::Unused)
}

fn leftovers(what: Prunes, machines: &Machines<'_>, paths: &Paths) -> Result<Vec<PathBuf>, CommandError> {
    let mut folders = machines.store().leftovers()?;
    if what == Prunes::All {
        folders.extend(banger_image::Store::new(&paths.data).leftovers()?);
    }
    Ok(folders)
}
