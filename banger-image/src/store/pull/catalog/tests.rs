//! From a team's catalog to an image of the store.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_err as fs;

use super::*;
use crate::bundle::tests::{bundle_of, rootfs};
use crate::digest::Digest;
use crate::error::Error;
use crate::fetch::http::server::{Server, cut, response};
use crate::fetch::location::Location;
use crate::progress::Silent;

/// Records messages.
#[derive(Default)]
struct Messages(Mutex<Vec<String>>);

impl Progress for Messages {
    fn phase(&self, _: &str) {}
    fn advance(&self, _: u64, _: u64) {}
    fn message(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// A store, and a team's files beside it.
struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("data"));
        Fixture { folder, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes the bundle `<name>.tar.zst`, and returns its bytes.
    fn bundle(&self, name: &str) -> Vec<u8> {
        let bytes = bundle_of(&rootfs(self.folder.path(), name));
        fs::write(self.path(&format!("{name}.tar.zst")), &bytes).unwrap();
        bytes
    }

    fn options(&self) -> PullOptions {
        PullOptions::new(&self.path("cache"))
    }

    fn catalog(&self, location: &str, progress: &dyn Progress) -> Result<Catalog> {
        let location: Location = location.parse().unwrap();
        Catalog::embedded()?.with_team(&location, &self.path("cache"), progress)
    }

    /// What comes of pulling `base`, of a catalog with these sources.
    fn pull(&self, sources: &str, progress: &dyn Progress) -> Result<Pulled> {
        fs::write(self.path("catalog.toml"), entry("base", sources)).unwrap();
        let catalog = self.catalog(self.path("catalog.toml").to_str().unwrap(), progress)?;
        self.store.pull_named("base", &catalog, &self.options(), progress)
    }

    /// What the store's folder has.
    fn stored(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data/images")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.ends_with(".lock")).collect();
        names.sort();
        names
    }
}

fn entry(name: &str, sources: &str) -> String {
    format!("[{name}]\ndescription = 'ours'\nkernel = 'generic-6.12'\nready = 'system'\nsources = [{sources}]\n")
}

fn source(url: &str, bytes: &[u8]) -> String {
    format!("{{ url = '{url}', sha256 = '{}', size = {} }}", Digest::of(bytes).hex(), bytes.len())
}

fn host_name(image: &Image) -> String {
    ext4_view::Ext4::load_from_path(&image.rootfs).unwrap().read_to_string("/etc/hostname").unwrap()
}

#[test]
fn catalog_bundle_is_pulled_refreshed_and_kept_while_used() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.bundle("one"), fixture.bundle("two"));
    let pulled = fixture.pull(&source("one.tar.zst", &first), &Silent).unwrap();
    let manifest = &pulled.image.manifest;
    assert_eq!((&pulled.change, manifest.ready), (&Change::New, crate::manifest::Ready::System));
    assert_eq!(manifest.source, format!("bundle {}", fixture.path("one.tar.zst").display()));
    assert_eq!((manifest.description.as_str(), manifest.bundle), ("ours", Some(Digest::of(&first))));
    assert_eq!(host_name(&fixture.store.image("base").unwrap().unwrap()), "one");
    // It is here: nothing is read again.
    fs::remove_file(fixture.path("one.tar.zst")).unwrap();
    assert_eq!(fixture.pull(&source("one.tar.zst", &first), &Silent).unwrap().change, Change::None);

    let refreshed = fixture.pull(&source("two.tar.zst", &second), &Silent).unwrap();
    assert_eq!(refreshed.change, Change::Refreshed { before: Some(Box::new(manifest.clone())) });
    assert_eq!(host_name(&fixture.store.image("base").unwrap().unwrap()), "two");
    assert_eq!(fixture.store.outdated("base").unwrap(), std::slice::from_ref(&pulled.image));
    assert_eq!(host_name(&pulled.image), "one");
    // Other pulls do not take the name.
    let archive = crate::oci::Source::OciArchive(fixture.path("none"), None);
    let error = fixture.store.pull(&archive, "base", "generic-6.12", &fixture.options(), &Silent).unwrap_err();
    assert!(matches!(error, Error::BadName { .. }), "{error}");
}

