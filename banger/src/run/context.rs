//! The parts of a run in a VM: what holds for its commands, the sync before, and the command
//! itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_agent::protocol::exec::Exec;
use banger_agent::protocol::sync::Policy;
use banger_agent::protocol::{AgentRequest, Readiness, WireBytes};
use banger_vmm::{Ready, Vm};

use super::host_env::HostEnv;
use super::place::CommandDefaults;
use super::session::{self, Outcome};
use super::{Variables, environment, terminal};
use crate::cli::{CommandOptions, Run};
use crate::config::Settings;
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;
use crate::host::terminfo;
use crate::output::report::{RunPhase, RunReport, SentCounts, SyncCounts};
use crate::output::ui::Ui;
use crate::output::units::{bytes, count, elapsed};
use crate::prepare::certificates::{self, Certificates};
use crate::prepare::{self, Preparation};
use crate::store::images::{self, Images};
use crate::sync::{self, Listed, SyncError, SyncOptions, Watch, WatchOptions};
use crate::vm::agent::Call;
use crate::vm::checkout::GuestCheckout;
use crate::vm::machine::Machines;
use crate::vm::post_mortem;
use crate::vm::running::RunningVm;

/// How long `--ready system` waits for services.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long an ephemeral VM may take to go.
const REMOVE_LIMIT: Duration = Duration::ZERO;

/// What holds for the commands of this process, in whichever VM.
pub(super) struct RunContext<'a> {
    pub(super) settings: Settings,
    how: &'a CommandOptions,
    given: Variables,
    certificates: Certificates,
    paths: &'a Paths,
    account: &'a RunReport,
    ui: &'a Ui,
}

/// A workspace, and where it goes.
pub(super) struct Destination<'a> {
    pub(super) machine: &'a RunningVm,
    pub(super) workspace: &'a Workspace,
    /// Where the workspace is in the VM.
    pub(super) checkout: &'a GuestCheckout,
    /// Where the command runs.
    pub(super) place: &'a CommandDefaults,
}

