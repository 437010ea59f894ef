//! Bundles: an image as one file, a tar archive compressed with zstd.
//!
//! ```text
//! manifest.json   what it is: BundleManifest
//! rootfs.ext4     its root file system, with its holes (GNU tar's sparse format 1.0)
//! ```
//!
//! It is unpacked while it comes: download → SHA-256 → zstd → tar → the sparse image. Nothing of it
//! is on the disk twice.

mod pack;
#[cfg(test)]
pub(crate) mod tests;

use std::io::{self, Read};
use std::path::Path;

use banger_util::sparse;
use fs_err as fs;
use serde::{Deserialize, Serialize};

pub(crate) use self::pack::pack;
use crate::archive::{Reader, Type};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::ext4;
use crate::fetch::pinned::Pinned;
use crate::files::space::check_room;
use crate::manifest::{FORMAT_VERSION, ImageManifest, Ready};
use crate::oci::{ImageConfig, Origin, Platform};
use crate::progress::Progress;

const MANIFEST: &str = "manifest.json";
const ROOTFS: &str = "rootfs.ext4";
/// The longest manifest, in bytes.
const MAX_MANIFEST: u64 = 4 << 20;
/// What a bundle may have beside its file system, in bytes: its manifest, headers, the map of
/// holes.
const BESIDE: u64 = 64 << 20;
/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// The `manifest.json` of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BundleManifest {
    /// Always 1 so far: as in the manifests of the store.
    format_version: u32,
    description: String,
    kernel: String,
    ready: Ready,
    /// The platform that the image is for, such as `linux/amd64`.
    platform: String,
    rootfs_bytes: u64,
    /// Digests and configuration, if the image was pulled from a registry or an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oci: Option<OciContent>,
}

/// The part of an [`Origin`] that does not depend on where the image was pulled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OciContent {
    digest: Digest,
    layers: Vec<Digest>,
    config: ImageConfig,
}

impl BundleManifest {
    fn of(manifest: &ImageManifest) -> BundleManifest {
        let origin = manifest.oci.as_ref();
        BundleManifest {
            format_version: FORMAT_VERSION,
            description: manifest.description.clone(),
            kernel: manifest.kernel.clone(),
            ready: manifest.ready,
            platform: origin.map_or_else(|| Platform::host().to_string(), |origin| origin.platform.clone()),
            rootfs_bytes: manifest.rootfs_bytes,
            oci: origin.map(|origin| OciContent {
                digest: origin.digest,
                layers: origin.layers.clone(),
                config: origin.config.clone(),
            }),
        }
    }

    /// Parses a manifest, and checks that the image is for this host.
    ///
    /// # Errors
    /// The reason, as text.
    fn parse(bytes: &[u8]) -> std::result::Result<BundleManifest, String> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }

        let malformed = |error: serde_json::Error| format!("its manifest is malformed: {error}");
        let Version { format_version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if format_version != FORMAT_VERSION {
            return Err(format!("its format version {format_version} is of another banger"));
        }
        let manifest: BundleManifest = serde_json::from_slice(bytes).map_err(malformed)?;
        let host = Platform::host();
        match manifest.platform.parse::<Platform>() {
            Ok(platform) if (&platform.os, &platform.architecture) == (&host.os, &host.architecture) => Ok(manifest),
            _ => Err(format!("it is for {:.100}, and not for {host}", manifest.platform)),
        }
    }

    pub(crate) fn rootfs_bytes(&self) -> u64 {
        self.rootfs_bytes
    }

    /// The origin of an image that was pulled before it was bundled, with `source` in the place of
    /// the reference.
    pub(crate) fn into_origin(self, source: &str) -> Option<Origin> {
        let OciContent { digest, layers, config } = self.oci?;
        Some(Origin { reference: source.to_owned(), digest, platform: self.platform, layers, config })
    }
}

