//! `banger vm`: VMs by name, bare ones and those with a repository's files. A plugin as others could be: it stands on banger's library.

mod cli;
mod commands;

use std::process::ExitCode;

use banger::cli::Global;
use banger::error::CommandError;
use banger::images::Images;
use banger::machine::Machines;
use banger::paths::Paths;
use banger::plugin::{self, Program, Values};
use banger::ui::Ui;

use crate::cli::Cli;

impl Program for Cli {
    const VALUES: &[(&str, Values)] = &[
        ("VM", |paths, ui| Machines::new(paths, ui).names()),
        ("IMAGE", |paths, ui| Images::new(paths, ui).names_to_use()),
    ];

    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
        commands::run(&self.command, paths, ui)
    }
}

fn main() -> ExitCode {
    plugin::main::<Cli>()
}
