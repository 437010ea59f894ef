//! `banger image register`.

use std::path::{Path, absolute};

use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message};
use banger::output::units::bytes;
use banger::store::images::Images;
use serde::Serialize;

use super::ImageEntry;

/// An image that was taken into the store.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct RegisteredImage(ImageEntry);

/// Takes a copy of the root file system at `rootfs`, an ext4 image, into the store.
///
/// # Errors
/// If it is no such file system, the name is taken, or there is no such kernel.
pub(super) fn register(
    name: &str,
    rootfs: &Path,
    kernel: &str,
    images: &Images<'_>,
) -> Result<RegisteredImage, CommandError> {
    let rootfs = absolute(rootfs).map_err(|error| CommandError::io("find", rootfs, &error))?;
    let image = images.register(name, &rootfs, kernel)?;
    Ok(RegisteredImage(ImageEntry::new(&image, images, Vec::new())?))
}

impl CommandOutput for RegisteredImage {
    fn messages(&self) -> Vec<Message> {
        let ImageEntry { name, rootfs_bytes, source, .. } = &self.0;
        vec![Message::status(format!("`{name}` is here ({}): {source}", bytes(*rootfs_bytes)))]
    }
}
