//! `banger image delete`.

use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message};
use banger::store::images::Images;
use serde::Serialize;

/// An image that was deleted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DeletedImage {
    /// The image's name.
    name: String,
    /// The names of the directories that are gone: one for each time it was pulled and had changed.
    deleted: Vec<String>,
}

/// Deletes the image that is named, or referred to.
///
/// # Errors
/// If there is none, or VMs were made from it.
pub(super) fn delete(named: &str, images: &Images<'_>) -> Result<DeletedImage, CommandError> {
    let name = Images::store_name(named);
    let deleted = images.delete(&name)?;
    Ok(DeletedImage { name, deleted })
}

impl CommandOutput for DeletedImage {
    fn messages(&self) -> Vec<Message> {
        vec![Message::status(format!("deleted `{}`", self.name))]
    }
}
