//! What folders take on this machine's disks.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that are allocated for what is beneath `path`, each file counted once however often it is
/// linked. Links are not followed, but for `path` itself. What cannot be read, or goes meanwhile,
/// counts nothing.
pub fn allocated(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let own = fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    own + beneath(path, &mut seen)
}

fn beneath(folder: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += beneath(&entry.path(), seen);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocated_skips_holes_hard_links_and_symlink_targets() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("below")).unwrap();
        let empty = allocated(&root);
        fs::write(root.join("below/data"), vec![1; 1 << 20]).unwrap();
        let with_data = allocated(&root);
        assert!(with_data >= empty + (1 << 20));
        fs::hard_link(root.join("below/data"), root.join("again")).unwrap();
        fs::File::create(root.join("hole")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        assert!(allocated(&root) < with_data + (64 << 10));
        assert_eq!(allocated(&root.join("absent")), 0);
    }
}
