//! `banger status`.

use std::path::Path;

use banger_agent::protocol::sync::{Counts, GuestOnly};
use banger_agent::protocol::{AgentRequest, WireBytes};
use banger_vmm::{Accelerator, BackendChoice, BackendKind, Confinement, NetMode, RateLimits, Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message, Verbosity};
use crate::output::confinement::describe;
use crate::output::table::facts;
use crate::output::ui::Ui;
use crate::output::units::{bytes, count, size};
use crate::store::images::Images;
use crate::vm::agent::Call;
use crate::vm::checkout::GuestCheckout;
use crate::vm::machine::Machines;
use crate::vm::ownership::{self, VmOwner};
use crate::vm::unsynced::{self, UnsyncedChanges};

/// How many names of what changed in the VM alone are shown without `--verbose`.
const NAMES: usize = 5;

/// The state of a workspace's VM, or of a VM that was asked for by name.
#[derive(Clone, Debug, Serialize)]
pub struct WorkspaceStatus {
    /// The root of the workspace; none: the VM is bare.
    pub workspace: Option<String>,
    /// The VM; none: the workspace has none yet.
    pub vm: Option<VmStatus>,
    /// The name that the VM was asked for by; none: it is the workspace's.
    #[serde(skip)]
    pub asked_name: Option<String>,
    /// Why the guest could not be asked; none: it answered, or was not asked.
    #[serde(skip)]
    pub no_answer: Option<String>,
}

/// The state of a VM.
#[derive(Clone, Debug, Serialize)]
pub struct VmStatus {
    /// The VM's name.
    pub name: String,
    /// Whether the VM belongs to another repository, which was in the workspace's place before.
    pub replaced: bool,
    /// `stopped`, `starting`, `running` or `failed`.
    pub state: &'static str,
    /// What runs the VM; none: the VM does not run.
    pub backend: Option<BackendKind>,
    /// What is to run the VM, from its next start on.
    pub backend_choice: BackendChoice,
    /// Why Firecracker does not run the VM, if it does not and nobody asked for that.
    pub backend_reason: Option<String>,
    /// What runs the guest's instructions; none: the VM does not run.
    pub accelerator: Option<Accelerator>,
    /// What confines the VMM; none: the VM does not run, or the version that started it confines
    /// nothing.
    pub confinement: Option<Confinement>,
    /// Whether the agent answered within five seconds; none: it was not asked.
    pub responds: Option<bool>,
    /// The name of the VM's image.
    pub image: String,
    /// The name of the VM's kernel.
    pub kernel: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// How much of this machine's disks and network the VM may use, from its next start on.
    pub limits: RateLimits,
    /// The network of the guest.
    pub net: NetMode,
    /// Bytes that the VM's disks take on this machine.
    pub disk_bytes: u64,
    /// When the VM was made, in seconds since 1970.
    pub created: u64,
    /// What changed in the VM alone, as the VM says, or as it was last noted; none: not known, or
    /// a bare VM that was used, of which everything exists only there.
    pub guest_only: Option<Counts>,
    /// The first hundred of these changes: absolute paths, and names of references.
    pub guest_only_names: Vec<WireBytes>,
    /// Other repositories in the VM.
    pub repositories: Vec<AdditionalRepository>,
    /// Why the VM failed.
    pub reason: Option<String>,
}

/// A repository in a VM that is not the VM's own.
#[derive(Clone, Debug, Serialize)]
pub struct AdditionalRepository {
    /// The root of the repository's workspace on this machine.
    pub workspace: String,
    /// The directory in the guest.
    pub guest_path: String,
}

