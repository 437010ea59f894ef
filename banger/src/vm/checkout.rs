//! Where workspaces are in a VM, and what is kept here of each: its own is at [`GUEST_ROOT`],
//! additional ones where somebody wanted them.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::sync::MAX_PATH;
use banger_vmm::{Vm, VmRecord};
use serde::{Deserialize, Serialize};

use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::file::{create_private, replace};
use crate::vm::ownership::{self, Repository, VmOwner};

/// Where a VM's own workspace is in the guest.
pub const GUEST_ROOT: &str = "/root/repo";
/// In a VM's folder: what is kept of additional workspaces, each in a folder of its own.
const ADDITIONAL: &str = "repositories";
/// In such a folder: which one it is.
const RECORD: &str = "repository.json";
/// Held while somebody prepares it.
const CLAIM: &str = "claim.lock";
/// Its presence says that the guest was told of it.
const BEGUN: &str = "begun";
/// What the kernel has in a guest, and nobody's files.
const NOT_FOR_FILES: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var/run"];

/// A place in a VM that a workspace is synced to.
#[derive(Clone, Debug)]
pub struct GuestCheckout {
    /// The folder in the guest, absolute.
    guest_path: PathBuf,
    /// The workspace's repository here.
    repository: VmOwner,
    /// The folder that is kept of its syncs.
    syncs: PathBuf,
    /// The folder with marks of what was done to prepare the VM for it.
    marks: PathBuf,
    /// It is the VM's own workspace.
    is_own: bool,
    /// Locked by those who prepare it.
    #[expect(dead_code, reason = "closing the file is what unlocks it")]
    claim: Option<Arc<File>>,
}

/// Which additional workspace it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    guest_path: WireBytes,
    repository: VmOwner,
}

impl GuestCheckout {
    /// That of the VM's own workspace.
    pub fn own(vm: &Vm, repository: VmOwner) -> GuestCheckout {
        let marks = vm.folder().to_owned();
        GuestCheckout {
            guest_path: GUEST_ROOT.into(),
            repository,
            syncs: marks.join("sync"),
            marks,
            is_own: true,
            claim: None,
        }
    }

    fn additional(folder: PathBuf, Record { guest_path, repository }: Record) -> GuestCheckout {
        let guest_path = Path::new(guest_path.as_os_str()).to_owned();
        GuestCheckout { guest_path, repository, syncs: folder.clone(), marks: folder, is_own: false, claim: None }
    }

    /// All of a VM, its own first.
    ///
    /// # Errors
    /// If what is kept cannot be read.
    pub fn all(vm: &Vm) -> Result<Vec<GuestCheckout>, CommandError> {
        let own = vm.record().ok().and_then(|record| VmOwner::of(&record)).map(|own| GuestCheckout::own(vm, own));
        let additional = records(vm)?.into_iter().map(|(folder, record)| GuestCheckout::additional(folder, record));
        Ok(own.into_iter().chain(additional).collect())
    }

    /// The one that commands from `here` are about: the one that `here` is in, else the VM's own, if
    /// it has one.
    pub fn around(vm: &Vm, here: &Path) -> Option<GuestCheckout> {
        // What cannot be read is said by who syncs it.
        let checkouts = GuestCheckout::all(vm).unwrap_or_default();
        let around = checkouts.iter().filter(|checkout| checkout.was_synced() && checkout.has(here));
        // The innermost of nested ones, and of those that are the same the VM's own.
        let found = around.max_by_key(|checkout| (checkout.root().components().count(), checkout.is_own()));
        found.or_else(|| checkouts.iter().find(|checkout| checkout.is_own())).cloned()
    }

