//! The kernel's own file systems, and the move from the initramfs into the guest's root.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

use nix::libc::O_NOCTTY;
use nix::mount::{MsFlags, mount};
use nix::sys::termios::tcdrain;
use nix::unistd::{chdir, chroot, dup2_stderr, dup2_stdin, dup2_stdout};

use super::BootError;
use super::power;
use super::root::NEW_ROOT;
use super::tree::Tree;

/// Kind, place and options, in order. The flags are those that systemd mounts them with.
const FILESYSTEMS: [(&str, &str, MsFlags, &str); 7] = [
    ("devtmpfs", "/dev", NOSUID, "mode=755"),
    ("proc", "/proc", HARDENED, ""),
    ("sysfs", "/sys", HARDENED, ""),
    ("devpts", "/dev/pts", NOSUID_NOEXEC, "mode=620,gid=5,ptmxmode=666"),
    ("tmpfs", "/dev/shm", NOSUID_NODEV, "mode=1777"),
    ("cgroup2", CGROUPS, HARDENED, CGROUP_OPTIONS),
    ("tmpfs", "/run", NOSUID_NODEV, "mode=755,size=20%"),
];
const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUP_OPTIONS: &str = "nsdelegate,memory_recursiveprot";
const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NOSUID_NOEXEC: MsFlags = NOSUID.union(MsFlags::MS_NOEXEC);
const NOSUID_NODEV: MsFlags = NOSUID.union(MsFlags::MS_NODEV);
const HARDENED: MsFlags = NOSUID_NOEXEC.union(MsFlags::MS_NODEV);

/// udev makes these too, but later than the first command may want them.
pub(super) const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// The folder of banger's own files in the guest.
pub(super) const RUN_DIR: &str = "/run/banger";

/// Mounts the kernel's file systems in the initramfs; [`enter`] takes them along.
pub(super) fn mount_all() -> Result<(), BootError> {
    for (kind, place, flags, options) in FILESYSTEMS {
        create_folder(Path::new(place), 0o755)?;
        mount_new(kind, Path::new(place), kind, flags, options)?;
    }
    for (target, link) in DEVICE_LINKS {
        symlink(target, link).map_err(BootError::io("create", Path::new(link)))?;
    }
    create_folder(Path::new(RUN_DIR), 0o755)?;
    create_folder(Path::new("/run/lock"), 0o1777)
}

/// Lets a process enter a control group, as each command does, without waiting for an RCU grace
/// period: 20 ms less in a translated guest. Kernels before 6.0 do not know the option, and are as
/// slow as they were.
pub(super) fn favour_groups() {
    let options = format!("{CGROUP_OPTIONS},favordynmods");
    let _ = mount(None::<&str>, CGROUPS, None::<&str>, HARDENED | MsFlags::MS_REMOUNT, Some(options.as_str()));
}

/// Makes the console the standard input, output and error, which systemd inherits.
pub(super) fn use_console() -> Result<(), BootError> {
    let path = Path::new("/dev/console");
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NOCTTY)
        .open(path)
        .map_err(BootError::io("open", path))?;
    dup2_stdin(&console)
        .and_then(|()| dup2_stdout(&console))
        .and_then(|()| dup2_stderr(&console))
        .map_err(BootError::system("use the console"))
}

/// Writes to the console and waits until it is out: power may go next. Best effort, as there is
/// nobody else to tell.
pub(super) fn write_to_console(text: &str) {
    let mut stderr = io::stderr();
    let _ = stderr.write_all(text.as_bytes());
    let _ = tcdrain(stderr);
}

/// Moves the kernel's file systems to the new root, makes it `/`, and enters it.
///
/// The initramfs stays reachable as `/run/initramfs`, where systemd looks for the program that
/// shuts down at last; the rest of its memory is freed.
pub(super) fn enter(tree: &Tree) -> Result<(), BootError> {
    let modules = Path::new("/modules");
    fs::remove_dir_all(modules).map_err(BootError::io("remove", modules))?;
    fs::rename("/init", power::SHUTDOWN).map_err(BootError::io("rename", Path::new("/init")))?;
    create_folder(Path::new(power::OLD_ROOT), 0o700)?;
    create_folder(Path::new(power::EXIT_ROOT), 0o700)?;
    mount_from("/", Path::new(power::EXIT_ROOT), MsFlags::MS_BIND)?;

    // /proc goes last: the places are reached through it.
    for folder in ["/dev", "/sys", "/run", "/proc"] {
        let place = tree.create_folder(folder, 0o755)?;
        mount_from(folder, &place.path(), MsFlags::MS_MOVE)?;
    }
    chdir(NEW_ROOT)
        .and_then(|()| mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(BootError::system("switch to the new root"))
}

/// Mounts a file system of its own.
pub(super) fn mount_new(
    source: &str,
    place: &Path,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), BootError> {
    mount(Some(source), place, Some(kind), flags, Some(options)).map_err(|errno| BootError::Mount {
        what: source.to_owned(),
        path: place.to_owned(),
        source: errno,
    })
}

/// Binds or moves what is there already.
pub(super) fn mount_from(source: &str, place: &Path, flags: MsFlags) -> Result<(), BootError> {
    mount(Some(source), place, None::<&str>, flags, None::<&str>).map_err(|errno| BootError::Mount {
        what: source.to_owned(),
        path: place.to_owned(),
        source: errno,
    })
}

/// Makes a folder and those above it, unless it exists.
pub(super) fn create_folder(path: &Path, mode: u32) -> Result<(), BootError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(BootError::io("create", path))
}

/// Writes a new file for everybody to read.
pub(super) fn write_file(path: &Path, content: &str) -> Result<(), BootError> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    created.and_then(|mut file| file.write_all(content.as_bytes())).map_err(BootError::io("write", path))
}
