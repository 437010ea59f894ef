//! Judged by the kernel: mounts in a mount namespace of the test's own. Who may not mount, or has
//! no loop device, passes.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::makedev;

use super::image::{ACL, CAPABILITY, everything};
use super::*;

/// Mounts an image, and looks at it in a thread that alone sees the mount.
fn mounted(image: &Image, look: impl FnOnce(&Path) + Send) {
    let place = image.folder.path().join("mounted");
    fs::create_dir(&place).unwrap();
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNS).is_err() {
                return;
            }
            let run = |command: &mut Command| command.output().unwrap().status.success();
            let mount = ["-n", "--make-rprivate", "/"];
            let options = "loop,noinit_itable";
            if !run(Command::new("mount").args(mount))
                || !run(Command::new("mount").args(["-n", "-o", options]).arg(&image.path).arg(&place))
            {
                return;
            }
            look(&place);
            assert!(run(Command::new("umount").args(["-n"]).arg(&place)));
        });
        looking.join().unwrap();
    });
    image.assert_clean();
}

#[test]
fn every_entry_type_is_read_by_the_kernel() {
    for options in [
        Options { metadata_checksums: true, ..Options::disk(1 << 30) },
        Options { metadata_checksums: false, ..Options::image() },
        Options::image(),
    ] {
        mounted(&write(options, everything), |root| {
            let stat = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
            let su = stat("bin/su");
            assert_eq!((su.mode(), su.mtime(), su.mtime_nsec()), (0o104_755, TIME.seconds, 123_456_789));
            assert_eq!((stat("secret").uid(), stat("secret").gid()), (70_000, u32::MAX - 1));
            assert_eq!(stat("dev/null").rdev(), makedev(1, 3));
            assert_eq!(stat("dev/sda").rdev(), makedev(8, 300));
            assert_eq!(stat("dev/odd").rdev(), makedev(4095, 0xf_ffff));
            assert!(stat("run/fifo").file_type().is_fifo() && stat("run/socket").file_type().is_socket());
            assert_eq!((stat("bin/ping").ino(), stat("bin/ping").nlink()), (stat("bin/pong").ino(), 2));
            for (link, length) in [("short", 59), ("middling", 60), ("longest", 4095)] {
                assert_eq!(fs::read_link(root.join(link)).unwrap().as_os_str().len(), length);
            }
            assert_eq!(fs::read(root.join("large")).unwrap(), noise(3 << 20, 9));
            assert_eq!(fs::read(root.join(std::ffi::OsStr::from_bytes(&[0xff; 255]))).unwrap(), b"bytes");
            let xattr = |path: &str, name: &str| xattr::get(root.join(path), name).unwrap().unwrap();
            assert_eq!(xattr("bin/ping", "security.capability"), CAPABILITY);
            assert_eq!(xattr("listed", "system.posix_acl_access"), ACL);
            assert_eq!(xattr("noted", "user.note"), b"two \"words\"\0\xff");
            assert_eq!(xattr("noted", "trusted.empty"), b"");
            for (name, value) in [("user.a", vec![1; 3000]), ("user.b", vec![2; 900]), ("user.c", b"c".to_vec())] {
                assert_eq!(xattr("much", name), value);
            }
        });
    }
}

#[test]
fn image_stays_valid_after_kernel_writes() {
    for metadata_checksums in [false, true] {
        let options = Options { metadata_checksums, ..Options::disk(disk::SIZE) };
        mounted(&write(options, disk::workspace), |root| {
            assert_eq!(fs::read_dir(root.join("repo/folder 3")).unwrap().count(), 52);
            fs::create_dir(root.join("new")).unwrap();
            for number in 0..3000 {
                fs::write(root.join(format!("repo/folder 1/new {number}")), number.to_string()).unwrap();
                fs::copy(root.join("repo/folder 4/7"), root.join(format!("new/{number}"))).unwrap();
            }
            fs::remove_dir_all(root.join("repo/folder 2")).unwrap();
            fs::write(root.join("large"), noise(100 << 20, 8)).unwrap();
            fs::OpenOptions::new()
                .append(true)
                .open(root.join("repo/folder 5/40"))
                .and_then(|mut file| std::io::Write::write_all(&mut file, &noise(1 << 20, 3)))
                .unwrap();
        });
    }
}

#[test]
fn directory_index_works_in_the_kernel() {
    let names: Vec<String> = (0..5000).map(|number| format!("{number}-{}", "ü".repeat(number % 60))).collect();
    let image = write(Options { hash_seed: [5; 16], metadata_checksums: true, ..Options::disk(1 << 30) }, |writer| {
        for name in &names {
            writer.file(format!("folder/{name}").as_bytes(), mode(0o644), &mut &b""[..]).unwrap();
        }
    });
    mounted(&image, |root| {
        for (number, name) in names.iter().enumerate() {
            let path = root.join("folder").join(name);
            assert!(path.is_file(), "{name}");
            if number % 3 == 0 {
                fs::rename(&path, root.join(format!("folder/renamed {number}"))).unwrap();
            }
        }
    });
}
