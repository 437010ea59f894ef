//! From a registry on loopback to an image of the store: who may have it, and how much comes.

use std::sync::Arc;

use super::*;
use crate::fetch::http::server::{Request, Server, response};
use crate::oci::Credentials;

const CHALLENGE: &str = "www-authenticate: Basic realm=\"r\"\r\n";

/// A registry of one image, whose manifest the layout's index names. It wants a login while
/// `closed` says so.
fn serve(place: &Place, closed: &Arc<AtomicBool>) -> Server {
    let (layout, closed) = (place.layout(), Arc::clone(closed));
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
fn logged_in(place: &Place, server: &Server) -> PullOptions {
    let file = place.folder.path().join("config.json");
    fs::write(&file, json!({"auths": {&server.address: {"auth": "dTpw"}}}).to_string()).unwrap();
    PullOptions { credentials: Credentials { files: vec![file], ..Credentials::default() }, ..place.options() }
}

fn pull(place: &Place, server: &Server, options: &PullOptions) -> Result<Pulled> {
    place.store.pull(&source(server), "app", "generic-6.12", options, &Silent)
}

/// The files of the cache, whole or not.
fn cached(place: &Place) -> usize {
    let parts = ["blobs/sha256", "partial", "anonymous/blobs/sha256", "anonymous/partial"];
    let folders = parts.map(|part| place.folder.path().join("cache/oci").join(part));
    folders.iter().flat_map(std::fs::read_dir).flatten().count()
}

#[test]
fn an_image_is_for_all_if_its_registry_gives_it_to_a_pull_without_credentials() {
    let place = Place::new();
    place.index(&[place.image(&[("a", "1")], json!({}))]);
    let closed = Arc::new(AtomicBool::new(true));
    let server = serve(&place, &closed);
    let nobody = place.options();
    assert!(matches!(pull(&place, &server, &nobody), Err(Error::Unauthorized { .. })));
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));

    let first = pull(&place, &server, &logged_in(&place, &server)).unwrap();
    assert!(!first.image.manifest.anonymous && !first.image.manifest.is_of_files());
    assert!(matches!(pull(&place, &server, &nobody), Err(Error::Unauthorized { .. })));
    closed.store(false, Ordering::SeqCst);
    let again = pull(&place, &server, &nobody).unwrap();
    assert_eq!((again.change, again.image.name.as_str()), (Change::None, first.image.name.as_str()));
    assert!(again.image.manifest.anonymous && place.store.image("app").unwrap().unwrap().manifest.anonymous);
    // Nobody was asked for credentials: who is logged in has it as anybody has.
    let other = Place::new();
    other.index(&[other.image(&[("a", "1")], json!({}))]);
    assert!(pull(&other, &server, &logged_in(&other, &server)).unwrap().image.manifest.anonymous);
}

#[test]
fn a_layer_that_came_with_credentials_is_not_given_to_who_names_its_digest() {
    let place = Place::new();
    place.index(&[place.image(&[("secret", "1")], json!({}))]);
    let server = serve(&place, &Arc::new(AtomicBool::new(true)));
    pull(&place, &server, &logged_in(&place, &server)).unwrap();
    // Another registry has manifest and configuration, and hopes that the layer is here.
    let other = Place { store: place.store.clone(), folder: tempfile::tempdir().unwrap() };
    fs::create_dir_all(other.layout().join("blobs/sha256")).unwrap();
    let layer = Digest::of(&gzip(&tar("secret", "1"))).hex();
    for blob in fs::read_dir(place.layout().join("blobs/sha256")).unwrap().map(|blob| blob.unwrap()) {
        if blob.file_name() != *layer {
            fs::copy(blob.path(), other.layout().join("blobs/sha256").join(blob.file_name())).unwrap();
        }
    }
    fs::copy(place.layout().join("index.json"), other.layout().join("index.json")).unwrap();
    let thief = serve(&other, &Arc::new(AtomicBool::new(false)));
    let stolen = place.store.pull(&source(&thief), "stolen", "generic-6.12", &place.options(), &Silent);
    assert!(stolen.unwrap_err().to_string().contains("does not have it"));
}

