//! `banger kernel list`.

use std::time::{Duration, SystemTime};

use banger::banger_vmm::printable;
use banger::error::CommandError;
use banger::output::table::table;
use banger::output::ui::Ui;
use banger::output::units::{ago, bytes};
use banger::store::kernels::Kernels;
use serde::Serialize;

use super::Shown;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct List {
    kernels: Vec<Shown>,
}

pub(super) fn list(kernels: &Kernels<'_>, ui: &Ui) -> Result<(), CommandError> {
    let there = kernels.store().kernels()?;
    let list = List { kernels: there.iter().map(|kernel| Shown::new(kernel, kernels)).collect::<Result<_, _>>()? };
    if list.kernels.is_empty() {
        ui.status("there is no kernel yet: `banger kernel pull NAME` gets one, and so does the first run of a command");
    }
    ui.answer(&list, || if ui.is_quiet() { names(&list) } else { text(&list) })
}

fn names(list: &List) -> String {
    list.kernels.iter().map(|kernel| format!("{}\n", kernel.name)).collect()
}

fn text(list: &List) -> String {
    if list.kernels.is_empty() {
        return String::new();
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let lines = list.kernels.iter().map(|kernel| {
        [
            kernel.name.clone(),
            printable(kernel.release.as_bytes()),
            bytes(kernel.disk_bytes),
            ago(Duration::from_secs(now.saturating_sub(kernel.created))),
            kernel.images.len().to_string(),
            kernel.vms.len().to_string(),
            printable(kernel.source.as_bytes()),
        ]
    });
    table(["NAME", "RELEASE", "DISK", "MADE", "IMAGES", "VMS", "SOURCE"], lines)
}
