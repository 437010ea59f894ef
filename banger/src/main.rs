//! `banger`: see `banger --help`.

use std::env;
use std::ffi::OsString;
use std::io::{Write, stdout};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banger::cli::{Cli, Command, Global, Run};
use banger::completion::{self, Names};
use banger::config::{ConfigFile, Owner, Value, git_host};
use banger::dispatch::{self, Aliases, Invocation, InvocationError};
use banger::error::{CommandError, ErrorKind, FAILED};
use banger::git::Workspace;
use banger::host::paths::{self, Paths};
use banger::output::command_output::CommandOutput;
use banger::output::panic;
use banger::output::ui::Ui;
use banger::plugin::{self, Environment, KnownPlugins, Plugins};
use banger::store::images::Images;
use banger::vm::machine::Machines;
use banger::{commands, remote, run};
use clap::Parser;

fn main() -> ExitCode {
    panic::guard(start)
}

fn start() -> ExitCode {
    if env::args_os().next().is_some_and(|name| remote::is_name(&name)) {
        return remote_helper();
    }
    let words: Vec<_> = env::args_os().skip(1).collect();
    // Until the command line is understood: whoever wrote that reads the errors as JSON.
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let mut ui = Ui::new(&Global { json, ..Global::default() });
    match act(words, &mut ui) {
        Ok(status) => ExitCode::from(status),
        // `--help` and `--version` are answers, and no errors.
        Err(InvocationError::Usage(answer)) if !answer.use_stderr() => {
            ui.help(&answer);
            ExitCode::SUCCESS
        }
        Err(InvocationError::Usage(error)) => {
            ui.usage(&error);
            ExitCode::from(FAILED)
        }
        Err(InvocationError::Error(error)) => {
            ui.error(&error);
            ExitCode::from(error.status())
        }
    }
}

/// What git has run as `git-remote-banger`. Standard output is git's.
fn remote_helper() -> ExitCode {
    let ui = Ui::new(&Global::default());
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let served = checked_place().and_then(|(here, paths)| remote::serve(&arguments, &here, &paths, &ui));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.status())
        }
    }
}

fn act(words: Vec<OsString>, ui: &mut Ui) -> Result<u8, InvocationError> {
    if let Ok(shell) = env::var(completion::VARIABLE) {
        // Standard error would appear in the line that is being typed, so a failure is only a
        // status.
        return Ok(complete(&shell, words).map_or(FAILED, |()| 0));
    }
    let banger = paths::program()?;
    let banger_folder = banger.parent().map(Path::to_owned);
    let plugins = Plugins::new(&paths::search_path(), banger_folder.as_deref());
    match dispatch::resolve(words, aliases, &plugins)? {
        Invocation::BuiltIn(words) => {
            let cli = Cli::try_parse_from(iter::once("banger".into()).chain(words))?;
            *ui = Ui::new(&cli.global);
            if cli.list && cli.command.is_none() {
                if cli.run != Run::default() {
                    let error = CommandError::new("`--list` goes with no option of a run").kind(ErrorKind::Usage);
                    return Err(error.hint("only the names: banger --list --quiet").into());
                }
                let environment = Environment::new(banger, workspace_root())?;
                let known = known_plugins(banger_folder.as_deref());
                let (aliases, config) = (aliases()?, paths::user_config());
                let list =
                    commands::overview(!ui.is_quiet(), &aliases, config.as_deref(), &plugins, &known, &environment);
                list.print(ui)?;
                return Ok(0);
            }
            Ok(execute(cli, ui)?)
        }
        Invocation::Plugin { plugin, options, arguments } => {
            *ui = Ui::new(&options);
            let environment = Environment::new(banger, workspace_root())?;
            known_plugins(banger_folder.as_deref()).note(&plugin.path);
            match plugin::exec(&plugin, &options, arguments, &environment)? {}
        }
    }
}

fn execute(cli: Cli, ui: &Ui) -> Result<u8, CommandError> {
    let Some(command) = cli.command else { return run::run(&cli.run, checked_place, ui) };
    if let Command::Completions { shell } = command {
        completion::script(shell).print(ui)?;
        return Ok(0);
    }
    let (here, paths) = match command {
        // It has an answer for what is wrong with them.
        Command::Doctor { .. } => place()?,
        _ => checked_place()?,
    };
    match command {
        Command::Completions { .. } => {}
        Command::Config { command } => commands::config(command.as_ref(), &here, &paths)?.print(ui)?,
        Command::Trust { revoke, list, force } => {
            let action = match (revoke, list, force) {
                (true, ..) => commands::TrustAction::Revoke,
                (false, true, _) => commands::TrustAction::List,
                (false, false, true) => commands::TrustAction::TrustUnasked,
                (false, false, false) => commands::TrustAction::Trust,
            };
            commands::trust(action, &here, &paths, ui)?.print(ui)?
        }
        Command::Status { vm } => commands::status(vm.as_deref(), &here, &paths, ui)?.print(ui)?,
        Command::Cp { from, to } => {
            if let Some(copied) = commands::cp(&from, &to, &here, &paths, ui)? {
                copied.print(ui)?;
            }
        }
        Command::Fetch { vm, dry_run } => {
            commands::fetch(vm.as_deref(), dry_run, &here, &paths, ui)?.print(ui)?;
        }
        Command::Why { paths: asked } => commands::why(&asked, &here, &paths)?.print(ui)?,
        Command::Du => commands::du(&paths).print(ui)?,
        Command::Doctor { fix } => {
            let diagnosis = commands::doctor(fix, &paths, ui);
            diagnosis.print(ui)?;
            return Ok(diagnosis.status());
        }
        Command::Logs { vm, follow: true, lines } => {
            commands::follow_logs(vm.as_deref(), lines, stdout(), &here, &paths, ui)?.print(ui)?;
        }
        Command::Logs { vm, follow: false, lines } => {
            commands::logs(vm.as_deref(), lines, &here, &paths, ui)?.print(ui)?;
        }
        Command::Prune { dry_run, filter, force } => {
            commands::prune(commands::Prunes::All, dry_run, filter, force, &paths, ui)?.print(ui)?;
        }
        Command::Sync { host_wins, guest_wins, watch } => {
            let options = Run { host_wins, guest_wins, watch, ..Run::default() };
            run::sync(&options, &here, &paths, &|synced| synced.print(ui), ui)?;
        }
        Command::Restart { vm, force } => commands::restart(vm.as_deref(), force, &here, &paths, ui)?.print(ui)?,
        Command::Port { command } => commands::port(&command, &here, &paths, ui)?.print(ui)?,
        Command::Start { vm } => commands::start(vm.as_deref(), &here, &paths, ui)?.print(ui)?,
        Command::List => commands::list(!ui.shows_names_only(), &paths, ui)?.print(ui)?,
        Command::Stop { vm, force } => commands::stop(vm.as_deref(), force, &here, &paths, ui)?.print(ui)?,
        Command::Delete { vm, force } => commands::delete(vm.as_deref(), force, &here, &paths, ui)?.print(ui)?,
    }
    Ok(0)
}

