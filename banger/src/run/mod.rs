//! Commands in VMs, from keystroke to exit status: `banger` and `banger -- command` in the
//! workspace's, and those in a VM by name.

mod by_name;
mod context;
mod environment;
mod host_env;
mod interruption;
mod place;
mod ports;
mod session;
mod stdio;
mod sync;
mod terminal;
mod watch;
mod workspace;

use std::path::{Path, PathBuf};
use std::thread;

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::sync::Policy;
use nix::sys::signal::Signal;

pub use self::by_name::{NewVm, configured_variables, exec, run_new};
use self::context::{Destination, RunContext};
use self::place::CommandDefaults;
pub use self::place::folder;
use self::session::Outcome;
pub use self::sync::{SyncedWorkspace, sync};
pub use self::workspace::{NewWorkspace, PreparedWorkspace, prepare};
use crate::cli::Run;
use crate::config::ImageAccess;
use crate::config::edit::REPOSITORY_FILE;
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;
use crate::output::report::{RunPhase, RunReport, Target};
use crate::output::ui::{Ui, die_of_broken_pipe};
use crate::prepare::Preparation;
use crate::store::images::Images;
use crate::sync::{Listed, SyncError};
use crate::vm::checkout::GuestCheckout;
use crate::vm::forwards::{check_forwards, publish};
use crate::vm::machine::{Machines, VmSpec};
use crate::vm::ownership::VmOwner;
use crate::vm::post_mortem;
use crate::vm::running::RunningVm;
use crate::vm::unsynced::UnsyncedChanges;

/// Names and values.
type Variables = Vec<(WireBytes, WireBytes)>;

/// Runs the command of `options` in the workspace around the folder that `place` says, and returns
/// the exit status. With `--report` there is a report, whatever comes of it.
///
/// # Errors
/// Whatever keeps the command from being run to its end.
pub fn run(
    options: &Run,
    place: impl FnOnce() -> Result<(PathBuf, Paths), CommandError>,
    ui: &Ui,
) -> Result<u8, CommandError> {
    refuse_json(ui).map_err(|error| error.hint("a run's own account as JSON: --report FILE"))?;
    let target = options.report.as_deref().map(Target::new).transpose()?;
    let account = RunReport::new(&options.command);
    let outcome = place().and_then(|(here, paths)| run_reported(options, &here, &paths, &account, ui));
    if let Some(target) = target {
        let status = match &outcome {
            Ok(Outcome::Status(status)) => Ok(*status),
            Ok(Outcome::BrokenPipe) => Ok(128 + Signal::SIGPIPE as u8),
            Err(error) => Err(error),
        };
        if let Err(error) = account.write(&target, status) {
            // The command was run: its exit status is what counts.
            ui.warning(&error.message);
        }
    }
    Ok(status(outcome?))
}

/// Who wins where both sides changed the same.
fn policy(options: &Run) -> Policy {
    match (options.host_wins, options.guest_wins) {
        (true, _) => Policy::HostWins,
        (_, true) => Policy::GuestWins,
        _ => Policy::Stop,
    }
}

/// Standard output is the command's.
fn refuse_json(ui: &Ui) -> Result<(), CommandError> {
    if ui.is_json() {
        let error = "`--json` goes with commands that answer, and a run answers with its command's output";
        return Err(CommandError::new(error).kind(ErrorKind::Usage));
    }
    Ok(())
}

/// The exit status, unless this process is to end as SIGPIPE would end it.
fn status(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Status(status) => status,
        Outcome::BrokenPipe => die_of_broken_pipe(),
    }
}

/// Deletes an ephemeral VM after its command. What the command came to is what counts: a failure is
/// a warning, and the next `--rm` run tries again.
fn discard_after(machine: &RunningVm, machines: &Machines<'_>, ui: &Ui) {
    if let Err(error) = context::discard(machine, machines) {
        let name = machine.vm.name();
        ui.warning(&format!("cannot delete the VM `{name}`: {}; to try again: banger delete {name}", error.message));
    }
}

/// For who leaves a shell: what was made there is not here. `name` is that of a VM reached by name.
fn tell_what_is_only_there(machine: &RunningVm, name: Option<&str>, ui: &Ui) {
    // One that does not tell has told the shell why.
    let unsynced = UnsyncedChanges::looked_at(&machine.vm).ok();
    unsynced.and_then(|unsynced| unsynced.hint(name)).into_iter().for_each(|text| ui.status(&text));
}

/// Says that the `banger.toml` of the repository around this one, be it the superproject of a
/// submodule, has no say in a VM that is about to be made.
fn tell_outer_configuration(workspace: &Workspace, paths: &Paths, ui: &Ui) {
    let has_file = |root: &Path| root.join(REPOSITORY_FILE).is_file();
    let Some(parent) = workspace.root.parent().filter(|_| !has_file(&workspace.root)) else { return };
    if let Ok(outer) = Workspace::discover(parent, crate::config::git_host(paths))
        && has_file(&outer.root)
    {
        ui.warning(&ignored(&outer.root, &workspace.root));
    }
}