impl<'a> RunContext<'a> {
    /// Reads the configuration; `root` is the workspace's, whose own file has a say. `given` are
    /// variables of the command line.
    ///
    /// # Errors
    /// If a file or variable says what it may not.
    pub(super) fn new(
        options: &'a Run,
        given: Variables,
        root: Option<&Path>,
        paths: &'a Paths,
        account: &'a RunReport,
        ui: &'a Ui,
    ) -> Result<RunContext<'a>, CommandError> {
        let settings = Settings::of_process(paths, root, &options.into())?;
        settings.warnings.iter().for_each(|warning| ui.warning(warning));
        let certificates = Certificates::read(&settings.ca_certificates(paths.home.as_deref()))?;
        Ok(RunContext { settings, how: &options.how, given, certificates, paths, account, ui })
    }

    /// Syncs a workspace into a VM, and finds out what the workspace asks for. It was listed while
    /// the VM was looked for.
    ///
    /// # Errors
    /// If it cannot be read, both sides changed the same things, or the VM's disk is full.
    pub(super) fn sync(
        &self,
        to: &Destination<'_>,
        listed: Result<Listed, SyncError>,
        policy: Policy,
    ) -> Result<(Preparation, sync::SyncReport), CommandError> {
        let (preparation, report) = self.try_sync(to, listed, policy)?;
        Ok((preparation, report?))
    }

    /// Syncs as [`RunContext::sync`] does. A guest whose disk is full may lack some of the latest
    /// changes, and a warning says so: the command may be what frees some space. What the workspace
    /// asks for is not known then.
    ///
    /// # Errors
    /// If it cannot be read, both sides changed the same things, or a first sync does not fit.
    pub(super) fn sync_if_it_fits(
        &self,
        to: &Destination<'_>,
        listed: Result<Listed, SyncError>,
        policy: Policy,
    ) -> Result<Option<Preparation>, CommandError> {
        match self.try_sync(to, listed, policy)? {
            (preparation, Ok(_)) => Ok(Some(preparation)),
            // With `--quiet` nobody would see that the command ran with other files than these.
            (_, Err(SyncError::GuestFull(failure))) if !self.ui.is_quiet() => {
                let name = to.machine.vm.name();
                self.ui.warning(&format!(
                    "the VM's disk is full, so some of your latest changes were not sent ({}). \
                     To free space: banger vm exec {name} -- COMMAND",
                    failure.message
                ));
                Ok(None)
            }
            (_, Err(error)) => Err(error.into()),
        }
    }

    fn try_sync(
        &self,
        to: &Destination<'_>,
        listed: Result<Listed, SyncError>,
        policy: Policy,
    ) -> Result<(Preparation, Result<sync::SyncReport, SyncError>), CommandError> {
        let Destination { machine, workspace, checkout, place } = *to;
        // A boot takes long enough for an edit: what was listed before it is not what there is.
        let anew = machine.boot.is_some();
        let mut listed = if anew { listed.and_then(|_| Listed::new(workspace, &self.paths.own())) } else { listed }?;
        listed.warnings().for_each(|warning| self.ui.warning(&warning));
        let files = listed.files();
        let (folder, _) = place.folder(self.how);
        let preparation = Preparation::of(workspace, checkout, &folder, &listed, &self.settings, self.paths, self.ui)?;
        let options = SyncOptions {
            policy,
            history: self.settings.history(),
            held: &BTreeSet::new(),
            on_wait: &|| self.ui.status("waiting for another command's sync of this workspace"),
            on_progress: &|done, total| self.ui.transfers("sending files to the VM", done, total),
        };
        let report =
            self.account.time(RunPhase::Sync, || sync::sync(&machine.vm, workspace, checkout, &mut listed, &options));
        self.ui.finish();
        if let Ok(report) = &report {
            report.notes.iter().for_each(|note| self.ui.warning(note));
            self.account.synced(counts(files, report));
            self.ui.status(&summary(report, machine.boot));
        }
        Ok((preparation, report))
    }

    /// Keeps the VM's copy of a workspace, which was synced, in sync with it.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub(super) fn watch(
        &self,
        machine: &RunningVm,
        workspace: &Workspace,
        checkout: &GuestCheckout,
    ) -> Result<Watch, CommandError> {
        let (owner, of_owner) = (self.settings.owner().map(str::to_owned), checkout.clone());
        let watch = Watch::start(WatchOptions {
            vm: machine.vm.clone(),
            workspace: workspace.clone(),
            checkout: checkout.clone(),
            apart: self.paths.own().to_vec(),
            history: self.settings.history(),
            after_sync: Box::new(move |vm| {
                owner.as_ref().map_or(Ok(()), |owner| prepare::give_to(&of_owner, owner, vm))
            }),
        })?;
        let directories = count(watch.directories() as u64, "directory", "directories");
        self.ui.detail(&format!("watching {directories} for changes"));
        Ok(watch)
    }

    /// Does what the workspace asks for, once the VM is ready.
    ///
    /// # Errors
    /// As [`Preparation::run`].
    pub(super) fn prepare(&self, machine: &RunningVm, preparation: &Preparation) -> Result<(), CommandError> {
        let entered = self.enter(machine, Some(preparation), None, Path::new(""));
        entered.map(drop).map_err(|error| post_mortem::of_preparation(error, machine))
    }

    /// Does what the workspace asks for, if it was synced, and then runs the command; without
    /// words, the user's login shell. In a VM with workspaces that were synced before, the command
    /// has the tools of that of `checkout`. While the command runs, changes of the workspace
    /// `watched` are synced to `checkout`.
    ///
    /// # Errors
    /// Whatever keeps it from being run to its end.
    pub(super) fn command(
        &self,
        machine: &RunningVm,
        preparation: Option<&Preparation>,
        checkout: Option<&GuestCheckout>,
        place: &CommandDefaults,
        words: impl Iterator<Item = WireBytes>,
        watched: Option<&Workspace>,
    ) -> Result<Outcome, CommandError> {
        let (cwd, make_cwd) = place.folder(self.how);
        let entered = self.enter(machine, preparation, checkout, &cwd);
        let surroundings = entered.map_err(|error| post_mortem::of_preparation(error, machine))?;
        let user = place.user(self.how);
        // The tools are root's; another user has what the image has.
        let env = surroundings.variables(user.is_none());
        let tty = self.has_terminal().then(|| terminal::size().unwrap_or_default());
        let mut env = [environment::of_terminal(tty.is_some()), env].concat();
        if tty.is_some() {
            self.bring_terminal(machine, &mut env);
        }
        let (argv, cwd) = (words.collect(), cwd.as_os_str().into());
        let ports = self.settings.ports_by_themselves();
        let exec = Exec { argv, env, cwd, make_cwd, user, tty, ..Exec::default() };
        let watch = watched.zip(checkout).map(|(workspace, checkout)| self.watch(machine, workspace, checkout));
        let watch = watch.transpose()?;
        let run = || session::run(&machine.vm, exec, self.how.timeout, ports, watch, self.ui);
        let outcome = self.account.time(RunPhase::Run, run)?;
        if matches!(outcome, Outcome::Status(status) if status != 0) && post_mortem::was_stopped(machine) {
            self.ui.warning("the VM was stopped while the command ran");
        }
        Ok(outcome)
    }

    /// Lets the guest know the terminal that a command gets, if this machine does. A command can do
    /// without.
    fn bring_terminal(&self, machine: &RunningVm, env: &mut Variables) {
        let Some(request) = terminfo::request(env, |name| std::env::var_os(name)) else { return };
        match Call::ask::<bool>(&machine.vm, &request) {
            Ok(true) => env.extend(terminfo::variables(env)),
            Ok(false) => {}
            Err(error) => self.ui.detail(&format!("the VM does not know this terminal: {error}")),
        }
    }

    /// Waits until the VM is ready, and sees to all that comes before a command.
    fn enter(
        &self,
        machine: &RunningVm,
        preparation: Option<&Preparation>,
        checkout: Option<&GuestCheckout>,
        folder: &Path,
    ) -> Result<Surroundings, CommandError> {
        if self.settings.ready().unwrap_or(machine.ready) == Ready::System {
            self.account.time(RunPhase::Ready, || wait_for_system(&machine.vm, self.ui))?;
        }
        let image = Images::new(self.paths, self.ui).of(&machine.vm);
        let of_image = image.as_ref().map(images::variables).unwrap_or_default();
        let (host_env, explicit) = self.variables(machine);
        let of_tools = match preparation {
            Some(preparation) => preparation.variables(&of_image),
            None => checkout
                .map(|checkout| Preparation::variables_of(&machine.vm, checkout, folder, &of_image, self.ui))
                .unwrap_or_default(),
        };
        let mut surroundings = Surroundings { host_env, of_image, of_tools, explicit };
        let with_tools = surroundings.variables(true);
        if self.settings.first_boot_sshd() || image.is_some_and(|image| image.with_sshd) {
            prepare::start_sshd(machine, &with_tools, self.paths, self.ui)?;
        }
        if let Some(preparation) = preparation {
            self.give_to_owner(machine, preparation)?;
            preparation.run(machine, &with_tools, self.account, self.ui)?;
            surroundings.of_tools.extend(preparation.environment(&machine.vm, self.ui));
        }
        Ok(surroundings)
    }

    /// Gives what was synced to the user of the guest whom the configuration names.
    ///
    /// # Errors
    /// As [`Preparation::give_to`].
    pub(super) fn give_to_owner(&self, machine: &RunningVm, preparation: &Preparation) -> Result<(), CommandError> {
        let Some(owner) = self.settings.owner() else { return Ok(()) };
        self.account.time(RunPhase::Sync, || preparation.give_to(owner, &machine.vm))
    }

    /// Whether the command gets the terminal.
    pub(super) fn has_terminal(&self) -> bool {
        !self.how.no_tty && terminal::is_interactive()
    }

    /// Variables for the command, in two parts: what this machine gives, and what the configuration
    /// says and was given on the command line. What the image has goes between them. A later one of
    /// the same name wins.
    fn variables(&self, machine: &RunningVm) -> (Variables, Variables) {
        let ui = self.ui;
        let mut explicit = environment::of_settings(&self.settings);
        explicit.extend(self.given.iter().cloned());
        let host_env = HostEnv::new(&machine.net, &|name| std::env::var_os(name), Path::new("/etc"), &explicit);
        host_env.warnings.iter().for_each(|warning| ui.warning(warning));
        let mut all = Vec::new();
        match self.certificates.install(&machine.vm, self.account, ui) {
            Ok(()) if self.certificates.is_empty() => {}
            Ok(()) => all.extend(certificates::VARIABLES.map(|(name, value)| (name.into(), value.into()))),
            // The command may have no need of them.
            Err(error) => {
                let details: Vec<_> = std::iter::once(error.message).chain(error.details).collect();
                ui.warning(&details.join(": "));
            }
        }
        all.extend(explicit);
        (host_env.variables, all)
    }
}

