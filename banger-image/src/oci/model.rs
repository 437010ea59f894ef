//! The JSON of images: indexes, manifests and configurations, of the OCI image specification 1.1
//! and Docker's schema 2.
//!
//! The crate `oci-spec` is not used: it refuses configurations without `os` or `architecture` and
//! descriptors without `mediaType`, which are accepted here, and parses a document as what the
//! caller says, while here a document that could be both an index and a manifest is refused.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::platform::Platform;
use crate::digest::Digest;
use crate::error::{Error, Result};

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The types of an image's configuration.
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What else is in registries, by the beginning of the configuration's or the artifact's type.
const ARTIFACTS: [(&str, &str); 7] = [
    ("application/vnd.cncf.helm.", "a Helm chart"),
    ("application/vnd.docker.plugin.", "a plugin of Docker's"),
    ("application/vnd.docker.ai.", "an AI model"),
    ("application/vnd.wasm.", "a WebAssembly module"),
    ("application/vnd.dev.cosign.", "a signature"),
    ("application/vnd.cncf.notary.", "a signature"),
    ("application/vnd.buildkit.", "a cache of BuildKit's"),
];

/// The longest manifest or index, as registries have it (OCI distribution specification, "Pushing
/// Manifests"), and the longest configuration, in bytes.
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
pub(super) const MAX_CONFIG: u64 = 8 << 20;
/// The most layers. Overlays of other runtimes end at 127.
const MAX_LAYERS: usize = 512;

/// A content descriptor (OCI image specification, "Content Descriptors"), as far as it is needed
/// here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<PlatformFields>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// The annotation with which buildx marks an entry of an index that describes another entry, and is
/// no image.
pub(super) const ATTESTATION: &str = "vnd.docker.reference.type";
/// Operating system and architecture of entries of an index that are no images.
const UNKNOWN: &str = "unknown";

impl Descriptor {
    /// Whether an entry of an index can be an image, and not what describes one.
    pub(super) fn is_image(&self) -> bool {
        let is_unknown = |fields: &PlatformFields| fields.os == UNKNOWN || fields.architecture == UNKNOWN;
        !self.annotations.contains_key(ATTESTATION) && !self.platform.as_ref().is_some_and(is_unknown)
    }

    /// Whether a layer is meant to be had from elsewhere than the registry (Docker's "foreign" and
    /// OCI's "nondistributable" ones).
    fn is_foreign(&self) -> bool {
        self.media_type.contains("foreign") || self.media_type.contains("nondistributable")
    }
}

/// The `platform` of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct PlatformFields {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

impl PlatformFields {
    /// The platform that these fields name. An empty variant is none.
    pub(super) fn platform(&self) -> Platform {
        let variant = self.variant.clone().filter(|variant| !variant.is_empty());
        Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant }
    }
}

/// An index or a manifest.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// An image manifest (OCI image specification, "Image Manifest"), as far as it is needed here.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Document {
    /// Parses an index or a manifest. `named` is its media type according to the descriptor or the
    /// response that it came by, or empty.
    ///
    /// # Errors
    /// [`Error::Image`]: malformed, of another type than `named`, of schema 1, no image, or beyond
    /// a limit.
    pub(super) fn parse(bytes: &[u8], named: &str) -> Result<Document> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct RawDocument {
            schema_version: u32,
            #[serde(default)]
            media_type: Option<String>,
            #[serde(default)]
            artifact_type: Option<String>,
            #[serde(default)]
            manifests: Option<serde_json::Value>,
            #[serde(default)]
            config: Option<serde_json::Value>,
            #[serde(default)]
            layers: Option<serde_json::Value>,
        }

        let wrong = |reason: &str| Error::Image { what: "its manifest".into(), reason: reason.to_owned() };
        let raw: RawDocument = json("its manifest", bytes)?;
        if raw.schema_version != 2 {
            return Err(wrong("it is of the old schema 1, which has no digests that could be checked"));
        }
        let is_index = |media_type: &str| matches!(media_type, OCI_INDEX | DOCKER_LIST);
        let is_manifest = |media_type: &str| matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST);
        let claimed: Vec<&str> = [named, raw.media_type.as_deref().unwrap_or_default()]
            .into_iter()
            .filter(|media_type| is_index(media_type) || is_manifest(media_type))
            .collect();
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) if !claimed.iter().copied().any(is_manifest) => {
                Ok(Document::Index(value("its index", manifests)?))
            }
            (None, Some(config), Some(layers)) if !claimed.iter().copied().any(is_index) => {
                let manifest =
                    Manifest { config: value("its manifest", config)?, layers: value("its manifest", layers)? };
                manifest.check_config(raw.artifact_type.as_deref().unwrap_or_default())?;
                manifest.check()?;
                Ok(Document::Manifest(manifest))
            }
            _ => Err(wrong("it is not what its type says, neither manifest nor index")),
        }
    }
}

