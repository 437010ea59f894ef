//! A team's catalog, from the publisher's Dockerfile to a command in its image; and what may happen
//! to a pull on its way.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_tests::registry::{Layout, run};
use banger_tests::web::{LoggedRequest, WebServer};
use banger_tests::{Home, Output, Repository, banger_binary, eventually, path_with, readme};

const PAGE: &str = "docs/image-catalog.md";
/// Stands for the web server in the page.
const SITE: &str = "https://images.example.com";

/// Docker, as far as the page uses it: its image is the one that was prepared.
const DOCKER: &str = r#"#!/bin/sh
case "$*" in
    "build --quiet --tag team/base .") echo sha256:0123 ;;
    "save --output base.tar team/base") cp "$HOME/prepared.tar" base.tar ;;
    *) echo "docker $*: not known here" >&2; exit 1 ;;
esac
"#;

/// An image of busybox with a word of greeting, as `docker save` would write it.
fn prepare(home: &Home, greeting: &str) {
    let layout = Layout::new(home.path().join("layout"));
    layout.busybox("base", home.path());
    fs::write(home.path().join("motd"), format!("{greeting}\n")).unwrap();
    layout.insert("base", &home.path().join("motd"), "/etc/motd");
    layout.configure("base", &["--config.env", "TEAM=ours"]);
    let (from, to) =
        (layout.source("base"), format!("docker-archive:{}/prepared.tar:team/base:latest", home.path().display()));
    let _ = fs::remove_file(home.path().join("prepared.tar"));
    run(Command::new("skopeo").args(["copy", "--quiet", &from, &to]));
    fs::remove_dir_all(home.path().join("layout")).unwrap();
}

/// Runs a section's commands in `folder`, word for word but for the web server's name.
fn follow(section: &str, home: &Home, folder: &Path, site: &str) {
    let mut path = path_with(&home.bin());
    path.push(":");
    path.push(banger_binary().parent().unwrap());
    for example in readme::examples(PAGE, section) {
        let mut shell = home.command("sh");
        shell.args(["-c", &example.command.replace(SITE, site)]).env("PATH", &path).current_dir(folder);
        let output = Output::from(shell.output().unwrap()).ok();
        example.assert_shown(&output.text());
    }
}

fn json(repository: &Repository<'_>, arguments: &[&str]) -> serde_json::Value {
    let output = repository.banger().arg("image").args(arguments).arg("--json").output().unwrap();
    Output::from(output).document()
}

/// What the store of images has, without what locks it.
fn stored(home: &Home) -> Vec<String> {
    let names = fs::read_dir(home.data().join("images")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> =
        names.map(|name| name.into_string().unwrap()).filter(|name| !name.ends_with(".lock")).collect();
    names.sort();
    names
}

/// A root file system of about `mebibytes` that do not compress, and `word`.
fn rootfs(home: &Home, word: &str, mebibytes: usize) -> PathBuf {
    let tree = home.path().join(format!("{word}.tree"));
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/word"), word).unwrap();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(mebibytes << 20)
    .collect();
    fs::write(tree.join("noise"), noise).unwrap();
    let path = home.path().join(format!("{word}.ext4"));
    let size = format!("{}M", mebibytes + 8);
    run(Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&path).arg(&size));
    path
}

/// Registers and exports an image, and deletes it; returns its entry of a catalog. The bundle is
/// `<folder>/<word>.tar.zst`.
fn publish(repository: &Repository<'_>, name: &str, word: &str, folder: &Path) -> String {
    let path = rootfs(repository.home, word, 3);
    repository.run(["image", "register", "-q", "--name", name, "--rootfs", path.to_str().unwrap()]).ok();
    let file = folder.join(format!("{word}.tar.zst"));
    let entry = repository.run(["image", "export", name, "-q", "-o", file.to_str().unwrap()]).ok().text();
    repository.run(["image", "delete", "-q", name]).ok();
    entry
}

fn served(home: &Home) -> (PathBuf, WebServer) {
    let folder = home.path().join("public");
    fs::create_dir(&folder).unwrap();
    (folder.clone(), WebServer::new(folder))
}

