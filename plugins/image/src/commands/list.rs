//! `banger image list`.

use std::time::{Duration, SystemTime};

use banger::banger_vmm::printable;
use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message, Verbosity};
use banger::output::table::table;
use banger::output::units::{ago, bytes};
use banger::store::images::Images;
use serde::Serialize;

use super::ImageEntry;

/// The images in the store.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ImageList {
    images: Vec<ImageEntry>,
}

/// Lists the images in the store.
///
/// # Errors
/// If the store of images, or that of VMs, cannot be read.
pub(super) fn list(images: &Images<'_>) -> Result<ImageList, CommandError> {
    let there = images.store().images()?;
    let entries = there.iter().map(|image| {
        let vms = images.in_use().by_images(std::slice::from_ref(&image.name))?;
        ImageEntry::new(image, images, vms)
    });
    Ok(ImageList { images: entries.collect::<Result<_, _>>()? })
}

impl CommandOutput for ImageList {
    fn messages(&self) -> Vec<Message> {
        let none = "there is no image yet: `banger image pull NAME` gets one, and so does the first run of a command";
        self.images.is_empty().then(|| Message::status(none)).into_iter().collect()
    }

    fn text(&self, verbosity: Verbosity) -> String {
        if verbosity.quiet { names(self) } else { text(self) }
    }
}

fn names(list: &ImageList) -> String {
    let mut names: Vec<_> = list.images.iter().map(|image| format!("{}\n", image.name)).collect();
    names.dedup();
    names.concat()
}

fn text(list: &ImageList) -> String {
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
