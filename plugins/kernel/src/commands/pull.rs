//! `banger kernel pull`.

use banger::error::CommandError;
use banger::output::ui::Ui;
use banger::store::kernels::Kernels;
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    release: String,
    source: String,
    /// `new` or `unchanged`.
    change: &'static str,
}

pub(super) fn pull(name: &str, kernels: &Kernels<'_>, ui: &Ui) -> Result<(), CommandError> {
    let was_there = kernels.store().kernel(name)?.is_some();
    let kernel = kernels.ensure(name)?;
    let release = kernel.manifest.release.clone();
    ui.status(&match was_there {
        true => format!("`{name}` is here already ({release})"),
        false => format!("`{name}` is here ({release})"),
    });
    let change = if was_there { "unchanged" } else { "new" };
    let answer = Answer { name: kernel.name, release, source: kernel.manifest.source, change };
    ui.answer(&answer, String::new)
}