/// The current directory, and the directories that banger keeps things in.
fn place() -> Result<(PathBuf, Paths), CommandError> {
    let paths = Paths::from_env()?;
    let here = env::current_dir().map_err(|error| {
        CommandError::new(format!("cannot find out where this is: {error}")).hint("cd into a folder that exists")
    })?;
    Ok((here, paths))
}

/// The current directory, and the directories that banger keeps things in, which nobody else may be
/// able to change.
fn checked_place() -> Result<(PathBuf, Paths), CommandError> {
    let (here, paths) = place()?;
    paths.check()?;
    Ok((here, paths))
}

fn aliases() -> Result<Aliases, CommandError> {
    paths::user_config().map_or_else(|| Ok(Aliases::new()), |file| dispatch::read(&file))
}

/// Answers a shell that asks what the last word of `words` may be.
fn complete(shell: &str, words: Vec<OsString>) -> Result<(), CommandError> {
    let banger = paths::program()?;
    let plugins = Plugins::new(&paths::search_path(), banger.parent());
    let here = env::current_dir().ok();
    let words = completion::typed(shell, words);
    let ui = Ui::new(&Global { quiet: true, ..Global::default() });
    let names = names(&words, &plugins, here.as_deref(), &ui);
    let of_plugin = |words: &[OsString]| proposals(words, &plugins, banger, here.as_deref());
    let answer = completion::complete(shell, words, &names, of_plugin, here.as_deref())?;
    // A shell that does not listen needs no answer.
    let _ = stdout().write_all(&answer);
    Ok(())
}

/// What a shell may propose. What cannot be read is left out: a line that is being typed is no
/// place for errors.
fn names(words: &[OsString], plugins: &Plugins, here: Option<&Path>, ui: &Ui) -> Names {
    let paths = Paths::from_env().ok();
    let vms = paths.as_ref().and_then(|paths| Machines::new(paths, ui).names().ok());
    let images = paths.as_ref().and_then(|paths| Images::new(paths, ui).names_to_use().ok());
    let user = paths::user_config().and_then(|file| ConfigFile::read(&file, Owner::User).ok().flatten());
    let variables = match user.as_ref().and_then(|user| user.values.get("env")) {
        Some(Value::Variables(all)) => all.keys().map(|name| format!("env.{name}")).collect(),
        _ => Vec::new(),
    };
    let (typed, parts) = plugins.to_type();
    let mut names = Names {
        aliases: aliases().unwrap_or_default(),
        plugins: typed,
        parts,
        vms: vms.unwrap_or_default(),
        images: images.unwrap_or_default(),
        variables,
        ..Names::default()
    };
    // A VM is asked only where it has the answer.
    let has = |command: &str| words.iter().any(|word| word == command);
    if let (Some(paths), Some(here), Some(word)) = (&paths, here, words.last()) {
        if has("port") {
            names.hosts = completion::hosts(words, here, paths, ui);
        }
        if has("cp") {
            names.places = completion::places(&word.to_string_lossy(), here, paths, ui).unwrap_or_default();
        }
    }
    names
}

/// What the plugin that `words` lead to proposes for the last of them.
fn proposals(
    words: &[OsString],
    plugins: &Plugins,
    banger: PathBuf,
    here: Option<&Path>,
) -> Option<Vec<plugin::Proposal>> {
    match dispatch::resolve(words.to_vec(), aliases, plugins).ok()? {
        // The name itself may still be typed.
        Invocation::Plugin { plugin, arguments, .. } if !arguments.is_empty() => {
            let environment = Environment::new(banger, workspace_root()).ok()?;
            plugin::propose(&plugin, &arguments, here, &environment)
        }
        Invocation::Plugin { .. } | Invocation::BuiltIn(_) => None,
    }
}

/// The plugins that may be asked what they are.
fn known_plugins(beside: Option<&Path>) -> KnownPlugins {
    // Without a home nothing is noted, and a list is one all the same.
    KnownPlugins::new(Paths::from_env().ok().map(|paths| paths.cache).as_deref(), beside)
}

/// The workspace that one stands in, for plugins. That there is none, or none to be trusted, is
/// theirs to mind.
fn workspace_root() -> Option<PathBuf> {
    let paths = Paths::from_env().ok()?;
    let workspace = Workspace::discover(&env::current_dir().ok()?, git_host(&paths)).ok()?;
    Some(workspace.root)
}
