//! `banger` and `banger -- command`: the main job, from keystroke to exit status.

mod environment;
mod inherited;
mod session;
mod stdio;
mod terminal;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use banger_agent::protocol::exec::Exec;
use banger_agent::protocol::sync::Policy;
use banger_agent::protocol::{Bytes, Readiness, Request};
use banger_vmm::{Ready, Vm};
use nix::sys::signal::Signal;

use self::inherited::Inherited;
use self::session::Outcome;
use crate::agent::Call;
use crate::certificates::{self, Certificates};
use crate::cli::Run;
use crate::config::Settings;
use crate::error::CommandError;
use crate::git::Workspace;
use crate::images::{self, Images};
use crate::machine::{Machine, Machines, Wanted};
use crate::paths::Paths;
use crate::post_mortem;
use crate::prepare::{self, Preparation};
use crate::report::{Phase, Report, Target};
use crate::sync::{self, GUEST_ROOT, Listed};
use crate::ui::{Ui, die_of_broken_pipe};
use crate::units::{bytes, count, elapsed};

/// How long `--ready system` waits for services.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long a throwaway VM may take to go.
const REMOVE_LIMIT: Duration = Duration::ZERO;

/// Names and values.
type Variables = Vec<(Bytes, Bytes)>;

/// Runs the command of `options` in the workspace around the folder that `place` says, and returns the exit status. With `--report`
/// there is a report, whatever comes of it.
///
/// # Errors
/// Whatever keeps the command from being run to its end.
pub fn run(
    options: &Run,
    place: impl FnOnce() -> Result<(PathBuf, Paths), CommandError>,
    ui: &Ui,
) -> Result<u8, CommandError> {
    let target = options.report.as_deref().map(Target::new).transpose()?;
    let account = Report::new(&options.command);
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
    match outcome? {
        Outcome::Status(status) => Ok(status),
        Outcome::BrokenPipe => die_of_broken_pipe(),
    }
}

fn run_reported(options: &Run, here: &Path, paths: &Paths, account: &Report, ui: &Ui) -> Result<Outcome, CommandError> {
    let given = environment::variables(&options.env, &options.env_file)?;
    let workspace = Workspace::discover(here, crate::machine::git_host(paths))?;
    account.workspace(&workspace.root);
    let machines = Machines::new(paths, ui).reported(account);
    let settings = Settings::of_process(paths, Some(&workspace.root), options)?;
    settings.warnings.iter().for_each(|warning| ui.warning(warning));
    let certificates = Certificates::read(&settings.ca_certificates(paths.home.as_deref()))?;
    let wanted = Wanted::from(&settings);
    let prepare = || -> Result<(Machine, Result<Preparation, CommandError>), CommandError> {
        // The workspace is listed while the VM is looked for, and boots.
        let (listed, machine) = thread::scope(|scope| {
            let listing = scope.spawn(|| account.time(Phase::List, || Listed::new(&workspace, &paths.own())));
            let machine =
                if options.rm { machines.throwaway(&workspace, &wanted) } else { machines.ensure(&workspace, &wanted) };
            (listing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), machine)
        });
        let machine = machine?;
        // A boot takes long enough for an edit: what was listed before it is not what there is.
        let anew = machine.boot.is_some();
        let listed = if anew { listed.and_then(|_| Listed::new(&workspace, &paths.own())) } else { listed };
        let synced = listed.map_err(CommandError::from).and_then(|listed| {
            listed.warnings().for_each(|warning| ui.warning(&warning));
            let policy = match (options.host_wins, options.guest_wins) {
                (true, _) => Policy::HostWins,
                (_, true) => Policy::GuestWins,
                _ => Policy::Stop,
            };
            let files = listed.files();
            let preparation = Preparation::of(&workspace, &listed, &settings, paths, ui)?;
            let report = account
                .time(Phase::Sync, || sync::sync(&machine.vm, &workspace, listed, policy, settings.history()))?;
            report.notes.iter().for_each(|note| ui.warning(note));
            account.synced(files, &report);
            ui.status(&summary(&report, machine.boot));
            Ok(preparation)
        });
        Ok((machine, synced))
    };
    let mut prepared = prepare();
    // A VM that was killed may have looked alive. The command has not begun, so the VM may be started again for it.
    let (used, failure) = match &prepared {
        Ok((machine, synced)) => (Some(machine), synced.as_ref().err()),
        Err(error) => (None, Some(error)),
    };
    if failure.is_some_and(|error| error.kind.is_of_vm()) && !options.rm && machines.has_died(&workspace, used) {
        prepared = prepare();
    }
    let (machine, synced) = prepared?;
    let outcome = synced.and_then(|preparation| {
        let ready = settings.ready().unwrap_or(machine.ready);
        if ready == Ready::System {
            account.time(Phase::Ready, || wait_for_system(&machine.vm, ui))?;
        }
        let image = Images::new(paths, ui).of(&machine.vm);
        let of_image = image.as_ref().map(images::variables).unwrap_or_default();
        let (inherited, said) = variables(&settings, &machine, given, &certificates, ui);
        let with_tools = [inherited.clone(), of_image.clone(), preparation.variables(&of_image), said.clone()].concat();
        if settings.first_boot_sshd() || image.is_some_and(|image| image.with_sshd) {
            prepare::start_sshd(&machine, &with_tools, ui)?;
        }
        preparation.run(&machine, &with_tools, account, ui)?;
        // The tools are root's; another user has what the image has.
        let env = if options.user.is_none() { with_tools } else { [inherited, of_image, said].concat() };
        let exec = exec(options, env, here, &workspace);
        account.time(Phase::Run, || session::run(&machine.vm, exec, options.timeout, ui))
    });
    let outcome = outcome.map_err(|error| post_mortem::explained(error, &machine));
    if options.rm {
        machines.remove(&machine.vm, REMOVE_LIMIT)?;
    }
    outcome
}

