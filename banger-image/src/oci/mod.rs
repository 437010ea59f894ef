//! Images of registries and of archives, as root file systems.
//!
//! ```text
//! reference → manifest → configuration, layers → one ext4 image → the store
//!             (registry, layout)   (blob cache)    (tar stream by tar stream)
//! ```
//!
//! Layers are downloaded side by side and checked by their digests; each is applied, as soon as
//! those below it are, in one pass over its stream. Blocks of what a later layer replaces are used
//! again. Nothing of a layer is ever created on this machine but bytes of the image file.

mod blob;
mod cache;
mod challenge;
mod credentials;
mod form;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod layer;
mod layout;
mod matcher;
mod model;
mod platform;
mod reference;
mod registry;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use fs_err as fs;
use serde::{Deserialize, Serialize};

pub use self::cache::{Freed, prune as prune_cache};
pub use self::credentials::Credentials;
pub use self::model::ImageConfig;
pub use self::platform::Platform;
pub use self::reference::Reference;
pub use crate::digest::Digest;

use self::blob::Blob;
use self::cache::{Access, Cache};
use self::layer::Budget;
use self::layout::{DockerImage, Files};
use self::matcher::Matcher;
use self::model::{ConfigFile, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, Manifest};
use self::registry::Registry;
use crate::archive::decompress;
use crate::error::{Error, Result};
use crate::ext4::{self, Options, Writer};
use crate::files::space::check_room;
use crate::progress::Progress;
use crate::recipe::npm::NPM_REGISTRY;

/// How many layers are downloaded at the same time.
const DOWNLOADS: usize = 4;
/// How many indexes may lead to each other before there is a manifest.
const MAX_INDEXES: usize = 4;

/// The most that the layers of an image may have without their compression, in bytes, if nobody
/// says otherwise: 64 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 64 << 30;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a registry.
    Registry(Reference),
    /// In an OCI layout: the folder, and the image's name in it.
    Layout(PathBuf, Option<String>),
    /// In a tar archive of such a layout.
    OciArchive(PathBuf, Option<String>),
    /// In an archive of `docker save`.
    DockerArchive(PathBuf, Option<String>),
}

impl Source {
    /// How what is in files is named.
    #[expect(clippy::type_complexity, reason = "each is a constructor")]
    const IN_FILES: [(&str, fn(PathBuf, Option<String>) -> Source); 3] =
        [("oci:", Source::Layout), ("oci-archive:", Source::OciArchive), ("docker-archive:", Source::DockerArchive)];

    /// Whether this names files of this machine.
    #[must_use]
    pub fn is_in_files(text: &str) -> bool {
        Source::IN_FILES.iter().any(|(prefix, _)| text.starts_with(prefix))
    }

    /// Reads a reference, or `oci:FOLDER[:NAME]`, `oci-archive:FILE[:NAME]`,
    /// `docker-archive:FILE[:NAME]`, as skopeo(1) has them.
    ///
    /// # Errors
    /// [`Error::Reference`], and [`Error::Source`] for a file or directory without the form in
    /// front.
    pub fn parse(text: &str) -> Result<Source> {
        for (prefix, make) in Source::IN_FILES {
            let Some(rest) = text.strip_prefix(prefix) else { continue };
            // A path may have colons of its own.
            return match rest.split_once(':').filter(|_| !Path::new(rest).exists()) {
                _ if rest.is_empty() => Err(Error::Reference { text: text.into(), reason: "it names no file".into() }),
                Some((path, name)) => Ok(make(path.into(), Some(name.to_owned()))),
                None => Ok(make(rest.into(), None)),
            };
        }
        const FILES: &str = "files are named oci:FOLDER, oci-archive:FILE or docker-archive:FILE";
        match Source::mistaken_path(text) {
            Some(path) if path.exists() => Err(form::wrong(path, FILES)),
            Some(_) => Err(Error::Reference { text: text.into(), reason: FILES.into() }),
            None => text.parse().map(Source::Registry),
        }
    }

