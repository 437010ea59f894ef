//! Recognises what files and directories hold, for errors that say which source fits.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::Blob;
use crate::archive::Reader;
use crate::error::Error;

/// How many entries of an archive are looked at: the files that tell its form may come last.
const MAX_ENTRIES: usize = 100_000;
/// Folders of which a root file system has at least two, as `docker export` and debootstrap write
/// them.
const OF_A_ROOT: [&[u8]; 6] = [b"bin", b"etc", b"lib", b"usr", b"var", b"sbin"];

/// The format of a file or directory that was given as a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFormat {
    /// A directory that is an OCI layout.
    Layout,
    /// A directory as skopeo(1) writes it for `dir:`.
    Directory,
    /// A tar archive of an OCI layout.
    OciArchive,
    /// An archive of `docker save`.
    DockerArchive,
    /// An archive of `docker save` of a Docker before 1.10.
    OldDockerArchive,
    /// A tar archive of a root file system, without a configuration.
    RootArchive,
    /// A tar archive of something else.
    Archive,
    /// A compressed file.
    Compressed,
    /// An ext4 file system.
    Ext4,
}

impl FileFormat {
    /// The format of what is at `path`, if it is known. The content may be hostile.
    pub(super) fn of(path: &Path) -> Option<FileFormat> {
        let metadata = std::fs::metadata(path).ok()?;
        if metadata.is_dir() {
            let has = |name: &str| path.join(name).is_file();
            return match (has("index.json"), has("manifest.json")) {
                (true, _) => Some(FileFormat::Layout),
                (false, true) => Some(FileFormat::Directory),
                _ => None,
            };
        }
        if !metadata.is_file() {
            return None;
        }
        let mut file = File::open(path).ok()?;
        let mut start = Vec::new();
        (&mut file).take(0x43a).read_to_end(&mut start).ok()?;
        match &start[..] {
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] => {
                return Some(FileFormat::Compressed);
            }
            // The magic of ext2, ext3 and ext4 in the superblock.
            [.., 0x53, 0xef] if start.len() == 0x43a => return Some(FileFormat::Ext4),
            _ => {}
        }
        of_archive(fs_err::File::from_parts(file, path), metadata.len()).ok()
    }

    /// The source, as text, that reads this format at `path`, if there is one.
    pub(super) fn source(self, path: &Path) -> Option<String> {
        let scheme = match self {
            FileFormat::Layout => "oci",
            FileFormat::OciArchive => "oci-archive",
            FileFormat::DockerArchive => "docker-archive",
            _ => return None,
        };
        Some(format!("{scheme}:{}", path.display()))
    }

    /// A hint: how to make an image of this format at `path`.
    pub(super) fn hint(self, path: &Path) -> Option<String> {
        let path_text = path.display();
        Some(match self {
            FileFormat::Directory => format!("copy it into a layout: skopeo copy dir:{path_text} oci:LAYOUT:NAME"),
            FileFormat::OldDockerArchive => {
                "load it with `docker load`, and save it again with a newer `docker save`".to_owned()
            }
            FileFormat::RootArchive => {
                "`docker export` leaves out what an image says of itself: use `docker save`, or `docker commit` the \
                 container before; or make a file system of it, and `banger image register`"
                    .to_owned()
            }
            FileFormat::Compressed => "decompress it first, with `gunzip`, `unxz` or `zstd -d`".to_owned(),
            FileFormat::Ext4 => format!("banger image register --name NAME --rootfs {path_text}"),
            FileFormat::Archive => return None,
            FileFormat::Layout | FileFormat::OciArchive | FileFormat::DockerArchive => {
                format!("use: {}", self.source(path)?)
            }
        })
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileFormat::Layout => "an OCI layout",
            FileFormat::Directory => "a folder as `skopeo copy … dir:` writes it",
            FileFormat::OciArchive => "an archive of an OCI layout",
            FileFormat::DockerArchive => "an archive of `docker save`",
            FileFormat::OldDockerArchive => {
                "an archive of a Docker older than 1.10, which has no digests that could be checked"
            }
            FileFormat::RootArchive => "an archive of a root file system, as `docker export` writes it",
            FileFormat::Archive => "an archive that holds no image",
            FileFormat::Compressed => "compressed as a whole",
            FileFormat::Ext4 => "an ext4 file system",
        })
    }
}

fn of_archive(file: fs_err::File, length: u64) -> io::Result<FileFormat> {
    let mut reader = Reader::new(Blob::new(Arc::new(file), 0, length));
    let (mut is_layout, mut is_docker, mut is_old, mut entries) = (false, false, false, 0);
    let mut folders = [false; OF_A_ROOT.len()];
    while let Some(entry) = reader.next()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            break;
        }
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        match path {
            b"index.json" => is_layout = true,
            b"manifest.json" => is_docker = true,
            b"repositories" => is_old = true,
            _ => {
                let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
                OF_A_ROOT.iter().zip(&mut folders).for_each(|(name, seen)| *seen |= *name == first);
            }
        }
    }
    let is_root = folders.iter().filter(|seen| **seen).count() > 1;
    // Newer archives of `docker save` are both.
    Ok(match (is_docker, is_layout, is_root, is_old) {
        (true, ..) => FileFormat::DockerArchive,
        (false, true, ..) => FileFormat::OciArchive,
        (false, false, true, _) => FileFormat::RootArchive,
        (false, false, false, true) => FileFormat::OldDockerArchive,
        _ if entries > 0 => FileFormat::Archive,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    })
}

/// The error that what is at `path` has another format than the source says. `otherwise` is the
/// reason if the format is unknown.
pub(super) fn mismatch(path: &Path, otherwise: &str) -> Error {
    let form = FileFormat::of(path);
    let reason = form.map_or_else(|| otherwise.to_owned(), |form| format!("it is {form}"));
    Error::Source { path: PathBuf::from(path), reason, hint: form.and_then(|form| form.hint(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::Tar;

    #[test]
    fn image_form_is_detected_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let tar = |names: &[&str]| {
            let mut tar = Tar::default();
            names.iter().for_each(|name| _ = tar.file(name, b"x"));
            tar.end()
        };
        let mut ext4 = vec![0; 4096];
        ext4[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        for (form, content) in [
            (Some(FileFormat::OciArchive), tar(&["./blobs/sha256/x", "./index.json", "./oci-layout"])),
            (Some(FileFormat::DockerArchive), tar(&["index.json", "manifest.json", "repositories"])),
            (Some(FileFormat::OldDockerArchive), tar(&["abc/layer.tar", "repositories"])),
            (Some(FileFormat::RootArchive), tar(&["bin/sh", "etc/passwd", "repositories"])),
            (Some(FileFormat::Archive), tar(&["a"])),
            (Some(FileFormat::Compressed), vec![0x1f, 0x8b, 8]),
            (Some(FileFormat::Ext4), ext4),
            (None, b"<html>".to_vec()),
            (None, Vec::new()),
        ] {
            std::fs::write(at("file"), content).unwrap();
            assert_eq!(FileFormat::of(&at("file")), form);
        }
        std::fs::create_dir(at("d")).unwrap();
        assert_eq!(FileFormat::of(&at("d")), None);
        std::fs::write(at("d/manifest.json"), "").unwrap();
        assert_eq!(FileFormat::of(&at("d")), Some(FileFormat::Directory));
        std::fs::write(at("d/index.json"), "").unwrap();
        assert_eq!(FileFormat::of(&at("d")), Some(FileFormat::Layout));
        assert_eq!(FileFormat::of(&at("absent")), None);
    }
}
