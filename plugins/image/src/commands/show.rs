//! `banger image show`.

use banger::banger_image::oci::ImageConfig;
use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Verbosity};
use banger::output::table::facts;
use banger::output::units::bytes;
use banger::store::images::Images;
use serde::Serialize;

use super::ImageEntry;

/// All that is known of an image.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ImageDetails {
    #[serde(flatten)]
    image: ImageEntry,
    /// How the image wants to be run, if it was pulled.
    config: Option<ImageConfig>,
    /// The digests of its layers without their compression, if it was pulled.
    layers: Option<Vec<String>>,
}

/// The image that is named, or referred to.
///
/// # Errors
/// If there is none, or the store of VMs cannot be read.
pub(super) fn show(named: &str, images: &Images<'_>) -> Result<ImageDetails, CommandError> {
    let name = Images::store_name(named);
    let image = match images.store().image(&name)? {
        Some(image) => image,
        None => return Err(images.store().not_here(&name)?.into()),
    };
    let vms = images.in_use().by_images(std::slice::from_ref(&image.name))?;
    let origin = image.manifest.oci.as_ref();
    Ok(ImageDetails {
        config: origin.map(|origin| origin.config.clone()),
        layers: origin.map(|origin| origin.layers.iter().map(ToString::to_string).collect()),
        image: ImageEntry::new(&image, images, vms)?,
    })
}

impl CommandOutput for ImageDetails {
    fn text(&self, _verbosity: Verbosity) -> String {
        text(self)
    }
}

fn text(details: &ImageDetails) -> String {
    let image = &details.image;
    let mut lines = vec![
        ("name", image.name.clone()),
        ("folder", image.folder.clone()),
        ("source", image.source.clone()),
        ("kernel", image.kernel.clone()),
        ("disk", bytes(image.disk_bytes)),
    ];
    lines.extend(image.digest.clone().map(|digest| ("digest", digest)));
    lines.extend(image.platform.clone().map(|platform| ("platform", platform)));
    lines.extend(details.layers.as_ref().map(|layers| ("layers", layers.len().to_string())));
    if let Some(config) = &details.config {
        lines.extend(config.env.iter().map(|entry| ("env", entry.clone())));
        lines.extend(config.user.clone().map(|user| ("user", user)));
        lines.extend(config.working_dir.clone().map(|folder| ("workdir", folder)));
        let words = |words: &[String]| format!("{words:?}");
        lines.extend((!config.entrypoint.is_empty()).then(|| ("entrypoint", words(&config.entrypoint))));
        lines.extend((!config.cmd.is_empty()).then(|| ("cmd", words(&config.cmd))));
    }
    lines.extend(image.vms.iter().map(|vm| ("vm", vm.clone())));
    facts(&lines)
}
