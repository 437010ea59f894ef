//! `banger vm run` and `banger vm exec`: commands in VMs that are found by name.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::exec::{Exec, Exit};
use banger_agent::protocol::sync::Policy;
use banger_image::ImageManifest;
use banger_vmm::Vm;

use super::context::{Destination, RunContext, discard};
use super::interruption::Interruption;
use super::place::CommandDefaults;
use super::session::Outcome;
use super::{environment, refuse_json, status, tell_outer_configuration, tell_what_is_only_there};
use crate::cli::{CommandOptions, Run};
use crate::config::{Overrides, Settings, git_host};
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;
use crate::output::report::{RunPhase, RunReport};
use crate::output::ui::{Ui, die_of};
use crate::prepare::Preparation;
use crate::store::images::{self, Images};
use crate::sync::Listed;
use crate::vm::agent::AgentError;
use crate::vm::checkout::{GUEST_ROOT, GuestCheckout};
use crate::vm::forwards::{check_forwards, publish};
use crate::vm::guest_command;
use crate::vm::machine::{Machines, VmSpec, named};
use crate::vm::ownership::VmOwner;
use crate::vm::post_mortem;
use crate::vm::running::RunningVm;

/// A VM that is made for a command.
#[derive(Debug)]
pub struct NewVm<'a> {
    /// Its name; none: it gets one.
    pub name: Option<&'a str>,
    /// A folder of the workspace whose files it gets; none: it is bare.
    pub path: Option<&'a Path>,
    /// A branch to make there.
    pub branch: Option<&'a str>,
    /// What that branch starts from; none: HEAD.
    pub from: Option<&'a str>,
    /// Everything else; with `rm`, the VM goes with the command.
    pub options: &'a Run,
}

/// A branch that is to be made in the guest's repository.
struct Branch<'a> {
    name: &'a str,
    /// A commit's id, or HEAD.
    from: String,
}

/// Makes a VM, runs the command in it and returns its exit status. Without a command: in a VM with
/// a workspace a shell; in a bare one what its image runs, or a shell if it names nothing.
///
/// # Errors
/// Whatever keeps the command from being run to its end. A VM that did not come to that is gone
/// again.
pub fn run_new(new: &NewVm<'_>, here: &Path, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
    refuse_json(ui)?;
    let options = new.options;
    let given = environment::variables(&options.how.env, &options.how.env_file)?;
    check_forwards(&options.vm.publish)?;
    let folder = new.path.map(|path| here.join(path));
    let workspace = folder.as_deref().map(|folder| workspace(folder, paths)).transpose()?;
    let branch = branch(new, workspace.as_ref())?;
    let account = RunReport::new(&options.command);
    let root = workspace.as_ref().map(|workspace| workspace.root.as_path());
    let context = RunContext::new(options, given, root, paths, &account, ui)?;
    let machines = Machines::new(paths, ui).reported(&account);
    let spec = VmSpec::from(&context.settings);
    if let Some(workspace) = &workspace {
        tell_outer_configuration(workspace, paths, ui);
    }
    let interruption = Interruption::watch()?;
    let make = || -> Result<RunningVm, CommandError> {
        let vm = machines.create_by_name(new.name, workspace.as_ref(), &spec, options.rm)?;
        interruption.made(&vm).inspect_err(|_| _ = machines.remove(&vm, Duration::ZERO))?;
        if new.name.is_none() && !options.rm {
            ui.status(&format!("the new VM is called `{}`", vm.name()));
        }
        let machine = machines.start_new(&vm, &spec)?;
        publish(&machine.vm, &options.vm.publish, ui).inspect_err(|_| {
            // It has nothing of anybody's; that it could not be removed is not the news.
            let _ = discard(&machine, &machines);
        })?;
        Ok(machine)
    };
    let ready = || -> Result<(RunningVm, Option<Preparation>), CommandError> {
        let Some(workspace) = &workspace else { return Ok((make()?, None)) };
        // No image is pulled, and no VM made, for a repository that cannot be read.
        let listed = account.time(RunPhase::List, || Listed::new(workspace, &paths.own()))?;
        listed.check(workspace)?;
        let machine = make()?;
        let checkout = GuestCheckout::own(&machine.vm, VmOwner::by_name(workspace, false));
        let place = CommandDefaults::of_workspace(folder.as_deref().unwrap_or(&workspace.root), &checkout);
        let to = Destination { machine: &machine, workspace, checkout: &checkout, place: &place };
        let synced = context.sync(&to, Ok(listed), Policy::Stop).and_then(|(preparation, _)| {
            branch.map_or(Ok(()), |branch| check_out(&branch, &machine, paths, ui)).map(|()| preparation)
        });
        let preparation = synced.inspect_err(|_| {
            // It has nothing of anybody's; that it could not be removed is not the news.
            let _ = discard(&machine, &machines);
        })?;
        Ok((machine, Some(preparation)))
    };
    let made = ready();
    if let Some(signal) = interruption.end() {
        if let Ok((machine, _)) = &made {
            // The next command is told of it, should it still be there.
            let _ = discard(machine, &machines);
        }
        ui.finish();
        die_of(signal);
    }
    let (machine, preparation) = made?;
    let outcome =
        command(new, &context, &machine, preparation.as_ref(), workspace.as_ref().zip(folder.as_deref()), paths, ui);
    let outcome = outcome.map_err(|error| post_mortem::explained(error, &machine));
    if options.rm {
        super::discard_after(&machine, &machines, ui);
    } else if context.has_terminal() && outcome.is_ok() {
        if workspace.is_some() && options.command.is_empty() {
            tell_what_is_only_there(&machine, Some(machine.vm.name()), ui);
        }
        print_reattach_hint(machine.vm.name(), ui);
    }
    outcome.map(status)
}

