//! `banger image`: pulls, lists, shows and deletes images. A plugin as others could be: it stands
//! on banger's library.

mod cli;
mod commands;

use std::process::ExitCode;

use banger::banger_image::Catalog;
use banger::cli::Global;
use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::plugin::{self, Program, Values};
use banger::store::images::Images;
use banger::store::kernels::Kernels;

use crate::cli::Cli;

impl Program for Cli {
    const VALUES: &[(&str, Values)] = &[
        ("IMAGE", |paths, ui, _| Images::new(paths, ui).names()),
        ("SOURCE", |_, _, _| Ok(Catalog::embedded()?.images.into_keys().collect())),
        ("KERNEL", |paths, ui, _| Kernels::new(paths, ui).names_for_images()),
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

/// A usage error of this command's own.
fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(message).kind(ErrorKind::Usage)
}
