//! `banger kernel`: pulls, imports, lists, shows and deletes kernels. A plugin as others could be:
//! it stands on banger's library.

mod cli;
mod commands;

use std::process::ExitCode;

use banger::banger_image::Catalog;
use banger::cli::Global;
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::plugin::{self, Program, Values};
use banger::store::kernels::Kernels;

use crate::cli::Cli;

impl Program for Cli {
    const VALUES: &[(&str, Values)] = &[
        ("KERNEL", |paths, ui, _| Kernels::new(paths, ui).names()),
        ("CATALOG-NAME", |_, _, _| Ok(Catalog::embedded()?.kernels.into_keys().collect())),
    ];

    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
        commands::run(&self.command, paths, ui).map(|()| 0)
    }
}

fn main() -> ExitCode {
    plugin::main::<Cli>()
}
