//! `banger sync`: the working tree brought into the VM, and kept up to date there, without a command.

use std::path::Path;

use serde::Serialize;

use super::context::{Destination, RunContext, sent};
use super::place::CommandDefaults;
use super::{list_and_start, policy, tell_outer_configuration, watch};
use crate::cli::Run;
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;
use crate::output::command_output::CommandOutput;
use crate::output::report::{RunReport, SentCounts};
use crate::output::ui::{Ui, die_of};
use crate::sync::{Listed, SyncReport};
use crate::vm::checkout::GuestCheckout;
use crate::vm::machine::{Machines, VmSpec};
use crate::vm::ownership::VmOwner;
use crate::vm::post_mortem;

/// A working tree after a sync.
#[derive(Clone, Debug, Serialize)]
pub struct SyncedWorkspace {
    /// The VM's name.
    pub vm: String,
    /// The root of the working tree on this machine.
    pub workspace: String,
    /// What the sync did.
    #[serde(flatten)]
    pub sent: SentCounts,
}

impl SyncedWorkspace {
    fn new(vm: &str, workspace: &Workspace, files_listed: usize, report: &SyncReport) -> SyncedWorkspace {
        SyncedWorkspace {
            vm: vm.to_owned(),
            workspace: workspace.root.display().to_string(),
            sent: sent(files_listed, report),
        }
    }
}

/// Syncs the workspace around `here` into its VM, which is made and started if need be. What was
/// sent is printed. With `watch`, what changes then is synced until a signal ends this process. Of
/// `options`, that and what becomes of conflicts is looked at, and nothing else. `answer` is called
/// after each sync that has brought something into the VM, the first in any case.
///
/// # Errors
/// If the workspace cannot be read, the VM does not start, both sides changed the same things, or
/// the VM's disk is full; with `watch`, if the VM ends.
pub fn sync(
    options: &Run,
    here: &Path,
    paths: &Paths,
    answer: &dyn Fn(&SyncedWorkspace) -> Result<(), CommandError>,
    ui: &Ui,
) -> Result<(), CommandError> {
    let workspace = Workspace::discover(here, crate::config::git_host(paths))?;
    let account = RunReport::new(&[]);
    let context = RunContext::new(options, Vec::new(), Some(&workspace.root), paths, &account, ui)?;
    let machines = Machines::new(paths, ui);
    let spec = VmSpec::from(&context.settings);
    if machines.find(&workspace)?.is_none() {
        tell_outer_configuration(&workspace, paths, ui);
    }
    let (machine, synced) = post_mortem::unless_stopped(|| {
        let (listed, machine) = list_and_start(&workspace, &machines, &spec, false, paths, &account)?;
        let checkout = GuestCheckout::own(&machine.vm, VmOwner::new(&workspace, false));
        let place = CommandDefaults::of_workspace(here, &checkout);
        let files_listed = listed.as_ref().map_or(0, Listed::files);
        let to = Destination { machine: &machine, workspace: &workspace, checkout: &checkout, place: &place };
        let synced = context.sync(&to, listed, policy(options)).and_then(|(preparation, report)| {
            context.give_to_owner(&machine, &preparation)?;
            Ok(SyncedWorkspace::new(machine.vm.name(), &workspace, files_listed, &report))
        });
        match synced {
            Err(error) if post_mortem::is_over(&error, &machine.vm, Some(&machine)) => {
                Err(error.kind(ErrorKind::VmEnded))
            }
            synced => Ok((machine, synced)),
        }
    })?;
    let synced = synced.map_err(|error| post_mortem::explained(error, &machine))?;
    answer(&synced)?;
    if !options.watch {
        return Ok(());
    }
    let signals = watch::Signals::take()?;
    let checkout = GuestCheckout::own(&machine.vm, VmOwner::new(&workspace, false));
    let watch = context.watch(&machine, &workspace, &checkout)?;
    ui.status(&format!("watching {} for changes; Ctrl-C ends it", workspace.root.display()));
    let synced =
        |report: &SyncReport, files| answer(&SyncedWorkspace::new(machine.vm.name(), &workspace, files, report));
    match watch::follow(watch, signals, &synced, ui) {
        Ok(signal) => die_of(signal),
        Err(error) => Err(post_mortem::explained(error, &machine)),
    }
}

impl CommandOutput for SyncedWorkspace {}
