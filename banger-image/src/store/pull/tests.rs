//! From a layout on the disk to an image of the store.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err as fs;
use serde_json::{Value, json};

use super::*;
use crate::oci::{Digest, Platform};
use crate::progress::Silent;

mod registry;

/// A store, and a layout beside it.
struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

const OCI: &str = "application/vnd.oci.image";

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("layout/blobs/sha256")).unwrap();
        fs::write(folder.path().join("layout/oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        let store = Store::new(&folder.path().join("data"));
        Fixture { folder, store }
    }

    fn layout(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// Puts a blob into the layout, and returns what names it.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.layout().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": format!("{OCI}.{media_type}"), "digest": digest, "size": bytes.len()})
    }

    /// An image of layers with one file each.
    fn image(&self, files: &[(&str, &str)], config: Value) -> Value {
        let tars: Vec<_> = files.iter().map(|(path, content)| tar(path, content)).collect();
        let layers: Vec<_> = tars.iter().map(|tar| self.blob("layer.v1.tar+gzip", &gzip(tar))).collect();
        let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
        let config = json!({"os": "linux", "architecture": Platform::host().architecture, "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.blob("config.v1+json", config.to_string().as_bytes());
        self.blob(
            "manifest.v1+json",
            json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().as_bytes(),
        )
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.layout().join("index.json"), index.to_string()).unwrap();
    }

    fn options(&self) -> PullOptions {
        PullOptions::new(&self.folder.path().join("cache"))
    }

    fn source(&self) -> Source {
        Source::Layout(self.layout(), None)
    }

    fn pull(&self, name: &str) -> Result<Pulled> {
        self.store.pull(&self.source(), name, "generic-6.12", &self.options(), &Silent)
    }

    /// What the store's folder has.
    fn stored(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("data/images")).map(|entries| {
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !name.ends_with(".lock"))
                .collect();
            names.sort();
            names
        });
        entries.unwrap_or_default()
    }
}

fn tar(path: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The content of a file of an image.
fn read(image: &Image, path: &str) -> Option<String> {
    let ext4 = ext4_view::Ext4::load_from_path(&image.rootfs).unwrap();
    ext4.read_to_string(path).ok()
}

#[test]
fn name_follows_the_latest_pull_and_keeps_images_in_use() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1"), ("b", "1")], json!({"Env": ["X=1"], "Cmd": ["/a"]}))]);
    let first = fixture.pull("app").unwrap();
    assert_eq!((first.change.clone(), read(&first.image, "/b").as_deref()), (Change::New, Some("1")));
    let origin = first.image.manifest.oci.clone().unwrap();
    assert_eq!((&origin.config.env[..], &origin.config.cmd[..]), (&["X=1".to_owned()][..], &["/a".to_owned()][..]));
    assert_eq!(fixture.store.image("app").unwrap().unwrap(), first.image);
    assert_eq!(fixture.pull("app").unwrap().change, Change::None);

    fixture.index(&[fixture.image(&[("a", "1"), ("b", "2")], json!({}))]);
    let second = fixture.pull("app").unwrap();
    assert_eq!(second.change, Change::Refreshed { before: Some(Box::new(first.image.manifest.clone())) });
    let found = fixture.store.image("app").unwrap().unwrap();
    assert_eq!((read(&found, "/b").unwrap(), read(&first.image, "/b").unwrap()), ("2".to_owned(), "1".to_owned()));
    assert_eq!(fixture.store.image(&first.image.name).unwrap().unwrap(), first.image);
    assert_eq!(fixture.store.outdated("app").unwrap(), std::slice::from_ref(&first.image));

    let users = |folders: &[String]| -> Result<Vec<String>> {
        Ok(if folders.contains(&first.image.name) { vec!["vm".into()] } else { Vec::new() })
    };
    let error = fixture.store.delete_image("app", users, &Silent).unwrap_err();
    assert_eq!(error.to_string(), "the image `app` is in use by `vm`");
    assert_eq!(fixture.stored().len(), 3);
    let unused = |_: &[String]| -> Result<Vec<String>> { Ok(Vec::new()) };
    assert_eq!(
        fixture.store.delete_image(&first.image.name, unused, &Silent).unwrap(),
        std::slice::from_ref(&first.image.name)
    );
    assert_eq!(fixture.store.image("app").unwrap().unwrap(), second.image);
    assert_eq!(fixture.store.delete_image("app", unused, &Silent).unwrap(), [second.image.name]);
    assert_eq!(fixture.stored(), [""; 0]);
    let error = fixture.store.delete_image("app", unused, &Silent).unwrap_err();
    assert!(matches!(error, Error::NotHere { .. }), "{error}");
}

