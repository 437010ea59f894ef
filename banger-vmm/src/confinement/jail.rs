//! A VMM that Firecracker's jailer runs (docs/jailer.md of Firecracker). The jailer has root's
//! rights: it makes the devices in a directory, has this be its root directory, becomes an ordinary
//! user, and runs the VMM.
//!
//! The directory is the VM's run directory, so that the supervisor sees what the VMM makes there,
//! with the VM's files mounted in it. In these mounts, root's files are that user's (idmapped
//! mounts, mount_setattr(2)). The owner of no file changes, so nothing has to be changed back. The
//! mounts are in the launcher's mount namespace and go with it.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, pause, pipe};
use serde::{Deserialize, Serialize};

use crate::host::die_with;

/// Where the jailer finds its directories in the launcher's root directory.
const BASE: &str = "/.jail";
/// What the jailer makes in its directory: the devices, and an empty one.
const DEVICES: &str = "dev";
const EMPTY: &str = "run";
/// Directories and devices, nothing else, are kept with the devices.
const DEVICES_OPTIONS: &str = "mode=0755,size=64k,nr_inodes=64";
/// The VMM's program is kept in memory, with as much around it, in bytes.
const BESIDE_PROGRAM: u64 = 1 << 20;

/// How the jailer runs a VMM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Jail {
    /// The jailer.
    pub(crate) jailer: PathBuf,
    /// Whom it becomes. Neither is root's.
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// The VM's name, for people: letters, digits and `-`.
    pub(crate) id: String,
    /// The files that the VMM finds in its root directory, each with its name there.
    pub(crate) files: Vec<(String, PathBuf)>,
}

/// What could not be done, as in "cannot …", and the kernel's refusal.
pub(super) type Refusal = (String, io::Error);

fn refused(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Refusal {
    move |error| (format!("{action} {}", path.display()), error)
}

/// A user namespace in which root's files are another user's. No process is in it.
pub(super) struct Owners(OwnedFd);

impl Owners {
    /// To be called while there is one thread, before this process has children in another pid
    /// namespace.
    pub(super) fn map(jail: &Jail) -> io::Result<Owners> {
        let ((ready, told), launcher) = (pipe()?, getpid());
        // SAFETY: there is no other thread, so the child may do what it likes.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(ready);
                let made = unshare(CloneFlags::CLONE_NEWUSER).is_ok() && die_with(launcher).is_ok();
                let _ = File::from(told).write_all(&[u8::from(made)]);
                if !made {
                    process::exit(1);
                }
                // Until it is killed, or the launcher ends.
                loop {
                    pause();
                }
            }
            ForkResult::Parent { child } => {
                drop(told);
                let opened = Owners::of(child, File::from(ready), jail);
                kill(child, Signal::SIGKILL)?;
                waitpid(child, None)?;
                opened
            }
        }
    }

    fn of(child: Pid, mut ready: File, jail: &Jail) -> io::Result<Owners> {
        let mut made = [0];
        ready.read_exact(&mut made)?;
        if made == [0] {
            return Err(io::Error::other("this machine denies user namespaces"));
        }
        // The jailer makes files as root in these mounts too, so root needs an owner as well: it
        // swaps places with the user.
        let swapped = |id: u32| format!("0 {id} 1\n{id} 0 1\n");
        fs::write(format!("/proc/{child}/uid_map"), swapped(jail.user))?;
        fs::write(format!("/proc/{child}/gid_map"), swapped(jail.group))?;
        Ok(Owners(File::open(format!("/proc/{child}/ns/user"))?.into()))
    }
}

/// The mounts of a jail before they are anywhere.
pub(super) struct Mounts {
    directory: OwnedFd,
    files: Vec<(String, OwnedFd)>,
    /// The VMM's program, without links, and its length in bytes.
    program: PathBuf,
    length: u64,
}

