//! The directories that are watched, by inotify(7), and what their events say.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::error::{CommandError, ErrorKind};
use crate::git::{Boundary, RelPath};

/// More changed paths than this are not named: everything is listed anew.
const MAX_PATHS: usize = 4096;
/// How many directories a user may watch on this machine.
const LIMIT: &str = "/proc/sys/fs/inotify/max_user_watches";
/// Reading is no change, so neither `IN_OPEN` nor `IN_ACCESS`: a sync opens every directory, and
/// would wake itself.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);
/// Files that git writes and a sync does not read.
const NOT_SYNCED: [&[u8]; 3] = [b"FETCH_HEAD", b"COMMIT_EDITMSG", b"gc.pid"];

/// A directory that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One of the working tree.
    Tree(RelPath),
    /// One of git's own.
    Git(PathBuf),
}

impl Place {
    fn path(&self, root: &Path) -> PathBuf {
        match self {
            Place::Tree(path) => path.under(root),
            Place::Git(path) => path.clone(),
        }
    }
}

/// What has changed since the last sync, as far as events say.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Paths of the working tree, and whether somebody who writes to the file may not have closed
    /// it yet.
    pub(super) paths: BTreeMap<RelPath, bool>,
    /// The paths do not tell it: the workspace has to be listed.
    pub(super) everything: bool,
    /// Directories came, went or moved: which are watched has to be seen to.
    pub(super) directories: bool,
}

impl Changes {
    /// What is to be assumed where nothing is known.
    pub(super) fn unknown() -> Changes {
        Changes { paths: BTreeMap::new(), everything: true, directories: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.everything
    }

    /// Whether a file may still be being written.
    pub(super) fn is_unfinished(&self) -> bool {
        self.paths.values().any(|unfinished| *unfinished)
    }

    fn add(&mut self, path: RelPath, mask: AddWatchFlags) {
        let unfinished = self.paths.entry(path).or_default();
        if mask.contains(AddWatchFlags::IN_MODIFY) {
            *unfinished = true;
        } else if !mask.intersects(AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CREATE) {
            *unfinished = false;
        }
        if self.paths.len() > MAX_PATHS {
            self.paths.clear();
            self.everything = true;
        }
    }
}

/// Watches directories.
pub(super) struct Directories {
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Place>,
}

impl Directories {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn new() -> Result<Directories, CommandError> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(|error| {
            let failed = failed(error.into());
            match error {
                Errno::EMFILE => failed.hint(
                    "too many programs of yours watch files; to allow more: \
                     sudo sysctl fs.inotify.max_user_instances=1024",
                ),
                _ => failed,
            }
        })?;
        Ok(Directories { inotify, watched: HashMap::new() })
    }

    /// How many directories are watched.
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    /// Watches `places` and no others. Each is opened through `boundary`, so that no link leads
    /// elsewhere; one that is gone, or may not be read, is left out. True if one was not watched
    /// before: what happened in it until now is not known.
    ///
    /// # Errors
    /// If there are more than this machine allows. Those are watched for which there was room.
    pub(super) fn update(
        &mut self,
        places: impl Iterator<Item = Place>,
        root: &Path,
        boundary: &Boundary,
    ) -> Result<bool, CommandError> {
        let (mut now, mut is_new) = (HashMap::new(), false);
        let mut outcome = Ok(());
        for place in places {
            let Ok(directory) = boundary.open_directory(&place.path(root)) else { continue };
            let open = format!("/proc/self/fd/{}", directory.as_raw_fd());
            match self.inotify.add_watch(open.as_str(), CHANGES) {
                Ok(watch) => {
                    is_new |= !self.watched.contains_key(&watch);
                    now.insert(watch, place);
                }
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
                Err(Errno::ENOSPC) => {
                    outcome = Err(too_many());
                    break;
                }
                Err(error) => {
                    outcome = Err(failed(error.into()));
                    break;
                }
            }
        }
        if outcome.is_ok() {
            for watch in self.watched.keys().filter(|watch| !now.contains_key(*watch)) {
                // A directory that is gone is not watched any more.
                let _ = self.inotify.rm_watch(*watch);
            }
            self.watched = now;
        } else {
            self.watched.extend(now);
        }
        outcome.map(|()| is_new)
    }

    /// Adds to `changes` what the events say that have come.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn read(&mut self, changes: &mut Changes) -> io::Result<()> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => events.into_iter().for_each(|event| self.take(event, changes)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, event: InotifyEvent, changes: &mut Changes) {
        let InotifyEvent { wd, mask, name, .. } = event;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            *changes = Changes::unknown();
            return;
        }
        let Some(place) = self.watched.get(&wd) else { return };
        let Some(name) = name else {
            // Of the directory itself: gone, moved, or with other permissions.
            changes.everything = true;
            changes.directories = true;
            if mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watched.remove(&wd);
            }
            return;
        };
        let is_directory = mask.contains(AddWatchFlags::IN_ISDIR);
        match place {
            Place::Git(_) if !is_directory && !is_synced(&name) => {}
            Place::Git(_) => {
                changes.everything = true;
                changes.directories |= is_directory;
            }
            Place::Tree(folder) => {
                changes.directories |= is_directory;
                changes.add(folder.join(name.as_bytes()), mask);
            }
        }
    }
}