#[test]
fn documented_team_catalog_can_be_published_and_used() {
    let publisher = Home::with_own_images();
    publisher.program("docker", DOCKER, 0o755);
    prepare(&publisher, "made by the team");
    let work = publisher.path().join("work");
    fs::create_dir(&work).unwrap();
    follow("Publishing", &publisher, &work, "");
    let web = WebServer::new(work.join("public"));
    // What is exported again is the same, and goes to a pipe as well.
    let bundle = fs::read(work.join("public/base-1.tar.zst")).unwrap();
    let repository = publisher.repository("r");
    let again = repository.run(["image", "export", "base", "-o", "-"]).ok();
    assert!(again.stdout == bundle && again.stderr.contains("sources = [{ url = \"base.tar.zst\""), "{}", again.stderr);
    follow("Bundles", &publisher, &work, "");

    let user = Home::with_own_images();
    let repository = user.repository("r");
    follow("Using", &user, &repository.root, &format!("http://{}", web.address));
    let shown = json(&repository, &["show", "base"]);
    assert_eq!(
        (&shown["config"]["env"], &shown["platform"]),
        (&serde_json::json!(["TEAM=ours"]), &"linux/amd64".into()),
        "{shown}"
    );
    let fetched = |path: &str| web.requests().iter().filter(|request| request.path == path).count();
    assert_eq!((fetched("catalog.toml"), fetched("base-1.tar.zst")), (2, 1));
    let rootfs = |home: &Home| {
        let folder = fs::canonicalize(home.data().join("images/base")).unwrap();
        fs::read(folder.join("rootfs.ext4")).unwrap()
    };
    assert!(rootfs(&user) == rootfs(&publisher), "the same file system");

    // A new version: the VM keeps the old one.
    prepare(&publisher, "made again");
    let publish = "docker save --output base.tar team/base && banger image pull docker-archive:base.tar --name base && \
         banger image export base --output public/base-2.tar.zst >public/catalog.toml";
    let mut shell = publisher.command("sh");
    let mut path = path_with(&publisher.bin());
    path.push(":");
    path.push(banger_binary().parent().unwrap());
    Output::from(shell.args(["-ec", publish]).env("PATH", &path).current_dir(&work).output().unwrap()).ok();
    let refreshed = json(&repository, &["pull", "base"]);
    assert_eq!(
        (&refreshed["change"], &refreshed["previous_digest"]),
        (&"refreshed".into(), &shown["digest"]),
        "{refreshed}"
    );
    assert_eq!(repository.run(["-q", "--", "cat", "/etc/motd"]).ok().text(), "made by the team\n");
    assert_eq!(json(&repository, &["list"])["images"].as_array().map(Vec::len), Some(2));

    // Without the web the copy of the catalog tells what is here and what is not.
    drop(web);
    fs::remove_dir_all(work.join("public")).unwrap();
    let unchanged = repository.run(["image", "pull", "base"]).ok();
    assert!(unchanged.stderr.contains("404") && unchanged.stderr.contains("up to date"), "{}", unchanged.stderr);
}