impl Mounts {
    /// The mounts of the run directory `directory` and of the jail's files, of which the VMM writes
    /// to `writable`. Makes what they are mounted at. To be called in a mount namespace of its own
    /// that has the host's files.
    pub(super) fn new(
        jail: &Jail,
        owners: &Owners,
        directory: &Path,
        program: &Path,
        writable: &[PathBuf],
    ) -> Result<Mounts, Refusal> {
        let real = fs::canonicalize(program).map_err(refused("find", program))?;
        let length = real.metadata().map_err(refused("read", program))?.len();
        let mut files = Vec::new();
        for (name, file) in &jail.files {
            let access = if writable.contains(file) { 0 } else { libc::MOUNT_ATTR_RDONLY };
            files.push((name.clone(), clone(file, owners, access).map_err(refused("map the owner of", file))?));
        }
        let names = files.iter().map(|(name, _)| Path::new(name)).chain(real.file_name().map(Path::new));
        for path in names.map(|name| directory.join(name)) {
            File::create_new(&path).map_err(refused("create", &path))?;
        }
        for path in [DEVICES, EMPTY].map(|name| directory.join(name)) {
            DirBuilder::new().mode(0o700).create(&path).map_err(refused("create", &path))?;
        }
        let directory = clone(directory, owners, 0).map_err(refused("map the owner of", directory))?;
        Ok(Mounts { directory, files, program: real, length })
    }

    /// Mounts all of it where the jailer looks for it, in this process's root directory.
    pub(super) fn attach(self, jail: &Jail) -> Result<(), Refusal> {
        let name = self.program.file_name().unwrap_or_default();
        let root = Path::new(BASE).join(name).join(&jail.id).join("root");
        fs::create_dir_all(&root).map_err(refused("create", &root))?;
        attach(&self.directory, &root).map_err(refused("mount", &root))?;
        for (name, file) in &self.files {
            let path = root.join(name);
            attach(file, &path).map_err(refused("mount", &path))?;
        }
        // The jailer copies the program: not to the VM's directory.
        let (program, passed) = (root.join(name), root.join(EMPTY));
        make_room(&program, &passed, name, self.length).map_err(refused("make room for", &self.program))?;
        let devices = root.join(DEVICES);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), &devices, Some("tmpfs"), flags, Some(DEVICES_OPTIONS))
            .map_err(|error| refused("mount", &devices)(error.into()))
    }

    /// The arguments of the jailer, which gives `others` to the VMM.
    pub(super) fn arguments(&self, jail: &Jail, others: &[OsString]) -> Vec<OsString> {
        let [user, group] = [jail.user, jail.group].map(|id| id.to_string().into());
        let options: [(&str, OsString); 5] = [
            ("--id", jail.id.clone().into()),
            ("--exec-file", self.program.clone().into()),
            ("--uid", user),
            ("--gid", group),
            ("--chroot-base-dir", BASE.into()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.into(), value]);
        options.chain(["--".into()]).chain(others.iter().cloned()).collect()
    }
}

/// Mounts an executable file of no contents at `file`, in memory of its own; `passed` is a directory
/// where nothing is mounted afterwards.
fn make_room(file: &Path, passed: &Path, name: &OsStr, length: u64) -> io::Result<()> {
    let options = format!("mode=0700,size={},nr_inodes=2", length + BESIDE_PROGRAM);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), passed, Some("tmpfs"), flags, Some(&*options))?;
    let made = passed.join(name);
    File::create_new(&made)?.set_permissions(Permissions::from_mode(0o755))?;
    mount(Some(&made), file, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)?;
    Ok(umount2(passed, MntFlags::empty())?)
}

/// A mount of a file or a directory, with these attributes and those of what guests write to:
/// open_tree(2).
fn clone(path: &Path, owners: &Owners, attributes: u64) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path outlives the call, which only reads it.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if tree == -1 {
        return Err(io::Error::last_os_error());
    }
    let number = RawFd::try_from(tree).map_err(io::Error::other)?;
    // SAFETY: the call returned a descriptor that nobody else has.
    let tree = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: all of it is numbers, for which zeros are valid.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    let always = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    change.attr_set = attributes | always | libc::MOUNT_ATTR_IDMAP;
    change.userns_fd = u64::try_from(owners.0.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: path and attributes outlive the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(tree),
        _ => Err(match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINVAL) => {
                io::Error::other("its file system has no idmapped mounts")
            }
            error => error,
        }),
    }
}

/// Gives a mount its place: move_mount(2).
fn attach(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both paths outlive the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