/// The state of the VM named `name`, or without a name of the VM of the workspace around `here`. A
/// running VM with a workspace is asked what changed in it alone, for five seconds at most.
///
/// # Errors
/// If there is no VM of this name, `here` is in no workspace, or the VM's state cannot be read.
pub fn status(name: Option<&str>, here: &Path, paths: &Paths, ui: &Ui) -> Result<WorkspaceStatus, CommandError> {
    let machines = Machines::new(paths, ui);
    let (workspace, vm) = match name {
        Some(name) => (None, Some(super::named(name, &machines)?)),
        None => {
            let (workspace, vm) = super::vm_of(here, paths, &machines)?;
            (Some(workspace), vm)
        }
    };
    let root = workspace.as_ref().map(|workspace| workspace.root.to_string_lossy().into_owned());
    let asked_name = name.map(str::to_owned);
    let mut status = WorkspaceStatus { workspace: root, vm: None, asked_name, no_answer: None };
    let Some(vm) = vm else { return Ok(status) };
    let record = vm.record()?;
    let owner = VmOwner::of(&record);
    status.workspace = status.workspace.or_else(|| owner.as_ref().map(|owner| owner.root.to_string()));
    let (mut accelerator, mut confinement, mut reason) = (None, None, None);
    let (mut backend, mut backend_reason) = (None, None);
    let state = match vm.state()? {
        VmState::Stopped { .. } => "stopped",
        VmState::Starting => "starting",
        VmState::Running { backend: kind, accelerator: by, confinement: within, reason: why, .. } => {
            (accelerator, confinement) = (Some(by), within);
            (backend, backend_reason) = (Some(kind), why);
            "running"
        }
        VmState::Failed { reason: why } => {
            reason = Some(why);
            "failed"
        }
    };
    // A VM that cannot tell, maybe because it ends at this moment, has a status all the same.
    let asked = (state == "running" && owner.is_some()).then(|| Call::look::<GuestOnly>(&vm, &AgentRequest::GuestOnly));
    let responds = asked.as_ref().map(Result::is_ok);
    let changes = match asked {
        Some(Ok(only)) => UnsyncedChanges::Known(only),
        Some(Err(error)) => {
            status.no_answer = Some(error.to_string());
            UnsyncedChanges::noted(&vm)?
        }
        None => UnsyncedChanges::noted(&vm)?,
    };
    let only = match changes {
        UnsyncedChanges::Known(only) => Some(only),
        UnsyncedChanges::Unknown | UnsyncedChanges::All => None,
    };
    status.vm = Some(VmStatus {
        name: vm.name().to_owned(),
        replaced: workspace.zip(owner).is_some_and(|(workspace, owner)| {
            owner.path() == workspace.root && !ownership::is_same(&owner, &workspace.identity)
        }),
        state,
        backend,
        backend_choice: record.backend,
        backend_reason,
        accelerator,
        confinement,
        responds,
        image: Images::new(paths, ui).name_of(&record.image),
        kernel: record.kernel,
        cpus: record.cpus,
        memory_mib: record.memory_mib,
        limits: record.limits,
        net: record.net,
        disk_bytes: vm.disk_allocated()?,
        created: record.created,
        guest_only: only.as_ref().map(|only| only.counts),
        guest_only_names: only.map(|only| only.named).unwrap_or_default(),
        repositories: additional_repositories(&vm)?,
        reason,
    });
    Ok(status)
}

impl CommandOutput for WorkspaceStatus {
    fn messages(&self) -> Vec<Message> {
        let warning =
            |error: &String| Message::warning(format!("{error}: what is shown is what was last written down"));
        self.no_answer.iter().map(warning).collect()
    }

    fn text(&self, verbosity: Verbosity) -> String {
        text(self, if verbosity.verbose { usize::MAX } else { NAMES })
    }
}

fn additional_repositories(vm: &Vm) -> Result<Vec<AdditionalRepository>, CommandError> {
    let checkouts = GuestCheckout::all(vm)?.into_iter().filter(|checkout| !checkout.is_own() && checkout.was_synced());
    let shown = |path: &Path| path.display().to_string();
    let repository = |checkout: GuestCheckout| AdditionalRepository {
        workspace: shown(checkout.root()),
        guest_path: shown(checkout.guest_path()),
    };
    Ok(checkouts.map(repository).collect())
}

