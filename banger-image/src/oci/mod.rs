//! Images of OCI registries, OCI layouts and `docker save` archives, as root file systems (OCI
//! image specification 1.1, OCI distribution specification 1.1).
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
mod file_format;
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
use self::layout::{DockerImage, ImageFiles};
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

/// Default of [`PullOptions::max_bytes`]: 64 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 64 << 30;

/// The source of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image of a registry.
    Registry(Reference),
    /// An OCI layout: its directory, and the image's name in it (OCI image specification, "Image
    /// Layout").
    Layout(PathBuf, Option<String>),
    /// A tar archive of an OCI layout: its file, and the image's name in it.
    OciArchive(PathBuf, Option<String>),
    /// An archive of `docker save`: its file, and the image's name in it.
    DockerArchive(PathBuf, Option<String>),
}

impl Source {
    /// The prefixes of sources in files.
    #[expect(clippy::type_complexity, reason = "each is a constructor")]
    const IN_FILES: [(&str, fn(PathBuf, Option<String>) -> Source); 3] =
        [("oci:", Source::Layout), ("oci-archive:", Source::OciArchive), ("docker-archive:", Source::DockerArchive)];

    /// Whether `text` has the prefix of a source in files of this host.
    #[must_use]
    pub fn is_in_files(text: &str) -> bool {
        Source::IN_FILES.iter().any(|(prefix, _)| text.starts_with(prefix))
    }

    /// Parses a reference, or `oci:FOLDER[:NAME]`, `oci-archive:FILE[:NAME]`,
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
            Some(path) if path.exists() => Err(file_format::mismatch(path, FILES)),
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

    /// The source, as text, for the image in the file or directory at `path`, if one is there: for
    /// a hint when the prefix was left out.
    #[must_use]
    pub fn in_files(path: &Path) -> Option<String> {
        file_format::FileFormat::of(path)?.source(path)
    }

    /// The default name of the image in the store.
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

/// Where an image was pulled from, and its digests and configuration. A part of
/// [`ImageManifest`](crate::ImageManifest).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The source, in full, as [`Source`] displays it.
    pub reference: String,
    /// The digest of the image's manifest; for an archive of `docker save`, the image's id, which
    /// is the digest of its configuration.
    pub digest: Digest,
    /// The platform that the image is for, such as `linux/amd64`.
    pub platform: String,
    /// The digests of the uncompressed layers (`diff_ids`), the lowest first.
    pub layers: Vec<Digest>,
    /// The default command, user, directory and environment.
    pub config: ImageConfig,
}

/// Options of a pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The platform to select from an index, and that the image must be for. `None`: the best that
    /// runs in every guest of this host.
    pub platform: Option<Platform>,
    /// Use plain HTTP (always used for loopback addresses).
    pub plain_http: bool,
    /// Maximum size of all uncompressed layers, in bytes.
    pub max_bytes: u64,
    /// Install an SSH server in VMs of the image.
    pub with_sshd: bool,
    /// Where to look for credentials of registries.
    pub credentials: Credentials,
    /// The URL of the npm registry that recipes take programs from.
    pub npm_registry: String,
    /// banger's cache directory.
    pub cache: PathBuf,
}

impl PullOptions {
    /// Default options, without credentials. `cache` is banger's cache directory.
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

/// An image whose manifest and configuration were read. Its layers are not fetched yet.
pub(crate) struct ResolvedImage<'a> {
    pub(crate) origin: Origin,
    source: BlobSource<'a>,
    layers: Layers,
    options: &'a PullOptions,
    cache: Arc<Cache>,
}

/// Where the blobs of an image are.
enum BlobSource<'a> {
    Registry(Registry<'a>),
    Files(ImageFiles),
}

/// The layers of an image, the lowest first.
enum Layers {
    /// Descriptors, with the digests and sizes of the compressed layers.
    Described(Vec<Descriptor>),
    /// Blobs without digests of their own: the uncompressed content is checked.
    Plain(Vec<Blob>),
}

