//! `banger image pull`.

use std::collections::HashSet;

use banger::banger_image::oci::{Digest, PullOptions, Reference, Source};
use banger::banger_image::{Change, Image, ImageManifest};
use banger::error::CommandError;
use banger::output::ui::Ui;
use banger::output::units::{bytes, count};
use banger::store::images::Images;
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    /// The name of its folder, which VMs know it by.
    folder: String,
    source: String,
    /// The digest of its manifest if it was pulled from a registry or an archive, of its bundle if
    /// it is of a catalog's.
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
    let (name, pulled) = if Reference::is_meant_by(named) {
        let source = Source::parse(named)?;
        let name = name.map_or_else(|| source.store_name(), str::to_owned);
        let pulled = images.pull(&source, &name, kernel, options)?;
        (name, pulled)
    } else if name.is_some() {
        return Err(crate::usage("an image of the catalog keeps its name: `--name` is for those that are pulled"));
    } else if options.with_sshd {
        return Err(crate::usage(
            "`--with-sshd` is for images of a registry; for any: `banger config set first_boot_sshd true`",
        ));
    } else {
        (named.to_owned(), images.pull_named(named, options)?)
    };
    let manifest = &pulled.image.manifest;
    // It comes along: what was pulled can be used without the network.
    images.kernels().ensure(&manifest.kernel)?;
    let answer = match &pulled.change {
        Change::New => answer(&name, &pulled.image, "new", None),
        Change::None => answer(&name, &pulled.image, "unchanged", Some(manifest)),
        Change::Refreshed { before } => answer(&name, &pulled.image, "refreshed", before.as_deref()),
    };
    let (size, source) = (bytes(manifest.rootfs_bytes), &manifest.source);
    ui.status(&match &pulled.change {
        Change::New => format!("`{name}` is here ({size}): {source}"),
        Change::None if manifest.oci.is_none() && manifest.bundle.is_none() => {
            format!("`{name}` is here already: {source}")
        }
        Change::None => format!("`{name}` is up to date: {source}"),
        Change::Refreshed { .. } => format!("`{name}` is refreshed ({size}): {}", answer.difference()),
    });
    let vms: usize = images.store().outdated(&name)?.len();
    if vms > 0 {
        ui.status("VMs that were made from the one before keep that one, until they are deleted");
    }
    ui.answer(&answer, String::new)
}

impl Answer {
    /// What is another, in words.
    fn difference(&self) -> String {
        match (&self.previous_digest, &self.digest, self.new_layers, self.layers) {
            (Some(before), Some(now), Some(new), Some(all)) if before != now => {
                let layers = count(all as u64, "layer", "layers");
                format!("{new} of {layers} changed; it was {before}, and is {now}")
            }
            (Some(before), Some(now), ..) if before != now => format!("it was {before}, and is {now}"),
            (Some(_), Some(_), ..) => "the same content, for another kernel or start".to_owned(),
            _ => self.source.clone(),
        }
    }
}

fn answer(name: &str, image: &Image, change: &'static str, before: Option<&ImageManifest>) -> Answer {
    let origin = image.manifest.oci.as_ref();
    let had = before.and_then(|before| before.oci.as_ref()).map(|before| before.layers.iter().collect::<HashSet<_>>());
    let is_new = |layer: &&Digest| had.as_ref().is_none_or(|had| !had.contains(layer));
    Answer {
        name: name.to_owned(),
        folder: image.name.clone(),
        source: image.manifest.source.clone(),
        digest: super::digest(&image.manifest),
        change,
        previous_digest: before.and_then(super::digest),
        layers: origin.map(|origin| origin.layers.len()),
        new_layers: origin.map(|origin| origin.layers.iter().filter(is_new).count()),
    }
}