/// The facts, a line each, with at most `names` names of what changed in the VM alone.
fn text(status: &WorkspaceStatus, names: usize) -> String {
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
            let next = vm.backend_choice.kind();
            if let Some(backend) = vm.backend {
                let why = vm.backend_reason.as_ref().map(|why| format!("; not Firecracker: {why}")).unwrap_or_default();
                let next = next.filter(|next| *next != backend);
                let next = next.map(|next| format!("; {next} at the next start")).unwrap_or_default();
                lines.push(("backend", format!("{backend}{why}{next}")));
            } else if let Some(next) = next {
                lines.push(("backend", format!("{next} at the next start")));
            }
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
            lines.extend(describe_limits(vm).map(|limits| ("limits", limits)));
            lines.push(("disk", bytes(vm.disk_bytes)));
            let only = vm
                .guest_only
                .map_or_else(|| if is_bare { "all of it" } else { "unknown" }.to_owned(), unsynced::describe);
            lines.push(("only there", only));
            lines.extend(vm.guest_only_names.iter().take(names).map(|name| ("", banger_vmm::printable(&name.0))));
            let all = vm.guest_only.map_or(0, |only| only.files.saturating_add(only.references));
            let shown = vm.guest_only_names.len().min(names);
            if all > shown as u64 {
                let how = match &status.asked_name {
                    _ if shown == vm.guest_only_names.len() => String::new(),
                    Some(name) => format!(": banger status -v {name}"),
                    None => ": banger status -v".to_owned(),
                };
                lines.push(("", format!("and {} more{how}", all - shown as u64)));
            }
            let also = vm.repositories.iter().map(|other| format!("{} at {}", other.workspace, other.guest_path));
            lines.extend(also.map(|also| ("also there", also)));
        }
    }
    facts(&lines)
}