/// The warning that a repository at `inner` has nothing of the file of the one around it.
fn ignored(outer: &Path, inner: &Path) -> String {
    let (file, outer, inner) = (outer.join(REPOSITORY_FILE), outer.display(), inner.display());
    let file = file.display();
    format!("ignoring {file}: {inner} is a repository of its own. To use that file's VM, run banger in {outer}")
}

/// Lists a workspace, and starts its VM, which is made if there is none; an `ephemeral` one is made
/// in any case.
fn list_and_start(
    workspace: &Workspace,
    machines: &Machines<'_>,
    spec: &VmSpec,
    ephemeral: bool,
    paths: &Paths,
    account: &RunReport,
) -> Result<(Result<Listed, SyncError>, RunningVm), CommandError> {
    let list = || account.time(RunPhase::List, || Listed::new(workspace, &paths.own()));
    if ephemeral || machines.find(workspace)?.is_none() {
        // No image is pulled, and no VM made, for a repository that cannot be read.
        let listed = list()?;
        listed.check(workspace)?;
        let machine = if ephemeral { machines.ephemeral(workspace, spec) } else { machines.ensure(workspace, spec) };
        return Ok((Ok(listed), machine?));
    }
    // The workspace is listed while the VM boots.
    thread::scope(|scope| {
        let listing = scope.spawn(list);
        let machine = machines.ensure(workspace, spec);
        let listed = listing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        machine.map(|machine| (listed, machine))
    })
}

fn run_reported(
    options: &Run,
    here: &Path,
    paths: &Paths,
    account: &RunReport,
    ui: &Ui,
) -> Result<Outcome, CommandError> {
    let given = environment::variables(&options.how.env, &options.how.env_file)?;
    check_forwards(&options.vm.publish)?;
    let workspace = Workspace::discover(here, crate::config::git_host(paths))?;
    account.workspace(&workspace.root);
    let machines = Machines::new(paths, ui).reported(account);
    let context = RunContext::new(options, given, Some(&workspace.root), paths, account, ui)?;
    let spec = VmSpec::from(&context.settings);
    if let Some(image) = &options.vm.image {
        // That the VM there is keeps its own is no help to who has mistyped a name. A catalog that
        // cannot be read is none either.
        let images = Images::new(paths, ui);
        if !images.is_to_be_had(image).unwrap_or(true) {
            images.ensure(image, ImageAccess::User)?;
        }
    }
    if options.rm || machines.find(&workspace)?.is_none() {
        tell_outer_configuration(&workspace, paths, ui);
    }
    let prepare = || -> Result<(RunningVm, Result<Option<Preparation>, CommandError>), CommandError> {
        let (listed, machine) = list_and_start(&workspace, &machines, &spec, options.rm, paths, account)?;
        let published = publish(&machine.vm, &options.vm.publish, ui);
        let checkout = GuestCheckout::own(&machine.vm, VmOwner::new(&workspace, false));
        let place = CommandDefaults::of_workspace(here, &checkout);
        let to = Destination { machine: &machine, workspace: &workspace, checkout: &checkout, place: &place };
        let synced = published.and_then(|()| context.sync_if_it_fits(&to, listed, policy(options)));
        Ok((machine, synced))
    };
    let mut restarts = if options.rm { 0..0 } else { 0..post_mortem::RESTARTS };
    let (machine, outcome) = loop {
        let (machine, synced) = prepare()?;
        // A VM that was killed may have looked alive, and somebody may have stopped it meanwhile.
        // The command has not begun, so the VM may be started again for it.
        let is_over = |error| post_mortem::is_over(error, &machine.vm, Some(&machine));
        if synced.as_ref().err().is_some_and(is_over) && restarts.next().is_some() {
            continue;
        }
        let checkout = GuestCheckout::own(&machine.vm, VmOwner::new(&workspace, false));
        let place = CommandDefaults::of_workspace(here, &checkout);
        let words = options.command.iter().map(|word| word.as_os_str().into());
        let watched = options.watch.then_some(&workspace);
        let outcome = synced.and_then(|preparation| {
            context.command(&machine, preparation.as_ref(), Some(&checkout), &place, words, watched)
        });
        match outcome {
            Err(error) if error.kind == ErrorKind::VmEnded && restarts.next().is_some() => {}
            outcome => break (machine, outcome),
        }
    };
    let outcome = outcome.map_err(|error| post_mortem::explained(error, &machine));
    if options.rm {
        discard_after(&machine, &machines, ui);
    } else if options.command.is_empty() && context.has_terminal() && outcome.is_ok() {
        tell_what_is_only_there(&machine, None, ui);
    }
    outcome
}
