//! `banger kernel pull`.

use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message};
use banger::store::kernels::Kernels;
use serde::Serialize;

/// A kernel that is in the store after a pull.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PulledKernel {
    /// The kernel's name.
    name: String,
    /// What `uname -r` says.
    release: String,
    /// What the kernel was made of.
    source: String,
    /// `new`, `unchanged` or `refreshed`.
    change: &'static str,
}

/// Gets a kernel of a catalog, unless it is in the store. One that an earlier version put there,
/// whatever it was made of, gets what Firecracker needs.
///
/// # Errors
/// If it cannot be had.
pub(super) fn pull(name: &str, kernels: &Kernels<'_>) -> Result<PulledKernel, CommandError> {
    let (kernel, change) = if kernels.store().kernel(name)?.is_some() {
        let (kernel, is_upgraded) = kernels.upgrade(name)?;
        (kernel, if is_upgraded { "refreshed" } else { "unchanged" })
    } else {
        (kernels.ensure(name)?, "new")
    };
    let (release, source) = (kernel.manifest.release, kernel.manifest.source);
    Ok(PulledKernel { name: kernel.name, release, source, change })
}

impl CommandOutput for PulledKernel {
    fn messages(&self) -> Vec<Message> {
        let PulledKernel { name, release, .. } = self;
        vec![Message::status(match self.change {
            "refreshed" => format!("`{name}` has what Firecracker needs now ({release})"),
            "unchanged" => format!("`{name}` is here already ({release})"),
            _ => format!("`{name}` is here ({release})"),
        })]
    }
}