/// The VM's rate limits; none: there are none.
fn describe_limits(vm: &VmStatus) -> Option<String> {
    let RateLimits { disk_iops, disk_bandwidth, net_bandwidth } = vm.limits;
    let rate = |bytes: u64| format!("{}/s", size(bytes >> 20));
    let is_without_effect = vm.backend == Some(BackendKind::Qemu) && vm.net == NetMode::User;
    let all = [
        (disk_iops > 0).then(|| format!("disks {disk_iops} operations/s")),
        (disk_bandwidth > 0).then(|| format!("disks {}", rate(disk_bandwidth))),
        (net_bandwidth > 0).then(|| {
            let note = if is_without_effect { " (no effect: QEMU does not limit it)" } else { "" };
            format!("network {}{note}", rate(net_bandwidth))
        }),
    ];
    let all: Vec<_> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

#[cfg(test)]
mod tests {
    use banger_vmm::Gap;

    use super::super::test_home::TestHome;
    use super::*;

    #[test]
    fn status_text_uses_singular_and_plural() {
        let vm = VmStatus {
            replaced: false,
            name: "a".into(),
            state: "running",
            backend: Some(BackendKind::Qemu),
            backend_choice: BackendChoice::Auto,
            backend_reason: Some("there is no KVM".into()),
            accelerator: None,
            confinement: Some(Confinement {
                landlock_abi: Some(2),
                missing: vec![Gap::Signals],
                ..Confinement::default()
            }),
            responds: Some(false),
            image: "debian".into(),
            kernel: "generic".into(),
            created: 0,
            cpus: 1,
            memory_mib: 512,
            limits: RateLimits { disk_iops: 500, disk_bandwidth: 64 << 20, net_bandwidth: 5 << 20 },
            net: NetMode::User,
            disk_bytes: 0,
            guest_only: Some(Counts { files: 1, references: 1 }),
            guest_only_names: vec!["out/\u{1b}a".into(), "refs/heads/b".into()],
            repositories: vec![AdditionalRepository { workspace: "/b".into(), guest_path: "/srv/b".into() }],
            reason: None,
        };
        let status = WorkspaceStatus { workspace: Some("/a".into()), vm: Some(vm), asked_name: None, no_answer: None };
        let all = text(&status, usize::MAX);
        assert!(all.contains(" out/^[a\n") && all.contains(" refs/heads/b\n") && !all.contains("more"), "{all}");
        let named = text(&WorkspaceStatus { asked_name: Some("a".into()), ..status.clone() }, 1);
        assert!(named.contains(" and 1 more: banger status -v a\n"), "{named}");
        let shown = text(&status, 1);
        assert!(shown.contains(" out/^[a\n") && shown.contains(" and 1 more: banger status -v\n"), "{shown}");
        assert!(shown.contains("1 processor, 512 MiB") && shown.contains("1 file, 1 branch or tag\n"), "{shown}");
        assert!(shown.contains("seccomp, Landlock (version 2 of its interface); not kept from: ending"), "{shown}");
        assert!(shown.contains("running, does not respond\n"), "{shown}");
        let limits = "disks 500 operations/s, disks 64M/s, network 5M/s (no effect: QEMU does not limit it)\n";
        assert!(shown.contains(limits), "{shown}");
        assert!(shown.contains("QEMU; not Firecracker: there is no KVM\n"), "{shown}");
        assert!(shown.ends_with("/b at /srv/b\n"), "{shown}");
    }

    #[test]
    fn status_of_a_stopped_vm_is_data_with_two_printed_forms() {
        let home = TestHome::new();
        let root = home.folder.path().join("repo");
        let vm = home.create("box", serde_json::json!({"root": root, "git": [1, 2, null], "owner": null}));
        let status = status(Some("box"), home.folder.path(), &home.paths, &home.ui).unwrap();
        assert_eq!(status.workspace.as_deref(), root.to_str());
        let data = status.vm.as_ref().unwrap();
        assert_eq!((data.name.as_str(), data.state, data.responds, data.cpus), ("box", "stopped", None, 2));
        assert_eq!((data.guest_only, data.replaced), (Some(Counts::default()), false));
        assert!(status.messages().is_empty());

        let (root, disk_bytes) = (root.display(), vm.disk_allocated().unwrap());
        let expected = format!(
            "{{\"workspace\":\"{root}\",\"vm\":{{\"name\":\"box\",\"replaced\":false,\"state\":\"stopped\",\
             \"backend\":null,\"backend_choice\":\"auto\",\"backend_reason\":null,\"accelerator\":null,\"confinement\":null,\"responds\":null,\"image\":\"debian\",\"kernel\":\"generic\",\
             \"cpus\":2,\"memory_mib\":2048,\"limits\":{{\"disk_iops\":0,\"disk_bandwidth\":0,\"net_bandwidth\":0}},\"net\":\"user\",\"disk_bytes\":{disk_bytes},\"created\":1000,\
             \"guest_only\":{{\"files\":0,\"references\":0}},\"guest_only_names\":[],\"repositories\":[],\
             \"reason\":null}}}}\n"
        );
        assert_eq!(status.json(), expected);
        let text = status.text(Verbosity::default());
        assert!(text.contains("vm          box\n") && text.contains("2 processors, 2048 MiB of memory\n"), "{text}");
        assert!(text.contains("only there  nothing\n") && !text.contains("limits"), "{text}");
    }

    #[test]
    fn status_with_a_guest_that_did_not_answer_warns() {
        let no_answer = Some("the VM's agent does not answer".to_owned());
        let status = WorkspaceStatus { workspace: None, vm: None, asked_name: None, no_answer };
        assert_eq!(status.json(), "{\"workspace\":null,\"vm\":null}\n");
        let warning = "the VM's agent does not answer: what is shown is what was last written down";
        assert_eq!(status.messages(), [Message::warning(warning)]);
    }
}
