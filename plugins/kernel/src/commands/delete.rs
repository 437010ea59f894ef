//! `banger kernel delete`.

use banger::error::CommandError;
use banger::output::ui::Ui;
use banger::store::kernels::Kernels;
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    name: &'a str,
    deleted: bool,
}

pub(super) fn delete(name: &str, kernels: &Kernels<'_>, ui: &Ui) -> Result<(), CommandError> {
    kernels.delete(name)?;
    ui.status(&format!("deleted `{name}`"));
    ui.answer(&Answer { name, deleted: true }, String::new)
}