#[test]
fn image_can_be_pulled_again_after_deletion() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1")], json!({}))]);
    let first = fixture.pull("app").unwrap();
    let unused = |_: &[String]| -> Result<Vec<String>> { Ok(Vec::new()) };
    fixture.store.delete_image(&first.image.name, unused, &Silent).unwrap();
    assert!(fixture.store.image("app").unwrap().is_none() && fixture.stored().is_empty());
    assert_eq!(fixture.pull("app").unwrap().change, Change::New);
}

#[test]
fn same_image_gives_identical_bytes() {
    let sums: Vec<_> = (0..2)
        .map(|_| {
            let fixture = Fixture::new();
            fixture.index(&[fixture.image(&[("a", "1"), ("b/c", "2")], json!({}))]);
            Digest::of(&fs::read(fixture.pull("app").unwrap().image.rootfs).unwrap())
        })
        .collect();
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn pull_refuses_names_already_taken() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1")], json!({}))]);
    fs::create_dir_all(fixture.folder.path().join("data/images/made")).unwrap();
    for name in ["debian-bookworm-minimal", "made", "../x", "", &"x".repeat(52)] {
        fixture.pull(name).unwrap_err();
    }
    let unknown = fixture.store.pull(&fixture.source(), "app", "no-kernel", &fixture.options(), &Silent).unwrap_err();
    assert!(matches!(unknown, Error::Unknown { .. }), "{unknown}");
    assert_eq!(fixture.stored(), ["made"]);
    assert!(fixture.pull(&"x".repeat(51)).is_ok());
}

#[test]
fn invalid_image_is_never_visible() {
    type Break = fn(&Fixture) -> Vec<Value>;
    let image = |fixture: &Fixture| fixture.image(&[("a", "1")], json!({}));
    let cases: [(&str, Break, &str); 8] = [
        (
            "a layer of another content",
            |fixture| {
                let image = fixture.image(&[("a", "1")], json!({}));
                let layer = fixture.layout().join("blobs/sha256").join(Digest::of(&gzip(&tar("a", "1"))).hex());
                let length = fs::metadata(&layer).unwrap().len();
                fs::write(&layer, vec![0; length as usize]).unwrap();
                vec![image]
            },
            "its content is",
        ),
        (
            "a size that is another",
            |fixture| {
                let mut image = fixture.image(&[("a", "1")], json!({}));
                image["size"] = json!(3);
                vec![image]
            },
            "should have 3",
        ),
        (
            "a manifest that is not there",
            |fixture| {
                let image = fixture.image(&[("a", "1")], json!({}));
                fs::remove_dir_all(fixture.layout().join("blobs/sha256")).unwrap();
                vec![image]
            },
            "there is no `blobs",
        ),
        (
            "a manifest that is an index",
            |fixture| {
                let mut image = fixture.image(&[("a", "1")], json!({}));
                image["mediaType"] = json!(format!("{OCI}.index.v1+json"));
                vec![image]
            },
            "not what its type says",
        ),
        (
            "indexes without end",
            |fixture| {
                let mut inner = fixture.image(&[("a", "1")], json!({}));
                for _ in 0..6 {
                    let index = json!({"schemaVersion": 2, "manifests": [inner]}).to_string();
                    inner = fixture.blob("index.v1+json", index.as_bytes());
                }
                vec![inner]
            },
            "more than 4 times",
        ),
        (
            "another platform",
            |fixture| {
                let mut image = fixture.image(&[("a", "1")], json!({}));
                image["platform"] = json!({"os": "plan9", "architecture": "mips"});
                let index = json!({"schemaVersion": 2, "manifests": [image]}).to_string();
                vec![fixture.blob("index.v1+json", index.as_bytes())]
            },
            "it is for plan9/mips",
        ),
        (
            "fewer layers than its configuration says",
            |fixture| {
                let config = json!({"os": "linux", "architecture": Platform::host().architecture,
                "rootfs": {"diff_ids": [Digest::of(b"")]}});
                let config = fixture.blob("config.v1+json", config.to_string().as_bytes());
                let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
                vec![fixture.blob("manifest.v1+json", manifest.to_string().as_bytes())]
            },
            "it is of 1 layers, and there are 0",
        ),
        (
            "two images and no name",
            |fixture| vec![fixture.image(&[("a", "1")], json!({})), fixture.image(&[("a", "2")], json!({}))],
            "more than one image",
        ),
    ];
    for (name, make, reason) in cases {
        let fixture = Fixture::new();
        fixture.index(&make(&fixture));
        let error = fixture.pull("app").expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
        assert_eq!(fixture.stored(), [""; 0], "{name}");
        assert!(fixture.store.image("app").unwrap().is_none());
    }
    // A limit on what layers unpack to.
    let fixture = Fixture::new();
    fixture.index(&[image(&fixture)]);
    let options = PullOptions { max_bytes: 1000, ..fixture.options() };
    let error = fixture.store.pull(&fixture.source(), "app", "generic-6.12", &options, &Silent).unwrap_err();
    assert!(matches!(error, Error::ImageTooLarge { limit: 1000 }), "{error}");
    assert_eq!(fixture.stored(), [""; 0]);
}

