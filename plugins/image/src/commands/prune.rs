//! `banger image prune`.

use std::env;

use banger::config::{Overrides, Settings, git_host};
use banger::error::CommandError;
use banger::git::Workspace;
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::output::units::{bytes, count};
use banger::store::images::{Images, Removed};

use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    /// Nothing was removed: this is what would be.
    dry_run: bool,
    removed: Vec<Entry>,
    /// Of all that was removed.
    freed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    /// The name of its folder.
    folder: String,
    bytes: u64,
}

pub(super) fn prune(dry_run: bool, images: &Images<'_>, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    // What the repository wants, if this is one, would have to be pulled again for its next VM.
    let here = env::current_dir().ok();
    let workspace = here.and_then(|here| Workspace::discover(&here, git_host(paths)).ok());
    let root = workspace.as_ref().map(|workspace| workspace.root.as_path());
    let settings = Settings::of_process(paths, root, &Overrides::default())?;
    let removed = images.prune(&settings.default_images(), dry_run)?;
    let freed_bytes = removed.iter().map(|image| image.bytes).sum();
    let verb = if dry_run { "would be removed" } else { "removed" };
    ui.status(&format!("{} {verb}, {} freed", count(removed.len() as u64, "image", "images"), bytes(freed_bytes)));
    let entry = |Removed { name, folder, bytes }| Entry { name, folder, bytes };
    let answer = Answer { dry_run, removed: removed.into_iter().map(entry).collect(), freed_bytes };
    ui.answer(&answer, || {
        answer.removed.iter().map(|image| format!("{}  {}\n", image.folder, bytes(image.bytes))).collect()
    })
}
