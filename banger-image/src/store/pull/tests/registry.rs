//! From a registry on loopback to an image of the store: who may have it, and how much comes.

use std::sync::Arc;

use super::*;
use crate::fetch::http::server::{Request, Server, response};
use crate::oci::Credentials;

const CHALLENGE: &str = "www-authenticate: Basic realm=\"r\"\r\n";

/// A registry of one image, whose manifest the layout's index names. It wants a login while
/// `closed` says so.
fn serve(fixture: &Fixture, closed: &Arc<AtomicBool>) -> Server {
    let (layout, closed) = (fixture.layout(), Arc::clone(closed));
    Server::new(move |request: &Request, _| {
        if closed.load(Ordering::SeqCst) && request.header("authorization") != Some("Basic dTpw") {
            return response("401 Unauthorized", CHALLENGE, b"");
        }
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let root = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let last = request.path.rsplit('/').next().unwrap();
        let digest = if last == "1" { &root } else { last };
        match fs::read(layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap_or(digest))) {
            Ok(bytes) => response("200 OK", "", &bytes),
            Err(_) => response("404 Not Found", "", b""),
        }
    })
}

fn source(server: &Server) -> Source {
    Source::parse(&format!("{}/team/app:1", server.address)).unwrap()
}

/// The options of somebody who is logged in at a registry.
fn logged_in(fixture: &Fixture, server: &Server) -> PullOptions {
    let file = fixture.folder.path().join("config.json");
    fs::write(&file, json!({"auths": {&server.address: {"auth": "dTpw"}}}).to_string()).unwrap();
    PullOptions { credentials: Credentials { files: vec![file], ..Credentials::default() }, ..fixture.options() }
}

fn pull(fixture: &Fixture, server: &Server, options: &PullOptions) -> Result<Pulled> {
    fixture.store.pull(&source(server), "app", "generic-6.12", options, &Silent)
}

/// The files of the cache, whole or not.
fn cached(fixture: &Fixture) -> usize {
    let parts = ["blobs/sha256", "partial", "anonymous/blobs/sha256", "anonymous/partial"];
    let folders = parts.map(|part| fixture.folder.path().join("cache/oci").join(part));
    folders.iter().flat_map(std::fs::read_dir).flatten().count()
}

#[test]
fn image_is_anonymous_if_pullable_without_credentials() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1")], json!({}))]);
    let closed = Arc::new(AtomicBool::new(true));
    let server = serve(&fixture, &closed);
    let nobody = fixture.options();
    assert!(matches!(pull(&fixture, &server, &nobody), Err(Error::Unauthorized { .. })));
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));

    let first = pull(&fixture, &server, &logged_in(&fixture, &server)).unwrap();
    assert!(!first.image.manifest.anonymous && !first.image.manifest.is_of_files());
    assert!(matches!(pull(&fixture, &server, &nobody), Err(Error::Unauthorized { .. })));
    closed.store(false, Ordering::SeqCst);
    let again = pull(&fixture, &server, &nobody).unwrap();
    assert_eq!((again.change, again.image.name.as_str()), (Change::None, first.image.name.as_str()));
    assert!(again.image.manifest.anonymous && fixture.store.image("app").unwrap().unwrap().manifest.anonymous);
    // Nobody was asked for credentials: who is logged in has it as anybody has.
    let other = Fixture::new();
    other.index(&[other.image(&[("a", "1")], json!({}))]);
    assert!(pull(&other, &server, &logged_in(&other, &server)).unwrap().image.manifest.anonymous);
}

#[test]
fn authenticated_layer_is_not_reused_for_other_registries() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("secret", "1")], json!({}))]);
    let server = serve(&fixture, &Arc::new(AtomicBool::new(true)));
    pull(&fixture, &server, &logged_in(&fixture, &server)).unwrap();
    // Another registry has manifest and configuration, and hopes that the layer is here.
    let other = Fixture { store: fixture.store.clone(), folder: tempfile::tempdir().unwrap() };
    fs::create_dir_all(other.layout().join("blobs/sha256")).unwrap();
    let layer = Digest::of(&gzip(&tar("secret", "1"))).hex();
    for blob in fs::read_dir(fixture.layout().join("blobs/sha256")).unwrap().map(|blob| blob.unwrap()) {
        if blob.file_name() != *layer {
            fs::copy(blob.path(), other.layout().join("blobs/sha256").join(blob.file_name())).unwrap();
        }
    }
    fs::copy(fixture.layout().join("index.json"), other.layout().join("index.json")).unwrap();
    let thief = serve(&other, &Arc::new(AtomicBool::new(false)));
    let stolen = fixture.store.pull(&source(&thief), "stolen", "generic-6.12", &fixture.options(), &Silent);
    assert!(stolen.unwrap_err().to_string().contains("does not have it"));
}

