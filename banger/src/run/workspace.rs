//! `banger vm workspace prepare`: a repository brought into a VM that is there already, to any
//! place in it.

use std::ffi::OsStr;
use std::path::Path;
use std::thread;

use serde::Serialize;

use super::by_name::workspace;
use super::context::{Destination, RunContext};
use super::place::CommandDefaults;
use super::policy;
use crate::cli::Run;
use crate::error::{CommandError, ErrorKind};
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message};
use crate::output::report::{RunPhase, RunReport};
use crate::output::ui::Ui;
use crate::sync::Listed;
use crate::vm::checkout::GuestCheckout;
use crate::vm::machine::{Machines, VmSpec, named};
use crate::vm::post_mortem;

/// A repository that is wanted in a VM.
#[derive(Debug)]
pub struct NewWorkspace<'a> {
    /// A folder of the workspace here.
    pub path: &'a Path,
    /// Where its root is to be in the guest.
    pub guest_path: &'a OsStr,
    /// What becomes of conflicts, and whether mise installs what is asked for; all else is not
    /// looked at.
    pub options: &'a Run,
}

/// A repository that is in a VM, synced and set up.
#[derive(Clone, Debug, Serialize)]
pub struct PreparedWorkspace {
    /// The VM's name.
    pub vm: String,
    /// The root of the workspace on this machine.
    pub workspace: String,
    /// The root of the workspace in the guest.
    pub guest_path: String,
    /// How many files and links travel.
    pub files_listed: usize,
    /// How many of them were sent now.
    pub files_sent: u64,
    /// How many were removed in the guest.
    pub files_removed: u64,
    /// How many stay as the guest has them.
    pub files_kept: u64,
    /// Bytes of content that were sent.
    pub bytes_sent: u64,
}

/// Syncs a workspace into the VM named `name`, which is started if need be, and does there what the
/// workspace asks for: its tools, and its set-up.
///
/// # Errors
/// If there is no such VM or workspace, nothing can be at that place, both sides changed the same
/// things, or the set-up fails.
pub fn prepare(
    name: &str,
    new: &NewWorkspace<'_>,
    here: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<PreparedWorkspace, CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = named(name, &machines)?;
    let workspace = workspace(&here.join(new.path), paths)?;
    let account = RunReport::new(&[]);
    let context = RunContext::new(new.options, Vec::new(), Some(&workspace.root), paths, &account, ui)?;
    let checkout = GuestCheckout::at(&vm, &workspace, new.guest_path)?;
    let spec = VmSpec::of_existing(&context.settings);
    let machines = machines.reported(&account);
    let (machine, files_listed, prepared) = post_mortem::unless_stopped(|| {
        // The workspace is listed while the VM boots.
        let (listed, machine) = thread::scope(|scope| {
            let listing = scope.spawn(|| account.time(RunPhase::List, || Listed::new(&workspace, &paths.own())));
            let machine = machines.start_found(&vm, &spec);
            (listing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), machine)
        });
        let machine = machine?;
        let place = CommandDefaults::of_workspace(&workspace.root, &checkout);
        let files_listed = listed.as_ref().map_or(0, Listed::files);
        let to = Destination { machine: &machine, workspace: &workspace, checkout: &checkout, place: &place };
        let synced = context.sync(&to, listed, policy(new.options));
        match synced.and_then(|(preparation, report)| context.prepare(&machine, &preparation).map(|()| report)) {
            Err(error) if post_mortem::is_over(&error, &vm, Some(&machine)) => Err(error.kind(ErrorKind::VmEnded)),
            prepared => Ok((machine, files_listed, prepared)),
        }
    })?;
    let report = prepared.map_err(|error| post_mortem::explained(error, &machine))?;
    Ok(PreparedWorkspace {
        vm: vm.name().to_owned(),
        workspace: workspace.root.display().to_string(),
        guest_path: checkout.guest_path().display().to_string(),
        files_listed,
        files_sent: report.applied.written,
        files_removed: report.applied.deleted,
        files_kept: report.applied.kept,
        bytes_sent: report.bytes,
    })
}

impl CommandOutput for PreparedWorkspace {
    fn messages(&self) -> Vec<Message> {
        vec![Message::status(format!("`{}` in `{}` is {}", self.guest_path, self.vm, self.workspace))]
    }
}
