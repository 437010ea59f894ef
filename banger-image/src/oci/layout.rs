//! Images in files: OCI layouts, as folders and as tar archives, and archives of `docker save`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use serde::Deserialize;

use super::blob::Blob;
use super::form::{self, Form};
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

/// A folder, or a tar archive, of files.
pub(super) enum Files {
    Folder(PathBuf),
    Archive(PathBuf, HashMap<Vec<u8>, Blob>),
}

impl Files {
    pub(super) fn folder(path: &Path) -> Files {
        Files::Folder(path.to_owned())
    }

    /// A layout in a folder.
    pub(super) fn layout(path: &Path) -> Result<Files> {
        match (path.join("index.json").is_file(), path.exists()) {
            (true, _) => Ok(Files::folder(path)),
            (false, true) => Err(form::wrong(path, "it is no OCI layout: it has no `index.json`")),
            (false, false) => Err(form::wrong(path, "there is no such folder")),
        }
    }

    /// An archive of a layout.
    pub(super) fn oci_archive(path: &Path) -> Result<Files> {
        Files::archive_with(path, "index.json")
    }

    /// An archive of `docker save`.
    pub(super) fn docker_archive(path: &Path) -> Result<Files> {
        Files::archive_with(path, "manifest.json")
    }

    /// An archive with the file that its form has.
    fn archive_with(path: &Path, name: &str) -> Result<Files> {
        // Opening what is no file, such as a FIFO, may take forever.
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(form::wrong(path, "there is no such file"));
            }
            metadata => metadata?,
        };
        if !metadata.is_file() {
            return Err(form::wrong(path, "it is no file"));
        }
        if metadata.len() == 0 {
            return Err(form::wrong(path, "it is empty"));
        }
        match Files::archive(path)? {
            Files::Archive(_, files) if !files.contains_key(name.as_bytes()) => {
                Err(form::wrong(path, &format!("it has no `{name}`")))
            }
            files => Ok(files),
        }
    }

    /// Reads where the files of an archive are. Nothing is unpacked.
    fn archive(path: &Path) -> Result<Files> {
        let file = Arc::new(fs::File::open(path)?);
        let wrong = |reason: String| Error::Image { what: format!("`{}`", path.display()), reason };
        if Form::of(path) == Some(Form::Compressed) {
            return Err(form::wrong(path, ""));
        }
        let length = file.metadata()?.len();
        let mut files = HashMap::new();
        let mut links = Vec::new();
        let mut names = 0;
        let mut reader = Reader::new(Blob::new(Arc::clone(&file), 0, length));
        let mut is_first = true;
        let broken = |error, is_first| match is_first {
            true => form::wrong(path, "it is not a tar archive"),
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
            let target = beside(folder, &link);
            if let Some(blob) = files.get(&target).or_else(|| files.get(&link)).cloned() {
                files.insert(path, blob);
            }
        }
        Ok(Files::Archive(path.to_owned(), files))
    }

    /// A file of this path, which no stranger has written.
    fn open(&self, path: &str) -> Result<Option<Blob>> {
        match self {
            Files::Folder(folder) => {
                let file = match fs::File::open(folder.join(path)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file?,
                };
                let length = file.metadata()?.len();
                Ok(Some(Blob::new(Arc::new(file), 0, length)))
            }
            Files::Archive(_, files) => Ok(files.get(path.as_bytes()).cloned()),
        }
    }

    fn required(&self, path: &str) -> Result<Blob> {
        self.open(path)?.ok_or_else(|| self.wrong(&format!("there is no `{path}` in it")))
    }

    fn wrong(&self, reason: &str) -> Error {
        let (Files::Folder(path) | Files::Archive(path, _)) = self;
        Error::Image { what: format!("`{}`", path.display()), reason: reason.to_owned() }
    }

    /// What a descriptor of a layout names, checked.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        let path = format!("blobs/sha256/{}", descriptor.digest.hex());
        self.required(&path)?.verify(&path, descriptor.digest, descriptor.size)
    }

    /// The manifest or index of a layout that has this name; without one, the only one, or of one
    /// image for several platforms the one that runs.
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

    /// The image of an archive of `docker save` that has this name; without one, the only one.
    pub(super) fn docker_image(&self, name: Option<&str>) -> Result<DockerImage> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            config: String,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }

        let bytes = self.required("manifest.json")?.bytes("manifest.json", MAX_MANIFEST)?;
        let entries: Vec<Entry> = json("manifest.json", &bytes)?;
        let has = |entry: &&Entry| {
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

/// The path that a link in `folder` leads to, as far as names tell.
fn beside(folder: &[u8], link: &[u8]) -> Vec<u8> {
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
