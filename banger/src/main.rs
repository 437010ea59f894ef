//! `banger`: see `banger --help`.

use std::env;
use std::process::ExitCode;

use banger::cli::{Cli, Command, Global};
use banger::error::{CommandError, FAILED};
use banger::paths::Paths;
use banger::ui::Ui;
use banger::{commands, run};
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if let Some(error) = stray_word(&error) => {
            Ui::new(&Global::default()).error(&error);
            return ExitCode::from(FAILED);
        }
        Err(error) => {
            // `--help` and `--version` are answers, and no errors.
            let status = if error.use_stderr() { FAILED } else { 0 };
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    let ui = Ui::new(&cli.global);
    match execute(cli, &ui) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.status)
        }
    }
}

fn execute(cli: Cli, ui: &Ui) -> Result<u8, CommandError> {
    let paths = Paths::from_env()?;
    let here = env::current_dir().map_err(|error| {
        CommandError::new(format!("cannot find out where this is: {error}")).hint("cd into a folder that exists")
    })?;
    match cli.command {
        None => return run::run(&cli.run, &here, &paths, ui),
        Some(Command::Status { json }) => commands::status(json, &here, &paths, ui)?,
        Some(Command::Stop { force }) => commands::stop(force, &here, &paths, ui)?,
        Some(Command::Delete { force }) => commands::delete(force, &here, &paths, ui)?,
    }
    Ok(0)
}

/// The error for a command line that failed on a word in the place of a command: the user may have meant one for the VM.
fn stray_word(error: &clap::Error) -> Option<CommandError> {
    let word = error.get(ContextKind::InvalidArg).or_else(|| error.get(ContextKind::InvalidSubcommand));
    let Some(ContextValue::String(word)) = word else { return None };
    let words: Vec<String> = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let (options, command) = words.split_at(words.iter().position(|candidate| candidate == word)?);
    if word.starts_with('-') || options.iter().any(|option| Cli::command().find_subcommand(option).is_some()) {
        return None;
    }
    let line = [&["banger".to_owned()], options, &["--".to_owned()], command].concat().join(" ");
    let error = CommandError::new(format!("there is no command `{word}`"));
    Some(error.hint(format!("to run it in the VM: {line}")).hint("for a list: banger --help"))
}
