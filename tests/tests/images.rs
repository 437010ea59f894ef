//! Images of registries and layouts, from `banger image pull` to a command that runs in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::registry::{Layout, Registry, run};
use banger_tests::{Home, Output, Repository};

/// A user's credentials as `docker login` leaves them.
fn log_in(home: &Home, registry: &Registry) {
    let folder = home.path().join(".docker");
    fs::create_dir_all(&folder).unwrap();
    let auths = format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#, registry.address);
    fs::write(folder.join("config.json"), auths).unwrap();
}

/// A static program that needs nothing, and says what it finds.
fn program(home: &Home) -> PathBuf {
    let source = home.path().join("app.rs");
    let text = "fn main() { let word = std::env::args().nth(1).unwrap_or_default(); let readme = std::fs::read_to_string(\"README\").unwrap();\n\
         print!(\"{} {} {}\", std::env::current_dir().unwrap().display(), word, readme); if let Ok(x) = std::env::var(\"OF_IMAGE\") { println!(\"{x}\") } }";
    fs::write(&source, text).unwrap();
    let program = home.path().join("app");
    run(Command::new("rustc").args(["-C", "target-feature=+crt-static", "-O", "-o"]).arg(&program).arg(&source));
    program
}

fn json(repository: &Repository<'_>, arguments: &[&str]) -> serde_json::Value {
    let output = repository.banger().arg("image").args(arguments).arg("--json").output().unwrap();
    Output::from(output).document()
}

#[test]
fn registry_image_can_be_pulled_used_refreshed_and_deleted() {
    let home = Home::with_own_images();
    let registry = Registry::new();
    let layout = Layout::new(home.path().join("layout"));
    let write = |name: &str, content: &str| {
        fs::write(home.path().join(name), content).unwrap();
        home.path().join(name)
    };
    layout.busybox("box", home.path());
    layout.insert("box", &write("one", "first\n"), "/version");
    layout.insert("box", &write("gone", ""), "/gone");
    layout.whiteout("box", "/gone");
    let options = ["--config.env", "OF_IMAGE=its own", "--config.entrypoint", "/bin/false", "--config.user", "7"];
    layout.configure("box", &options);
    let reference = registry.push(&layout, "box", "team/box:1");
    let repository = home.repository("r");

    let refused = json(&repository, &["pull", &reference]);
    assert_eq!((&refused["kind"], &refused["exit_code"]), (&"registry".into(), &125.into()), "{refused}");
    assert!(refused["hints"][0].as_str().unwrap().contains("docker login"), "{refused}");
    log_in(&home, &registry);
    let missing = json(&repository, &["pull", &format!("{}/team/absent:1", registry.address)]);
    assert_eq!(missing["kind"], "unknown_image", "{missing}");

    // On first use it is pulled. Its variables are there, and its entrypoint, user and folder are
    // not heeded in a workspace.
    let script = "echo $OF_IMAGE; pwd; cat README /version; test ! -e /gone; echo $? $(stat -c %u /proc/self)";
    let first = repository.run(["--image", &reference, "-e", "A=1", "--", "sh", "-c", script]).ok();
    assert_eq!(first.text(), "its own\n/root/repo\na repository\nfirst\n0 0\n");
    let given =
        repository.run(["-e", "OF_IMAGE=given", "--image", &reference, "--", "sh", "-c", "echo $OF_IMAGE"]).ok();
    assert_eq!(given.text(), "given\n");
    assert!(!given.stderr.contains("takes effect in a new VM"), "{}", given.stderr);

    let list = json(&repository, &["list"]);
    let [image] = &list["images"].as_array().unwrap()[..] else { panic!("{list}") };
    let vms = repository.run(["list", "--json"]).ok().document();
    let status = repository.run(["status", "--json"]).ok().document();
    assert_eq!((&vms["vms"][0]["image"], &status["vm"]["image"]), (&image["name"], &image["name"]), "{vms} {status}");
    let vm = image["vms"][0].as_str().expect("the VM is named").to_owned();
    assert_eq!(image["source"].as_str(), Some(reference.as_str()));
    let shown = json(&repository, &["show", &reference]);
    assert_eq!((&shown["config"]["user"], &shown["folder"]), (&"7".into(), &image["folder"]), "{shown}");
    let in_use = json(&repository, &["delete", &reference]);
    assert_eq!(in_use["kind"], "image_in_use", "{in_use}");
    assert!(in_use["message"].as_str().unwrap().contains(&vm), "{in_use}");

    assert_eq!(json(&repository, &["pull", &reference])["change"], "unchanged");
    layout.insert("box", &write("two", "second\n"), "/version");
    registry.push(&layout, "box", "team/box:1");
    let refreshed = json(&repository, &["pull", &reference]);
    assert_eq!(
        (&refreshed["change"], &refreshed["previous_digest"]),
        (&"refreshed".into(), &shown["digest"]),
        "{refreshed}"
    );
    assert_eq!(refreshed["new_layers"], 1, "{refreshed}");
    // The VM keeps what it was made from, and a new one has the new.
    repository.run(["stop"]).ok();
    assert_eq!(repository.run(["--image", &reference, "--", "cat", "/version"]).ok().text(), "first\n");
    assert_eq!(repository.run(["--rm", "--image", &reference, "--", "cat", "/version"]).ok().text(), "second\n");

    // What a VM was made from is not pruned, nor the default; of the rest it is said what it would
    // free.
    let would = json(&repository, &["prune", "--dry-run"]);
    assert_eq!(would["removed"][0]["folder"], refreshed["folder"], "{would}");
    assert_eq!(would["removed"].as_array().map(Vec::len), Some(1), "{would}");
    assert!(would["freed_bytes"].as_u64() > Some(1 << 20), "{would}");
    let mut prune = repository.banger();
    prune.args(["image", "prune", "--json"]).env("BANGER_DEFAULT_IMAGE_NAME", &reference);
    let spared = Output::from(prune.output().unwrap()).document();
    assert_eq!(spared["removed"].as_array().map(Vec::len), Some(0), "{spared}");

    repository.run(["delete", "--force"]).ok();
    let deleted = json(&repository, &["rm", &reference]);
    assert_eq!(deleted["deleted"].as_array().map(Vec::len), Some(2), "{deleted}");
    assert_eq!(json(&repository, &["ls"])["images"].as_array().map(Vec::len), Some(0));
    assert_eq!(json(&repository, &["show", &reference])["kind"], "unknown_image");

    // What was downloaded is still there, is measured, and goes by its age, or all of it.
    let answer = |arguments: &[&str]| {
        let output = repository.banger().args(arguments).arg("--json").output().unwrap();
        Output::from(output).ok().document()
    };
    let cached = || {
        let usage = answer(&["du"]);
        let caches = usage["caches"].as_array().unwrap();
        caches.iter().find(|cache| cache["name"] == "oci").expect("a cache")["bytes"].as_u64().unwrap()
    };
    let before = cached();
    assert_eq!(answer(&["prune", "--filter", "until=1h"])["blobs"]["count"], 0);
    let would = answer(&["prune", "--dry-run"]);
    assert!(would["blobs"]["count"].as_u64() >= Some(4) && cached() == before, "{would}");
    assert_eq!(answer(&["prune"])["blobs"], would["blobs"]);
    assert_eq!(cached() + would["blobs"]["bytes"].as_u64().unwrap(), before);
    assert_eq!(json(&repository, &["pull", &reference])["change"], "new");
    let pruned = repository.run(["image", "prune"]).ok();
    assert!(pruned.text().starts_with("box-1-") && pruned.stderr.contains("1 image removed"), "{pruned:?}");
    assert_eq!(json(&repository, &["ls"])["images"].as_array().map(Vec::len), Some(0));
}

