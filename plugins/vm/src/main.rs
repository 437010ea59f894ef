//! `banger vm`: VMs by name, bare ones and those with a repository's files. A plugin as others
//! could be: it stands on banger's library.

mod cli;
mod commands;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use banger::cli::Global;
use banger::completion;
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::plugin::{self, Program, Values};
use banger::store::images::Images;
use banger::vm::machine::Machines;

use crate::cli::Cli;

impl Program for Cli {
    const VALUES: &[(&str, Values)] = &[
        ("VM", |paths, ui, _| Machines::new(paths, ui).names()),
        ("IMAGE", |paths, ui, _| Images::new(paths, ui).names_to_use()),
        ("HOST", |paths, ui, words| Ok(completion::hosts(words, &here()?, paths, ui))),
        ("FROM", |paths, ui, words| Ok(places(paths, ui, words))),
        ("TO", |paths, ui, words| Ok(places(paths, ui, words))),
    ];

    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
        commands::run(&self.command, paths, ui)
    }
}

fn here() -> Result<PathBuf, CommandError> {
    std::env::current_dir().map_err(|error| CommandError::new(error.to_string()))
}

fn places(paths: &Paths, ui: &Ui, words: &[OsString]) -> Vec<String> {
    let place = words.last().and_then(|word| word.to_str());
    place.zip(here().ok()).and_then(|(place, here)| completion::places(place, &here, paths, ui)).unwrap_or_default()
}

fn main() -> ExitCode {
    plugin::main::<Cli>()
}
