//! `banger kernel list`.

use std::time::{Duration, SystemTime};

use banger::banger_vmm::printable;
use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message, Verbosity};
use banger::output::table::table;
use banger::output::units::{ago, bytes};
use banger::store::kernels::Kernels;
use serde::Serialize;

use super::KernelEntry;

/// The kernels in the store.
#[derive(Clone, Debug, Serialize)]
pub(super) struct KernelList {
    kernels: Vec<KernelEntry>,
}

/// Lists the kernels in the store.
///
/// # Errors
/// If a store cannot be read.
pub(super) fn list(kernels: &Kernels<'_>) -> Result<KernelList, CommandError> {
    let there = kernels.store().kernels()?;
    let entries = there.iter().map(|kernel| KernelEntry::new(kernel, kernels));
    Ok(KernelList { kernels: entries.collect::<Result<_, _>>()? })
}

impl CommandOutput for KernelList {
    fn messages(&self) -> Vec<Message> {
        let none = "there is no kernel yet: `banger kernel pull NAME` gets one, and so does the first run of a command";
        self.kernels.is_empty().then(|| Message::status(none)).into_iter().collect()
    }

    fn text(&self, verbosity: Verbosity) -> String {
        if verbosity.quiet { names(self) } else { text(self) }
    }
}

fn names(list: &KernelList) -> String {
    list.kernels.iter().map(|kernel| format!("{}\n", kernel.name)).collect()
}

fn text(list: &KernelList) -> String {
    if list.kernels.is_empty() {
        return String::new();
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let lines = list.kernels.iter().map(|kernel| {
        [
            kernel.name.clone(),
            printable(kernel.release.as_bytes()),
            bytes(kernel.disk_bytes),
            ago(Duration::from_secs(now.saturating_sub(kernel.created))),
            kernel.images.len().to_string(),
            kernel.vms.len().to_string(),
            printable(kernel.source.as_bytes()),
        ]
    });
    table(["NAME", "RELEASE", "DISK", "MADE", "IMAGES", "VMS", "SOURCE"], lines)
}