#[test]
fn oci_and_docker_archives_give_the_same_tree() {
    let fixture = Fixture::new();
    let mut image = fixture.image(&[("a", "1"), ("b", "2")], json!({}));
    image["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    fixture.index(&[image]);
    let archive = fixture.folder.path().join("image.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    builder.append_dir_all(".", fixture.layout()).unwrap();
    builder.finish().unwrap();

    let layers = [tar("a", "1"), tar("b", "2")];
    let config = json!({"os": "linux", "architecture": Platform::host().architecture,
        "rootfs": {"diff_ids": layers.each_ref().map(|layer| Digest::of(layer))}});
    let manifest = json!([{"Config": "c.json", "RepoTags": ["x/app:v1"], "Layers": ["one/layer.tar", "two.tar"]}]);
    let saved = fixture.folder.path().join("saved.tar");
    let mut builder = tar::Builder::new(fs::File::create(&saved).unwrap());
    for (path, content) in [
        ("manifest.json", manifest.to_string().as_bytes()),
        ("c.json", config.to_string().as_bytes()),
        ("one/layer.tar", &layers[0]),
        ("two.tar", &layers[1]),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    }
    builder.finish().unwrap();
    let sources = [
        Source::OciArchive(archive.clone(), Some("v1".into())),
        Source::parse(&format!("oci-archive:{}", archive.display())).unwrap(),
        Source::parse(&format!("docker-archive:{}:x/app:v1", saved.display())).unwrap(),
        Source::DockerArchive(saved.clone(), None),
    ];
    for source in &sources {
        let pulled =
            fixture.store.pull(source, &source.store_name(), "generic-6.12", &fixture.options(), &Silent).unwrap();
        assert_eq!(read(&pulled.image, "/a").as_deref(), Some("1"), "{source}");
        assert_eq!(read(&pulled.image, "/b").as_deref(), Some("2"), "{source}");
    }
    let missing = Source::OciArchive(archive.clone(), Some("v2".into()));
    let error = fixture.store.pull(&missing, "x", "generic-6.12", &fixture.options(), &Silent).unwrap_err();
    assert!(error.to_string().contains("there is v1"), "{error}");
    // What an archive's layers unpack to is checked, having no other digest.
    let mut bytes = fs::read(&saved).unwrap();
    let at = bytes.windows(5).rposition(|window| window == b"ustar").unwrap();
    bytes[at + 255] ^= 1;
    fs::write(&saved, bytes).unwrap();
    let error = fixture.store.pull(&sources[3], "y", "generic-6.12", &fixture.options(), &Silent).unwrap_err();
    assert!(error.to_string().contains("unpacks to"), "{error}");
    let compressed = fixture.folder.path().join("image.tar.gz");
    fs::write(&compressed, gzip(b"tar")).unwrap();
    let source = Source::OciArchive(compressed, None);
    let error = fixture.store.pull(&source, "z", "generic-6.12", &fixture.options(), &Silent).unwrap_err();
    assert!(error.hint().unwrap().contains("gunzip"), "{error}");
}

#[test]
fn runnable_platform_of_an_index_is_pulled() {
    let fixture = Fixture::new();
    let host = Platform::host();
    let image = |content: &str, variant: Option<&str>| {
        let mut image = fixture.image(&[("a", content)], json!({}));
        image["platform"] = json!({"os": "linux", "architecture": host.architecture, "variant": variant});
        image
    };
    let attestation = || {
        let mut attestation = fixture.blob("manifest.v1+json", b"{}");
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation
    };
    // Some builders write them into the layout's index itself, and others into one that it names.
    let manifests = [image("newest", Some("v9")), image("any", None), attestation()];
    fixture.index(&manifests);
    assert_eq!(read(&fixture.pull("app").unwrap().image, "/a").as_deref(), Some("any"));
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    fixture.index(&[fixture.blob("index.v1+json", index.as_bytes())]);
    assert_eq!(fixture.pull("app").unwrap().change, Change::None);
    let options = PullOptions {
        platform: Some(Platform { variant: Some("v9".into()), ..Platform::host() }),
        ..fixture.options()
    };
    let newest = fixture.store.pull(&fixture.source(), "new", "generic-6.12", &options, &Silent).unwrap();
    assert_eq!(read(&newest.image, "/a").as_deref(), Some("newest"));
    // What is for a processor that guests need not have is not taken, also where there is nothing
    // else.
    let index = json!({"schemaVersion": 2, "manifests": [image("newest", Some("v9")), attestation()]}).to_string();
    fixture.index(&[fixture.blob("index.v1+json", index.as_bytes())]);
    let error = fixture.pull("app").unwrap_err();
    assert!(error.hint().unwrap().contains("--platform linux/"), "{error}");
}

#[test]
fn layer_unpack_error_names_the_layer() {
    let cases: [(&[u8], &str); 2] = [
        (&gzip(&tar("b", &"2".repeat(5000)))[..40], "it ends too early"),
        (&[&gzip(&tar("b", "2"))[..], b"rest"].concat(), "something behind the end of its gzip stream"),
    ];
    for (layer, reason) in cases {
        let fixture = Fixture::new();
        let first = tar("a", "1");
        let layers = [fixture.blob("layer.v1.tar+gzip", &gzip(&first)), fixture.blob("layer.v1.tar+gzip", layer)];
        let config = json!({"os": "linux", "architecture": Platform::host().architecture,
            "rootfs": {"diff_ids": [Digest::of(&first), Digest::of(b"")]}});
        let config = fixture.blob("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        fixture.index(&[fixture.blob("manifest.v1+json", manifest.to_string().as_bytes())]);
        let error = fixture.pull("app").unwrap_err().to_string();
        let named = format!("layer 2 of 2 ({}) of `{}` cannot be unpacked: ", Digest::of(layer), fixture.source());
        assert!(error.starts_with(&named) && error.contains(reason), "{error}");
    }
}

#[test]
fn wrong_source_form_error_suggests_the_right_one() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1")], json!({}))]);
    let at = |name: &str| fixture.folder.path().join(name).display().to_string();
    let write = |name: &str, files: &[&str]| {
        let mut builder = tar::Builder::new(fs::File::create(at(name)).unwrap());
        for file in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            builder.append_data(&mut header, file, &b"x"[..]).unwrap();
        }
        builder.finish().unwrap();
    };
    write("oci.tar", &["oci-layout", "index.json"]);
    write("docker.tar", &["manifest.json", "repositories"]);
    write("old.tar", &["abc/layer.tar", "repositories"]);
    write("export.tar", &["etc/passwd", "usr/bin/env"]);
    fs::write(at("packed.tar"), gzip(b"tar")).unwrap();
    fs::write(at("text"), "text ".repeat(200)).unwrap();
    fs::write(at("empty"), "").unwrap();
    let (layout, oci, docker) = (at("layout"), at("oci.tar"), at("docker.tar"));
    for (source, reason, hint) in [
        (format!("oci:{oci}"), "an archive of an OCI layout", format!("oci-archive:{oci}")),
        (format!("oci:{docker}"), "an archive of `docker save`", format!("docker-archive:{docker}")),
        (format!("docker-archive:{layout}"), "an OCI layout", format!("oci:{layout}")),
        (format!("oci-archive:{layout}"), "an OCI layout", format!("oci:{layout}")),
        (format!("docker-archive:{oci}"), "an archive of an OCI layout", format!("oci-archive:{oci}")),
        (format!("oci-archive:{docker}"), "an archive of `docker save`", format!("docker-archive:{docker}")),
        (format!("docker-archive:{}", at("export.tar")), "as `docker export` writes it", "`docker save`".into()),
        (format!("docker-archive:{}", at("old.tar")), "older than 1.10", "`docker load`".into()),
        (format!("oci-archive:{}", at("packed.tar")), "compressed as a whole", "gunzip".into()),
        (docker.clone(), "an archive of `docker save`", format!("docker-archive:{docker}")),
        (layout.clone(), "an OCI layout", format!("oci:{layout}")),
        (at("export.tar"), "as `docker export` writes it", "`docker save`".into()),
        ("./no/such.tar".into(), "files are named oci:FOLDER", String::new()),
        (
            format!("docker-archive:{}", at("text")),
            "cannot be used as an image: it is not a tar archive",
            String::new(),
        ),
        (format!("docker-archive:{}", at("empty")), "cannot be used as an image: it is empty", String::new()),
        (format!("docker-archive:{}", at("nonexist")), "an image: there is no such file", String::new()),
        (format!("oci-archive:{}", at("nonexist")), "an image: there is no such file", String::new()),
        (format!("oci:{}", at("text")), "it has no `index.json`", String::new()),
    ] {
        let pulled = Source::parse(&source)
            .and_then(|source| fixture.store.pull(&source, "x", "generic-6.12", &fixture.options(), &Silent));
        let error = pulled.expect_err(&source);
        assert!(error.to_string().contains(reason), "{source}: {error}");
        assert!(error.hint().unwrap_or_default().contains(&hint), "{source}: {:?}", error.hint());
    }
    assert_eq!(Source::in_files(docker.as_ref()), Some(format!("docker-archive:{docker}")));
    assert_eq!(Source::in_files(at("text").as_ref()), None);
}

#[test]
fn concurrent_pulls_make_one_image() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1")], json!({}))]);
    let pulled: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| fixture.pull("app").unwrap())).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(pulled.iter().all(|one| one.image == pulled[0].image));
    assert_eq!(pulled.iter().filter(|one| one.change == Change::New).count(), 1);
    assert_eq!(fixture.stored().len(), 2);
}

