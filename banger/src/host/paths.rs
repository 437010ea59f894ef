//! Where banger keeps things, and where its own parts are.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use banger_vmm::{Programs, StorePaths, VmStore};
use nix::unistd::{Uid, User};

use crate::error::{CommandError, ErrorKind};
use crate::host::permissions;

/// The user's folders, and the environment that the rest is told of.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Images, kernels and VMs: `$XDG_DATA_HOME/banger`.
    pub data: PathBuf,
    /// What can be made again: `$XDG_CACHE_HOME/banger`.
    pub cache: PathBuf,
    /// The home folder.
    pub home: Option<PathBuf>,
}

impl Paths {
    /// From the environment, by the XDG base directory specification; without HOME, from the user's
    /// entry in passwd(5).
    ///
    /// # Errors
    /// If no home folder can be found and the XDG variables do not say either.
    pub fn from_env() -> Result<Paths, CommandError> {
        let home = home();
        let folder = |variable: &str, beneath_home: &str| {
            let folder = absolute(variable).or_else(|| home.as_ref().map(|home| home.join(beneath_home)));
            folder.map(|folder| folder.join("banger")).ok_or_else(|| {
                CommandError::new("there is no home folder to keep VMs in")
                    .kind(ErrorKind::NoHome)
                    .hint(format!("set HOME or {variable}"))
            })
        };
        Ok(Paths { data: folder("XDG_DATA_HOME", ".local/share")?, cache: folder("XDG_CACHE_HOME", ".cache")?, home })
    }

    /// What is banger's own, and never a part of a workspace: a repository may be the home folder
    /// itself.
    pub fn own(&self) -> [PathBuf; 2] {
        [&self.data, &self.cache].map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()))
    }

    /// Checks that nobody else can change what banger keeps. What is not there yet is made for this
    /// user alone.
    ///
    /// # Errors
    /// [`ErrorKind::UnsafePermissions`] with the path, and what to do.
    pub fn check(&self) -> Result<(), CommandError> {
        for folder in [&self.data, &self.cache] {
            permissions::check_directory(folder, self.home.as_deref())?;
        }
        // Whoever could write to the data folder once may have made these.
        for store in ["host", "images", "kernels", "trust", "vms"] {
            permissions::check_entry(&self.data.join(store))?;
        }
        Ok(())
    }

    /// The folder of all VMs.
    pub fn vms(&self) -> PathBuf {
        self.data.join("vms")
    }

    /// The store of all VMs.
    pub fn vm_store(&self) -> VmStore {
        let store = StorePaths { vms: self.vms(), host: self.data.join("host"), cache: self.cache.clone() };
        VmStore::new(store, Programs::new(search_path()))
    }
}

fn home() -> Option<PathBuf> {
    absolute("HOME").or_else(|| User::from_uid(Uid::effective()).ok().flatten().map(|user| user.dir))
}

/// A variable that holds an absolute path; by the specification, others are to be ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// `$PATH`, or what a shell takes without one.
pub fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())
}

/// The user's configuration file, which need not exist; none: there is no home folder.
pub fn user_config() -> Option<PathBuf> {
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")));
    folder.map(|folder| folder.join("banger/config.toml"))
}

/// This program.
///
/// # Errors
/// If the system does not tell, which needs /proc.
pub fn program() -> Result<PathBuf, CommandError> {
    env::current_exe().map_err(|error| CommandError::new(format!("cannot find banger's own program: {error}")))
}

/// A program that belongs to banger and is not for people: in `../lib/banger` seen from this one,
/// or beside it.
///
/// # Errors
/// If it is not there: banger is not installed whole.
pub fn helper(name: &str) -> Result<PathBuf, CommandError> {
    let this = program()?;
    let folder = this.parent().unwrap_or(Path::new("/"));
    let candidates = [folder.join("../lib/banger").join(name), folder.join(name)];
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        CommandError::new(format!("banger is not installed whole: `{name}` is in neither of its places"))
            .kind(ErrorKind::Installation)
            .hint("install it with: make install PREFIX=…")
    })
}
