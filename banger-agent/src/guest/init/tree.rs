//! The new root, seen from outside: paths that are resolved as if it were `/` already.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, RenameFlags, ResolveFlag, open, openat2, readlinkat, renameat2};
use nix::sys::stat::{Mode, fchmod, mkdirat};

use super::BootError;
use crate::guest::console::console;

/// The longest file of `/etc` that is worth reading.
const READ_LIMIT: u64 = 1 << 20;

/// The most links that lead nowhere whose targets are made one after the other: as many as the
/// kernel follows, path_resolution(7).
const MAX_LINKS: u32 = 40;

/// How many names there are for what is set aside.
const MAX_ASIDE: u32 = 10_000;

/// What the guest sees other things in than the image has there: the kernel's file systems are
/// mounted over these.
const COVERED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

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

    /// Whether `path` is a folder, or a link to one.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).is_ok()
    }

    /// Makes the folder, and those above it with mode 0755, unless it exists. Of a link that leads
    /// nowhere the target is made. What is neither a folder nor can lead to one is set aside.
    pub(super) fn create_folder(&self, path: &str, mode: u32) -> Result<Place, BootError> {
        if !self.is_folder(path) {
            self.make_folders(Path::new(path), mode, MAX_LINKS)?;
        }
        self.place(path)
    }

    fn make_folders(&self, path: &Path, mode: u32, links: u32) -> Result<(), BootError> {
        let mut parent = PathBuf::from("/");
        let mut names = path.components().peekable();
        while let Some(part) = names.next() {
            let name = match part {
                Component::Normal(name) => name,
                Component::ParentDir => {
                    parent.push("..");
                    continue;
                }
                _ => continue,
            };
            let here = parent.join(name);
            let at = here.to_string_lossy();
            let mode = if names.peek().is_some() { 0o755 } else { mode };
            if !self.is_folder(&at) {
                self.make_folder(&parent, Path::new(name), &at, mode, links)?;
            }
            parent = here;
        }
        Ok(())
    }

    /// Makes the folder `at`, which is `name` in `parent`.
    fn make_folder(&self, parent: &Path, name: &Path, at: &str, mode: u32, links: u32) -> Result<(), BootError> {
        let folder = self.place(&parent.to_string_lossy())?;
        let make = || mkdirat(&folder.0, name, Mode::from_bits_truncate(mode));
        match make() {
            Err(Errno::EEXIST) => {}
            made => return made.map_err(|errno| self.error("create", at, errno)),
        }
        let leads_nowhere = self.resolve(at, OFlag::O_PATH, 0).is_err_and(|errno| errno == Errno::ENOENT);
        if let (true, Ok(target)) = (links > 0 && leads_nowhere, readlinkat(&folder.0, name)) {
            self.make_folders(&parent.join(target), mode, links - 1)?;
            if self.is_folder(at) {
                return Ok(());
            }
        }
        self.set_aside(at)?;
        make().map_err(|errno| self.error("create", at, errno))
    }

    /// Gives what is at `path`, and not what it leads to, another name beside it: an image, or a
    /// user of the guest, may have put there what keeps the guest from booting.
    pub(super) fn set_aside(&self, path: &str) -> Result<(), BootError> {
        let whole = Path::new(path);
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name().and_then(|name| name.to_str())) else {
            return Err(self.error("replace", path, Errno::EINVAL));
        };
        let folder = self.place(&parent.to_string_lossy())?;
        for number in 0..MAX_ASIDE {
            let other = if number == 0 { format!("{name}.replaced") } else { format!("{name}.replaced.{number}") };
            match renameat2(&folder.0, name, &folder.0, other.as_str(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => {
                    console(&format!("{path} cannot be used as it is: it is now {other}"));
                    return Ok(());
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(self.error("replace", path, errno)),
            }
        }
        Err(self.error("replace", path, Errno::EEXIST))
    }

    /// The content of a file, empty if there is none.
    pub(super) fn read(&self, path: &str) -> Result<String, BootError> {
        if !self.is_file(path) {
            return Ok(String::new());
        }
        let file = self.open_file(path).map_err(BootError::io("read", &self.outside(path)))?;
        let mut bytes = Vec::new();
        file.take(READ_LIMIT).read_to_end(&mut bytes).map_err(BootError::io("read", &self.outside(path)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes a file and gives it `mode`, whatever the umask. What is there and is no file is set
    /// aside, and so is a link to where the guest cannot see the file: to nowhere, or to what the
    /// kernel's file systems cover.
    pub(super) fn write(&self, path: &str, content: &str, mode: u32) -> Result<(), BootError> {
        let create = || {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NONBLOCK;
            self.resolve(path, flags, mode).map(File::from)
        };
        let is_covered = || {
            let place = self.canonical(path).unwrap_or_default();
            COVERED.iter().any(|covered| place.starts_with(covered)) && self.is_link(path)
        };
        let is_other = self.resolve(path, OFlag::O_PATH, 0).is_ok() && !self.is_file(path);
        let mut file = if is_other { Err(Errno::EINVAL) } else { create() };
        if matches!(file, Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) || is_covered() {
            self.set_aside(path)?;
            file = create();
        }
        let file = file.map_err(|errno| self.error("write", path, errno))?;
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|errno| self.error("write", path, errno))?;
        let mut file = file;
        file.write_all(content.as_bytes()).map_err(BootError::io("write", &self.outside(path)))
    }

    /// Whether `path` itself is a link.
    fn is_link(&self, path: &str) -> bool {
        let found = self.resolve(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0).map(File::from);
        found.is_ok_and(|file| file.metadata().is_ok_and(|metadata| metadata.is_symlink()))
    }

    fn is_file(&self, path: &str) -> bool {
        let found = self.resolve(path, OFlag::O_PATH, 0).map(File::from);
        found.is_ok_and(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))
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
        // Where a path has `..`, any rename or mount that happens anywhere meanwhile makes the
        // kernel ask to try again.
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
    fn symlinks_resolve_inside_the_root() {
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
    fn unrelated_renames_do_not_fail_path_lookup() {
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
    fn dangling_symlink_has_a_place_but_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        symlink("../run/nowhere", folder.path().join("resolv.conf")).unwrap();
        assert!(!tree.exists("/resolv.conf"));
        assert!(tree.place("/resolv.conf").is_err());
        let place = tree.place_itself("/resolv.conf").unwrap();
        assert_eq!(fs::read_link(place.path()).unwrap(), folder.path().canonicalize().unwrap().join("resolv.conf"));
    }

    /// A tree in a folder of its own, with these links in it.
    fn with_links(links: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        for (path, target) in links {
            symlink(target, folder.path().join(path)).unwrap();
        }
        let tree = Tree::open(folder.path()).unwrap();
        (folder, tree)
    }

    #[test]
    fn create_directory_replaces_obstacles() {
        let links = [
            ("run", "run"),
            ("a", "b"),
            ("b", "/a"),
            ("etc", "/data/etc"),
            ("var", "down/../other/var"),
            ("l", "file"),
        ];
        let (folder, tree) = with_links(&links);
        let at = |path: &str| folder.path().join(path);
        fs::write(at("file"), "content").unwrap();
        fs::write(at("tmp"), "kept").unwrap();
        for path in ["/run", "/a", "/b/deep/er", "/etc", "/var/lib", "/l/x", "/tmp"] {
            tree.create_folder(path, 0o755).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(tree.is_folder(path), "{path}");
        }
        // What a link names is made, and links that lead in a circle, and files, are set aside.
        assert!(at("data/etc").is_dir() && fs::read_link(at("etc")).unwrap() == Path::new("/data/etc"));
        assert!(at("other/var/lib").is_dir());
        assert_eq!(fs::read_link(at("run.replaced")).unwrap(), Path::new("run"));
        assert_eq!(fs::read_to_string(at("tmp.replaced")).unwrap(), "kept");
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "content");
        // Again, after somebody has put the same there anew.
        fs::remove_dir(at("tmp")).unwrap();
        fs::write(at("tmp"), "kept too").unwrap();
        tree.create_folder("/tmp", 0o1777).unwrap();
        assert_eq!(fs::read_to_string(at("tmp.replaced.1")).unwrap(), "kept too");
    }

    #[test]
    fn write_replaces_obstacles() {
        let links =
            [("nowhere", "/no/such/hosts"), ("run-link", "/run/hosts"), ("loop", "loop"), ("good", "kept/hosts")];
        let (folder, tree) = with_links(&links);
        let at = |path: &str| folder.path().join(path);
        for made in ["kept", "run", "folder", "folder/in it"] {
            fs::create_dir(at(made)).unwrap();
        }
        nix::unistd::mkfifo(&at("fifo"), Mode::from_bits_truncate(0o644)).unwrap();
        for path in ["/nowhere", "/run-link", "/loop", "/good", "/folder", "/fifo", "/new"] {
            assert_eq!(tree.read(path).unwrap(), "", "{path}");
            tree.write(path, "content", 0o644).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(tree.read(path).unwrap(), "content", "{path}");
        }
        for path in ["nowhere", "run-link", "loop", "folder", "fifo"] {
            assert!(fs::symlink_metadata(at(path)).unwrap().is_file(), "{path}");
            assert!(fs::symlink_metadata(at(&format!("{path}.replaced"))).is_ok(), "{path}");
        }
        // A link to where the guest sees the file stays one.
        assert_eq!(fs::read_to_string(at("kept/hosts")).unwrap(), "content");
        assert!(at("good").is_symlink() && at("folder.replaced/in it").is_dir());
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
