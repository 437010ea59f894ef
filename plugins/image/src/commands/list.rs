//! `banger image list`.

use std::time::{Duration, SystemTime};

use banger::banger_vmm::printable;
use banger::error::CommandError;
use banger::output::table::table;
use banger::output::ui::Ui;
use banger::output::units::{ago, bytes};
use banger::store::images::Images;
use serde::Serialize;

use super::Shown;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct List {
    images: Vec<Shown>,
}

pub(super) fn list(images: &Images<'_>, ui: &Ui) -> Result<(), CommandError> {
    let there = images.store().images()?;
    let shown = there.iter().map(|image| {
        let vms = images.in_use().by_images(std::slice::from_ref(&image.name))?;
        Shown::new(image, images, vms)
    });
    let list = List { images: shown.collect::<Result<_, _>>()? };
    if list.images.is_empty() {
        ui.status("there is no image yet: `banger image pull NAME` gets one, and so does the first run of a command");
    }
    ui.answer(&list, || if ui.is_quiet() { names(&list) } else { text(&list) })
}

fn names(list: &List) -> String {
    let mut names: Vec<_> = list.images.iter().map(|image| format!("{}\n", image.name)).collect();
    names.dedup();
    names.concat()
}

fn text(list: &List) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    if list.images.is_empty() {
        return String::new();
    }
    let lines = list.images.iter().map(|image| {
        let name = if image.outdated { format!("{} (outdated)", image.folder) } else { image.name.clone() };
        [
            name,
            bytes(image.disk_bytes),
            ago(Duration::from_secs(now.saturating_sub(image.created))),
            image.vms.len().to_string(),
            printable(image.source.as_bytes()),
        ]
    });
    table(["NAME", "DISK", "MADE", "VMS", "SOURCE"], lines)
}