impl Manifest {
    /// The size of all compressed layers, in bytes; `None` beyond 64 bits.
    pub(super) fn layers_size(&self) -> Option<u64> {
        self.layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.size))
    }

    /// Checks that this is the manifest of an image, and not of another artifact: only an image has
    /// a configuration of one of these types (OCI image specification, "Guidelines for Artifact
    /// Usage").
    fn check_config(&self, artifact_type: &str) -> Result<()> {
        let media_type = &*self.config.media_type;
        if matches!(media_type, "" | OCI_CONFIG | DOCKER_CONFIG) {
            return Ok(());
        }
        let named = if artifact_type.is_empty() { media_type } else { artifact_type };
        let kind = ARTIFACTS.iter().find(|(start, _)| named.starts_with(start)).map(|(_, kind)| *kind);
        let kind =
            kind.map_or_else(|| format!("an artifact of the type `{:.100}`", named.escape_debug()), str::to_owned);
        let reason = format!("it is {kind}, and not a container image");
        Err(Error::Image { what: "its manifest".into(), reason })
    }

    fn check(&self) -> Result<()> {
        if let Some(layer) = self.layers.iter().find(|layer| layer.is_foreign()) {
            let reason = "it is to be had from elsewhere than the registry, and is not fetched".to_owned();
            return Err(Error::Image { what: format!("layer {}", layer.digest), reason });
        }
        if self.layers.len() > MAX_LAYERS {
            let reason = format!("it has {} layers, and {MAX_LAYERS} are the most", self.layers.len());
            return Err(Error::Image { what: "its manifest".into(), reason });
        }
        Ok(())
    }
}

/// An image configuration (OCI image specification, "Image Configuration"), as far as it is needed
/// here.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<RunFields>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunFields {
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
}

/// How an image is run by default. Part of [`Origin`](super::Origin).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment variables, each `NAME=VALUE`. Every command in a VM of the image has them.
    #[serde(default)]
    pub env: Vec<String>,
    /// The user, as the configuration has it: a name or an id, possibly with `:GROUP`.
    #[serde(default)]
    pub user: Option<String>,
    /// The working directory.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// The program and its first arguments.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint; without one, the program and its arguments.
    #[serde(default)]
    pub cmd: Vec<String>,
}

impl ConfigFile {
    pub(super) fn parse(bytes: &[u8]) -> Result<ConfigFile> {
        json("its configuration", bytes)
    }

    /// The digests of the layers without their compression.
    pub(super) fn diff_ids(&self) -> &[Digest] {
        &self.rootfs.diff_ids
    }

    /// The platform, if both operating system and architecture are given.
    pub(super) fn platform(&self) -> Option<Platform> {
        (!self.os.is_empty() && !self.architecture.is_empty()).then(|| Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|variant| !variant.is_empty()),
        })
    }

    pub(super) fn into_run(self) -> ImageConfig {
        let fields = self.config.unwrap_or_default();
        // Other runtimes pass over what is no variable, and such images are about.
        let is_variable = |entry: &String| !entry.contains('\0') && entry.find('=').is_some_and(|at| at > 0);
        let env = fields.env.unwrap_or_default().into_iter().filter(is_variable).collect();
        let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        ImageConfig {
            env,
            user: non_empty(fields.user),
            working_dir: non_empty(fields.working_dir),
            entrypoint: fields.entrypoint.unwrap_or_default(),
            cmd: fields.cmd.unwrap_or_default(),
        }
    }
}