/// Variables for commands, by where they come from. A later one of the same name wins.
struct Surroundings {
    host_env: Variables,
    of_image: Variables,
    of_tools: Variables,
    explicit: Variables,
}

impl Surroundings {
    fn variables(&self, with_tools: bool) -> Variables {
        let of_tools = if with_tools { &self.of_tools[..] } else { &[] };
        [&self.host_env, &self.of_image, of_tools, &self.explicit].concat()
    }
}

/// Deletes an ephemeral VM after its command, unless somebody else has.
///
/// # Errors
/// If it does not go.
pub(super) fn discard(machine: &RunningVm, machines: &Machines<'_>) -> Result<(), CommandError> {
    match machines.remove(&machine.vm, REMOVE_LIMIT) {
        Err(error) if error.kind == ErrorKind::VmNotFound => Ok(()),
        removed => removed,
    }
}

fn wait_for_system(vm: &Vm, ui: &Ui) -> Result<(), CommandError> {
    let start = Instant::now();
    let request = AgentRequest::Ready { timeout_ms: READY_LIMIT.as_millis() as u64 };
    let readiness: Readiness = Call::ask_within(vm, &request, READY_LIMIT)?;
    ui.detail(&format!("the guest's services are `{}` after {}", readiness.state, elapsed(start.elapsed())));
    if readiness.state == "starting" {
        ui.warning(&format!("the guest's services are still starting after {}", elapsed(READY_LIMIT)));
    }
    if !readiness.failed_units.is_empty() {
        ui.warning(&format!("these services of the guest failed: {}", readiness.failed_units.join(", ")));
    }
    Ok(())
}

