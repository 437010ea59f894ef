//! The commands of `banger vm`. Those that `banger` has too are in the library.

mod create;
mod rename;
mod ssh;
mod stats;

use std::env;
use std::io::stdout;
use std::path::Path;

use banger::cli::Run;
use banger::commands::{self, Prunes};
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::command_output::CommandOutput;
use banger::output::ui::Ui;
use banger::run::{self, NewVm, NewWorkspace};

use crate::cli::{Command, WorkspaceCommand};

/// Runs the command, prints its result, and returns the exit status.
pub(crate) fn run(command: &Command, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
    let here = env::current_dir().map_err(|error| {
        CommandError::new(format!("cannot find out where this is: {error}")).hint("cd into a folder that exists")
    })?;
    let here = here.as_path();
    match command {
        Command::Run { path, name, branch, from, rm, vm, how, no_mise, command } => {
            let (vm, how, command) = (vm.clone(), how.clone(), command.clone());
            let options = Run { vm, how, rm: *rm, no_mise: *no_mise, command, ..Run::default() };
            let [name, branch, from] = [name, branch, from].map(Option::as_deref);
            return run::run_new(
                &NewVm { name, path: path.as_deref(), branch, from, options: &options },
                here,
                paths,
                ui,
            );
        }
        Command::Exec { vm, how, command } => return run::exec(vm, how, command, here, paths, ui),
        Command::Ssh { vm, forward_agent, command } => match ssh::ssh(vm, *forward_agent, command)? {},
        Command::Create { name, vm, no_start } => create::create(name.as_deref(), vm, *no_start, paths, ui)?.print(ui),
        Command::Start { vm } => commands::start(Some(vm), here, paths, ui)?.print(ui),
        Command::Stop { vm, force } => commands::stop(Some(vm), *force, here, paths, ui)?.print(ui),
        Command::Restart { vm, force } => commands::restart(Some(vm), *force, here, paths, ui)?.print(ui),
        Command::Cp { from, to } => match commands::cp(from, to, here, paths, ui)? {
            Some(copied) => copied.print(ui),
            None => Ok(()),
        },
        Command::Delete { vm, force } => commands::delete(Some(vm), *force, here, paths, ui)?.print(ui),
        Command::List => commands::list(!ui.shows_names_only(), paths, ui)?.print(ui),
        Command::Show { vm } => commands::status(Some(vm), here, paths, ui)?.print(ui),
        Command::Stats { vms } => stats::stats(vms, paths, ui)?.print(ui),
        Command::Logs { vm, follow: true, lines } => {
            commands::follow_logs(Some(vm), *lines, stdout(), here, paths, ui)?.print(ui)
        }
        Command::Logs { vm, follow: false, lines } => commands::logs(Some(vm), *lines, here, paths, ui)?.print(ui),
        Command::Rename { vm, name } => rename::rename(vm, name, paths, ui)?.print(ui),
        Command::Workspace { command } => workspace(command, here, paths, ui),
        Command::Port { command } => commands::port(command, here, paths, ui)?.print(ui),
        Command::Prune { dry_run, filter, force } => {
            commands::prune(Prunes::Vms, *dry_run, *filter, *force, paths, ui)?.print(ui)
        }
    }
    .map(|()| 0)
}

fn workspace(command: &WorkspaceCommand, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let WorkspaceCommand::Prepare { vm, path, guest_path, host_wins, guest_wins, no_mise } = command;
    let options = Run { host_wins: *host_wins, guest_wins: *guest_wins, no_mise: *no_mise, ..Run::default() };
    run::prepare(vm, &NewWorkspace { path, guest_path, options: &options }, here, paths, ui)?.print(ui)
}