/// Reads manifest and configuration of an image. `tell` is given messages for the user.
///
/// # Errors
/// [`Error::ImageTooLarge`] if the compressed layers alone are larger than the image may be;
/// [`Error::Platform`], [`Error::Image`], [`Error::Source`], [`Error::Server`],
/// [`Error::Unauthorized`], [`Error::NotInRegistry`].
pub(crate) fn find<'a>(
    source: &'a Source,
    options: &'a PullOptions,
    tell: &'a (dyn Fn(&str) + Sync),
) -> Result<ResolvedImage<'a>> {
    let cache = Arc::new(Cache::new(&options.cache));
    let found = find_with(&cache, source, options, tell);
    found.inspect_err(|error| drop_refused(&cache, error))
}

/// Removes from the cache what was fetched of an image that is refused. A download that was only
/// interrupted is kept, and resumed by the next pull.
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
) -> Result<ResolvedImage<'a>> {
    let (blobs, manifest, digest) = match source {
        Source::Registry(reference) => {
            let registry = Registry::new(reference, &options.credentials, options.plain_http, tell)?;
            let (bytes, media_type, digest) = registry.root()?;
            let get = |descriptor: &Descriptor| registry.document(descriptor);
            let (manifest, digest) = resolve(bytes, &media_type, digest, options, get)?;
            (BlobSource::Registry(registry), manifest, digest)
        }
        Source::DockerArchive(path, name) => {
            let image = ImageFiles::docker_archive(path)?.docker_image(name.as_deref())?;
            return found_in_docker_archive(cache, source, image, options);
        }
        Source::Layout(path, name) | Source::OciArchive(path, name) => {
            let files = match source {
                Source::Layout(..) => ImageFiles::layout(path)?,
                _ => ImageFiles::oci_archive(path)?,
            };
            let get = |descriptor: &Descriptor| files.blob(descriptor)?.bytes("its manifest", MAX_MANIFEST);
            let root = files.root(name.as_deref(), &Matcher::new(options.platform.as_ref()))?;
            let (manifest, digest) = resolve(get(&root)?, &root.media_type, root.digest, options, get)?;
            (BlobSource::Files(files), manifest, digest)
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
    let blob = match &blobs {
        BlobSource::Registry(registry) => {
            check_room("the image's configuration", &[(cache.folder(), config.size)])?;
            registry.blob(config, cache, &|_| (), &AtomicBool::new(false))?
        }
        BlobSource::Files(files) => files.blob(config)?,
    };
    let bytes = blob.bytes("its configuration", MAX_CONFIG)?;
    let origin = origin(source, digest, &bytes, manifest.layers.len(), options)?;
    Ok(ResolvedImage {
        origin,
        source: blobs,
        layers: Layers::Described(manifest.layers),
        options,
        cache: Arc::clone(cache),
    })
}

fn found_in_docker_archive<'a>(
    cache: &Arc<Cache>,
    source: &Source,
    image: DockerImage,
    options: &'a PullOptions,
) -> Result<ResolvedImage<'a>> {
    let origin = origin(source, image.digest, &image.config, image.layers.len(), options)?;
    let blobs = BlobSource::Files(ImageFiles::folder(Path::new("")));
    Ok(ResolvedImage { origin, source: blobs, layers: Layers::Plain(image.layers), options, cache: Arc::clone(cache) })
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

/// Parses the configuration `config`, and checks that it fits platform and number of layers.
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

impl ResolvedImage<'_> {
    /// Whether the registry has given everything so far without credentials.
    pub(crate) fn is_anonymous(&self) -> bool {
        matches!(&self.source, BlobSource::Registry(registry) if registry.access() == Access::Anonymous)
    }

    /// Fetches the layers, writes the root file system into a new file at `path`, and returns its
    /// length in bytes.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::ImageTooLarge`], [`Error::WrongContent`], [`Error::Server`],
    /// [`Error::Unauthorized`], [`Error::FileSystem`], [`Error::Io`].
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
        let BlobSource::Registry(registry) = &self.source else { return Ok(()) };
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
        progress.phase(match self.source {
            BlobSource::Registry(_) => "downloading and unpacking layers",
            BlobSource::Files(_) => "unpacking layers",
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
                        let blob = match &self.source {
                            BlobSource::Registry(registry) => registry.blob(layer, cache, advance, stop),
                            BlobSource::Files(files) => {
                                files.blob(layer).inspect(|blob| advance(blob.len().cast_signed()))
                            }
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

impl ResolvedImage<'_> {
    /// Adds the layer to an error that the layer is to blame for.
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
