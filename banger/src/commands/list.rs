//! `banger list`.

use std::thread;
use std::time::{Duration, SystemTime};

use banger_agent::protocol::sync::Counts;
use banger_vmm::{Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message, Verbosity};
use crate::output::table::table;
use crate::output::ui::Ui;
use crate::output::units::{ago, bytes, count};
use crate::store::images::Images;
use crate::vm::machine::Machines;
use crate::vm::ownership::{self, Repository, VmOwner};
use crate::vm::unsynced::UnsyncedChanges;

/// All VMs of a user, sorted by name.
#[derive(Clone, Debug, Serialize)]
pub struct VmList {
    /// The VMs.
    pub vms: Vec<VmEntry>,
}

/// A VM in a [`VmList`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmEntry {
    /// The VM's name.
    pub name: String,
    /// Whether the VM has no workspace.
    pub bare: bool,
    /// Whether the VM is found by its name alone, and is no workspace's own VM.
    pub by_name: bool,
    /// The root of the workspace whose files the VM has; none: a bare VM, or not known.
    pub workspace: Option<String>,
    /// What has become of the workspace's repository.
    pub repository: Option<Repository>,
    /// `stopped`, `starting`, `running`, `failed`, or `damaged`: the record cannot be read.
    pub state: &'static str,
    /// Why the VM failed, or is damaged.
    pub reason: Option<String>,
    /// The name of the VM's image.
    pub image: Option<String>,
    /// Whether the VM is deleted when its command ends.
    #[serde(rename = "throwaway")]
    pub ephemeral: bool,
    /// Bytes that the VM's disks take on this machine.
    pub disk_bytes: Option<u64>,
    /// When the VM was made, in seconds since 1970.
    pub created: Option<u64>,
    /// When the VM's last command ended, in seconds since 1970; none: not known.
    pub last_use: Option<u64>,
    /// What changed in the VM alone, as the VM says, or as it was last noted; none: not known, or
    /// a bare VM that was used, of which everything exists only there.
    pub guest_only: Option<Counts>,
}

/// Lists all VMs. With `ask_guests`, running VMs are asked what changed in them alone: all at the
/// same time, for five seconds at most. Otherwise, and for a VM that does not answer, `guest_only`
/// is what was last noted.
///
/// # Errors
/// If the store of VMs cannot be read. A VM that cannot be read is an entry that says so.
pub fn list(ask_guests: bool, paths: &Paths, ui: &Ui) -> Result<VmList, CommandError> {
    list_of(ask_guests, &Machines::new(paths, ui), &Images::new(paths, ui))
}

fn list_of(ask_guests: bool, machines: &Machines<'_>, images: &Images<'_>) -> Result<VmList, CommandError> {
    let vms = machines.all()?;
    let mut list = VmList { vms: vms.iter().map(|vm| entry(vm, images)).collect() };
    if ask_guests {
        ask_running(&vms, &mut list);
    }
    Ok(list)
}

impl CommandOutput for VmList {
    fn messages(&self) -> Vec<Message> {
        let none = "there is no VM yet: `banger`, in a git repository, makes one, and so does `banger vm run`";
        self.vms.is_empty().then(|| Message::status(none)).into_iter().collect()
    }

    fn text(&self, verbosity: Verbosity) -> String {
        if verbosity.quiet { names(self) } else { text(self, now()) }
    }
}

/// Asks the running VMs of `list`, which are `vms`, what changed in them alone.
fn ask_running(vms: &[Vm], list: &mut VmList) {
    thread::scope(|scope| {
        for (vm, entry) in vms.iter().zip(&mut list.vms).filter(|(_, entry)| entry.state == "running" && !entry.bare) {
            scope.spawn(|| {
                entry.guest_only = UnsyncedChanges::looked_at(vm).ok().and_then(|unsynced| unsynced.counts())
            });
        }
    });
}

fn entry(vm: &Vm, images: &Images<'_>) -> VmEntry {
    let mut entry = VmEntry { name: vm.name().to_owned(), disk_bytes: vm.disk_allocated().ok(), ..VmEntry::default() };
    if let Err(error) = fill(&mut entry, vm, images) {
        entry.state = "damaged";
        entry.reason = Some(error.to_string());
    }
    entry
}