#[test]
fn killed_pull_leaves_no_visible_image_and_next_succeeds() {
    let home = Home::with_own_images();
    let repository = home.repository("r");
    let (public, web) = served(&home);
    let entry = publish(&repository, "base", "one", &public);
    fs::write(public.join("catalog.toml"), &entry).unwrap();
    home.configure(&format!("catalog_url = \"{}\"\n", web.url("catalog.toml")));
    let kill = |arguments: &[&str]| {
        let mut pull = repository.banger();
        pull.args(["image", "pull"]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let mut pull = pull.spawn().unwrap();
        eventually("a half is there", || web.is_holding());
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(stored(&home).iter().all(|name| name.starts_with(".tmp-")), "{:?}", stored(&home));
        assert_eq!(json(&repository, &["list"])["images"].as_array().map(Vec::len), Some(0));
        pull.kill().unwrap();
        assert_eq!(pull.wait().unwrap().signal(), Some(9));
        assert!(stored(&home).iter().all(|name| name.starts_with(".tmp-")), "{:?}", stored(&home));
        web.hold(None);
    };
    let size = fs::metadata(public.join("one.tar.zst")).unwrap().len();
    web.hold(Some(("one.tar.zst", size / 2)));
    kill(&["base"]);
    assert_eq!(stored(&home).len(), 1, "{:?}", stored(&home));
    // Meanwhile the catalog has another one: what was left of the first goes all the same.
    let entry = publish(&repository, "base", "two", &public);
    fs::write(public.join("catalog.toml"), &entry).unwrap();
    assert_eq!(json(&repository, &["pull", "base"])["change"], "new");
    assert!(stored(&home).len() == 2 && stored(&home)[0] == "base", "{:?}", stored(&home));
    run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(home.data().join("images/base/rootfs.ext4")));
    repository.run(["image", "delete", "base"]).ok();

    // A killed pull from a registry: layers are in the cache as far as they came.
    let layout = Layout::new(home.path().join("layout"));
    layout.add("app");
    layout.insert("app", &home.path().join("one.tree/noise"), "/noise");
    let blobs = home.path().join("layout/blobs/sha256");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path().join("layout/index.json")).unwrap()).unwrap();
    let hex = |descriptor: &serde_json::Value| descriptor["digest"].as_str().unwrap().replace("sha256:", "");
    let named =
        |descriptor: &&serde_json::Value| descriptor["annotations"]["org.opencontainers.image.ref.name"] == "app";
    let manifest =
        fs::read(blobs.join(hex(index["manifests"].as_array().unwrap().iter().find(named).unwrap()))).unwrap();
    let app = public.join("v2/team/app");
    fs::create_dir_all(app.join("manifests")).unwrap();
    fs::create_dir_all(app.join("blobs")).unwrap();
    fs::write(app.join("manifests/1"), &manifest).unwrap();
    for blob in fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(blob.path(), app.join("blobs").join(format!("sha256:{}", blob.file_name().into_string().unwrap())))
            .unwrap();
    }
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    web.hold(Some((layer["digest"].as_str().unwrap(), layer["size"].as_u64().unwrap() / 2)));
    let reference = format!("{}/team/app:1", web.address);
    kill(&[&reference, "--name", "app"]);
    assert_eq!(json(&repository, &["pull", &reference, "--name", "app"])["change"], "new");
    let LoggedRequest { path, range } = web.requests().pop().unwrap();
    assert!(
        path.ends_with(layer["digest"].as_str().unwrap()) && range.is_some(),
        "it goes on where it was: {path} {range:?}"
    );
    run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(home.data().join("images/app/rootfs.ext4")));

    // A catalog may name it too, for when a bundle is not there.
    let sources = format!(
        "[{{ url = \"gone.tar.zst\", sha256 = \"{}\", size = 1 }}, {{ oci = \"{reference}\" }}]",
        "0".repeat(64)
    );
    let (before, _) = entry.split_once("sources").unwrap();
    fs::write(public.join("catalog.toml"), format!("{before}sources = {sources}\n")).unwrap();
    let pulled = repository.run(["image", "pull", "base", "--json"]).ok();
    assert_eq!(pulled.document()["source"], reference, "{pulled:?}");
    assert!(
        pulled.stderr.contains("gone.tar.zst") && pulled.stderr.contains("the next source is tried"),
        "{}",
        pulled.stderr
    );
}