/// Runs the command of a VM that was just made.
fn command(
    new: &NewVm<'_>,
    context: &RunContext<'_>,
    machine: &RunningVm,
    preparation: Option<&Preparation>,
    workspace: Option<(&Workspace, &Path)>,
    paths: &Paths,
    ui: &Ui,
) -> Result<Outcome, CommandError> {
    let images = Images::new(paths, ui);
    let given = new.options.command.iter().map(|word| word.as_os_str().into());
    match workspace {
        Some((workspace, folder)) => {
            let checkout = GuestCheckout::own(&machine.vm, VmOwner::by_name(workspace, false));
            context.command(
                machine,
                preparation,
                Some(&checkout),
                &CommandDefaults::of_workspace(folder, &checkout),
                given,
                None,
            )
        }
        None => {
            let place = CommandDefaults::of(&machine.vm, None, Path::new("/"), &images);
            let words = words_of(images.of(&machine.vm).as_ref(), given).into_iter();
            context.command(machine, None, None, &place, words, None)
        }
    }
}

/// Runs a command in the VM named `name`, which is started if need be, and returns its exit status;
/// without a command a shell. Nothing is synced.
///
/// # Errors
/// Whatever keeps the command from being run to its end.
pub fn exec(
    name: &str,
    how: &CommandOptions,
    command: &[OsString],
    here: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<u8, CommandError> {
    refuse_json(ui)?;
    let given = environment::variables(&how.env, &how.env_file)?;
    let machines = Machines::new(paths, ui);
    let vm = named(name, &machines)?;
    let account = RunReport::new(command);
    let options = Run { how: how.clone(), ..Run::default() };
    let checkout = GuestCheckout::around(&vm, here);
    let root = checkout.as_ref().filter(|checkout| checkout.is_present()).map(GuestCheckout::root);
    let context = RunContext::new(&options, given, root, paths, &account, ui)?;
    let spec = VmSpec::of_existing(&context.settings);
    let machines = machines.reported(&account);
    let (machine, outcome) = post_mortem::unless_stopped(|| {
        let machine = machines.start_found(&vm, &spec)?;
        let place = CommandDefaults::of(&machine.vm, checkout.as_ref(), here, &Images::new(paths, ui));
        let words = command.iter().map(|word| word.as_os_str().into());
        match context.command(&machine, None, checkout.as_ref(), &place, words, None) {
            Err(error) if error.kind == ErrorKind::VmEnded => Err(error),
            outcome => Ok((machine, outcome)),
        }
    })?;
    if command.is_empty() && context.has_terminal() && outcome.is_ok() {
        tell_what_is_only_there(&machine, Some(machine.vm.name()), ui);
    }
    outcome.map(status).map_err(|error| post_mortem::explained(error, &machine))
}

/// The variables that the configuration has for commands in a VM: the user's, and that of its own
/// repository, if it has one.
///
/// # Errors
/// If a file or variable says what it may not.
pub fn configured_variables(vm: &Vm, paths: &Paths) -> Result<Vec<(WireBytes, WireBytes)>, CommandError> {
    let own = GuestCheckout::all(vm)?.into_iter().find(|checkout| checkout.is_own() && checkout.is_present());
    Ok(environment::of_settings(&Settings::of_process(
        paths,
        own.as_ref().map(GuestCheckout::root),
        &Overrides::default(),
    )?))
}

/// The workspace around `folder`, which the user has named.
pub(super) fn workspace(folder: &Path, paths: &Paths) -> Result<Workspace, CommandError> {
    let workspace = Workspace::discover(folder, git_host(paths));
    workspace.map_err(|error| match folder.exists() {
        true => error.into(),
        false => CommandError::new(format!("there is no folder `{}`", folder.display()))
            .kind(ErrorKind::NoWorkspace)
            .hint("a command in a VM that is there: banger vm exec NAME -- COMMAND"),
    })
}

/// The branch that is asked for. What is wrong with it is known before there is a VM.
fn branch<'a>(new: &NewVm<'a>, workspace: Option<&Workspace>) -> Result<Option<Branch<'a>>, CommandError> {
    let usage = |message: String| CommandError::new(message).kind(ErrorKind::Usage);
    let Some(name) = new.branch else {
        return match new.from {
            Some(_) => Err(usage("`--from` says what the branch of `--branch` starts from, and there is none".into())),
            None => Ok(None),
        };
    };
    let Some(workspace) = workspace else {
        let error = usage("`--branch` and `--from` go with a repository, and a bare VM has none".into());
        return Err(error.hint("name its folder: banger vm run . --branch NAME"));
    };
    let repository = &workspace.repository;
    if !repository.is_branch_name(name)? {
        return Err(usage(format!("`{name}` cannot name a branch")).hint("see git-check-ref-format(1)"));
    }
    if repository.has_branch(name)? {
        return Err(usage(format!("there is a branch `{name}` already")).hint("choose another name"));
    }
    let start = new.from.unwrap_or("HEAD");
    let commit = repository.commit(start)?.ok_or_else(|| match new.from {
        Some(_) => usage(format!("`{start}` leads to no commit of this repository")),
        None => usage("this repository has no commit yet that a branch could start from".into()),
    })?;
    // HEAD may move until it is synced, and is there even where the guest's history is shallow.
    Ok(Some(Branch { name, from: if new.from.is_some() { commit } else { start.to_owned() } }))
}

