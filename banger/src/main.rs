//! `banger`: see `banger --help`.

use std::ffi::OsString;
use std::process::ExitCode;

use banger::cli::{Cli, Command, Global};
use banger::error::{CommandError, FAILED};
use banger::paths::Paths;
use banger::ui::Ui;
use banger::{commands, run};
use clap::Parser;
use clap::error::{ContextKind, ContextValue};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if is_stray_word(&error) => {
            let words: Vec<_> = std::env::args_os().skip(1).collect();
            Ui::new(&Global::default()).error(&unknown(&words));
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
    let here = std::env::current_dir().map_err(|error| {
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

/// Whether the command line failed on a word that is no option: the user may have meant a command for the VM.
fn is_stray_word(error: &clap::Error) -> bool {
    let word = error.get(ContextKind::InvalidArg).or_else(|| error.get(ContextKind::InvalidSubcommand));
    matches!(word, Some(ContextValue::String(word)) if !word.starts_with('-'))
}

fn unknown(words: &[OsString]) -> CommandError {
    let text = |words: &[OsString]| words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let first = words.iter().position(|word| !word.as_encoded_bytes().starts_with(b"-")).unwrap_or_default();
    CommandError::new(format!("there is no command `{}`", text(&words[first..=first])))
        .hint(format!("to run it in the VM: banger {}-- {}", text(&words[..first]), text(&words[first..])))
        .hint("for a list: banger --help")
}