#[test]
fn concurrent_pulls_download_bundle_once() {
    let home = Home::with_own_images();
    let repository = home.repository("r");
    let (public, web) = served(&home);
    fs::write(public.join("catalog.toml"), publish(&repository, "base", "one", &public)).unwrap();
    home.configure(&format!("catalog_url = \"{}\"\n", web.url("catalog.toml")));
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            let mut pull = repository.banger();
            pull.args(["image", "pull", "base", "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let answers: Vec<_> =
        pulls.into_iter().map(|pull| Output::from(pull.wait_with_output().unwrap()).ok().document()).collect();
    assert_eq!(answers.iter().filter(|answer| answer["change"] == "new").count(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer["folder"] == answers[0]["folder"]));
    assert_eq!(web.requests().iter().filter(|request| request.path == "one.tar.zst").count(), 1);
    assert_eq!(stored(&home).len(), 2);
}

#[test]
fn catalog_bundle_and_name_errors_are_reported() {
    let home = Home::with_own_images();
    let repository = home.repository("r");
    let catalog = home.path().join("my catalog.toml");
    home.configure("catalog_url = \"~/my catalog.toml\"\n");
    let fails = |arguments: &[&str], kind: &str, part: &str| {
        let error = json(&repository, arguments);
        assert_eq!((&error["kind"], &error["exit_code"]), (&kind.into(), &125.into()), "{arguments:?}: {error}");
        assert!(error.to_string().contains(part), "{arguments:?}: {error}");
        error
    };
    let error = fails(&["pull", "base"], "catalog", "my catalog.toml");
    assert!(error["hints"].to_string().contains("catalog_url"), "{error}");
    // What a stranger wrote reaches the terminal as text.
    fs::write(&catalog, "[base]\n\"\u{1b}[31m\" = 1\n").unwrap();
    let output = repository.run(["image", "pull", "base"]);
    assert!(output.status == 125 && !output.stderr.contains('\u{1b}'), "{output:?}");
    fs::write(&catalog, "x = ".repeat(2 << 20)).unwrap();
    fails(&["pull", "base"], "catalog", "more than");
    fs::write(&catalog, format!("x = {}", "[".repeat(1 << 20))).unwrap();
    fails(&["pull", "base"], "catalog", "my catalog.toml");
    fs::write(&catalog, "").unwrap();
    fails(&["pull", "bas"], "unknown_image", "debian-bookworm-minimal");

    // A bundle beside the catalog, found by a relative path.
    let entry = publish(&repository, "base", "one", home.path());
    fs::write(&catalog, &entry).unwrap();
    let pulled = json(&repository, &["pull", "base"]);
    assert_eq!((&pulled["change"], pulled["layers"].is_null()), (&"new".into(), true), "{pulled}");
    let rootfs = home.path().join("one.ext4");
    let rootfs = rootfs.to_str().unwrap();
    let error = fails(&["register", "--name", "base", "--rootfs", rootfs], "image_exists", "base");
    assert!(error["hints"].to_string().contains("banger image delete base"), "{error}");
    fails(&["register", "--name", "../x", "--rootfs", rootfs], "usage", "../x");
    fails(&["register", "--name", "x", "--rootfs", "README"], "image", "README");
    fails(&["register", "--name", "x", "--rootfs", "/no/such/file"], "io", "/no/such/file");
    fails(&["register", "--name", "x", "--rootfs", rootfs, "--kernel-ref", "none"], "unknown_image", "none");
    fails(&["export", "none", "-o", "x"], "unknown_image", "none");
    fails(&["export", "base", "-o", "/no/such/folder/x"], "io", "/no/such/folder");
    fails(&["export", "base"], "usage", "--output");
    // As it was registered, so it is exported; what was there before is replaced as a whole.
    let registered = json(&repository, &["register", "--name", "mine", "--rootfs", rootfs]);
    assert_eq!((&registered["name"], &registered["folder"]), (&"mine".into(), &"mine".into()), "{registered}");
    // The file may be gone: it is not pruned.
    let pruned = json(&repository, &["prune", "--dry-run"]);
    assert!(pruned["removed"].as_array().unwrap().iter().all(|image| image["name"] == "base"), "{pruned}");
    repository.write("b.tar.zst", "what was there");
    let exported = json(&repository, &["export", "mine", "-o", "b.tar.zst"]);
    assert!(entry.contains(exported["sha256"].as_str().unwrap()), "{exported} {entry}");
    assert_eq!(exported["size"], fs::metadata(repository.root.join("b.tar.zst")).unwrap().len());
    assert!(!json(&repository, &["list"])["images"].as_array().unwrap().is_empty());
}