#[test]
fn registry_with_unknown_certificate_is_refused() {
    let home = Home::with_own_images();
    let registry = Registry::with_certificate();
    log_in(&home, &registry);
    let layout = Layout::new(home.path().join("layout"));
    layout.add("empty");
    layout.insert("empty", &home.path().join(".gitconfig"), "/word");
    let reference = registry.push(&layout, "empty", "team/empty:1");
    let repository = home.repository("r");
    let pull = |with: &[(&str, &Path)]| {
        let mut command = repository.banger();
        command.args(["image", "pull", &reference, "--json"]).envs(with.iter().copied());
        Output::from(command.output().unwrap()).document()
    };
    // A loopback registry may have no encryption. One that has, and is somebody else, gets no
    // credentials in the clear.
    let unknown = pull(&[]);
    assert_eq!(unknown["kind"], "registry", "{unknown}");
    assert!(unknown["message"].as_str().unwrap().contains("certificate"), "{unknown}");
    assert_eq!(pull(&[("SSL_CERT_FILE", &registry.authority())])["change"], "new");
}

#[test]
fn static_program_runs_in_single_file_and_empty_images() {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    let program = program(&home);
    layout.add("single");
    layout.insert("single", &program, "/app");
    layout.configure("single", &["--config.env", "OF_IMAGE=one file"]);
    layout.add("scratch");
    let repository = home.repository("r");
    fs::copy(&program, repository.root.join("app")).unwrap();
    for image in ["single", "scratch"] {
        repository.run(["-q", "image", "pull", &layout.source(image), "--name", image]).ok();
    }
    let output = repository.run(["--rm", "--image", "single", "--", "/app", "word"]).ok();
    assert_eq!(output.text(), "/root/repo word a repository\none file\n");
    let output = repository.run(["--image", "scratch", "--", "./app", "word"]).ok();
    assert_eq!(output.text(), "/root/repo word a repository\n");
    assert_eq!(repository.run(["--image", "scratch", "--", "sh"]).status, 127);

    // Images of archives, as other tools write them.
    let from_archive = |kind: &str, file: &Path| {
        let archive = format!("{kind}:{}", file.display());
        run(Command::new("skopeo").args([
            "copy",
            "--quiet",
            &layout.source("single"),
            &format!("{archive}:x/single:1"),
        ]));
        let pulled = json(&repository, &["pull", &archive]);
        assert_eq!(pulled["change"], "new", "{pulled}");
        pulled["folder"].as_str().unwrap().to_owned()
    };
    for (kind, file) in [("docker-archive", "d.tar"), ("oci-archive", "o.tar")] {
        let folder = home.data().join("images").join(from_archive(kind, &home.path().join(file)));
        run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(folder.join("rootfs.ext4")));
    }
}

