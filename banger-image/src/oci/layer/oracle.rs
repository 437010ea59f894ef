//! Compares layers with what umoci(1) unpacks of them.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::*;
use crate::archive::tests::{Tar, entry};
use crate::digest::Digest;

/// A tree: each path with what is there.
type Tree = BTreeMap<String, String>;

/// What is compared of something: kind and content, mode, owners, and of all but folders and links
/// the time.
fn line(kind: &str, (mode, uid, gid): (u32, u32, u32), seconds: i64) -> String {
    match kind.split(' ').next() {
        Some("link") => format!("{kind} {uid}:{gid}"),
        Some("folder") => format!("{kind} {mode:o} {uid}:{gid}"),
        _ => format!("{kind} {mode:o} {uid}:{gid} {seconds}"),
    }
}

/// What banger makes of layers.
fn ours(layers: &[Vec<u8>]) -> Result<Tree> {
    let (_folder, _path, mut writer) = super::tests::apply_all(layers)?;
    let mut tree = Tree::new();
    let mut pending = vec![Vec::new()];
    while let Some(folder) = pending.pop() {
        let children: Vec<_> = writer.children(&folder)?.map(|(name, _)| join(&folder, name)).collect();
        for path in children {
            let there = writer.entry(&path)?.expect("a child");
            let metadata = there.metadata;
            let kind = match there.kind {
                EntryKind::Directory => "folder".to_owned(),
                EntryKind::Symlink(target) => format!("link {}", shown(target)),
                EntryKind::Special(Special::Fifo) => "fifo".to_owned(),
                EntryKind::Special(Special::CharacterDevice { major, minor }) => format!("char {major}:{minor}"),
                EntryKind::Special(Special::BlockDevice { major, minor }) => format!("block {major}:{minor}"),
                EntryKind::File(size) => format!("file {size}"),
                other => format!("{other:?}"),
            };
            let owners = (u32::from(metadata.mode), metadata.uid, metadata.gid);
            let mut found = line(&kind, owners, metadata.mtime.seconds);
            if kind.starts_with("file") {
                let mut content = Vec::new();
                writer.content(&path)?.expect("a file").read_to_end(&mut content)?;
                found.push_str(&format!(" {}", Digest::of(&content).hex()));
            }
            if kind == "folder" {
                pending.push(path.clone());
            }
            tree.insert(shown(&path), found);
        }
    }
    Ok(tree)
}

/// What umoci makes of them; the error is what it says.
fn umocis(layers: &[Vec<u8>]) -> std::result::Result<Tree, String> {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest, "size": bytes.len()})
    };
    let descriptors: Vec<Value> = layers.iter().map(|layer| blob("layer.v1.tar", layer)).collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs});
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": descriptors}).to_string();
    let mut manifest = blob("manifest.v1+json", manifest.as_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "x"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
    std::fs::write(layout.join("index.json"), index).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();

    let bundle = folder.path().join("bundle");
    let image = format!("{}:x", layout.display());
    let output = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().expect("umoci");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let root = bundle.join("rootfs");
    let mut tree = Tree::new();
    read(&root, &root, &mut tree);
    Ok(tree)
}

