//! `banger du`.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Verbosity};
use crate::output::units::bytes;
use crate::store::disk_usage::allocated;

/// What banger takes of this machine's disks. What is half-made has a name that starts with a dot.
#[derive(Clone, Debug, Serialize)]
pub struct DiskUsage {
    /// VMs, with their disks.
    pub vms: Vec<DiskUsageItem>,
    /// Images in the store.
    pub images: Vec<DiskUsageItem>,
    /// Kernels in the store.
    pub kernels: Vec<DiskUsageItem>,
    /// What can be made again.
    pub caches: Vec<DiskUsageItem>,
    /// Bytes of all of them.
    pub total_bytes: u64,
}

/// A directory that is measured.
#[derive(Clone, Debug, Serialize)]
pub struct DiskUsageItem {
    /// The directory's name.
    pub name: String,
    /// Bytes that are allocated on disk, fewer than the length of a file with holes.
    pub bytes: u64,
}

/// Measures what banger takes of this machine's disks. What cannot be read counts nothing.
pub fn du(paths: &Paths) -> DiskUsage {
    let [vms, images, kernels] = ["vms", "images", "kernels"].map(|folder| items(&paths.data.join(folder)));
    let caches = items(&paths.cache);
    let total_bytes = [&vms, &images, &kernels, &caches].into_iter().flatten().map(|item| item.bytes).sum();
    DiskUsage { vms, images, kernels, caches, total_bytes }
}

impl CommandOutput for DiskUsage {
    fn text(&self, _verbosity: Verbosity) -> String {
        text(self)
    }
}

/// The directories in `folder`, without symbolic links and files.
fn items(folder: &Path) -> Vec<DiskUsageItem> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut items: Vec<_> = folders.map(|path| DiskUsageItem { name: name(&path), bytes: allocated(&path) }).collect();
    items.sort_by(|one, other| one.name.cmp(&other.name));
    items
}

fn text(usage: &DiskUsage) -> String {
    let kinds = [("vm", &usage.vms), ("image", &usage.images), ("kernel", &usage.kernels), ("cache", &usage.caches)];
    let mut lines: Vec<_> = kinds
        .iter()
        .flat_map(|(kind, items)| items.iter().map(move |item| (bytes(item.bytes), *kind, item.name.as_str())))
        .collect();
    lines.push((bytes(usage.total_bytes), "total", ""));
    let line = |(size, kind, name): &(String, &str, &str)| {
        format!("{size:>9}  {kind:<6}  {}", banger_vmm::printable(name.as_bytes()))
    };
    lines.iter().map(|parts| line(parts).trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_print_one_line_each_and_a_total() {
        let item = |name: &str, bytes| DiskUsageItem { name: name.into(), bytes };
        let usage = DiskUsage {
            vms: vec![item("repo-1", 1_500_000)],
            images: vec![item("deb\nian", 300_000_000)],
            kernels: Vec::new(),
            caches: vec![item("initramfs", 2_000)],
            total_bytes: 301_502_000,
        };
        let lines =
            "   1.5 MB  vm      repo-1\n 300.0 MB  image   deb^Jian\n   2.0 kB  cache   initramfs\n 301.5 MB  total\n";
        assert_eq!(text(&usage), lines);
    }
}