#[test]
fn image_with_unusual_root_entries_boots() {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    layout.busybox("odd", home.path());
    let make = "mkdir -p odd/etc/resolv.conf odd/etc/machine-id odd/var/lib; cd odd; ln -s run run; ln -s /nowhere/proc proc; \
        echo kept >tmp; echo >dev; echo >sys; echo >lib; ln -s /run/hosts etc/hosts; ln -s hostname etc/hostname; \
        ln -s ../../elsewhere/docker var/lib/docker; echo >var/lib/containers; tar -cf ../odd.tar --owner=0 --group=0 .";
    run(Command::new("sh").args(["-ec", make]).current_dir(home.path()));
    layout.add_layer("odd", &home.path().join("odd.tar"));
    layout.configure("odd", &["--config.workingdir", "/lib"]);
    let nowhere = home.at(home.path());
    let image = layout.source("odd");
    let output = nowhere.run(["vm", "run", "--name", "odd", "--image", &image, "--memory", "256M", "--", "true"]);
    assert_eq!(output.status, 125, "{}", output.stderr);
    assert!(output.stderr.contains("`/lib` is no folder in the guest"), "{}", output.stderr);
    let script = "cat /etc/resolv.conf /etc/hostname /tmp.replaced; cat /etc/hosts; test -d /run/banger && test -c /dev/null && \
        test -d /sys/block && test -d /elsewhere/docker && test -f /lib && ls /etc";
    let output = nowhere.run(["vm", "exec", "-w", "/", "odd", "--", "sh", "-c", script]).ok();
    let text = output.text();
    let (files, hosts) = text.split_once("127.0.0.1").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(files, "nameserver 10.0.2.3\nodd\nkept\n");
    assert!(hosts.contains("127.0.1.1\todd\n"), "{text}");
    for name in ["hostname.replaced", "hosts.replaced", "machine-id.replaced", "resolv.conf.replaced"] {
        assert!(hosts.contains(&format!("\n{name}\n")), "{name}: {text}");
    }
}

#[test]
fn image_name_and_reference_errors_are_reported() {
    let home = Home::with_own_images();
    let repository = home.repository("r");
    let unknown = json(&repository, &["pull", "debian-bokworm-minimal"]);
    assert_eq!(unknown["kind"], "unknown_image", "{unknown}");
    let hints = unknown["hints"].to_string();
    assert!(hints.contains("debian-bookworm-minimal") && hints.contains("debian-bokworm-minimal:latest"), "{hints}");
    assert_eq!(json(&repository, &["pull", "Debian:12"])["kind"], "usage");
    assert_eq!(json(&repository, &["pull", "oci:/no/such/layout", "--name", "x"])["kind"], "image");
    assert_eq!(json(&repository, &["pull"])["kind"], "usage");
    assert_eq!(repository.run(["--image", "a b:1", "--", "true"]).status, 125);
    let list = repository.run(["image", "list"]).ok();
    assert!(list.text().is_empty() && list.stderr.contains("no image yet"), "{list:?}");
    let described = repository.run(["--list"]).ok();
    assert!(described.text().contains("Pull, list, show, export, delete and prune images"), "{}", described.text());
}

#[test]
fn debian_oci_image_boots_to_running() {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    layout.debian("debian", home.path());
    fs::write(home.path().join("motd"), "from a layer above\n").unwrap();
    layout.insert("debian", &home.path().join("motd"), "/etc/motd");
    layout.configure("debian", &["--config.workingdir", "/srv", "--config.cmd", "/bin/bash"]);
    let repository = home.repository("r");
    repository.run(["image", "pull", &layout.source("debian"), "--name", "mine"]).ok();
    let script = "cat README /etc/motd; readlink /lib; stat -c '%a %u' /tmp /usr/bin/passwd; cat /proc/1/comm; \
                  systemctl is-system-running; systemctl list-units --failed --no-legend --plain; git status --short; \
                  make --version | head -n 1 | cut -d' ' -f1,2; pwd";
    let output = repository.run(["--image", "mine", "--ready", "system", "--", "sh", "-c", script]).ok();
    let mut lines: Vec<_> = output.text().lines().map(str::to_owned).collect();
    // debugfs(8), which took the files out of an image for this one, leaves out special bits.
    lines.retain(|line| !line.ends_with(" 0"));
    let expected = ["a repository", "from a layer above", "usr/lib", "systemd", "running", "GNU Make", "/root/repo"]
        .map(String::from);
    assert_eq!(lines, expected, "{}", output.stderr);
    // `/lib` is what it is in an image: here a folder.
    layout.busybox("box", home.path());
    layout.insert("box", &home.path().join("motd"), "/lib/word");
    let output = repository.run(["--rm", "--image", &layout.source("box"), "--", "sh", "-c", "cat /lib/word; ls /lib"]);
    assert_eq!(output.ok().text(), "from a layer above\nmodules\nword\n");
}