/// Variables for the command, in two parts: what this machine gives, and what the configuration says and was `given` on the command
/// line. What the image has goes between them. A later one of the same name wins.
fn variables(
    settings: &Settings,
    machine: &Machine,
    given: Vec<(Bytes, Bytes)>,
    certificates: &Certificates,
    ui: &Ui,
) -> (Variables, Variables) {
    let mut said = environment::of_settings(settings);
    said.extend(given);
    let inherited = Inherited::new(machine.net, &|name| std::env::var_os(name), Path::new("/etc"), &said);
    inherited.warnings.iter().for_each(|warning| ui.warning(warning));
    let mut all = Vec::new();
    match certificates.install(&machine.vm, ui) {
        Ok(()) if certificates.is_empty() => {}
        Ok(()) => all.extend(certificates::VARIABLES.map(|(name, value)| (name.into(), value.into()))),
        // The command may have no need of them.
        Err(error) => {
            let details: Vec<_> = std::iter::once(error.message).chain(error.details).collect();
            ui.warning(&details.join(": "));
        }
    }
    all.extend(said);
    (inherited.variables, all)
}

fn exec(options: &Run, env: Vec<(Bytes, Bytes)>, here: &Path, workspace: &Workspace) -> Exec {
    let matching = matching_folder(here, &workspace.root);
    let tty = (!options.no_tty && terminal::is_interactive()).then(|| terminal::size().unwrap_or_default());
    let mut all = environment::of_terminal(tty.is_some());
    all.extend(env);
    Exec {
        argv: options.command.iter().map(|argument| argument.as_os_str().into()).collect(),
        env: all,
        cwd: options.workdir.as_ref().map_or_else(|| matching.clone(), |dir| matching.join(dir)).as_os_str().into(),
        // A folder that is empty here does not travel, and is there all the same.
        make_cwd: options.workdir.as_ref().is_none_or(|dir| is_folder_of(&workspace.root, &here.join(dir))),
        user: options.user.clone(),
        tty,
    }
}

fn is_folder_of(root: &Path, path: &Path) -> bool {
    path.is_dir() && path.canonicalize().is_ok_and(|path| path.starts_with(root))
}

/// The guest's folder that matches `here`, which is in the workspace at `root`.
pub(crate) fn matching_folder(here: &Path, root: &Path) -> PathBuf {
    let here = here.canonicalize().unwrap_or_else(|_| here.to_owned());
    let below = here.strip_prefix(root).unwrap_or(Path::new(""));
    if below.as_os_str().is_empty() { GUEST_ROOT.into() } else { Path::new(GUEST_ROOT).join(below) }
}

fn wait_for_system(vm: &Vm, ui: &Ui) -> Result<(), CommandError> {
    let start = Instant::now();
    let request = Request::Ready { timeout_ms: READY_LIMIT.as_millis() as u64 };
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

/// The one line about a run: what went in, and how long each phase took.
fn summary(report: &sync::Report, boot: Option<Duration>) -> String {
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
    if let Some(only) = report.guest_only.filter(|only| only.files + only.references > 0) {
        let files = (only.files > 0).then(|| count(only.files, "file", "files"));
        let references = (only.references > 0).then(|| count(only.references, "branch or tag", "branches and tags"));
        let what: Vec<_> = files.into_iter().chain(references).collect();
        line.push_str(&format!("; {} changed only in the VM", what.join(" and ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_matches_where_one_stands() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let below = root.join("a b/c");
        std::fs::create_dir_all(&below).unwrap();
        assert_eq!(matching_folder(&root, &root), Path::new("/root/repo"));
        assert_eq!(matching_folder(&below, &root), Path::new("/root/repo/a b/c"));
    }
}