/// Downloads a bundle and writes `rootfs.ext4`, of at most `max_bytes`, into the directory `dir`.
/// Only if this succeeds, the file has the expected digest and is a complete file system.
///
/// # Errors
/// [`Error::Server`], [`Error::Image`], [`Error::ImageTooLarge`], [`Error::Io`].
pub(crate) fn unpack(bundle: &Pinned, dir: &Path, max_bytes: u64, progress: &dyn Progress) -> Result<BundleManifest> {
    let wrong = |reason: String| Error::Image { what: format!("bundle {bundle}"), reason };
    let too_large = || Error::ImageTooLarge { limit: max_bytes };
    let limit = max_bytes.saturating_add(BESIDE);
    // What it unpacks to is hardly less.
    check_room("the bundle", &[(dir, bundle.size)])?;
    let manifest =
        bundle.unpack("the bundle", limit, too_large, wrong, progress, |stream| take(stream, dir, max_bytes))?;
    let file = fs::File::open(dir.join(ROOTFS))?;
    match ext4::check(file.file()) {
        Err(ext4::CheckError::Io(error)) => Err(error.into()),
        Err(ext4::CheckError::Reason(reason)) => Err(wrong(format!("{ROOTFS}: {reason}"))),
        Ok(()) => Ok(manifest),
    }
}

/// Reads the members of a bundle's tar stream: writes the file system and returns the manifest.
fn take(stream: &mut dyn Read, dir: &Path, max_bytes: u64) -> Result<BundleManifest> {
    let refuse = |entry: &[u8], reason: &str| Error::Archive {
        entry: String::from_utf8_lossy(entry).into_owned(),
        reason: reason.to_owned(),
    };
    let mut manifest = None;
    let mut rootfs = None;
    let mut reader = Reader::new(stream);
    while let Some(entry) = reader.next()? {
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        match (path, entry.kind) {
            (b"." | b"", Type::Directory) => {}
            (path, Type::File) if path == MANIFEST.as_bytes() && manifest.is_none() => {
                if entry.size > MAX_MANIFEST {
                    return Err(refuse(path, "it has more than 4 MiB"));
                }
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes)?;
                manifest = Some(BundleManifest::parse(&bytes).map_err(|reason| refuse(path, &reason))?);
            }
            (path, Type::File) if path == ROOTFS.as_bytes() && rootfs.is_none() => {
                if entry.size > max_bytes {
                    return Err(Error::ImageTooLarge { limit: max_bytes });
                }
                write(&mut reader, entry.size, &dir.join(ROOTFS))?;
                rootfs = Some(entry.size);
            }
            (path, _) => {
                return Err(refuse(path, "a bundle has the files manifest.json and rootfs.ext4, and nothing else"));
            }
        }
    }
    match (manifest, rootfs) {
        (Some(manifest), Some(bytes)) if manifest.rootfs_bytes == bytes => Ok(manifest),
        (Some(manifest), Some(bytes)) => {
            let reason = format!("it has {bytes} bytes, and {MANIFEST} says {}", manifest.rootfs_bytes);
            Err(refuse(ROOTFS.as_bytes(), &reason))
        }
        (None, _) => Err(refuse(MANIFEST.as_bytes(), "the bundle does not have it")),
        (_, None) => Err(refuse(ROOTFS.as_bytes(), "the bundle does not have it")),
    }
}

/// Writes the current entry's content, of `size` bytes, into a file; holes stay holes.
fn write<R: Read>(reader: &mut Reader<R>, size: u64, path: &Path) -> Result<()> {
    let file = fs::File::create_new(path)?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        at += reader.skip_hole();
        let mut filled = 0;
        while filled < buffer.len() && (filled == 0 || !reader.is_at_hole()) {
            match reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if filled == 0 {
            break;
        }
        sparse::write(file.file(), at, &buffer[..filled])?;
        at += filled as u64;
    }
    if at != size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(file.set_len(size)?)
}
