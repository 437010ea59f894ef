//! The `manifest.json` beside an image or a kernel: what it is, and how to use it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use banger_util::file::{Durability, replace_exclusive};
use fs_err as fs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::oci::{Origin, Source};

/// The version of both formats. Fields may be added without a new one; a reader skips what it does
/// not know.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// How the source of an image begins that is a copy of a file, and of one that was built.
pub(crate) const REGISTERED: &str = "file ";
pub(crate) const RECIPE: &str = "recipe ";

/// The name of the file.
const FILE: &str = "manifest.json";

/// When commands may run in a VM of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// As soon as the agent answers.
    Agent,
    /// When the image's init system has come up.
    System,
}

/// The manifest of a stored image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// Always 1 so far.
    pub format_version: u32,
    /// The name that the image was pulled, built or registered as.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The name of the kernel that it boots with.
    pub kernel: String,
    /// When commands may run in a VM of it.
    pub ready: Ready,
    /// Where it came from, such as `recipe debian-bookworm-minimal`.
    pub source: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Length of `rootfs.ext4`, in bytes.
    pub rootfs_bytes: u64,
    /// Whether a VM of it gets an SSH server when it starts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_sshd: bool,
    /// If it was pulled: from where, and its digests and configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<Origin>,
    /// Whether a registry gave it to a pull without credentials, as it does to anybody. What was
    /// pulled by a banger that did not note it may be for its user alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// If it came as a bundle of a catalog: the SHA-256 of the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Digest>,
}

impl ImageManifest {
    /// Whether it was made of files of this host.
    #[must_use]
    pub fn is_of_files(&self) -> bool {
        self.bundle.is_none() && (self.source.starts_with(REGISTERED) || Source::is_in_files(&self.source))
    }

    /// Whether it came as a bundle or was built by a recipe, and so can only be had by its name in
    /// a catalog.
    #[must_use]
    pub fn is_of_catalog(&self) -> bool {
        self.bundle.is_some() || self.source.starts_with(RECIPE)
    }
}

/// The manifest of a stored kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// Always 1 so far.
    pub format_version: u32,
    /// The kernel's name.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The release (`uname -r`), which is also the name of its directory of modules.
    pub release: String,
    /// The banner: release, builder, build (as in `/proc/version`).
    pub version: String,
    /// Where it came from, such as `recipe generic-6.12`.
    pub source: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// File names below `boot/`, in the order to load them.
    pub boot_modules: Vec<String>,
    /// Length of `vmlinuz`, in bytes.
    pub vmlinuz_bytes: u64,
    /// BLAKE3 of `vmlinuz`, in hex.
    pub vmlinuz_blake3: String,
    /// Length of `vmlinux`, the uncompressed kernel, in bytes; `None` if an earlier version of
    /// banger made this, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmlinux_bytes: Option<u64>,
    /// Names of the modules for Firecracker's devices that the kernel neither has built in nor came
    /// with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_modules: Vec<String>,
    /// Whether QEMU cannot load it: it is an ELF without an entry for PVH.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_pvh: bool,
}

/// Reads the manifest in the directory `dir`; `None` if there is none.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Io`].
pub(crate) fn read<T: DeserializeOwned>(dir: &Path) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }

    let path = dir.join(FILE);
    let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let parse = |error: serde_json::Error| damaged(format!("not a manifest: {error}"));
    let Version { format_version } = serde_json::from_slice(&bytes).map_err(parse)?;
    if format_version != FORMAT_VERSION {
        return Err(damaged(format!("format version {format_version} is of another banger")));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(parse)
}

/// Writes the manifest into `dir`.
pub(crate) fn write<T: Serialize>(dir: &Path, manifest: &T) -> Result<()> {
    Ok(fs::write(dir.join(FILE), text(manifest)?)?)
}

/// Puts another manifest in the place of that in `dir`, as a whole. The caller holds the lock of
/// what is there.
pub(crate) fn replace<T: Serialize>(dir: &Path, manifest: &T) -> Result<()> {
    Ok(replace_exclusive(&dir.join(FILE), text(manifest)?.as_bytes(), 0o666, Durability::Synced)?)
}

fn text<T: Serialize>(manifest: &T) -> Result<String> {
    Ok(serde_json::to_string_pretty(manifest).map_err(io::Error::from)? + "\n")
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
