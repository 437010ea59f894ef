//! Plugins and other programs in the home of a test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Home, Repository};

impl Home {
    /// The folder of this home that is on the `PATH` of [`Repository::with_plugins`].
    pub fn bin(&self) -> PathBuf {
        let folder = self.path().join(".local/bin");
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A program in [`Home::bin`], which others may run if `mode` says so.
    pub fn program(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.bin().join(name);
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        path
    }

    /// A plugin that is a shell script.
    pub fn plugin(&self, name: &str, script: &str) -> PathBuf {
        self.program(&format!("banger-{name}"), format!("#!/bin/sh\n{script}\n"), 0o755)
    }
}

impl Repository<'_> {
    /// `banger` in the repository's root, with the plugins of its home.
    pub fn with_plugins(&self) -> Command {
        let mut command = self.banger();
        command.env("PATH", path_with(&self.home.bin()));
        command
    }
}

/// The tests' own `PATH` with this folder before it.
pub fn path_with(folder: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).expect("no folder has a colon in its name")
}