    /// That of `workspace` at `guest_path`; one that is new is written down, and is nobody else's
    /// while this lives.
    ///
    /// # Errors
    /// If nothing can be at the path, another repository is there, or one is around or below it.
    pub fn at(vm: &Vm, workspace: &Workspace, guest_path: &OsStr) -> Result<GuestCheckout, CommandError> {
        let guest_path = checked(guest_path)?;
        if let Some(own) = VmOwner::of(&vm.record()?).filter(|_| guest_path == Path::new(GUEST_ROOT)) {
            if !is_of(&own, workspace) {
                return Err(taken(vm, &guest_path, &guest_path, own.path()));
            }
            let here = VmOwner { root: workspace.root.as_os_str().into(), ..own.clone() };
            if own.path() != workspace.root {
                let lock = vm.lock()?;
                let record = vm.record()?;
                vm.set_record(&lock, &VmRecord { workspace: here.to_value(), ..record })?;
            }
            return Ok(GuestCheckout::own(vm, here));
        }
        let all = vm.folder().join(ADDITIONAL);
        create_folder(&all)?;
        // Of two commands, the second sees what the first has chosen.
        let _turn = locked(&all.join(".lock"), File::lock)?;
        sweep(vm)?;
        let mut record = Record {
            guest_path: guest_path.as_os_str().into(),
            repository: VmOwner { by_name: true, ..VmOwner::new(workspace, false) },
        };
        let mut found = records(vm)?.into_iter();
        let folder = match found.find(|(_, record)| record.guest_path.as_os_str() == guest_path.as_os_str()) {
            Some((_, known)) if !is_of(&known.repository, workspace) => {
                return Err(taken(vm, &guest_path, &guest_path, known.repository.path()));
            }
            Some((folder, known)) => {
                // It may have been moved here. Devices get other numbers when a machine starts:
                // that is no news.
                record.repository.git = known.repository.git;
                folder
            }
            None => {
                let is_in_the_way = |other: &&GuestCheckout| {
                    let places = [Some(other.guest_path()), other.alias()];
                    places.into_iter().flatten().any(|place| overlap(place, &guest_path))
                };
                if let Some(other) = GuestCheckout::all(vm)?.iter().find(is_in_the_way) {
                    return Err(taken(vm, &guest_path, &other.guest_path, other.root()));
                }
                let key = blake3::hash(guest_path.as_os_str().as_bytes()).to_hex()[..16].to_owned();
                all.join(key)
            }
        };
        create_folder(&folder)?;
        let claim = locked(&folder.join(CLAIM), File::lock_shared)?;
        let path = folder.join(RECORD);
        let json = serde_json::to_vec(&record).expect("plain data has a JSON form");
        if fs::read(&path).ok().as_ref() != Some(&json) {
            replace(&path, &json, 0o600).map_err(|error| CommandError::io("write", &path, &error))?;
        }
        Ok(GuestCheckout { claim: Some(Arc::new(claim)), ..GuestCheckout::additional(folder, record) })
    }

    /// The guest has been told of it: from now on the place is this repository's, whatever comes of
    /// the sync.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn begin(&self) -> io::Result<()> {
        if self.is_own || self.is_begun() { Ok(()) } else { create_private(&self.syncs.join(BEGUN)).map(drop) }
    }

    /// The folder in the guest, absolute.
    pub fn guest_path(&self) -> &Path {
        &self.guest_path
    }

    /// The workspace's root here.
    pub fn root(&self) -> &Path {
        self.repository.path()
    }

    /// Whether the repository is still there, so that its configuration has a say.
    pub fn is_present(&self) -> bool {
        ownership::repository(&self.repository) == Repository::Present
    }

    /// Whether it is that of the VM's own workspace.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// The folder that is kept of its syncs. It need not be there.
    pub(crate) fn syncs(&self) -> &Path {
        &self.syncs
    }

    /// The file that says what was done to prepare the VM for it, of the kind `name`.
    pub(crate) fn mark(&self, name: &str) -> PathBuf {
        self.marks.join(name)
    }

    /// The host's path, where the guest has the VM's own workspace too, if it can be.
    pub(crate) fn alias(&self) -> Option<&Path> {
        const TAKEN: [&str; 8] = ["/proc", "/sys", "/dev", "/run", "/usr", "/etc", "/boot", "/lib"];
        let is_taken = TAKEN.iter().any(|taken| self.root().starts_with(taken));
        (self.is_own && !is_taken && !overlap(&self.guest_path, self.root())).then_some(self.root())
    }

    /// The guest's folder that matches the folder `here`, if that is in the workspace; else the
    /// workspace's own.
    pub fn folder(&self, here: &Path) -> PathBuf {
        let below = self.below(here).unwrap_or_default();
        if below.as_os_str().is_empty() { self.guest_path.clone() } else { self.guest_path.join(below) }
    }

    /// Whether the folder `here` is in the workspace.
    pub fn has(&self, here: &Path) -> bool {
        self.below(here).is_some()
    }

    fn below(&self, here: &Path) -> Option<PathBuf> {
        let here = here.canonicalize().unwrap_or_else(|_| here.to_owned());
        here.strip_prefix(self.root()).ok().map(Path::to_owned)
    }

    /// Whether the guest may have something of it.
    pub fn is_begun(&self) -> bool {
        self.was_synced() || self.syncs.join(BEGUN).exists()
    }

    /// Whether it has ever been synced.
    pub fn was_synced(&self) -> bool {
        self.syncs.join("manifest").exists()
    }
}

/// Whether a place that is `known` as that of a repository is that of `workspace`, which may have
/// been moved.
fn is_of(known: &VmOwner, workspace: &Workspace) -> bool {
    ownership::is_same(known, &workspace.identity)
        && (known.path() == workspace.root || ownership::repository(known) != Repository::Present)
}

