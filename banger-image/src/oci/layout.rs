//! Images in files: OCI layouts (OCI image specification, "Image Layout"), as directories and as
//! tar archives, and archives of `docker save`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use serde::Deserialize;

use super::blob::Blob;
use super::file_format::{self, FileFormat};
use super::matcher::Matcher;
use super::model::{Descriptor, MAX_CONFIG, MAX_MANIFEST, json};
use crate::archive::{Reader, Type};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// The annotation that names an image of a layout (OCI image specification, "Annotations").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The most files of an archive.
const MAX_FILES: usize = 100_000;
/// The most bytes of all their names, and of what links lead to.
const MAX_NAMES: usize = 64 << 20;

/// The files of an image: a directory, or a tar archive with the place of each file in it.
pub(super) enum ImageFiles {
    Folder(PathBuf),
    Archive(PathBuf, HashMap<Vec<u8>, Blob>),
}

impl ImageFiles {
    pub(super) fn folder(path: &Path) -> ImageFiles {
        ImageFiles::Folder(path.to_owned())
    }

    /// The layout in the directory `path`.
    pub(super) fn layout(path: &Path) -> Result<ImageFiles> {
        match (path.join("index.json").is_file(), path.exists()) {
            (true, _) => Ok(ImageFiles::folder(path)),
            (false, true) => Err(file_format::mismatch(path, "it is no OCI layout: it has no `index.json`")),
            (false, false) => Err(file_format::mismatch(path, "there is no such folder")),
        }
    }

    /// The archive of a layout at `path`.
    pub(super) fn oci_archive(path: &Path) -> Result<ImageFiles> {
        ImageFiles::archive_with(path, "index.json")
    }

    /// The archive of `docker save` at `path`.
    pub(super) fn docker_archive(path: &Path) -> Result<ImageFiles> {
        ImageFiles::archive_with(path, "manifest.json")
    }

