//! `banger kernel import`.

use std::path::Path;

use banger::error::CommandError;
use banger::output::ui::Ui;
use banger::output::units::count;
use banger::store::kernels::Kernels;
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    release: String,
    source: String,
    /// The modules that a boot loads first, in this order.
    boot_modules: Vec<String>,
}

pub(super) fn import(
    name: &str,
    kernel: &Path,
    modules: Option<&Path>,
    kernels: &Kernels<'_>,
    ui: &Ui,
) -> Result<(), CommandError> {
    let imported = kernels.import(name, kernel, modules)?.manifest;
    let loaded = count(imported.boot_modules.len() as u64, "module", "modules");
    ui.status(&match modules {
        Some(_) => format!("`{name}` is here ({}); a boot loads {loaded}", imported.release),
        None => {
            format!("`{name}` is here ({}), without modules: what a boot needs has to be built in", imported.release)
        }
    });
    let answer = Answer {
        name: imported.name,
        release: imported.release,
        source: imported.source,
        boot_modules: imported.boot_modules,
    };
    ui.answer(&answer, String::new)
}