/// Makes the branch in the guest's repository, and checks it out there.
fn check_out(branch: &Branch<'_>, machine: &RunningVm, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let words = ["git", "checkout", "--quiet", "--no-track", "-b", branch.name, &branch.from, "--"];
    let image = Images::new(paths, ui).of(&machine.vm);
    let exec = Exec {
        argv: words.map(Into::into).into(),
        env: image.as_ref().map(images::variables).unwrap_or_default(),
        cwd: GUEST_ROOT.into(),
        ..Exec::default()
    };
    let failed = |details| {
        let error = CommandError::new(format!("the branch `{}` cannot be made in the VM", branch.name));
        error.kind(ErrorKind::Repository).details(details)
    };
    match guest_command::run(&machine.vm, exec, &[], |_| {}) {
        Ok(finished) if finished.exit == Exit::Code(0) => {
            ui.detail(&format!("the branch `{}` is checked out in the VM", branch.name));
            Ok(())
        }
        Ok(finished) => Err(failed(finished.last_lines())),
        // An image without git, say.
        Err(AgentError::Refused(failure)) => Err(failed(vec![failure.message])),
        Err(error) => Err(error.into()),
    }
}

/// What a bare VM is to run, as docker-run(1) has it: what is given takes the place of the image's
/// arguments, behind its entrypoint. Nothing: a shell.
fn words_of(image: Option<&ImageManifest>, given: impl Iterator<Item = WireBytes>) -> Vec<WireBytes> {
    let given: Vec<_> = given.collect();
    let Some(origin) = image.and_then(|image| image.oci.as_ref()) else { return given };
    let of_image = |words: &[String]| words.iter().map(|word| word.as_str().into()).collect::<Vec<WireBytes>>();
    let arguments = if given.is_empty() { of_image(&origin.config.cmd) } else { given };
    [of_image(&origin.config.entrypoint), arguments].concat()
}

/// After who sat at a terminal has left.
fn print_reattach_hint(name: &str, ui: &Ui) {
    let next = ["exec", "stop", "delete"].map(|command| format!("`banger vm {command} {name}`"));
    let [back, stop, delete] = next;
    ui.status(&format!("`{name}` runs on: back into it with {back}; {stop} stops it, {delete} deletes it"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_entrypoint_and_cmd_combine_as_in_docker() {
        let image = |entrypoint: &[&str], cmd: &[&str]| -> ImageManifest {
            let config = serde_json::json!({"entrypoint": entrypoint, "cmd": cmd});
            serde_json::from_value(serde_json::json!({
                "format_version": 1, "name": "i", "description": "", "kernel": "k", "ready": "agent", "source": "s",
                "created": 0, "rootfs_bytes": 0, "oci": {"reference": "r", "platform": "p", "layers": [], "config": config,
                "digest": format!("sha256:{}", "0".repeat(64))},
            }))
            .unwrap()
        };
        let words = |image: Option<&ImageManifest>, given: &[&str]| -> Vec<String> {
            words_of(image, given.iter().map(|word| (*word).into())).iter().map(ToString::to_string).collect()
        };
        let (both, cmd, neither) = (image(&["/entry"], &["serve"]), image(&[], &["sh", "-l"]), image(&[], &[]));
        assert_eq!(words(Some(&both), &[]), ["/entry", "serve"]);
        assert_eq!(words(Some(&both), &["ls", "/"]), ["/entry", "ls", "/"]);
        assert_eq!(words(Some(&cmd), &[]), ["sh", "-l"]);
        assert_eq!(words(Some(&cmd), &["ls"]), ["ls"]);
        assert!(words(Some(&neither), &[]).is_empty() && words(None, &[]).is_empty());
        assert_eq!(words(None, &["ls"]), ["ls"]);
    }
}
