//! Finding the host's programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where to look for the host's programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Programs {
    path: OsString,
    /// The Firecracker that the user wants to have used.
    #[serde(default)]
    firecracker: Option<PathBuf>,
    /// The user whom Firecracker's jailer is to become.
    #[serde(default)]
    jailer_user: Option<String>,
}

impl Programs {
    /// Looks in these folders, written as `PATH` is, and then in `/usr/sbin` and `/sbin`, which a
    /// user's `PATH` often lacks.
    pub fn new(path: impl Into<OsString>) -> Self {
        let mut path = path.into();
        path.push(":/usr/sbin:/sbin");
        Programs { path, firecracker: None, jailer_user: None }
    }

    /// Has this program taken for Firecracker, if there is one.
    #[must_use]
    pub fn with_firecracker(self, firecracker: Option<PathBuf>) -> Self {
        Programs { firecracker, ..self }
    }

    /// The Firecracker that the user wants to have used; none: the one that is found.
    pub(crate) fn firecracker(&self) -> Option<&Path> {
        self.firecracker.as_deref()
    }

    /// Has Firecracker run as the user of this name, by its jailer, if there is a name.
    #[must_use]
    pub fn with_jailer_user(self, jailer_user: Option<String>) -> Self {
        Programs { jailer_user, ..self }
    }

    /// The name of the user whom Firecracker's jailer is to become; none: it is not used.
    pub(crate) fn jailer_user(&self) -> Option<&str> {
        self.jailer_user.as_deref()
    }

    /// The program's path.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`], which names the Debian `package` to install.
    pub fn find(&self, program: &'static str, package: &'static str) -> Result<PathBuf> {
        which::which_in(program, Some(&self.path), "/").map_err(|_| Error::ProgramMissing { program, package })
    }
}
