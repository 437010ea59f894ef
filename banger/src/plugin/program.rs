//! What a plugin on this library is around what it does: a command line, one printer, errors as banger's own.

use std::env;
use std::ffi::OsString;
use std::io::{Write, stdout};
use std::process::ExitCode;

use clap::Parser;

use super::describe::ARGUMENT;
use super::{API, Description};
use crate::cli::Global;
use crate::error::{CommandError, FAILED};
use crate::paths::Paths;
use crate::ui::Ui;

/// The command line of a plugin.
pub trait Program: Parser {
    /// What `banger --list` says of it, in one line.
    const DESCRIPTION: &str;

    /// The options of every command.
    fn global(&self) -> &Global;

    /// Does what the command line says, and answers.
    ///
    /// # Errors
    /// What keeps it from that.
    fn run(&self, paths: &Paths, ui: &Ui) -> Result<(), CommandError>;
}

/// The `main` of a plugin.
pub fn main<P: Program>() -> ExitCode {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == ARGUMENT) {
        let description = Description { api: API, description: P::DESCRIPTION.to_owned() };
        let answer = serde_json::to_vec(&description).expect("a description is JSON");
        return match stdout().write_all(&answer) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(FAILED),
        };
    }
    let program = match P::try_parse() {
        Ok(program) => program,
        // `--help` and `--version` are answers, and no errors.
        Err(answer) if !answer.use_stderr() => {
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return usage(&error, &words),
    };
    let ui = Ui::new(program.global());
    match Paths::from_env().and_then(|paths| program.run(&paths, &ui)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.status())
        }
    }
}

fn usage(error: &clap::Error, words: &[OsString]) -> ExitCode {
    match words.iter().any(|word| word == "--json") {
        true => Ui::new(&Global { json: true, ..Global::default() }).error(&CommandError::from(error)),
        false => _ = error.print(),
    }
    ExitCode::from(FAILED)
}
