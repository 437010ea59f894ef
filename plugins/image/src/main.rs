//! `banger image`: pulls, lists, shows and deletes images. A plugin as others could be: it stands on banger's library.

mod cli;
mod commands;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use banger::cli::Global;
use banger::error::{CommandError, ErrorKind, FAILED};
use banger::paths::Paths;
use banger::plugin::API;
use banger::ui::Ui;
use clap::Parser;

use crate::cli::{Cli, DESCRIPTION};

fn main() -> io::Result<ExitCode> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "--banger-describe") {
        writeln!(io::stdout(), r#"{{"api": {API}, "description": "{DESCRIPTION}"}}"#)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // `--help` and `--version` are answers, and no errors.
        Err(answer) if !answer.use_stderr() => {
            let _ = answer.print();
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            match words.iter().any(|word| word == "--json") {
                true => Ui::new(&Global { json: true, ..Global::default() }).error(&CommandError::from(&error)),
                false => _ = error.print(),
            }
            return Ok(ExitCode::from(FAILED));
        }
    };
    let ui = Ui::new(&cli.global);
    Ok(match Paths::from_env().and_then(|paths| commands::run(&cli.command, &paths, &ui)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.status())
        }
    })
}

/// A usage error of this command's own.
fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(message).kind(ErrorKind::Usage)
}
