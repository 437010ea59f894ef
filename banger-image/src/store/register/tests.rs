//! Files that are images, and files that are none.

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::bundle::tests::rootfs;
use crate::progress::Silent;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("data"));
    (folder, store)
}

#[test]
fn register_copies_the_file_and_keeps_the_original() {
    let (folder, store) = store();
    let path = rootfs(folder.path(), "one");
    let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let image = store.register("base", &path, "generic-6.12", &Silent).unwrap();
    assert_eq!((image.name.as_str(), image.manifest.kernel.as_str()), ("base", "generic-6.12"));
    assert_eq!(image.manifest.source, format!("file {}", path.display()));
    assert!(fs::read(&image.rootfs).unwrap() == before.0);
    assert_eq!((fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap()), before);
    fs::remove_file(&path).unwrap();
    assert_eq!(store.image("base").unwrap().unwrap(), image);
    let error = store.register("base", &rootfs(folder.path(), "two"), "generic-6.12", &Silent).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }) && error.hint().unwrap().contains("image delete base"), "{error}");
}

#[test]
fn register_refuses_invalid_images() {
    let (folder, store) = store();
    let good = rootfs(folder.path(), "good");
    let bytes = fs::read(&good).unwrap();
    let write = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut damaged = bytes.clone();
    damaged[4096 + 4] ^= 0x10;
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let cases = [
        (write("empty", b""), "too short"),
        (write("text", &b"no file system\n".repeat(1000)), "no ext4 file system"),
        (write("cut", &bytes[..bytes.len() - 4096]), "cut short"),
        (write("damaged", &damaged), "damaged"),
        (fifo, "no file"),
        (folder.path().to_owned(), "no file"),
        (folder.path().join("missing"), "missing"),
    ];
    for (path, reason) in cases {
        let error = store.register("base", &path, "generic-6.12", &Silent).unwrap_err().to_string();
        assert!(error.contains(reason), "{}: {error}", path.display());
        let is_there = path.exists();
        assert_eq!(error.starts_with(&format!("cannot open `{}`: No such file", path.display())), !is_there, "{error}");
    }
    // One that is in use: its journal is to be replayed.
    let used = folder.path().join("used");
    let make = format!(
        "/usr/sbin/mke2fs -q -F -t ext4 {0} 16M && /usr/sbin/debugfs -w -R 'feature needs_recovery' {0}",
        used.display()
    );
    assert!(Command::new("sh").args(["-c", &make]).output().unwrap().status.success());
    let error = store.register("base", &used, "generic-6.12", &Silent).unwrap_err().to_string();
    assert!(error.contains("not unmounted"), "{error}");
    for (name, kernel) in [("../x", "generic-6.12"), ("debian-bookworm-minimal", "generic-6.12"), ("base", "no-kernel")]
    {
        store.register(name, &good, kernel, &Silent).unwrap_err();
    }
    assert!(store.images().unwrap().is_empty() && store.leftovers().unwrap().is_empty());
    let error = store.export("base", Vec::new(), &Silent).unwrap_err();
    assert!(matches!(error, Error::NotHere { .. }), "{error}");
}
