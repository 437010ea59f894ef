//! `banger du`.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::output::units::bytes;
use crate::store::disk_usage::allocated;

/// The answer, as `--json` has it. What is half-made has a name that starts with a dot.
#[derive(Debug, Serialize)]
struct Usage {
    vms: Vec<Item>,
    images: Vec<Item>,
    kernels: Vec<Item>,
    /// What can be made again.
    caches: Vec<Item>,
    total_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Item {
    name: String,
    /// Allocated on this machine's disks, which is less than the length of a file with holes.
    bytes: u64,
}

/// Shows what banger's things take of the disk, on standard output.
///
/// # Errors
/// If the answer cannot be printed.
pub fn du(paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let [vms, images, kernels] = ["vms", "images", "kernels"].map(|folder| items(&paths.data.join(folder)));
    let caches = items(&paths.cache);
    let total_bytes = [&vms, &images, &kernels, &caches].into_iter().flatten().map(|item| item.bytes).sum();
    let usage = Usage { vms, images, kernels, caches, total_bytes };
    ui.answer(&usage, || text(&usage))
}

/// The folders in `folder`, without links to them. Locks and the like beside them are no things of
/// anybody's.
fn items(folder: &Path) -> Vec<Item> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut items: Vec<_> = folders.map(|path| Item { name: name(&path), bytes: allocated(&path) }).collect();
    items.sort_by(|one, other| one.name.cmp(&other.name));
    items
}

fn text(usage: &Usage) -> String {
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
    fn every_thing_has_a_line_and_the_sum_another() {
        let item = |name: &str, bytes| Item { name: name.into(), bytes };
        let usage = Usage {
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