#[test]
fn announced_size_is_checked_before_download() {
    for (sizes, most, full) in [
        (&[300 << 20][..], 128 << 20, false),
        (&[u64::MAX, 2], u64::MAX, false),
        (&[u64::MAX - 1, u64::MAX - 1], 1 << 30, false),
        (&[1 << 60, 1 << 60], u64::MAX, true),
    ] {
        let fixture = Fixture::new();
        let layers: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| json!({"digest": Digest::of(&[number as u8]), "size": size}))
            .collect();
        let config = json!({"os": "linux", "architecture": Platform::host().architecture,
            "rootfs": {"diff_ids": sizes.iter().map(|_| Digest::of(b"")).collect::<Vec<_>>()}});
        let config = fixture.blob("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        fixture.index(&[fixture.blob("manifest.v1+json", manifest.to_string().as_bytes())]);
        let server = serve(&fixture, &Arc::new(AtomicBool::new(false)));
        let error = pull(&fixture, &server, &PullOptions { max_bytes: most, ..fixture.options() }).unwrap_err();
        match &error {
            Error::ImageTooLarge { limit } => assert!(!full && *limit == most, "{error}"),
            Error::Io(io) => assert!(full && io.kind() == std::io::ErrorKind::StorageFull, "{error}"),
            other => panic!("{sizes:?}: {other}"),
        }
        let asked = server.requests();
        let layers = asked.iter().filter(|request| request.path.contains("/blobs/"));
        assert_eq!(layers.count(), usize::from(full), "only the configuration is small enough: {asked:?}");
        assert_eq!((cached(&fixture), fixture.stored()), (0, Vec::new()), "{sizes:?}");
    }
}

#[test]
fn refused_image_leaves_no_blobs_but_interrupted_pull_does() {
    let fixture = Fixture::new();
    let tars = [tar("a", "1"), b"no archive, and more than a block of it".repeat(20)];
    let layers: Vec<_> = tars.iter().map(|tar| fixture.blob("layer.v1.tar", tar)).collect();
    let config = json!({"os": "linux", "architecture": Platform::host().architecture,
        "rootfs": {"diff_ids": tars.iter().map(|tar| Digest::of(tar)).collect::<Vec<_>>()}});
    let config = fixture.blob("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    fixture.index(&[fixture.blob("manifest.v1+json", manifest.to_string().as_bytes())]);
    let server = serve(&fixture, &Arc::new(AtomicBool::new(false)));
    for options in [fixture.options(), logged_in(&fixture, &server)] {
        let error = pull(&fixture, &server, &options).unwrap_err();
        assert!(!error.is_interruption(), "{error}");
        assert_eq!((cached(&fixture), fixture.stored()), (0, Vec::new()));
    }
    // Nothing is cached either if the registry wants a login, or if the configuration is wrong.
    let closed = serve(&fixture, &Arc::new(AtomicBool::new(true)));
    pull(&fixture, &closed, &logged_in(&fixture, &closed)).unwrap_err();
    assert_eq!(cached(&fixture), 0);
    let elsewhere = PullOptions { platform: Some("linux/s390x".parse().unwrap()), ..fixture.options() };
    pull(&fixture, &server, &elsewhere).unwrap_err();
    assert_eq!(cached(&fixture), 0);

    fixture.index(&[fixture.image(&[("a", &"long".repeat(1000))], json!({}))]);
    let layer = Digest::of(&gzip(&tar("a", &"long".repeat(1000)))).hex();
    fs::remove_file(fixture.layout().join("blobs/sha256").join(layer)).unwrap();
    assert!(matches!(pull(&fixture, &server, &fixture.options()), Err(Error::Server { .. })));
    assert_eq!(cached(&fixture), 2, "the configuration, and what there is of the layer: nothing yet");
}