#[test]
fn what_is_announced_is_held_against_the_limit_and_the_disk_before_it_is_fetched() {
    for (sizes, most, full) in [
        (&[300 << 20][..], 128 << 20, false),
        (&[u64::MAX, 2], u64::MAX, false),
        (&[u64::MAX - 1, u64::MAX - 1], 1 << 30, false),
        (&[1 << 60, 1 << 60], u64::MAX, true),
    ] {
        let place = Place::new();
        let layers: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| json!({"digest": Digest::of(&[number as u8]), "size": size}))
            .collect();
        let config = json!({"os": "linux", "architecture": Platform::host().architecture,
            "rootfs": {"diff_ids": sizes.iter().map(|_| Digest::of(b"")).collect::<Vec<_>>()}});
        let config = place.blob("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        place.index(&[place.blob("manifest.v1+json", manifest.to_string().as_bytes())]);
        let server = serve(&place, &Arc::new(AtomicBool::new(false)));
        let error = pull(&place, &server, &PullOptions { max_bytes: most, ..place.options() }).unwrap_err();
        match &error {
            Error::ImageTooLarge { limit } => assert!(!full && *limit == most, "{error}"),
            Error::Io(io) => assert!(full && io.kind() == std::io::ErrorKind::StorageFull, "{error}"),
            other => panic!("{sizes:?}: {other}"),
        }
        let asked = server.requests();
        let layers = asked.iter().filter(|request| request.path.contains("/blobs/"));
        assert_eq!(layers.count(), usize::from(full), "only the configuration is small enough: {asked:?}");
        assert_eq!((cached(&place), place.stored()), (0, Vec::new()), "{sizes:?}");
    }
}

#[test]
fn nothing_stays_of_an_image_that_is_refused_and_a_cut_pull_goes_on() {
    let place = Place::new();
    let tars = [tar("a", "1"), b"no archive, and more than a block of it".repeat(20)];
    let layers: Vec<_> = tars.iter().map(|tar| place.blob("layer.v1.tar", tar)).collect();
    let config = json!({"os": "linux", "architecture": Platform::host().architecture,
        "rootfs": {"diff_ids": tars.iter().map(|tar| Digest::of(tar)).collect::<Vec<_>>()}});
    let config = place.blob("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    place.index(&[place.blob("manifest.v1+json", manifest.to_string().as_bytes())]);
    let server = serve(&place, &Arc::new(AtomicBool::new(false)));
    for options in [place.options(), logged_in(&place, &server)] {
        let error = pull(&place, &server, &options).unwrap_err();
        assert!(!error.is_interruption(), "{error}");
        assert_eq!((cached(&place), place.stored()), (0, Vec::new()));
    }
    // The same where the registry wants a login, and where the configuration is what is wrong.
    let closed = serve(&place, &Arc::new(AtomicBool::new(true)));
    pull(&place, &closed, &logged_in(&place, &closed)).unwrap_err();
    assert_eq!(cached(&place), 0);
    let elsewhere = PullOptions { platform: Some("linux/s390x".parse().unwrap()), ..place.options() };
    pull(&place, &server, &elsewhere).unwrap_err();
    assert_eq!(cached(&place), 0);

    place.index(&[place.image(&[("a", &"long".repeat(1000))], json!({}))]);
    let layer = Digest::of(&gzip(&tar("a", &"long".repeat(1000)))).hex();
    fs::remove_file(place.layout().join("blobs/sha256").join(layer)).unwrap();
    assert!(matches!(pull(&place, &server, &place.options()), Err(Error::Server { .. })));
    assert_eq!(cached(&place), 2, "the configuration, and what there is of the layer: nothing yet");
}