/// Parses a JSON document of an image; `what` begins the error.
pub(super) fn json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::Image { what: what.into(), reason: error.to_string() })
}

fn value<T: DeserializeOwned>(what: &str, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::Image { what: what.into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType": "{media_type}", "digest": "{}", "size": 3}}"#, Digest::of(b"abc"))
    }

    fn manifest(layer: &str) -> String {
        let (config, layer) = (descriptor("application/vnd.oci.image.config.v1+json"), descriptor(layer));
        format!(r#"{{"schemaVersion": 2, "mediaType": "{OCI_MANIFEST}", "config": {config}, "layers": [{layer}]}}"#)
    }

    #[test]
    fn document_type_must_match_all_its_declarations() {
        let good = manifest("application/vnd.oci.image.layer.v1.tar+gzip");
        assert!(matches!(Document::parse(good.as_bytes(), ""), Ok(Document::Manifest(_))));
        assert!(matches!(Document::parse(good.as_bytes(), DOCKER_MANIFEST), Ok(Document::Manifest(_))));
        assert!(Document::parse(good.as_bytes(), OCI_INDEX).is_err());
        let both = good.replace("\"layers\"", "\"manifests\": [], \"layers\"");
        let old = good.replace("\"schemaVersion\": 2", "\"schemaVersion\": 1");
        let confused = good.replace(OCI_MANIFEST, DOCKER_LIST);
        for bad in [&both, &old, &confused, "", "[]", "{}", "{\"schemaVersion\": 2}", &"[".repeat(100_000)] {
            assert!(Document::parse(bad.as_bytes(), "").is_err(), "{bad:.100}");
        }
    }

    #[test]
    fn non_image_artifacts_are_refused_by_type() {
        let image = manifest("application/vnd.oci.image.layer.v1.tar+gzip");
        for (config, artifact, said) in [
            ("application/vnd.cncf.helm.config.v1+json", "", "it is a Helm chart, and not a container image"),
            ("application/vnd.oci.empty.v1+json", "application/vnd.wasm.content.layer.v1+wasm", "a WebAssembly module"),
            ("application/vnd.oci.empty.v1+json", "text/x-sbom", "an artifact of the type `text/x-sbom`"),
            ("application/vnd.unknown.config.v1+json", "", "`application/vnd.unknown.config.v1+json`"),
        ] {
            let other = image
                .replace(OCI_CONFIG, config)
                .replace("{\"schema", &format!("{{\"artifactType\": \"{artifact}\", \"schema"));
            let error = Document::parse(other.as_bytes(), OCI_MANIFEST).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(Document::parse(image.replace(OCI_CONFIG, DOCKER_CONFIG).as_bytes(), "").is_ok());
    }

    #[test]
    fn foreign_layers_are_refused_and_not_fetched() {
        for foreign in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
        ] {
            let error = Document::parse(manifest(foreign).as_bytes(), "").unwrap_err();
            assert!(error.to_string().contains("not fetched"), "{error}");
        }
    }

    #[test]
    fn image_config_fields_are_optional_except_layers() {
        let config = ConfigFile::parse(br#"{"rootfs": {"type": "layers", "diff_ids": []}}"#).unwrap();
        assert_eq!(config.platform(), None);
        assert_eq!(config.into_run(), ImageConfig::default());
        let text = br#"{"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []},
            "config": {"Env": ["PATH=/bin", "EMPTY=", "=x", "NONE"], "User": "", "Cmd": null, "Entrypoint": ["/app"], "WorkingDir": "/srv"}}"#;
        let config = ConfigFile::parse(text).unwrap();
        assert_eq!(config.platform().unwrap().to_string(), "linux/amd64");
        let run = config.into_run();
        assert_eq!((run.env.len(), run.user, run.working_dir.as_deref()), (2, None, Some("/srv")));
    }
}