    /// The path that a text is, if it cannot be meant as a reference: one that begins as paths do,
    /// or an archive that exists.
    fn mistaken_path(text: &str) -> Option<&Path> {
        let path = Path::new(text);
        let begins_as_paths_do = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start));
        let ends_as_archives_do = [".tar", ".tar.gz", ".tgz"].iter().any(|end| text.ends_with(end));
        (begins_as_paths_do || ends_as_archives_do && path.is_file()).then_some(path)
    }

    /// How an image in a file or folder of this machine is named, if one is there: for who leaves
    /// out the form.
    #[must_use]
    pub fn in_files(path: &Path) -> Option<String> {
        form::Form::of(path)?.source(path)
    }

    /// What the image is called in the store if nobody says otherwise.
    #[must_use]
    pub fn store_name(&self) -> String {
        match self {
            Source::Registry(reference) => reference.store_name(),
            Source::Layout(path, name) | Source::OciArchive(path, name) | Source::DockerArchive(path, name) => {
                let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
                let stem = whole.file_stem().unwrap_or_default().to_string_lossy();
                let readable = name.as_deref().map_or_else(|| stem.to_string(), |name| format!("{stem}-{name}"));
                reference::store_name(
                    &readable,
                    &format!("{}:{}", whole.display(), name.as_deref().unwrap_or_default()),
                )
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, name) = match self {
            Source::Registry(reference) => return reference.fmt(f),
            Source::Layout(path, name) => ("oci", path, name),
            Source::OciArchive(path, name) => ("oci-archive", path, name),
            Source::DockerArchive(path, name) => ("docker-archive", path, name),
        };
        write!(f, "{kind}:{}", path.display())?;
        name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

/// What an image was pulled from, and what it says of itself; kept in the store's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The source, in full.
    pub reference: String,
    /// The digest of the image's manifest; of an archive of `docker save`, the image's id.
    pub digest: Digest,
    /// What it is for, such as `linux/amd64`.
    pub platform: String,
    /// The digests of its layers without their compression, the lowest first.
    pub layers: Vec<Digest>,
    /// How it wants to be run.
    pub config: ImageConfig,
}

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// What to take from an index, and what an image must be for; none: what runs in any guest of
    /// this host.
    pub platform: Option<Platform>,
    /// Speak to the registry without encryption.
    pub plain_http: bool,
    /// The most that all layers may have without their compression, in bytes.
    pub max_bytes: u64,
    /// Give its VMs an SSH server.
    pub with_sshd: bool,
    /// Who the user is.
    pub credentials: Credentials,
    /// The registry of npm that recipes take programs from, a URL.
    pub npm_registry: String,
    /// banger's cache folder.
    pub cache: PathBuf,
}

impl PullOptions {
    /// Nothing but what must be said; nobody's credentials.
    #[must_use]
    pub fn new(cache: &Path) -> PullOptions {
        PullOptions {
            platform: None,
            plain_http: false,
            max_bytes: DEFAULT_MAX_BYTES,
            with_sshd: false,
            credentials: Credentials::default(),
            npm_registry: NPM_REGISTRY.to_owned(),
            cache: cache.to_owned(),
        }
    }
}

/// An image that was found: its parts are still where they are.
pub(crate) struct Found<'a> {
    pub(crate) origin: Origin,
    place: Place<'a>,
    layers: Layers,
    options: &'a PullOptions,
    cache: Arc<Cache>,
}

enum Place<'a> {
    Registry(Registry<'a>),
    Files(Files),
}

enum Layers {
    /// With digests to check them by, and sizes.
    Described(Vec<Descriptor>),
    /// To be checked by what they unpack to.
    Plain(Vec<Blob>),
}

/// Finds an image: what its manifest and its configuration say. Its layers have no more bytes than
/// the image may have.
pub(crate) fn find<'a>(
    source: &'a Source,
    options: &'a PullOptions,
    tell: &'a (dyn Fn(&str) + Sync),
) -> Result<Found<'a>> {
    let cache = Arc::new(Cache::new(&options.cache));
    let found = find_with(&cache, source, options, tell);
    found.inspect_err(|error| drop_refused(&cache, error))
}

/// Nothing is kept of an image that is refused. One whose download was cut goes on with the next
/// pull.
fn drop_refused(cache: &Cache, error: &Error) {
    if !error.is_interruption() {
        cache.drop_fetched();
    }
}

fn find_with<'a>(
    cache: &Arc<Cache>,
    source: &'a Source,
    options: &'a PullOptions,
    tell: &'a (dyn Fn(&str) + Sync),
) -> Result<Found<'a>> {
    let (place, manifest, digest) = match source {
        Source::Registry(reference) => {
            let registry = Registry::new(reference, &options.credentials, options.plain_http, tell)?;
            let (bytes, media_type, digest) = registry.root()?;
            let get = |descriptor: &Descriptor| registry.document(descriptor);
            let (manifest, digest) = resolve(bytes, &media_type, digest, options, get)?;
            (Place::Registry(registry), manifest, digest)
        }
        Source::DockerArchive(path, name) => {
            let image = Files::docker_archive(path)?.docker_image(name.as_deref())?;
            return found_in_docker_archive(cache, source, image, options);
        }
        Source::Layout(path, name) | Source::OciArchive(path, name) => {
            let files = match source {
                Source::Layout(..) => Files::layout(path)?,
                _ => Files::oci_archive(path)?,
            };
            let get = |descriptor: &Descriptor| files.blob(descriptor)?.bytes("its manifest", MAX_MANIFEST);
            let root = files.root(name.as_deref(), &Matcher::new(options.platform.as_ref()))?;
            let (manifest, digest) = resolve(get(&root)?, &root.media_type, root.digest, options, get)?;
            (Place::Files(files), manifest, digest)
        }
    };
    if manifest.layers_size().is_none_or(|size| size > options.max_bytes) {
        return Err(Error::ImageTooLarge { limit: options.max_bytes });
    }
    let config = &manifest.config;
    if config.size > MAX_CONFIG {
        let reason = format!("it has {} bytes, and {MAX_CONFIG} are the most", config.size);
        return Err(Error::Image { what: "its configuration".into(), reason });
    }
    let blob = match &place {
        Place::Registry(registry) => {
            check_room("the image's configuration", &[(cache.folder(), config.size)])?;
            registry.blob(config, cache, &|_| (), &AtomicBool::new(false))?
        }
        Place::Files(files) => files.blob(config)?,
    };
    let bytes = blob.bytes("its configuration", MAX_CONFIG)?;
    let origin = origin(source, digest, &bytes, manifest.layers.len(), options)?;
    Ok(Found { origin, place, layers: Layers::Described(manifest.layers), options, cache: Arc::clone(cache) })
}

