//! Fuzz targets: see [`crate::fuzzing`].

use super::layer::apply;
use super::model::{ConfigFile, Document};
use super::*;
use crate::archive::fuzzing::with_checksums;
use crate::ext4;
use crate::ext4::fuzzing::scratch;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Target: applies a layer. A file system that is made passes the check for boot disks.
pub fn layer(data: &[u8]) {
    for stream in with_checksums(data) {
        let mut writer = Writer::new(scratch(), Options::image()).expect("memory for a file");
        let mut budget = Budget::new(1 << 20);
        if apply(&stream[..], &mut writer, &mut budget).is_ok()
            && let Ok(file) = writer.finish()
        {
            assert!(ext4::check(&file).is_ok(), "the file system is not one");
        }
    }
}

/// Target: parses an index or a manifest, under each media type that it may be named by.
pub fn oci_manifest(data: &[u8]) {
    for named in ["", OCI_INDEX, OCI_MANIFEST] {
        match Document::parse(data, named) {
            Ok(Document::Index(entries)) => {
                assert_ne!(named, OCI_MANIFEST);
                let _ = Matcher::new(None).choose(&entries);
            }
            Ok(Document::Manifest(manifest)) => {
                assert_ne!(named, OCI_INDEX);
                assert!(manifest.layers.len() <= 512);
            }
            Err(error) => assert!(error.to_string().len() <= 4096 + 4 * data.len()),
        }
    }
}

/// Inputs to start from.
pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let descriptor = |kind: &str, more: &str| {
        let digest = Digest::of(b"abc");
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":3{more}}}"#)
    };
    let config = descriptor("application/vnd.oci.image.config.v1+json", "");
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", r#","annotations":{"a":"b"}"#);
    let arm = descriptor(OCI_MANIFEST, r#","platform":{"os":"linux","architecture":"arm","variant":"v7"}"#);
    let amd = descriptor(OCI_MANIFEST, r#","platform":{"os":"linux","architecture":"amd64"}"#);
    vec![
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layer}]}}"#).into(),
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{arm},{amd}]}}"#).into(),
        br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(),
    ]
}

/// Target: parses the configuration of an image. Its variables can be set.
pub fn oci_config(data: &[u8]) {
    if let Ok(config) = ConfigFile::parse(data) {
        let _ = (config.diff_ids().len(), config.platform().map(|platform| platform.to_string()));
        let run = config.into_run();
        assert!(run.env.iter().all(|entry| entry.contains('=') && !entry.contains('\0')));
    }
    if let Ok(text) = str::from_utf8(data)
        && let Ok(platform) = text.parse::<Platform>()
    {
        assert_eq!(platform.to_string(), text);
    }
}

/// Inputs to start from.
pub(crate) fn config_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"abc");
    let run = r#"{"Env":["PATH=/bin","=x","N"],"User":"","Cmd":null,"Entrypoint":["/a"],"WorkingDir":"/s"}"#;
    vec![
        format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":["{digest}"]}},"config":{run}}}"#)
            .into(),
        br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec(),
        b"linux/arm/v7".to_vec(),
    ]
}