fn fill(entry: &mut VmEntry, vm: &Vm, images: &Images<'_>) -> Result<(), banger_vmm::Error> {
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
    entry.last_use = vm.last_activity()?.map(|activity| activity.ended);
    entry.guest_only = UnsyncedChanges::noted(vm)?.counts();
    Ok(())
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

fn names(list: &VmList) -> String {
    list.vms.iter().map(|entry| format!("{}\n", entry.name)).collect()
}

fn text(list: &VmList, now: u64) -> String {
    if list.vms.is_empty() {
        return String::new();
    }
    let headings = ["NAME", "STATE", "IMAGE", "DISK", "LAST USE", "ONLY THERE", "WORKSPACE"];
    table(headings, list.vms.iter().map(|entry| line(entry, now)))
}

fn line(entry: &VmEntry, now: u64) -> [String; 7] {
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
    use super::super::test_home::TestHome;
    use super::*;
    use crate::vm::test_host::TestHost;

    #[test]
    fn unknown_values_are_not_shown_as_zero() {
        let known = VmEntry {
            name: "a".into(),
            workspace: Some("/home/me/\u{1b}a".into()),
            repository: Some(Repository::Gone),
            state: "stopped",
            image: Some("debian".into()),
            disk_bytes: Some(1_500_000),
            last_use: Some(1000),
            guest_only: Some(Counts { files: 2, references: 0 }),
            ..VmEntry::default()
        };
        let bare = VmEntry { name: "b".into(), bare: true, by_name: true, state: "running", ..VmEntry::default() };
        let copy = VmEntry {
            name: "c".into(),
            by_name: true,
            workspace: Some("/a".into()),
            repository: Some(Repository::Present),
            guest_only: Some(Counts::default()),
            ..VmEntry::default()
        };
        let damaged = VmEntry {
            name: "damaged-vm".into(),
            state: "damaged",
            reason: Some("vm.json is\ndamaged".into()),
            ..VmEntry::default()
        };
        assert_eq!(
            text(&VmList { vms: vec![known, bare, copy, damaged] }, 8200),
            "NAME        STATE    IMAGE    DISK     LAST USE  ONLY THERE  WORKSPACE\n\
             a           stopped  debian   1.5 MB   2 h ago   2 files     /home/me/^[a (gone)\n\
             b           running  unknown  unknown  unknown   all of it   none\n\
             c                    unknown  unknown  unknown   nothing     /a (a copy)\n\
             damaged-vm  damaged  unknown  unknown  unknown   unknown     unknown (vm.json is^Jdamaged)\n"
        );
    }

    #[test]
    fn list_of_a_store_is_data_with_two_printed_forms() {
        let home = TestHome::new();
        let root = home.folder.path().join("gone");
        let disk_bytes = home.create("bare", serde_json::Value::Null).disk_allocated().unwrap();
        let damaged = home.create("damaged", serde_json::Value::Null);
        std::fs::write(damaged.folder().join("vm.json"), "{").unwrap();
        home.create("of-a-repo", serde_json::json!({"root": root, "git": [1, 2, null], "owner": null}));

        let list = list(true, &home.paths, &home.ui).unwrap();
        let states: Vec<_> = list.vms.iter().map(|vm| (vm.name.as_str(), vm.state, vm.bare, vm.repository)).collect();
        let expected = [
            ("bare", "stopped", true, None),
            ("damaged", "damaged", false, None),
            ("of-a-repo", "stopped", false, Some(Repository::Gone)),
        ];
        assert_eq!(states, expected);
        assert!(list.vms[1].reason.as_deref().unwrap().contains("vm.json"));
        assert_eq!(list.vms[2].workspace.as_deref(), root.to_str());
        assert!(list.messages().is_empty());

        let json = VmList { vms: list.vms[..1].to_vec() }.json();
        let expected = format!(
            "{{\"vms\":[{{\"name\":\"bare\",\"bare\":true,\"by_name\":true,\"workspace\":null,\"repository\":null,\
             \"state\":\"stopped\",\"reason\":null,\"image\":\"debian\",\"throwaway\":false,\"disk_bytes\":{disk_bytes},\
             \"created\":1000,\"last_use\":null,\"guest_only\":{{\"files\":0,\"references\":0}}}}]}}\n"
        );
        assert_eq!(json, expected);
        assert_eq!(list.text(Verbosity { quiet: true, ..Verbosity::default() }), "bare\ndamaged\nof-a-repo\n");
        let text = list.text(Verbosity::default());
        assert!(text.starts_with("NAME ") && text.contains("gone (gone)\n") && text.lines().count() == 4, "{text}");
    }

    #[test]
    fn list_has_the_vms_of_another_host() {
        let home = TestHome::new();
        let records = ["box", "other"].map(|name| banger_vmm::VmRecord::new(name, "debian", "generic", 7));
        let machines = Machines::of(TestHost::new(records).store(), &home.paths, &home.ui);
        let list = list_of(false, &machines, &Images::new(&home.paths, &home.ui)).unwrap();
        let vms: Vec<_> = list.vms.iter().map(|vm| (vm.name.as_str(), vm.image.as_deref(), vm.created)).collect();
        assert_eq!(vms, [("box", Some("debian"), Some(7)), ("other", Some("debian"), Some(7))]);
    }

    #[test]
    fn list_of_no_vm_is_empty_and_says_how_to_make_one() {
        let home = TestHome::new();
        let list = list(true, &home.paths, &home.ui).unwrap();
        assert_eq!((list.json().as_str(), list.text(Verbosity::default()).as_str()), ("{\"vms\":[]}\n", ""));
        assert!(matches!(&list.messages()[..], [Message::Status(text)] if text.contains("`banger vm run`")));
    }
}
