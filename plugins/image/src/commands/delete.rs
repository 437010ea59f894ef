//! `banger image delete`.

use banger::error::CommandError;
use banger::output::ui::Ui;
use banger::store::images::Images;
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    /// The names of the folders that are gone: one for each time it was pulled and had changed.
    deleted: Vec<String>,
}

pub(super) fn delete(named: &str, images: &Images<'_>, ui: &Ui) -> Result<(), CommandError> {
    let name = Images::store_name(named);
    let deleted = images.delete(&name)?;
    ui.status(&format!("deleted `{name}`"));
    ui.answer(&Answer { name, deleted }, String::new)
}
