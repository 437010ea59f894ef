//! A root directory for a VMM, in a mount namespace of its own: pivot_root(2). It has the files that
//! [`Rules`] name, each at the path that it has on the host, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::fs::{self, File, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::Rules;

/// Where the new root is mounted until it is the root: a directory that every host has.
const BASE: &str = "/dev";
/// Where the host's files are in the new root while it is filled.
const HOST: &str = "/.host";
/// Directories and links, nothing else, are kept in it.
const OPTIONS: &str = "mode=0755,size=1m,nr_inodes=16k";
/// No path leads through more links, as path_resolution(7) has it.
const MAX_LINKS: usize = 40;

/// What may be done with what is bound, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    Read,
    Write,
    Device,
}

/// What the new root is to have. All paths are the host's.
#[derive(Debug, Default)]
struct Layout {
    /// Files and directories, by their real paths: a directory comes before what is in it.
    bindings: BTreeMap<PathBuf, Binding>,
    /// Symbolic links on the way to them, each with where it leads.
    links: BTreeMap<PathBuf, PathBuf>,
    /// Directories that a path goes through and leaves again by `..`.
    passed: BTreeSet<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    access: Access,
    kind: FileType,
}

/// Makes the files that `rules` name all that this process can see, and what `add` mounts in the new
/// root. To be called in a mount namespace of its own, which it is alone in.
///
/// # Errors
/// What could not be done, as in "cannot …", and the kernel's refusal.
pub(super) fn enter(
    rules: &Rules,
    add: impl FnOnce() -> Result<(), (String, io::Error)>,
) -> Result<(), (String, io::Error)> {
    let layout = Layout::of(rules);
    make_base().map_err(|error| ("make a root directory".to_owned(), error))?;
    layout.fill()?;
    add()?;
    seal().map_err(|error| ("leave the host's root directory".to_owned(), error))
}

fn make_base() -> io::Result<()> {
    let none = None::<&Path>;
    // Nothing that is mounted here shall be seen by others, nor the other way round.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), BASE, Some("tmpfs"), flags, Some(OPTIONS))?;
    let host = &HOST[1..];
    chdir(BASE)?;
    fs::create_dir(host)?;
    pivot_root(".", host)?;
    Ok(chdir("/")?)
}

fn seal() -> io::Result<()> {
    umount2(HOST, MntFlags::MNT_DETACH)?;
    fs::remove_dir(HOST)?;
    set_attributes(Path::new("/"), libc::MOUNT_ATTR_RDONLY, false)
}

impl Layout {
    fn of(rules: &Rules) -> Layout {
        let mut layout = Layout::default();
        let Rules { readable, writable, devices, directories, network: _ } = rules;
        let all = [
            (readable, Access::Read),
            (writable, Access::Write),
            (directories, Access::Write),
            (devices, Access::Device),
        ];
        for (paths, access) in all {
            for path in paths {
                layout.add(path, access);
            }
        }
        layout
    }

    /// A path that leads nowhere is left out.
    fn add(&mut self, path: &Path, access: Access) {
        let Some((real, kind)) = self.resolve(path) else { return };
        // A device among what may be read, such as `/dev/urandom`, is one all the same.
        let access = if kind.is_char_device() { Access::Device } else { access };
        let binding = self.bindings.entry(real).or_insert(Binding { access, kind });
        binding.access = binding.access.max(access);
    }

    /// Follows a path on the host, and notes the links on the way.
    fn resolve(&mut self, path: &Path) -> Option<(PathBuf, FileType)> {
        let mut real = PathBuf::from("/");
        let mut rest: VecDeque<PathBuf> = parts(path);
        let mut kind = fs::symlink_metadata("/").ok()?.file_type();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part.as_os_str() == ".." {
                self.passed.insert(real.clone());
                real.pop();
                continue;
            }
            let next = real.join(part);
            kind = fs::symlink_metadata(&next).ok()?.file_type();
            if !kind.is_symlink() {
                real = next;
                continue;
            }
            links += 1;
            let target = fs::read_link(&next).ok().filter(|_| links <= MAX_LINKS)?;
            if target.is_absolute() {
                real = "/".into();
            }
            let mut followed = parts(&target);
            followed.append(&mut rest);
            rest = followed;
            self.links.insert(next, target);
        }
        // Of a path that ends with `..`, the kind is another's.
        if path.ends_with("..") {
            kind = fs::symlink_metadata(&real).ok()?.file_type();
        }
        Some((real, kind))
    }

    fn fill(&self) -> Result<(), (String, io::Error)> {
        let mut directories: Vec<(&Path, Access)> = Vec::new();
        for (path, Binding { access, kind }) in &self.bindings {
            let is_there = |(directory, of_it): &(&Path, Access)| path.starts_with(directory) && of_it == access;
            if directories.iter().rev().find(|(directory, _)| path.starts_with(directory)).is_some_and(is_there) {
                continue;
            }
            bind(path, *access, *kind).map_err(|error| (format!("bind {}", path.display()), error))?;
            if kind.is_dir() {
                directories.push((path, *access));
            }
        }
        for directory in &self.passed {
            make_directory(directory).map_err(|error| (format!("make {}", directory.display()), error))?;
        }
        for (path, target) in &self.links {
            make_link(path, target).map_err(|error| (format!("make the link {}", path.display()), error))?;
        }
        Ok(())
    }
}

/// The names that a path is made of, and `..`.
fn parts(path: &Path) -> VecDeque<PathBuf> {
    let parts = path.components();
    parts
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().into())
        .collect()
}

fn bind(path: &Path, access: Access, kind: FileType) -> io::Result<()> {
    if kind.is_dir() {
        make_directory(path)?;
    } else if fs::symlink_metadata(path).is_err() {
        make_directory(path.parent().unwrap_or(path))?;
        File::create(path)?;
    }
    let source = Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path));
    let none = None::<&Path>;
    mount(Some(&source), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    let attributes = match access {
        Access::Read => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
        Access::Write => libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
        Access::Device => libc::MOUNT_ATTR_NOEXEC,
    };
    set_attributes(path, attributes | libc::MOUNT_ATTR_NOSUID, true)
}

/// Makes a directory and those above it, where they are missing.
fn make_directory(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() { Ok(()) } else { fs::create_dir_all(path) }
}

/// A link that is there is one of a directory that is bound.
fn make_link(path: &Path, target: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    make_directory(path.parent().unwrap_or(path))?;
    symlink(target, path)
}

/// Adds attributes to a mount, and with `below` to those in it: mount_setattr(2). Unlike a remount,
/// it takes none away, which a user namespace would forbid.
fn set_attributes(path: &Path, attributes: u64, below: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: all of it is numbers, for which zeros are valid.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes;
    // SAFETY: path and attributes outlive the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