impl AsFd for Directories {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Whether a file of git's own may have a say in what a sync sends.
fn is_synced(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.ends_with(b".lock") && !NOT_SYNCED.contains(&name)
}

fn failed(error: io::Error) -> CommandError {
    CommandError::new(format!("cannot watch the working tree: {error}")).kind((&error).into())
}

fn too_many() -> CommandError {
    let limit = std::fs::read_to_string(LIMIT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let (limit, more) = match limit {
        Some(limit) => (format!("{limit} "), limit.saturating_mul(4).max(524_288)),
        None => (String::new(), 524_288),
    };
    let error = CommandError::new(format!(
        "cannot watch the working tree: this machine lets you watch only {limit}directories"
    ));
    error
        .kind(ErrorKind::Failed)
        .hint(format!("to allow more: sudo sysctl fs.inotify.max_user_watches={more}"))
        .hint("directories that git ignores are not watched: add what is not yours to .gitignore")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::git::{Host, Workspace};

    /// A repository with a directory `d`, and everything of its tree watched.
    fn watched(root: &Path) -> Result<Directories, CommandError> {
        assert!(Command::new("git").args(["init", "--quiet"]).current_dir(root).status().unwrap().success());
        fs::create_dir_all(root.join("d")).unwrap();
        let workspace = Workspace::discover(root, Host::default()).unwrap();
        let mut directories = Directories::new()?;
        let places = ["", "d", "gone"].map(|path| Place::Tree(RelPath::new(path).unwrap()));
        directories.update(places.into_iter(), root, workspace.repository.boundary())?;
        assert_eq!(directories.len(), 2);
        Ok(directories)
    }

    fn read(directories: &mut Directories) -> Changes {
        let mut changes = Changes::default();
        directories.read(&mut changes).unwrap();
        changes
    }

    #[test]
    fn changes_are_named_and_reading_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut directories = watched(&root).unwrap();
        fs::write(root.join("d/file"), "x").unwrap();
        let changes = read(&mut directories);
        assert_eq!(changes.paths, BTreeMap::from([(RelPath::new("d/file").unwrap(), false)]));
        assert!(!changes.everything && !changes.directories);
        // A sync does that itself.
        fs::read_dir(root.join("d")).unwrap().for_each(|entry| _ = fs::read(entry.unwrap().path()).unwrap());
        assert!(read(&mut directories).is_empty());
        let mut open = fs::File::create(root.join("d/file")).unwrap();
        std::io::Write::write_all(&mut open, b"y").unwrap();
        assert!(read(&mut directories).is_unfinished());
        drop(open);
        assert!(!read(&mut directories).is_unfinished());
        fs::create_dir(root.join("new")).unwrap();
        let changes = read(&mut directories);
        assert!(changes.directories && changes.paths.contains_key(&RelPath::new("new").unwrap()));
        fs::remove_dir_all(root.join("d")).unwrap();
        let changes = read(&mut directories);
        assert!(changes.everything && changes.directories);
        assert_eq!(directories.len(), 1);
    }

    #[test]
    fn events_that_are_lost_are_a_change_of_everything() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut directories = watched(&root).unwrap();
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        for number in 0..limit {
            let path = root.join("d").join((number % 2).to_string());
            fs::write(&path, "").unwrap();
            fs::remove_file(path).unwrap();
        }
        let changes = read(&mut directories);
        assert!(changes.everything && changes.directories);
        assert!(read(&mut directories).is_empty());
    }

    /// Names the root to the process that [`too_many_directories_are_a_clear_error`] starts, which
    /// may watch one directory only.
    const LIMITED: &str = "BANGER_TEST_LIMITED_WATCH";

    #[test]
    fn too_many_directories_are_a_clear_error() {
        let Some(root) = std::env::var_os(LIMITED) else {
            let folder = tempfile::tempdir().unwrap();
            let limited = "echo 1 >/proc/sys/user/max_inotify_watches && exec \"$@\"";
            let name = "sync::watch::directories::tests::too_many_directories_are_a_clear_error";
            let mut command = Command::new("unshare");
            command
                .args(["--user", "--map-root-user", "sh", "-c", limited, "sh"])
                .arg(std::env::current_exe().unwrap());
            let output = command.args(["--exact", name]).env(LIMITED, folder.path()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        };
        let root = Path::new(&root).canonicalize().unwrap();
        let error = watched(&root).err().expect("too many");
        assert!(error.message.contains("lets you watch only"), "{error:?}");
        assert!(error.hints[0].contains("sudo sysctl fs.inotify.max_user_watches="), "{error:?}");
    }
}
