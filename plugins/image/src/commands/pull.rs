//! `banger image pull`.

use std::collections::HashSet;

use banger::banger_image::oci::{Digest, PullOptions, Reference, Source};
use banger::banger_image::{Change, Image, ImageManifest};
use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message};
use banger::output::units::{bytes, count};
use banger::store::images::Images;
use serde::Serialize;

/// An image that is in the store after a pull.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PulledImage {
    /// The image's name.
    name: String,
    /// The name of its directory, which VMs know it by.
    folder: String,
    /// What the image was made of.
    source: String,
    /// The digest of the manifest of an image that was pulled from a registry or an archive, of the
    /// bundle of a catalog's.
    digest: Option<String>,
    /// `new`, `unchanged` or `refreshed`.
    change: &'static str,
    /// The digest of the image that had the name before, if that is known.
    previous_digest: Option<String>,
    /// How many layers it has.
    layers: Option<usize>,
    /// How many layers the image before it did not have.
    new_layers: Option<usize>,
    /// Length of the root file system, in bytes.
    #[serde(skip)]
    rootfs_bytes: u64,
    /// Whether the image is of a registry, an archive or a bundle, so that it can be up to date.
    #[serde(skip)]
    has_origin: bool,
    /// Whether VMs keep an image that had the name before.
    #[serde(skip)]
    is_outdated_used: bool,
}

/// Pulls an image of a registry, an archive or a catalog, and the kernel that it boots.
///
/// # Errors
/// If the image or the kernel cannot be had, or the options are not for such an image.
pub(super) fn pull(
    named: &str,
    name: Option<&str>,
    kernel: &str,
    options: &PullOptions,
    images: &Images<'_>,
) -> Result<PulledImage, CommandError> {
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
    let is_outdated_used = !images.store().outdated(&name)?.is_empty();
    let (change, before) = match &pulled.change {
        Change::New => ("new", None),
        Change::None => ("unchanged", Some(manifest)),
        Change::Refreshed { before } => ("refreshed", before.as_deref()),
    };
    Ok(PulledImage { is_outdated_used, ..PulledImage::new(&name, &pulled.image, change, before) })
}

impl CommandOutput for PulledImage {
    fn messages(&self) -> Vec<Message> {
        let PulledImage { name, source, .. } = self;
        let size = bytes(self.rootfs_bytes);
        let mut messages = vec![Message::status(match self.change {
            "new" => format!("`{name}` is here ({size}): {source}"),
            "unchanged" if self.has_origin => format!("`{name}` is up to date: {source}"),
            "unchanged" => format!("`{name}` is here already: {source}"),
            _ => format!("`{name}` is refreshed ({size}): {}", self.difference()),
        })];
        if self.is_outdated_used {
            let kept = "VMs that were made from the one before keep that one, until they are deleted";
            messages.push(Message::status(kept));
        }
        messages
    }
}

impl PulledImage {
    fn new(name: &str, image: &Image, change: &'static str, before: Option<&ImageManifest>) -> PulledImage {
        let manifest = &image.manifest;
        let origin = manifest.oci.as_ref();
        let had = before.and_then(|before| before.oci.as_ref());
        let had = had.map(|before| before.layers.iter().collect::<HashSet<_>>());
        let is_new = |layer: &&Digest| had.as_ref().is_none_or(|had| !had.contains(layer));
        PulledImage {
            name: name.to_owned(),
            folder: image.name.clone(),
            source: manifest.source.clone(),
            digest: super::digest(manifest),
            change,
            previous_digest: before.and_then(super::digest),
            layers: origin.map(|origin| origin.layers.len()),
            new_layers: origin.map(|origin| origin.layers.iter().filter(is_new).count()),
            rootfs_bytes: manifest.rootfs_bytes,
            has_origin: origin.is_some() || manifest.bundle.is_some(),
            is_outdated_used: false,
        }
    }

    /// Describes what differs from the image that had the name before.
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