fn found_in_docker_archive<'a>(
    cache: &Arc<Cache>,
    source: &Source,
    image: DockerImage,
    options: &'a PullOptions,
) -> Result<Found<'a>> {
    let origin = origin(source, image.digest, &image.config, image.layers.len(), options)?;
    let place = Place::Files(Files::folder(Path::new("")));
    Ok(Found { origin, place, layers: Layers::Plain(image.layers), options, cache: Arc::clone(cache) })
}

/// Follows indexes to the manifest for the wanted platform.
fn resolve(
    mut bytes: Vec<u8>,
    media_type: &str,
    mut digest: Digest,
    options: &PullOptions,
    get: impl Fn(&Descriptor) -> Result<Vec<u8>>,
) -> Result<(Manifest, Digest)> {
    let mut media_type = media_type.to_owned();
    let platform = Matcher::new(options.platform.as_ref());
    // An index that leads to itself ends here too: its digest cannot be known to it, but a registry
    // may claim anything.
    for _ in 0..=MAX_INDEXES {
        let index = match Document::parse(&bytes, &media_type)? {
            Document::Manifest(manifest) => return Ok((manifest, digest)),
            Document::Index(index) => index,
        };
        let chosen = platform.choose(&index)?;
        if chosen.size > MAX_MANIFEST {
            let reason = format!("it names a manifest of {} bytes, and {MAX_MANIFEST} are the most", chosen.size);
            return Err(Error::Image { what: "its index".into(), reason });
        }
        bytes = get(chosen)?;
        (digest, media_type) = (chosen.digest, chosen.media_type.clone());
    }
    let reason = format!("indexes lead to indexes more than {MAX_INDEXES} times");
    Err(Error::Image { what: "its index".into(), reason })
}

/// What a configuration says, having made sure that it fits the rest.
fn origin(source: &Source, digest: Digest, config: &[u8], layers: usize, options: &PullOptions) -> Result<Origin> {
    let wrong = |reason: String| Error::Image { what: "its configuration".into(), reason };
    let config = ConfigFile::parse(config)?;
    if config.diff_ids().len() != layers {
        return Err(wrong(format!("it is of {} layers, and there are {layers}", config.diff_ids().len())));
    }
    let matcher = Matcher::new(options.platform.as_ref());
    let platform = config.platform().unwrap_or_else(|| matcher.wanted().clone());
    if matcher.rank(&platform).is_none() {
        return Err(Error::Platform { wanted: matcher.wanted().to_string(), there: vec![platform.to_string()] });
    }
    Ok(Origin {
        reference: source.to_string(),
        digest,
        platform: platform.to_string(),
        layers: config.diff_ids().to_vec(),
        config: config.into_run(),
    })
}

