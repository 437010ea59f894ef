//! `banger image pull`.

use std::collections::HashSet;

use banger::banger_image::oci::{Digest, Origin, PullOptions, Reference, Source};
use banger::banger_image::{Change, Image};
use banger::error::CommandError;
use banger::images::Images;
use banger::ui::Ui;
use banger::units::{bytes, count};
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    /// The name of its folder, which VMs know it by.
    folder: String,
    source: String,
    /// The digest of its manifest, if it was pulled.
    digest: Option<String>,
    /// `new`, `unchanged` or `refreshed`.
    change: &'static str,
    /// The digest of what was called so before, if that is known.
    previous_digest: Option<String>,
    /// How many layers it has, and how many of them the one before did not have.
    layers: Option<usize>,
    new_layers: Option<usize>,
}

pub(super) fn pull(
    named: &str,
    name: Option<&str>,
    kernel: &str,
    options: &PullOptions,
    images: &Images<'_>,
    ui: &Ui,
) -> Result<(), CommandError> {
    if !Reference::is_meant_by(named) {
        if name.is_some() {
            return Err(crate::usage("an image of the catalog keeps its name: `--name` is for those that are pulled"));
        }
        let before = images.store().image(named)?.is_some();
        let image = images.ensure(named)?;
        let answer = answer(named, &image, if before { "unchanged" } else { "new" }, None);
        ui.status(&match before {
            true => format!("`{named}` is here already"),
            false => format!("`{named}` is here ({})", bytes(image.manifest.rootfs_bytes)),
        });
        return ui.answer(&answer, String::new);
    }
    let source = Source::parse(named)?;
    let name = name.map_or_else(|| source.store_name(), str::to_owned);
    let pulled = images.pull(&source, &name, kernel, options)?;
    let image = &pulled.image;
    let answer = match &pulled.change {
        Change::New => answer(&name, image, "new", None),
        Change::None => answer(&name, image, "unchanged", image.manifest.oci.as_ref()),
        Change::Refreshed { before } => answer(&name, image, "refreshed", before.as_deref()),
    };
    let size = bytes(image.manifest.rootfs_bytes);
    ui.status(&match (&pulled.change, &answer) {
        (Change::New, _) => format!("`{name}` is here ({size}): {source}"),
        (Change::None, _) => format!("`{name}` is up to date: {source}"),
        (
            Change::Refreshed { .. },
            Answer { previous_digest: Some(before), digest: Some(now), layers, new_layers, .. },
        ) => {
            let layers = count(layers.unwrap_or_default() as u64, "layer", "layers");
            let what = match new_layers {
                Some(new) if before != now => format!("{new} of {layers} changed; it was {before}, and is {now}"),
                _ => "the same content, for another kernel".to_owned(),
            };
            format!("`{name}` is refreshed ({size}): {what}")
        }
        (Change::Refreshed { .. }, _) => format!("`{name}` is refreshed ({size}): {source}"),
    });
    let vms: usize = images.store().outdated(&name)?.len();
    if vms > 0 {
        ui.status("VMs that were made from the one before keep that one, until they are deleted");
    }
    ui.answer(&answer, String::new)
}

fn answer(name: &str, image: &Image, change: &'static str, before: Option<&Origin>) -> Answer {
    let origin = image.manifest.oci.as_ref();
    let had: HashSet<&Digest> = before.iter().flat_map(|before| &before.layers).collect();
    Answer {
        name: name.to_owned(),
        folder: image.name.clone(),
        source: image.manifest.source.clone(),
        digest: origin.map(|origin| origin.digest.to_string()),
        change,
        previous_digest: before.map(|before| before.digest.to_string()),
        layers: origin.map(|origin| origin.layers.len()),
        new_layers: origin.map(|origin| origin.layers.iter().filter(|layer| !had.contains(layer)).count()),
    }
}