fn read(root: &Path, folder: &Path, tree: &mut Tree) {
    for child in std::fs::read_dir(folder).unwrap() {
        let path = child.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let device = (metadata.rdev() >> 8 & 0xfff, metadata.rdev() & 0xff);
        let said = if kind.is_dir() {
            "folder".to_owned()
        } else if kind.is_symlink() {
            format!("link {}", std::fs::read_link(&path).unwrap().display())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else if kind.is_char_device() {
            format!("char {}:{}", device.0, device.1)
        } else if kind.is_block_device() {
            format!("block {}:{}", device.0, device.1)
        } else {
            format!("file {}", metadata.len())
        };
        let mut found = line(&said, (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), metadata.mtime());
        if kind.is_file() {
            found.push_str(&format!(" {}", Digest::of(&std::fs::read(&path).unwrap()).hex()));
        }
        if kind.is_dir() {
            read(root, &path, tree);
        }
        tree.insert(shown(path.strip_prefix(root).unwrap().as_os_str().as_bytes()), found);
    }
}

/// A layer that a function fills.
fn layer(fill: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = Tar::default();
    fill(&mut tar);
    tar.end()
}

fn merged_usr() -> Vec<u8> {
    layer(|tar| {
        tar.folder("./").folder("./usr/").folder("./usr/lib/").folder("./usr/bin").folder("var").folder("run/");
        tar.symlink("./lib", "usr/lib").symlink("./bin", "usr/bin").symlink("var/run", "/run");
        tar.file("./usr/lib/libold.so", b"old").file("usr/lib/keep", b"keep").file("usr/bin/sh", b"#!");
    })
}

/// Images in the shapes that those in registries have.
fn images() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let long = "n".repeat(255);
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    vec![
        (
            "entries and whiteouts through links of a merged /usr",
            vec![
                merged_usr(),
                layer(|tar| {
                    tar.folder("lib/x86_64").file("lib/x86_64/libc.so", b"libc").file("lib/.wh.libold.so", b"");
                    tar.file("bin/new", b"new")
                        .hard_link("bin/again", "usr/bin/sh")
                        .hard_link("usr/bin/more", "bin/sh");
                    tar.file("var/run/pid", b"1")
                        .symlink("etc/alternatives", "../lib")
                        .file("etc/alternatives/x", b"x");
                }),
                layer(|tar| _ = tar.file("lib/x86_64/.wh..wh..opq", b"").file("lib/x86_64/own", b"o")),
            ],
        ),
        (
            "a folder that replaces a link, and a link that replaces a folder",
            vec![
                merged_usr(),
                layer(|tar| {
                    _ = tar.folder("lib").file("lib/only", b"o").symlink("usr/bin", "../lib").file("usr/bin/b", b"b")
                }),
            ],
        ),
        (
            "links into a store, as Nix has them",
            vec![
                layer(|tar| {
                    tar.folder("nix/store/abc-system/etc").file("nix/store/abc-system/etc/os-release", b"ID=nixos");
                    tar.symlink("run/current-system", "/nix/store/abc-system").symlink("etc", "run/current-system/etc");
                    tar.symlink("bin/sh", "/nix/store/xyz-bash/bin/bash");
                }),
                layer(|tar| {
                    _ = tar.file("etc/hosts", b"h").file("run/current-system/sw", b"s").file("etc/.wh.os-release", b"")
                }),
            ],
        ),
        (
            "programs in folders of packages, as s6 has them",
            vec![
                layer(|tar| {
                    tar.folder("package/admin/s6/command").file("package/admin/s6/command/s6-svscan", b"s6");
                    tar.symlink("command", "package/admin/s6/command").file("init", b"#!/command/execlineb");
                }),
                layer(|tar| {
                    _ = tar.file("command/with-contenv", b"w").symlink("/usr/bin/s6-svscan", "/command/s6-svscan")
                }),
            ],
        ),
        (
            "links to what is not there, which is made",
            vec![layer(|tar| {
                tar.symlink("dangling", "../../a/b/../c").file("dangling/deep/file", b"f");
                tar.symlink("other", "/absolute/target").folder("other/folder");
            })],
        ),
        (
            "one program under many names",
            vec![
                layer(|tar| {
                    tar.file("bin/busybox", b"busybox");
                    (0..300).for_each(|number| _ = tar.hard_link(&format!("bin/applet{number}"), "bin/busybox"));
                }),
                layer(|tar| {
                    _ = tar.file("bin/busybox", b"newer").file("bin/.wh.applet7", b"").hard_link("b", "bin/applet9")
                }),
            ],
        ),
        (
            "devices, modes, owners and long names",
            vec![layer(|tar| {
                tar.add(entry("dev/console", b'3').mode(0o600).device(5, 1), b"");
                tar.add(entry("dev/loop0", b'4').mode(0o660).owner(0, 6).device(7, 0), b"");
                tar.add(entry("pipe", b'6').mode(0o600).owner(1, 1), b"");
                tar.add(entry("bin/su", b'0').mode(0o4755).owner(0, 0), b"su");
                tar.add(entry("tmp/", b'5').mode(0o1777), b"");
                tar.pax(&[("uid", b"1234567"), ("gid", b"4294967294")]).file("far", b"f");
                tar.pax(&[("path", long.as_bytes())]).file("x", b"long");
                tar.pax(&[("path", deep.as_bytes())]).file("x", b"deep");
                tar.pax(&[("path", b"l"), ("linkpath", deep.as_bytes())]).symlink("x", "y");
                tar.pax(&[("path", "ü\u{1f980}".as_bytes())]).file("x", b"crab");
            })],
        ),
        (
            "what comes twice in a layer",
            vec![layer(|tar| {
                tar.file("a", b"1").file("a", b"22").folder("b").file("b/x", b"").file("b", b"file");
                tar.file("c", b"").folder("c").file("c/y", b"y").symlink("d", "c").file("d", b"d");
                tar.add(entry("e", b'5').mode(0o700), b"").file("e/z", b"z").add(entry("e", b'5').mode(0o711), b"");
            })],
        ),
        (
            "whiteouts of all kinds",
            vec![
                layer(|tar| {
                    for folder in ["a", "b", "c"] {
                        tar.folder(folder).file(&format!("{folder}/x"), b"x").folder(&format!("{folder}/d"));
                        tar.file(&format!("{folder}/d/y"), b"y");
                    }
                    tar.file("f", b"f").hard_link("g", "f").symlink("l", "a");
                }),
                layer(|tar| {
                    tar.file("a/.wh..wh..opq", b"").file("a/new", b"n").file(".wh.b", b"").file("c/.wh.d", b"");
                    tar.file(".wh.f", b"").file(".wh.l", b"").file(".wh.absent", b"");
                }),
                layer(|tar| _ = tar.folder("b").file("b/z", b"z").file(".wh.c", b"")),
            ],
        ),
        (
            "layers with nothing in them",
            vec![layer(|_| ()), merged_usr(), layer(|_| ()), layer(|tar| _ = tar.folder("./"))],
        ),
        (
            "hard links across layers",
            vec![
                layer(|tar| _ = tar.file("one", b"1").file("two", b"2")),
                layer(|tar| _ = tar.hard_link("three", "one").hard_link("two", "/one")),
                layer(|tar| _ = tar.file("one", b"new").hard_link("four", "./three")),
            ],
        ),
        (
            "names that have to be cleaned",
            vec![layer(|tar| _ = tar.file("/a//./b", b"b").file("a/x/../c", b"c").folder("d/"))],
        ),
        ("below a file", vec![layer(|tar| _ = tar.file("a", b"").file("a/b", b""))]),
        ("a link that leads to itself", vec![layer(|tar| _ = tar.symlink("a", "a").file("a/b", b""))]),
        ("a hard link to nothing", vec![layer(|tar| _ = tar.hard_link("a", "b"))]),
    ]
}

#[test]
#[expect(clippy::print_stderr, reason = "who runs it must see that it did not")]
fn layers_unpack_as_with_umoci() {
    if !is_root() {
        eprintln!("SKIPPED: umoci gives files their owners as root only");
        return;
    }
    let mut differences = Vec::new();
    for (name, layers) in images() {
        match (ours(&layers), umocis(&layers)) {
            (Ok(ours), Ok(umocis)) => {
                let only = |one: &Tree, other: &Tree| -> Vec<_> {
                    one.iter()
                        .filter(|(path, what)| other.get(*path) != Some(what))
                        .map(|one| format!("{one:?}"))
                        .collect()
                };
                let (here, there) = (only(&ours, &umocis), only(&umocis, &ours));
                if !here.is_empty() || !there.is_empty() {
                    differences.push(format!("{name}: banger has {here:?}, and umoci {there:?}"));
                }
            }
            (Err(_), Err(_)) => {}
            (ours, umocis) => differences.push(format!("{name}: {ours:?} and {umocis:?}")),
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