#[test]
fn sources_are_tried_in_order_and_failures_reported() {
    let fixture = Fixture::new();
    let bytes = fixture.bundle("one");
    let other = fixture.bundle("two");
    let server = Server::new(|_, _| response("404 Not Found", "", b""));
    let sources = [
        source(&format!("http://{}/gone", server.address), &bytes),
        source("missing.tar.zst", &bytes),
        source("two.tar.zst", &bytes),
        source("one.tar.zst", &bytes),
        source("never", &other),
    ];
    let messages = Messages::default();
    let pulled = fixture.pull(&sources.join(", "), &messages).unwrap();
    assert_eq!(host_name(&pulled.image), "one");
    let messages = messages.0.into_inner().unwrap();
    assert_eq!(messages.len(), 3, "{messages:#?}");
    for (line, part) in messages.iter().zip(["404", "missing.tar.zst", "its content is"]) {
        assert!(line.contains(part) && line.ends_with("the next source is tried") && !line.contains('\n'), "{line}");
    }
    // When none is left, the last one's failure is the error, and nothing is to be seen.
    let fixture = Fixture::new();
    let error = fixture.pull(&sources[..2].join(", "), &Silent).unwrap_err();
    assert!(error.to_string().contains("missing.tar.zst"), "{error}");
    assert_eq!(fixture.stored(), [""; 0]);
    // A refresh that fails changes nothing.
    let fixture = Fixture::new();
    let bytes = fixture.bundle("one");
    let pulled = fixture.pull(&source("one.tar.zst", &bytes), &Silent).unwrap();
    fixture.pull(&source("missing.tar.zst", &other), &Silent).unwrap_err();
    assert_eq!(fixture.store.image("base").unwrap().unwrap(), pulled.image);
    assert_eq!(fixture.stored().len(), 2);
}

#[test]
fn team_catalog_entry_overrides_the_embedded_one() {
    let fixture = Fixture::new();
    let bytes = fixture.bundle("one");
    let text = entry("debian-bookworm-minimal", &source("one.tar.zst", &bytes));
    fs::write(fixture.path("catalog.toml"), text).unwrap();
    let catalog = fixture.catalog(fixture.path("catalog.toml").to_str().unwrap(), &Silent).unwrap();
    let name = "debian-bookworm-minimal";
    let image = fixture.store.ensure_image(name, &catalog, &fixture.options(), &Silent).unwrap();
    assert_eq!((host_name(&image).as_str(), catalog.images.len()), ("one", Catalog::embedded().unwrap().images.len()));
    // A kernel must be known.
    let text = entry("base", "{ recipe = 'debian-bookworm-minimal' }").replace("generic-6.12", "generic-9");
    fs::write(fixture.path("catalog.toml"), text).unwrap();
    let catalog = fixture.catalog(fixture.path("catalog.toml").to_str().unwrap(), &Silent).unwrap();
    let error = fixture.store.ensure_image("base", &catalog, &fixture.options(), &Silent).unwrap_err();
    assert!(matches!(error, Error::Unknown { kind: Kind::Kernel, .. }), "{error}");
}

