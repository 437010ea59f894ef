//! The new root, seen from outside: paths that are resolved as if it were `/` already.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fchmod, mkdirat};

use super::BootError;

/// The longest file of `/etc` that is worth reading.
const READ_LIMIT: u64 = 1 << 20;

/// How often a path is looked up before the kernel's "try again" is an error.
const TRIES: u32 = 1000;

/// A folder that stands for `/`.
///
/// Images are full of links, absolute ones too (`/etc/resolv.conf`, `/lib`, `/var/run`). Every
/// path given here follows them *inside* that folder (`openat2(2)`, `RESOLVE_IN_ROOT`).
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

impl Tree {
    pub(super) fn open(path: &Path) -> Result<Self, BootError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty()).map_err(|errno| BootError::io("open", path)(errno.into()))?;
        Ok(Tree { root, path: path.to_owned() })
    }

    /// Whether there is something at `path` once links are followed.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.resolve(path, OFlag::O_PATH, 0).is_ok()
    }

    /// A place for `mount(2)`: `path`, its links followed.
    pub(super) fn place(&self, path: &str) -> Result<Place, BootError> {
        let opened = self.resolve(path, OFlag::O_PATH, 0);
        opened.map(Place).map_err(|errno| self.error("open", path, errno))
    }

    /// A place for `mount(2)`: `path` itself, even if it is a link that leads nowhere.
    pub(super) fn place_itself(&self, path: &str) -> Result<Place, BootError> {
        let opened = self.resolve(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0);
        opened.map(Place).map_err(|errno| self.error("open", path, errno))
    }

    /// Makes the folder, and those above it with mode 0755, unless it exists.
    pub(super) fn create_folder(&self, path: &str, mode: u32) -> Result<Place, BootError> {
        if let Ok(found) = self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0) {
            return Ok(Place(found));
        }
        let mut done = PathBuf::from("/");
        let mut parts = Path::new(path).components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else {
                continue;
            };
            let parent = self.place(&done.to_string_lossy())?;
            let mode = if parts.peek().is_some() { 0o755 } else { mode };
            match mkdirat(&parent.0, name, Mode::from_bits_truncate(mode)) {
                Ok(()) | Err(Errno::EEXIST) => done.push(name),
                Err(errno) => return Err(self.error("create", path, errno)),
            }
        }
        self.place(path)
    }

    /// The content of a file, empty if there is none.
    pub(super) fn read(&self, path: &str) -> Result<String, BootError> {
        let file = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(String::new()),
            Err(errno) => return Err(self.error("read", path, errno)),
        };
        let mut bytes = Vec::new();
        file.take(READ_LIMIT).read_to_end(&mut bytes).map_err(BootError::io("read", &self.outside(path)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes a file and gives it `mode`, whatever the umask.
    pub(super) fn write(&self, path: &str, content: &str, mode: u32) -> Result<(), BootError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NONBLOCK;
        let file = self.resolve(path, flags, mode).map_err(|errno| self.error("write", path, errno))?;
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|errno| self.error("write", path, errno))?;
        File::from(file).write_all(content.as_bytes()).map_err(BootError::io("write", &self.outside(path)))
    }

    /// Where `path` leads to, seen from inside.
    pub(super) fn canonical(&self, path: &str) -> Option<PathBuf> {
        let place = self.place(path).ok()?;
        let outside = fs::read_link(place.path()).ok()?;
        let root = fs::read_link(Place::path_of(&self.root)).ok()?;
        let inside = outside.strip_prefix(root).ok()?;
        Some(Path::new("/").join(inside))
    }

    /// Opens a file for reading.
    pub(super) fn open_file(&self, path: &str) -> io::Result<File> {
        let opened = self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?;
        Ok(File::from(opened))
    }

    fn resolve(&self, path: &str, flags: OFlag, mode: u32) -> nix::Result<OwnedFd> {
        let mode = if flags.contains(OFlag::O_CREAT) { Mode::from_bits_truncate(mode) } else { Mode::empty() };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // Where a path has `..`, any rename or mount that happens anywhere meanwhile makes the kernel ask to try again.
        let mut tries = TRIES;
        loop {
            match openat2(self.root.as_fd(), path, how) {
                Err(Errno::EAGAIN) if tries > 1 => tries -= 1,
                other => return other,
            }
        }
    }

    fn outside(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    fn error(&self, action: &'static str, path: &str, errno: Errno) -> BootError {
        BootError::io(action, &self.outside(path))(errno.into())
    }
}

/// A resolved path, held open: what it leads to cannot change any more.
pub(super) struct Place(OwnedFd);

impl Place {
    /// A path to it for system calls that take no descriptor. Needs `/proc`.
    pub(super) fn path(&self) -> PathBuf {
        Self::path_of(&self.0)
    }

    fn path_of(fd: &OwnedFd) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        fs::create_dir_all(folder.path().join("usr/lib")).unwrap();
        symlink("/usr/lib", folder.path().join("lib")).unwrap();
        symlink("../../../../etc", folder.path().join("usr/etc")).unwrap();

        tree.create_folder("/lib/modules/6.12", 0o755).unwrap();
        assert!(folder.path().join("usr/lib/modules/6.12").is_dir());
        assert_eq!(tree.canonical("/lib/modules"), Some("/usr/lib/modules".into()));

        tree.create_folder("/etc", 0o755).unwrap();
        tree.write("/usr/etc/hostname", "inside\n", 0o644).unwrap();
        assert_eq!(tree.read("/etc/hostname").unwrap(), "inside\n");
    }

    #[test]
    fn renames_elsewhere_do_not_disturb() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        symlink("../../etc", folder.path().join("link")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let names = ["one", "other"].map(|name| elsewhere.path().join(name));
        fs::write(&names[0], "").unwrap();
        std::thread::scope(|scope| {
            let renamer = scope.spawn(|| {
                for _ in 0..20_000 {
                    fs::rename(&names[0], &names[1]).unwrap();
                    fs::rename(&names[1], &names[0]).unwrap();
                }
            });
            while !renamer.is_finished() {
                tree.place("/link").unwrap();
            }
        });
    }

    #[test]
    fn a_dangling_link_is_a_place_but_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        symlink("../run/nowhere", folder.path().join("resolv.conf")).unwrap();
        assert!(!tree.exists("/resolv.conf"));
        assert!(tree.place("/resolv.conf").is_err());
        let place = tree.place_itself("/resolv.conf").unwrap();
        assert_eq!(fs::read_link(place.path()).unwrap(), folder.path().canonicalize().unwrap().join("resolv.conf"));
    }

    #[test]
    fn written_modes_do_not_depend_on_the_umask() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        tree.write("/id", "1\n", 0o444).unwrap();
        let mode = fs::metadata(folder.path().join("id")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o444);
        assert_eq!(tree.read("/absent").unwrap(), "");
    }
}
