//! `banger kernel`: pulls, imports, lists, shows and deletes kernels. A plugin as others could be: it stands on banger's library.

mod cli;
mod commands;

use std::process::ExitCode;

use banger::cli::Global;
use banger::error::CommandError;
use banger::paths::Paths;
use banger::plugin::{self, Program};
use banger::ui::Ui;

use crate::cli::{Cli, DESCRIPTION};

impl Program for Cli {
    const DESCRIPTION: &str = DESCRIPTION;

    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
        commands::run(&self.command, paths, ui)
    }
}

fn main() -> ExitCode {
    plugin::main::<Cli>()
}
