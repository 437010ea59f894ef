//! `banger kernel delete`.

use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message};
use banger::store::kernels::Kernels;
use serde::Serialize;

/// A kernel that was deleted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DeletedKernel {
    /// The kernel's name.
    name: String,
    /// Always true: a kernel that stays is an error.
    deleted: bool,
}

/// Deletes a kernel.
///
/// # Errors
/// If there is none of this name, or images or VMs boot it.
pub(super) fn delete(name: &str, kernels: &Kernels<'_>) -> Result<DeletedKernel, CommandError> {
    kernels.delete(name)?;
    Ok(DeletedKernel { name: name.to_owned(), deleted: true })
}

impl CommandOutput for DeletedKernel {
    fn messages(&self) -> Vec<Message> {
        vec![Message::status(format!("deleted `{}`", self.name))]
    }
}
