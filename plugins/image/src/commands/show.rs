//! `banger image show`.

use banger::banger_image::oci::ImageConfig;
use banger::error::CommandError;
use banger::output::table::facts;
use banger::output::ui::Ui;
use banger::output::units::bytes;
use banger::store::images::Images;
use serde::Serialize;

use super::Shown;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    image: Shown,
    /// How it wants to be run, if it was pulled.
    config: Option<ImageConfig>,
    /// The digests of its layers without their compression, if it was pulled.
    layers: Option<Vec<String>>,
}

pub(super) fn show(named: &str, images: &Images<'_>, ui: &Ui) -> Result<(), CommandError> {
    let name = Images::store_name(named);
    let image = match images.store().image(&name)? {
        Some(image) => image,
        None => return Err(images.store().not_here(&name)?.into()),
    };
    let vms = images.in_use().by_images(std::slice::from_ref(&image.name))?;
    let origin = image.manifest.oci.as_ref();
    let answer = Answer {
        config: origin.map(|origin| origin.config.clone()),
        layers: origin.map(|origin| origin.layers.iter().map(ToString::to_string).collect()),
        image: Shown::new(&image, images, vms)?,
    };
    ui.answer(&answer, || text(&answer))
}

fn text(answer: &Answer) -> String {
    let image = &answer.image;
    let mut lines = vec![
        ("name", image.name.clone()),
        ("folder", image.folder.clone()),
        ("source", image.source.clone()),
        ("kernel", image.kernel.clone()),
        ("disk", bytes(image.disk_bytes)),
    ];
    lines.extend(image.digest.clone().map(|digest| ("digest", digest)));
    lines.extend(image.platform.clone().map(|platform| ("platform", platform)));
    lines.extend(answer.layers.as_ref().map(|layers| ("layers", layers.len().to_string())));
    if let Some(config) = &answer.config {
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
