//! `banger list`.

use std::thread;
use std::time::{Duration, SystemTime};

use banger_agent::protocol::sync::Counts;
use banger_vmm::{Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::table::table;
use crate::output::ui::Ui;
use crate::output::units::{ago, bytes, count};
use crate::store::images::Images;
use crate::vm::machine::Machines;
use crate::vm::ownership::{self, Repository, VmOwner};
use crate::vm::unsynced::UnsyncedChanges;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct List {
    vms: Vec<Entry>,
}

#[derive(Debug, Default, Serialize)]
struct Entry {
    name: String,
    /// It is for no workspace.
    bare: bool,
    /// It is found by its name alone, and no workspace's own.
    by_name: bool,
    /// The root of the workspace that it is for, or whose files it has; none: bare, or not known.
    workspace: Option<String>,
    /// What has become of the workspace's repository.
    repository: Option<Repository>,
    /// `stopped`, `starting`, `running`, `failed`, or `damaged`: its record cannot be read.
    state: &'static str,
    /// Why it failed or is damaged.
    reason: Option<String>,
    image: Option<String>,
    /// Whether it goes with its command.
    #[serde(rename = "throwaway")]
    ephemeral: bool,
    /// What the disk takes on this machine.
    disk_bytes: Option<u64>,
    /// When it was made, in seconds since 1970.
    created: Option<u64>,
    /// When the last command in it had ended, in seconds since 1970; none: not known.
    last_use: Option<u64>,
    /// What changed in the VM alone, as it says, or as it was when somebody last looked; none: not
    /// known, or bare and used, so that all of it is only there.
    guest_only: Option<Counts>,
}

/// Shows all VMs on standard output. Those that run are asked what exists only there, all at a time
/// and for a few seconds at most; names alone are had without that.
///
/// # Errors
/// If the store cannot be read.
pub fn list(paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let vms = Machines::new(paths, ui).all()?;
    let images = Images::new(paths, ui);
    let mut list = List { vms: vms.iter().map(|vm| entry(vm, &images)).collect() };
    if !ui.is_quiet() || ui.is_json() {
        look(&vms, &mut list);
    }
    if vms.is_empty() {
        ui.status("there is no VM yet: `banger`, in a git repository, makes one, and so does `banger vm run`");
    }
    ui.answer(&list, || if ui.is_quiet() { names(&list) } else { text(&list, now()) })
}

/// Asks those that run.
fn look(vms: &[Vm], list: &mut List) {
    thread::scope(|scope| {
        for (vm, entry) in vms.iter().zip(&mut list.vms).filter(|(_, entry)| entry.state == "running" && !entry.bare) {
            scope.spawn(|| entry.guest_only = UnsyncedChanges::looked_at(vm).ok().and_then(|work| work.counts()));
        }
    });
}

fn entry(vm: &Vm, images: &Images<'_>) -> Entry {
    let mut entry = Entry { name: vm.name().to_owned(), disk_bytes: vm.disk_allocated().ok(), ..Entry::default() };
    if let Err(error) = fill(&mut entry, vm, images) {
        entry.state = "damaged";
        entry.reason = Some(error.to_string());
    }
    entry
}

fn fill(entry: &mut Entry, vm: &Vm, images: &Images<'_>) -> Result<(), banger_vmm::Error> {
    let record = vm.record()?;
    match VmOwner::of(&record) {
        Some(owner) => {
            entry.repository = Some(ownership::repository(&owner));
            entry.workspace = Some(owner.root.to_string());
            entry.by_name = owner.by_name;
        }
        None => (entry.bare, entry.by_name) = (true, true),
    }
    (entry.state, entry.reason) = match vm.state()? {
        VmState::Stopped { .. } => ("stopped", None),
        VmState::Starting => ("starting", None),
        VmState::Running { .. } => ("running", None),
        VmState::Failed { reason } => ("failed", Some(reason)),
    };
    entry.image = Some(images.name_of(&record.image));
    entry.ephemeral = record.ephemeral;
    entry.created = Some(record.created);
    entry.last_use = vm.last_activity()?.map(|last_use| last_use.ended);
    entry.guest_only = UnsyncedChanges::noted(vm)?.counts();
    Ok(())
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

fn names(list: &List) -> String {
    list.vms.iter().map(|entry| format!("{}\n", entry.name)).collect()
}

fn text(list: &List, now: u64) -> String {
    if list.vms.is_empty() {
        return String::new();
    }
    let headings = ["NAME", "STATE", "IMAGE", "DISK", "LAST USE", "ONLY THERE", "WORKSPACE"];
    table(headings, list.vms.iter().map(|entry| line(entry, now)))
}

fn line(entry: &Entry, now: u64) -> [String; 7] {
    let unknown = || "unknown".to_owned();
    let since = |then: u64| ago(Duration::from_secs(now.saturating_sub(then)));
    let only = match entry.bare {
        true => || "all of it".to_owned(),
        false => unknown,
    };
    let only = entry.guest_only.map_or_else(only, |only| match (only.files, only.references) {
        (0, 0) => "nothing".to_owned(),
        (files, 0) => count(files, "file", "files"),
        (0, refs) => count(refs, "ref", "refs"),
        (files, refs) => format!("{}, {}", count(files, "file", "files"), count(refs, "ref", "refs")),
    });
    let workspace = match entry.bare {
        true => "none".to_owned(),
        false => entry.workspace.as_deref().map_or_else(unknown, clean),
    };
    let workspace = match (entry.repository, &entry.reason) {
        (_, Some(reason)) => format!("{workspace} ({})", clean(reason)),
        (Some(Repository::Gone), _) => format!("{workspace} (gone)"),
        (Some(Repository::Present), _) if entry.by_name => format!("{workspace} (a copy)"),
        (Some(Repository::Replaced), _) => format!("{workspace} (another repository is there now)"),
        _ => workspace,
    };
    [
        entry.name.clone(),
        entry.state.to_owned(),
        entry.image.as_deref().map_or_else(unknown, clean),
        entry.disk_bytes.map_or_else(unknown, bytes),
        entry.last_use.or(entry.created).map_or_else(unknown, since),
        only,
        workspace,
    ]
}

fn clean(text: &str) -> String {
    banger_vmm::printable(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_nothing() {
        let known = Entry {
            name: "a".into(),
            workspace: Some("/home/me/\u{1b}a".into()),
            repository: Some(Repository::Gone),
            state: "stopped",
            image: Some("debian".into()),
            disk_bytes: Some(1_500_000),
            last_use: Some(1000),
            guest_only: Some(Counts { files: 2, references: 0 }),
            ..Entry::default()
        };
        let bare = Entry { name: "b".into(), bare: true, by_name: true, state: "running", ..Entry::default() };
        let copy = Entry {
            name: "c".into(),
            by_name: true,
            workspace: Some("/a".into()),
            repository: Some(Repository::Present),
            guest_only: Some(Counts::default()),
            ..Entry::default()
        };
        let damaged = Entry {
            name: "damaged-vm".into(),
            state: "damaged",
            reason: Some("vm.json is\ndamaged".into()),
            ..Entry::default()
        };
        assert_eq!(
            text(&List { vms: vec![known, bare, copy, damaged] }, 8200),
            "NAME        STATE    IMAGE    DISK     LAST USE  ONLY THERE  WORKSPACE\n\
             a           stopped  debian   1.5 MB   2 h ago   2 files     /home/me/^[a (gone)\n\
             b           running  unknown  unknown  unknown   all of it   none\n\
             c                    unknown  unknown  unknown   nothing     /a (a copy)\n\
             damaged-vm  damaged  unknown  unknown  unknown   unknown     unknown (vm.json is^Jdamaged)\n"
        );
    }
}