#[test]
fn cached_catalog_is_used_if_the_server_fails() {
    let fixture = Fixture::new();
    let bytes = fixture.bundle("one");
    let text = entry("base", &source("files/one.tar.zst", &bytes));
    let phase = std::sync::Arc::new(AtomicUsize::new(0));
    let now = std::sync::Arc::clone(&phase);
    let server = Server::new(move |request, _| match (now.load(Ordering::Relaxed), request.path.as_str()) {
        (0, "/team/catalog.toml?key=secret") => response("200 OK", "", text.as_bytes()),
        (0, "/team/files/one.tar.zst") => response("200 OK", "", &bytes),
        (1, _) => response("200 OK", "", b"[base]\nkernal = 1\n"),
        (2, _) => response("200 OK", "", &vec![b'#'; 5 << 20]),
        (3, _) => response("200 OK", "", b"\xff"),
        _ => response("404 Not Found", "", b""),
    });
    let url = format!("http://{}/team/catalog.toml?key=secret", server.address);
    let catalog = fixture.catalog(&url, &Silent).unwrap();
    let pulled = fixture.store.pull_named("base", &catalog, &fixture.options(), &Silent).unwrap();
    assert_eq!(pulled.image.manifest.source, format!("bundle http://{}/team/files/one.tar.zst", server.address));

    // What is wrong is reported, and not kept.
    for (number, reason) in [(1, ":2: unknown field `kernal`"), (3, "UTF-8")] {
        phase.store(number, Ordering::Relaxed);
        let error = fixture.catalog(&url, &Silent).unwrap_err();
        assert!(matches!(error, Error::Catalog { .. }) && error.to_string().contains(reason), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for (number, reason) in [(2, "more than"), (4, "404")] {
        phase.store(number, Ordering::Relaxed);
        let messages = Messages::default();
        assert_eq!(fixture.catalog(&url, &messages).unwrap(), catalog);
        let messages = messages.0.into_inner().unwrap();
        assert!(
            messages.len() == 1 && messages[0].contains(reason) && messages[0].contains("the copy"),
            "{messages:?}"
        );
    }
    let elsewhere = format!("http://{}/other.toml", server.address);
    assert!(matches!(fixture.catalog(&elsewhere, &Silent), Err(Error::Server { .. })));
    for path in ["none.toml", "cache"] {
        let error = fixture.catalog(fixture.path(path).to_str().unwrap(), &Silent).unwrap_err();
        assert!(matches!(error, Error::Catalog { .. }), "{error}");
    }
}

#[test]
fn catalog_url_credentials_are_sent_only_to_its_server() {
    let fixture = Fixture::new();
    let (bytes, other) = (fixture.bundle("one"), Server::new(|_, _| response("404 Not Found", "", b"")));
    let elsewhere = format!("http://{}/one.tar.zst", other.address);
    let text = entry("base", &[source(&elsewhere, &bytes), source("one.tar.zst", &bytes)].join(", "));
    let server = Server::new(move |request, _| match request.path.as_str() {
        "/catalog.toml" => response("200 OK", "", text.as_bytes()),
        _ => response("200 OK", "", &bytes),
    });
    let messages = Messages::default();
    let catalog = fixture.catalog(&format!("http://user:secret@{}/catalog.toml", server.address), &messages).unwrap();
    let pulled = fixture.store.pull_named("base", &catalog, &fixture.options(), &messages).unwrap();
    let authorizations: Vec<_> =
        server.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert_eq!(authorizations, [Some("Basic dXNlcjpzZWNyZXQ=".to_owned()), Some("Basic dXNlcjpzZWNyZXQ=".to_owned())]);
    assert!(other.requests()[0].header("authorization").is_none());
    assert!(
        !pulled.image.manifest.source.contains("secret")
            && !messages.0.into_inner().unwrap().concat().contains("secret")
    );
}

#[test]
fn concurrent_pulls_download_bundle_once() {
    let fixture = Fixture::new();
    let bytes = fixture.bundle("one");
    let whole = bytes.clone();
    let server = Server::new(move |request, _| match request.header("range") {
        None => cut("", whole.len(), &whole[..whole.len() / 2]),
        Some(_) => {
            let half = whole.len() / 2;
            let header = format!("content-range: bytes {half}-{}/{}\r\n", whole.len() - 1, whole.len());
            response("206 Partial Content", &header, &whole[half..])
        }
    });
    fs::write(fixture.path("catalog.toml"), entry("base", &source(&format!("http://{}/b", server.address), &bytes)))
        .unwrap();
    let catalog = fixture.catalog(fixture.path("catalog.toml").to_str().unwrap(), &Silent).unwrap();
    let pull = || fixture.store.pull_named("base", &catalog, &fixture.options(), &Silent).unwrap();
    let pulled: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(pull)).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(pulled.iter().all(|one| one.image == pulled[0].image));
    assert_eq!(pulled.iter().filter(|one| one.change == Change::New).count(), 1);
    assert_eq!((server.requests().len(), fixture.stored().len()), (2, 2));
}

#[test]
fn registered_image_is_not_replaced_by_pull() {
    let fixture = Fixture::new();
    let bytes = fixture.bundle("one");
    let registered =
        fixture.store.register("base", &rootfs(fixture.folder.path(), "own"), "generic-6.12", &Silent).unwrap();
    let pulled = fixture.pull(&source("one.tar.zst", &bytes), &Silent).unwrap();
    assert_eq!((pulled.change, pulled.image), (Change::None, registered));
}
