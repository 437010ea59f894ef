//! `banger image prune`.

use std::env;

use banger::config::{Overrides, Settings, git_host};
use banger::error::CommandError;
use banger::git::Workspace;
use banger::host::paths::Paths;
use banger::output::command_output::{CommandOutput, Message, Verbosity};
use banger::output::units::{bytes, count};
use banger::store::images::{Images, Removed};

use serde::Serialize;

/// The images that were removed, or with `dry_run` would be.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PrunedImages {
    /// Whether nothing was removed.
    dry_run: bool,
    /// The images.
    removed: Vec<PrunedImage>,
    /// Bytes of all of them.
    freed_bytes: u64,
}

/// An image that was removed.
#[derive(Clone, Debug, Serialize)]
struct PrunedImage {
    /// The image's name.
    name: String,
    /// The name of its directory.
    folder: String,
    /// Bytes that it took on this machine's disks.
    bytes: u64,
}

/// Removes all images that no VM was made from, but for those that new VMs are made from by
/// default, and those that were made of files of this machine.
///
/// # Errors
/// If the configuration or a store cannot be read, or an image cannot be removed.
pub(super) fn prune(dry_run: bool, images: &Images<'_>, paths: &Paths) -> Result<PrunedImages, CommandError> {
    // What the repository wants, if this is one, would have to be pulled again for its next VM.
    let here = env::current_dir().ok();
    let workspace = here.and_then(|here| Workspace::discover(&here, git_host(paths)).ok());
    let root = workspace.as_ref().map(|workspace| workspace.root.as_path());
    let settings = Settings::of_process(paths, root, &Overrides::default())?;
    let removed = images.prune(&settings.default_images(), dry_run)?;
    let freed_bytes = removed.iter().map(|image| image.bytes).sum();
    let image = |Removed { name, folder, bytes }| PrunedImage { name, folder, bytes };
    Ok(PrunedImages { dry_run, removed: removed.into_iter().map(image).collect(), freed_bytes })
}

impl CommandOutput for PrunedImages {
    fn messages(&self) -> Vec<Message> {
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        let images = count(self.removed.len() as u64, "image", "images");
        vec![Message::status(format!("{images} {verb}, {} freed", bytes(self.freed_bytes)))]
    }

    fn text(&self, _verbosity: Verbosity) -> String {
        self.removed.iter().map(|image| format!("{}  {}\n", image.folder, bytes(image.bytes))).collect()
    }
}