impl Found<'_> {
    /// Whether all that was had so far is what a registry gives to anybody.
    pub(crate) fn is_anonymous(&self) -> bool {
        matches!(&self.place, Place::Registry(registry) if registry.access() == Access::Anonymous)
    }

    /// Writes the root file system into `path`, and returns its length in bytes.
    pub(crate) fn write(&self, path: &Path, progress: &dyn Progress) -> Result<u64> {
        self.write_image(path, progress).inspect_err(|error| drop_refused(&self.cache, error))
    }

    fn write_image(&self, path: &Path, progress: &dyn Progress) -> Result<u64> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?.into_file();
        let options = Options::image().derived_from(self.origin.digest.to_string().as_bytes());
        let mut writer = Writer::new(file, options)?;
        match &self.layers {
            Layers::Plain(blobs) => {
                progress.phase("unpacking layers");
                let mut budget = Budget::new(self.options.max_bytes);
                for (number, (blob, digest)) in blobs.iter().zip(&self.origin.layers).enumerate() {
                    progress.advance(number as u64, blobs.len() as u64);
                    apply(blob.clone(), Some(*digest), &mut writer, &mut budget)
                        .map_err(|error| self.in_layer(number, *digest, error))?;
                }
            }
            Layers::Described(layers) => {
                self.check_room(layers, path)?;
                self.write_described(layers, &mut writer, progress)?;
            }
        }
        progress.phase("writing the file system");
        Ok(writer.finish()?.metadata()?.len())
    }

    /// Makes sure that the layers have room before they are downloaded: in the cache, and once
    /// more, unpacked, beside `path`. What they unpack to is hardly less.
    fn check_room(&self, layers: &[Descriptor], path: &Path) -> Result<()> {
        let Place::Registry(registry) = &self.place else { return Ok(()) };
        let mut seen = HashSet::new();
        let is_missing = |layer: &&Descriptor| {
            seen.insert(layer.digest) && !self.cache.has(layer.digest, layer.size, registry.access())
        };
        let all: u64 = layers.iter().map(|layer| layer.size).sum();
        let missing: u64 = layers.iter().filter(is_missing).map(|layer| layer.size).sum();
        check_room("the image", &[(self.cache.folder(), missing), (path, all)])
    }

    /// Downloads layers side by side, and applies each when it and those below it are there.
    fn write_described(&self, layers: &[Descriptor], writer: &mut Writer, progress: &dyn Progress) -> Result<()> {
        let total: u64 = layers.iter().map(|layer| layer.size).sum();
        progress.phase(match self.place {
            Place::Registry(_) => "downloading and unpacking layers",
            Place::Files(_) => "unpacking layers",
        });
        let stop = AtomicBool::new(false);
        let next = AtomicUsize::new(0);
        let done = Mutex::new(0i64);
        let advance = |bytes: i64| {
            let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *done += bytes;
            progress.advance(done.cast_unsigned(), total);
        };
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..DOWNLOADS.min(layers.len()) {
                let sender = sender.clone();
                let (stop, next, advance, cache) = (&stop, &next, &advance, &*self.cache);
                scope.spawn(move || {
                    while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let blob = match &self.place {
                            Place::Registry(registry) => registry.blob(layer, cache, advance, stop),
                            Place::Files(files) => files.blob(layer).inspect(|blob| advance(blob.len().cast_signed())),
                        };
                        let failed = blob.is_err();
                        if sender.send((layer.digest, blob)).is_err() || failed {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut budget = Budget::new(self.options.max_bytes);
            let mut there: Vec<(Digest, Blob)> = Vec::new();
            let mut apply_all = || -> Result<()> {
                for (number, layer) in layers.iter().enumerate() {
                    let blob = loop {
                        if let Some((_, blob)) = there.iter().find(|(digest, _)| *digest == layer.digest) {
                            break blob.clone();
                        }
                        // Senders go when a download has failed, and the failure was sent.
                        let Ok((digest, blob)) = receiver.recv() else { return Err(gone()) };
                        there.push((digest, blob?));
                    };
                    apply(blob, None, writer, &mut budget)
                        .map_err(|error| self.in_layer(number, layer.digest, error))?;
                }
                Ok(())
            };
            let result = apply_all();
            stop.store(true, Ordering::Relaxed);
            result
        })
    }
}

impl Found<'_> {
    /// Says which layer something is wrong with. What is wrong with this machine is not.
    fn in_layer(&self, number: usize, digest: Digest, error: Error) -> Error {
        use std::io::ErrorKind;
        let reason = match error {
            Error::Io(error) => match error.kind() {
                ErrorKind::UnexpectedEof => Error::Io(std::io::Error::new(error.kind(), "it ends too early")),
                ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => Error::Io(error),
                _ => return Error::Io(error),
            },
            Error::FileSystem(ext4::Error::Image(_) | ext4::Error::NoSpace { .. }) | Error::ImageTooLarge { .. } => {
                return error;
            }
            error => error,
        };
        let layer = format!("layer {} of {} ({digest})", number + 1, self.origin.layers.len());
        Error::Layer { layer, image: self.origin.reference.clone(), reason: Box::new(reason) }
    }
}

fn gone() -> Error {
    std::io::Error::other("a download ended without a word").into()
}

/// Applies the layer in a blob.
fn apply(blob: Blob, digest: Option<Digest>, writer: &mut Writer, budget: &mut Budget) -> Result<()> {
    let limit = budget.limit;
    let too_large = || Error::ImageTooLarge { limit };
    let left = budget.bytes;
    let ((), bytes) = decompress::read_decompressed(blob, left, too_large, digest, |stream| {
        layer::apply(stream, writer, budget)?;
        Ok(())
    })?;
    budget.take_bytes(bytes)
}
