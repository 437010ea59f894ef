//! `banger image register`.

use std::path::{Path, absolute};

use banger::error::CommandError;
use banger::output::ui::Ui;
use banger::output::units::bytes;
use banger::store::images::Images;

use super::Shown;

pub(super) fn register(
    name: &str,
    rootfs: &Path,
    kernel: &str,
    images: &Images<'_>,
    ui: &Ui,
) -> Result<(), CommandError> {
    let rootfs = absolute(rootfs).map_err(|error| CommandError::io("find", rootfs, &error))?;
    let image = images.register(name, &rootfs, kernel)?;
    ui.status(&format!("`{name}` is here ({}): {}", bytes(image.manifest.rootfs_bytes), image.manifest.source));
    ui.answer(&Shown::new(&image, images, Vec::new())?, String::new)
}