/// A sync of this many files, as the report of a run has it.
fn counts(files_listed: usize, report: &sync::SyncReport) -> SyncCounts {
    SyncCounts {
        sent: sent(files_listed, report),
        guest_only_files: report.guest_only.map(|only| only.files),
        guest_only_references: report.guest_only.map(|only| only.references),
    }
}

/// What a sync of this many files did.
pub(super) fn sent(files_listed: usize, report: &sync::SyncReport) -> SentCounts {
    SentCounts {
        files_listed,
        files_sent: report.applied.written,
        files_removed: report.applied.deleted,
        files_kept: report.applied.kept,
        references_moved: report.applied.references,
        bytes_sent: report.bytes,
    }
}

/// The one line about a run: what went in, and how long each phase took.
pub(super) fn summary(report: &sync::SyncReport, boot: Option<Duration>) -> String {
    let applied = &report.applied;
    let mut line = format!("{} sent ({})", count(applied.written, "file", "files"), bytes(report.bytes));
    if applied.deleted > 0 {
        line.push_str(&format!(", {} removed", applied.deleted));
    }
    if applied.kept > 0 {
        line.push_str(&format!(", {} kept as in the VM", applied.kept));
    }
    if let Some(boot) = boot {
        line.push_str(&format!("; boot {}", elapsed(boot)));
    }
    let transfer = report.total.saturating_sub(report.listing);
    line.push_str(&format!("; list {}, sync {}", elapsed(report.listing), elapsed(transfer.max(Duration::ZERO))));
    if let Some(only) = report.guest_only.filter(|only| !only.is_nothing()) {
        let files = (only.files > 0).then(|| count(only.files, "file", "files"));
        let references = (only.references > 0).then(|| count(only.references, "branch or tag", "branches and tags"));
        let what: Vec<_> = files.into_iter().chain(references).collect();
        line.push_str(&format!("; {} changed only in the VM", what.join(" and ")));
    }
    line
}