/// Frees the places that commands have chosen which ended, or were killed, before the guest heard
/// of it.
fn sweep(vm: &Vm) -> Result<(), CommandError> {
    for (folder, record) in records(vm)? {
        let path = folder.join(RECORD);
        if !GuestCheckout::additional(folder.clone(), record).is_begun()
            && locked(&folder.join(CLAIM), File::try_lock).is_ok()
        {
            fs::remove_file(&path).map_err(|error| CommandError::io("remove", &path, &error))?;
        }
    }
    Ok(())
}

/// The file at `path`, which is made, locked.
fn locked<E: Into<io::Error>>(path: &Path, lock: impl FnOnce(&File) -> Result<(), E>) -> Result<File, CommandError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let locked = file.and_then(|file| lock(&file).map(|()| file).map_err(Into::into));
    locked.map_err(|error| CommandError::io("lock", path, &error))
}

/// What is kept of a VM's additional workspaces: folders and records. One whose record was not
/// written in time is none.
fn records(vm: &Vm) -> Result<Vec<(PathBuf, Record)>, CommandError> {
    let folder = vm.folder().join(ADDITIONAL);
    let explain = |error: &io::Error| CommandError::io("read", &folder, error);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(explain(&error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let folder = entry.map_err(|error| explain(&error))?.path();
        let path = folder.join(RECORD);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(CommandError::io("read", &path, &error)),
        };
        let record: Record = serde_json::from_slice(&json).map_err(|error| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            CommandError::io("understand", &path, &error)
        })?;
        found.push((folder, record));
    }
    found.sort_by(|(_, one), (_, other)| one.guest_path.0.cmp(&other.guest_path.0));
    Ok(found)
}

fn create_folder(path: &Path) -> Result<(), CommandError> {
    // Not those above: a VM that was deleted meanwhile would come back empty.
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(CommandError::io("make", path, &error)),
        _ => Ok(()),
    }
}

/// A path in the guest that files can be at, in its shortest form.
fn checked(path: &OsStr) -> Result<PathBuf, CommandError> {
    let refuse = |why: &str| {
        let shown = banger_vmm::printable(path.as_bytes());
        let error = CommandError::new(format!("no workspace can be at `{shown}` in a VM: {why}"));
        Err(error.kind(ErrorKind::Usage).hint("such as: --guest-path /root/NAME"))
    };
    let given = Path::new(path);
    if !given.is_absolute() {
        return refuse("the path is not absolute");
    }
    if given.components().any(|component| component == Component::ParentDir) {
        return refuse("`..` leads elsewhere");
    }
    let plain: PathBuf = given.components().collect();
    if plain == Path::new("/") || NOT_FOR_FILES.iter().any(|taken| plain.starts_with(taken)) {
        return refuse("it is the system's");
    }
    if path.len() > MAX_PATH {
        return refuse("the path is too long");
    }
    Ok(plain)
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// At `other`, which is `wanted` or in its way, there is `repository`.
fn taken(vm: &Vm, wanted: &Path, other: &Path, repository: &Path) -> CommandError {
    let (name, shown, repository) = (vm.name(), wanted.display(), repository.display());
    let message = if wanted == other {
        format!("`{shown}` in `{name}` has another repository, which is or was at {repository}")
    } else {
        format!("`{}` in `{name}`, which is {repository}, is in the way of `{shown}`", other.display())
    };
    CommandError::new(message).kind(ErrorKind::Usage).hint("choose another place: --guest-path /root/NAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_directory_matches_current_directory() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let below = root.join("a b/c");
        fs::create_dir_all(&below).unwrap();
        let checkout = GuestCheckout {
            guest_path: "/srv/x".into(),
            repository: VmOwner { root: root.as_os_str().into(), git: (0, 0, None), process: None, by_name: false },
            syncs: PathBuf::new(),
            marks: PathBuf::new(),
            is_own: true,
            claim: None,
        };
        assert_eq!(checkout.folder(&root), Path::new("/srv/x"));
        assert_eq!(checkout.folder(&below), Path::new("/srv/x/a b/c"));
        assert_eq!(checkout.folder(Path::new("/")), Path::new("/srv/x"));
        assert!(checkout.has(&below) && !checkout.has(Path::new("/")));
    }

    #[test]
    fn unusable_guest_paths_are_refused() {
        assert_eq!(checked(OsStr::new("/root//other/./x/")).unwrap(), Path::new("/root/other/x"));
        let long = format!("/{}", "x/".repeat(MAX_PATH));
        for bad in ["", "x", "./x", "/", "//", "/a/../b", "/..", "/proc/1", "/run/banger/workspace", "/dev", &long] {
            assert!(checked(OsStr::new(bad)).is_err(), "{bad}");
        }
        assert!(overlap(Path::new("/a"), Path::new("/a/b")) && !overlap(Path::new("/a"), Path::new("/ab")));
    }
}
