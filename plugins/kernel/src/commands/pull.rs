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
    /// `new` or `unchanged`.
    change: &'static str,
}

/// Gets a kernel of a catalog, unless it is in the store.
///
/// # Errors
/// If it cannot be had.
pub(super) fn pull(name: &str, kernels: &Kernels<'_>) -> Result<PulledKernel, CommandError> {
    let was_there = kernels.store().kernel(name)?.is_some();
    let kernel = kernels.ensure(name)?;
    let change = if was_there { "unchanged" } else { "new" };
    let (release, source) = (kernel.manifest.release, kernel.manifest.source);
    Ok(PulledKernel { name: kernel.name, release, source, change })
}

impl CommandOutput for PulledKernel {
    fn messages(&self) -> Vec<Message> {
        let already = if self.change == "unchanged" { " already" } else { "" };
        vec![Message::status(format!("`{}` is here{already} ({})", self.name, self.release))]
    }
}