    /// An archive that has a file `name`.
    fn archive_with(path: &Path, name: &str) -> Result<ImageFiles> {
        // Opening what is no file, such as a FIFO, may take forever.
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(file_format::mismatch(path, "there is no such file"));
            }
            metadata => metadata?,
        };
        if !metadata.is_file() {
            return Err(file_format::mismatch(path, "it is no file"));
        }
        if metadata.len() == 0 {
            return Err(file_format::mismatch(path, "it is empty"));
        }
        match ImageFiles::archive(path)? {
            ImageFiles::Archive(_, files) if !files.contains_key(name.as_bytes()) => {
                Err(file_format::mismatch(path, &format!("it has no `{name}`")))
            }
            files => Ok(files),
        }
    }

    /// Indexes an archive: where in it each file is. Nothing is unpacked.
    fn archive(path: &Path) -> Result<ImageFiles> {
        let file = Arc::new(fs::File::open(path)?);
        let wrong = |reason: String| Error::Image { what: format!("`{}`", path.display()), reason };
        if FileFormat::of(path) == Some(FileFormat::Compressed) {
            return Err(file_format::mismatch(path, ""));
        }
        let length = file.metadata()?.len();
        let mut files = HashMap::new();
        let mut links = Vec::new();
        let mut names = 0;
        let mut reader = Reader::new(Blob::new(Arc::clone(&file), 0, length));
        let mut is_first = true;
        let broken = |error, is_first| match is_first {
            true => file_format::mismatch(path, "it is not a tar archive"),
            false => wrong(format!("it is a damaged tar archive: {error}")),
        };
        while let Some(entry) = reader.next().map_err(|error: io::Error| broken(error, is_first))? {
            is_first = false;
            let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path).to_vec();
            names += path.len() + entry.link.len();
            match entry.kind {
                Type::File if reader.stored() == entry.size => {
                    let start = length - reader.inner().len();
                    files.insert(path, Blob::new(Arc::clone(&file), start, entry.size));
                }
                // `docker save` links layers that are the same.
                Type::HardLink | Type::Symlink => links.push((path, entry.link)),
                _ => {}
            }
            if files.len() + links.len() > MAX_FILES {
                return Err(wrong(format!("it has more than {MAX_FILES} files")));
            }
            if names > MAX_NAMES {
                return Err(wrong("its files have names of more than 64 MiB".into()));
            }
        }
        for (path, link) in links {
            let folder = path.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
            let target = link_target(folder, &link);
            if let Some(blob) = files.get(&target).or_else(|| files.get(&link)).cloned() {
                files.insert(path, blob);
            }
        }
        Ok(ImageFiles::Archive(path.to_owned(), files))
    }

    /// Opens the file `path`, which is a constant or made of a digest, and so does not lead out of
    /// the directory.
    fn open(&self, path: &str) -> Result<Option<Blob>> {
        match self {
            ImageFiles::Folder(folder) => {
                let file = match fs::File::open(folder.join(path)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file?,
                };
                let length = file.metadata()?.len();
                Ok(Some(Blob::new(Arc::new(file), 0, length)))
            }
            ImageFiles::Archive(_, files) => Ok(files.get(path.as_bytes()).cloned()),
        }
    }

    fn required(&self, path: &str) -> Result<Blob> {
        self.open(path)?.ok_or_else(|| self.wrong(&format!("there is no `{path}` in it")))
    }

    fn wrong(&self, reason: &str) -> Error {
        let (ImageFiles::Folder(path) | ImageFiles::Archive(path, _)) = self;
        Error::Image { what: format!("`{}`", path.display()), reason: reason.to_owned() }
    }

    /// The blob that a descriptor of a layout names, its size and digest checked.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        let path = format!("blobs/sha256/{}", descriptor.digest.hex());
        self.required(&path)?.verify(&path, descriptor.digest, descriptor.size)
    }

    /// The descriptor of the manifest or index `name` in a layout. Without a name, the only one; if
    /// all are one image for several platforms, the one that `platform` prefers.
    pub(super) fn root(&self, name: Option<&str>, platform: &Matcher) -> Result<Descriptor> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Descriptor>,
        }

        let bytes = self.required("index.json")?.bytes("index.json", MAX_MANIFEST)?;
        let Index { manifests } = json("index.json", &bytes)?;
        let named = |descriptor: &&Descriptor| {
            name.is_none() || descriptor.annotations.get(REF_NAME).map(String::as_str) == name
        };
        let found: Vec<_> = manifests.iter().filter(named).filter(|one| one.is_image()).cloned().collect();
        match &found[..] {
            [descriptor] => Ok(descriptor.clone()),
            found if are_one_image(found) => platform.choose(found).cloned(),
            found => {
                let names: Vec<_> = manifests.iter().filter_map(|one| one.annotations.get(REF_NAME)).cloned().collect();
                Err(self.choose(!found.is_empty(), &names))
            }
        }
    }

    fn choose(&self, many: bool, names: &[String]) -> Error {
        let names = if names.is_empty() { "none that has a name".to_owned() } else { names.join(", ") };
        let reason = if many { "it has more than one image: name one behind a colon" } else { "it has no such image" };
        self.wrong(&format!("{reason}; there is {names}"))
    }

    /// The image `name` of an archive of `docker save`; without a name, the only one.
    pub(super) fn docker_image(&self, name: Option<&str>) -> Result<DockerImage> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct SavedImage {
            config: String,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }

        let bytes = self.required("manifest.json")?.bytes("manifest.json", MAX_MANIFEST)?;
        let entries: Vec<SavedImage> = json("manifest.json", &bytes)?;
        let has = |entry: &&SavedImage| {
            name.is_none_or(|name| {
                entry.repo_tags.iter().flatten().any(|tag| tag == name || tag.ends_with(&format!("/{name}")))
            })
        };
        let mut found = entries.iter().filter(has);
        let entry = match (found.next(), found.next()) {
            (Some(entry), None) => entry,
            (first, _) => {
                let names: Vec<_> = entries.iter().filter_map(|one| one.repo_tags.clone()).flatten().collect();
                return Err(self.choose(first.is_some(), &names));
            }
        };
        let config = self.required(&entry.config)?.bytes("its configuration", MAX_CONFIG)?;
        let layers = entry.layers.iter().map(|path| self.required(path)).collect::<Result<_>>()?;
        Ok(DockerImage { digest: Digest::of(&config), config, layers })
    }
}

/// Whether several entries of an index are one image for several platforms, as some builders write
/// them.
fn are_one_image(entries: &[Descriptor]) -> bool {
    let of = |entry: &Descriptor| entry.platform.as_ref().map(|platform| platform.platform().to_string());
    let platforms: Option<Vec<_>> = entries.iter().map(of).collect();
    let names: HashSet<_> = entries.iter().map(|entry| entry.annotations.get(REF_NAME)).collect();
    names.len() == 1
        && platforms.is_some_and(|platforms| platforms.len() == platforms.iter().collect::<HashSet<_>>().len())
}

/// An image of `docker save`. Its layers have no digests of their own: those in its configuration
/// are of what they unpack to.
pub(super) struct DockerImage {
    /// The configuration's, which Docker calls the image's id.
    pub(super) digest: Digest,
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Blob>,
}

/// The path that the target `link` of a link in `folder` names, without following other links.
fn link_target(folder: &[u8], link: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = folder.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
    for name in link.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => _ = names.pop(),
            name => names.push(name),
        }
    }
    names.join(&b'/')
}