#[test]
fn held_image_is_not_deleted() {
    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1")], json!({}))]);
    fixture.pull("app").unwrap();
    let hold = fixture.store.hold_images().unwrap();
    let asked = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| {
            let users = |_: &[String]| -> Result<Vec<String>> {
                asked.store(true, Ordering::SeqCst);
                Ok(vec!["new".into()])
            };
            fixture.store.delete_image("app", users, &Silent)
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!asked.load(Ordering::SeqCst));
        drop(hold);
        assert!(matches!(deleting.join().unwrap(), Err(Error::InUse { .. })));
    });
}

#[test]
fn pull_fails_if_its_kernel_is_deleted_meanwhile() {
    /// Deletes the kernel in the middle of a pull.
    struct Meanwhile<'a>(&'a Store);

    impl Progress for Meanwhile<'_> {
        fn phase(&self, what: &str) {
            if what == "writing the file system" {
                self.0.delete_kernel::<Error>("mine", || Ok(Vec::new()), &Silent).unwrap();
            }
        }
        fn advance(&self, _: u64, _: u64) {}
        fn message(&self, _: &str) {}
    }

    let fixture = Fixture::new();
    fixture.index(&[fixture.image(&[("a", "1")], json!({}))]);
    let kernel = fixture.folder.path().join("bzImage");
    fs::write(&kernel, crate::kernel::bz_image("6.12.1 (me) #1")).unwrap();
    let import = || fixture.store.import_kernel("mine", &kernel, None, &Silent);
    let pull =
        |progress: &dyn Progress| fixture.store.pull(&fixture.source(), "app", "mine", &fixture.options(), progress);
    import().unwrap();
    assert!(matches!(pull(&Meanwhile(&fixture.store)), Err(Error::Unknown { kind: Kind::Kernel, .. })));
    assert_eq!(fixture.store.image("app").unwrap(), None);
    import().unwrap();
    assert_eq!(pull(&Silent).unwrap().change, Change::New);
    let delete = fixture.store.delete_kernel::<Error>("mine", || Ok(Vec::new()), &Silent);
    assert!(matches!(delete, Err(Error::KernelInUse { .. })));
}
