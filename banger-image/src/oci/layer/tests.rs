//! Layers as builders write them, and as attackers do.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::archive::tests::{Tar, entry};
use crate::ext4::Options;

/// Applies layers, the lowest first, and has e2fsck look at what comes of it.
pub(super) fn apply_all(layers: &[Vec<u8>]) -> Result<(tempfile::TempDir, PathBuf, Writer)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rootfs.ext4");
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut writer = Writer::new(file, Options::image())?;
    let mut budget = Budget::new(1 << 40);
    for layer in layers {
        apply(&layer[..], &mut writer, &mut budget)?;
    }
    Ok((folder, path, writer))
}

/// All paths with what is there: `/` for a folder, `@target` for a link, else the content.
fn listing(layers: &[Vec<u8>]) -> Result<Vec<String>> {
    let (_folder, path, mut writer) = apply_all(layers)?;
    let mut lines = Vec::new();
    let mut pending = vec![Vec::new()];
    while let Some(folder) = pending.pop() {
        let children: Vec<_> =
            writer.children(&folder)?.map(|(name, entry)| (join(&folder, name), format!("{:?}", entry.kind))).collect();
        for (path, kind) in children {
            let name = shown(&path);
            if kind == "Directory" {
                lines.push(format!("{name}/"));
                pending.push(path);
            } else if kind.starts_with("File") {
                let mut content = String::new();
                writer.content(&path)?.unwrap().read_to_string(&mut content)?;
                lines.push(format!("{name}={content}"));
            } else {
                lines.push(format!("{name} {kind}"));
            }
        }
    }
    writer.finish()?;
    let output = std::process::Command::new("/usr/sbin/e2fsck").arg("-fn").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    lines.sort();
    Ok(lines)
}

fn lower() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.folder("etc/").file("etc/a", b"a").file("etc/b", b"b").folder("etc/deep").file("etc/deep/x", b"x");
    tar.symlink("link", "etc").file("one", b"1").hard_link("two", "one");
    tar.end()
}

fn over(add: impl Fn(&mut Tar)) -> Result<Vec<String>> {
    let mut tar = Tar::default();
    add(&mut tar);
    listing(&[lower(), tar.end()])
}

fn has(lines: &[String], path: &str) -> bool {
    lines.iter().any(|line| line.split(['=', ' ']).next() == Some(path))
}

#[test]
fn whiteout_hides_lower_layers_but_not_its_own() {
    let lines =
        over(|tar| _ = tar.file("etc/.wh.a", b"").file("etc/.wh.deep", b"").file("etc/.wh.absent", b"")).unwrap();
    assert!(!has(&lines, "etc/a") && !has(&lines, "etc/deep/") && !has(&lines, "etc/deep/x") && has(&lines, "etc/b"));
    // A layer's own entries stay, before and behind the whiteout.
    for order in [true, false] {
        let lines = over(|tar| {
            if order {
                tar.file("etc/.wh.deep", b"").file("etc/deep/own", b"");
            } else {
                tar.file("etc/deep/own", b"").file("etc/.wh.deep", b"");
            }
        });
        let lines = lines.unwrap();
        assert!(has(&lines, "etc/deep/own") && !has(&lines, "etc/deep/x"), "{lines:?}");
    }
    // Of a hard link only the name goes.
    assert!(over(|tar| _ = tar.file(".wh.one", b"")).unwrap().contains(&"two=1".to_owned()));
}

#[test]
fn opaque_directory_hides_all_lower_entries() {
    for order in [true, false] {
        let lines = over(|tar| {
            if order {
                tar.file("etc/.wh..wh..opq", b"").folder("etc").file("etc/deep/own", b"");
            } else {
                tar.folder("etc").file("etc/deep/own", b"").file("etc/.wh..wh..opq", b"");
            }
        });
        assert_eq!(
            lines.unwrap(),
            ["etc/", "etc/deep/", "etc/deep/own=", "link Symlink([101, 116, 99])", "one=1", "two=1"]
        );
    }
    assert_eq!(over(|tar| _ = tar.file(".wh..wh..opq", b"")).unwrap(), [""; 0]);
}

#[test]
fn later_layer_replaces_entries_of_any_type() {
    let lines = over(|tar| _ = tar.file("link", b"no link").file("etc", b"no folder").folder("one").file("two", b"2"));
    assert_eq!(lines.unwrap(), ["etc=no folder", "link=no link", "one/", "two=2"]);
    // A folder in the place of a link is a folder, and the link's target stays as it is.
    let lines = over(|tar| _ = tar.folder("link").file("link/new", b"")).unwrap();
    assert!(has(&lines, "link/new") && !has(&lines, "etc/new"), "{lines:?}");
    // A duplicate in one layer: the later counts.
    assert!(over(|tar| _ = tar.file("n", b"1").symlink("n", "x").file("n", b"3")).unwrap().contains(&"n=3".to_owned()));
}

#[test]
fn hard_links_span_layers_and_may_precede_their_target() {
    let lines = over(|tar| {
        tar.hard_link("c", "b").hard_link("b", "./later").file("later", b"L").hard_link("etc/again", "/etc/a");
    });
    let lines = lines.unwrap();
    for line in ["b=L", "c=L", "later=L", "etc/again=a"] {
        assert!(lines.contains(&line.to_owned()), "{line}: {lines:?}");
    }
}

#[test]
fn entry_paths_are_relative_to_the_image_root() {
    let lines = over(|tar| _ = tar.folder("./").file("/ko-app/app", b"ko").file("./a//./b", b"b")).unwrap();
    assert!(lines.contains(&"ko-app/app=ko".to_owned()) && lines.contains(&"a/b=b".to_owned()), "{lines:?}");
}

#[test]
fn symlinks_in_paths_resolve_inside_the_image() {
    type Case = fn(&mut Tar);
    // As umoci, docker and containerd do. `lower` has `link -> etc`, and the layer what each case
    // adds.
    let cases: [(&str, Case, &[&str]); 13] = [
        ("below a link of a lower layer", |tar| _ = tar.file("link/new", b"n"), &["etc/new=n", "link Symlink"]),
        ("below an own link", |tar| _ = tar.symlink("way", "etc/deep").file("way/new", b"n"), &["etc/deep/new=n"]),
        ("an absolute target", |tar| _ = tar.symlink("way", "/etc").file("way/new", b"n"), &["etc/new=n"]),
        ("a target above the root", |tar| _ = tar.symlink("etc/up", "../../../..").file("etc/up/n", b"n"), &["n=n"]),
        (
            "a relative target with upward parts",
            |tar| _ = tar.symlink("etc/deep/back", "../../etc").file("etc/deep/back/n", b"n"),
            &["etc/n=n"],
        ),
        ("links to links", |tar| _ = tar.symlink("x", "/link/deep").file("x/n", b"n"), &["etc/deep/n=n"]),
        (
            "a link to what is not there yet",
            |tar| _ = tar.symlink("var/run", "/run/./a/../b").file("var/run/lock/pid", b"1"),
            &["run/b/lock/pid=1", "var/run Symlink"],
        ),
        ("a hard link through a link", |tar| _ = tar.hard_link("h", "link/a"), &["h=a", "etc/a=a"]),
        ("a hard link to a link", |tar| _ = tar.symlink("etc/l", "a").hard_link("h", "link/l"), &["h Symlink"]),
        (
            "a hard link that comes before its target",
            |tar| _ = tar.hard_link("link/h", "way/later").symlink("way", "etc").file("etc/later", b"L"),
            &["etc/h=L", "etc/later=L"],
        ),
        ("an empty folder", |tar| _ = tar.folder("link/new/"), &["etc/new/"]),
        ("upward parts of a name", |tar| _ = tar.file("etc/../x", b"x"), &["x=x"]),
        ("a link that a link replaces", |tar| _ = tar.symlink("link", "/").file("link/n", b"n"), &["n=n"]),
    ];
    for (name, case, expected) in cases {
        let lines = over(case).unwrap_or_else(|error| panic!("{name}: {error}"));
        for line in expected {
            assert!(lines.iter().any(|has| has.starts_with(line)), "{name}: {line}: {lines:?}");
        }
    }
}

#[test]
fn whiteouts_follow_symlinks_in_their_path() {
    let lines = over(|tar| _ = tar.file("link/.wh.a", b"").file("link/.wh.absent", b"")).unwrap();
    assert!(!has(&lines, "etc/a") && has(&lines, "etc/b") && has(&lines, "link"), "{lines:?}");
    // The link itself, and not what it leads to.
    let lines = over(|tar| _ = tar.file(".wh.link", b"")).unwrap();
    assert!(!has(&lines, "link") && has(&lines, "etc/a"), "{lines:?}");
    for order in [true, false] {
        let lines = over(|tar| {
            if order {
                tar.file("link/.wh..wh..opq", b"").file("link/own", b"");
            } else {
                tar.file("link/own", b"").file("link/.wh..wh..opq", b"");
            }
        });
        let lines = lines.unwrap();
        assert!(has(&lines, "etc/own") && !has(&lines, "etc/a") && !has(&lines, "etc/deep/"), "{lines:?}");
    }
    // Through a link of the whiteout's own layer.
    let lines = over(|tar| _ = tar.symlink("way", "/etc/deep").file("way/.wh.x", b"")).unwrap();
    assert!(has(&lines, "etc/deep/") && !has(&lines, "etc/deep/x"), "{lines:?}");
}

#[test]
fn malicious_layers_are_refused_with_a_reason() {
    type Case = fn(&mut Tar);
    let cases: [(&str, Case, &str); 17] = [
        ("up", |tar| _ = tar.file("../evil", b""), "leads upwards"),
        ("up from within", |tar| _ = tar.file("etc/../../evil", b""), "leads upwards"),
        ("below a file", |tar| _ = tar.file("one/evil", b""), "`one` is not a folder"),
        ("below a link to a file", |tar| _ = tar.symlink("w", "one").file("w/evil", b""), "`one` is not a folder"),
        ("below a link to itself", |tar| _ = tar.symlink("w", "w").file("w/evil", b""), "more than 40 symbolic links"),
        (
            "below links to each other",
            |tar| _ = tar.symlink("w", "v").symlink("v", "/w/x").file("w/evil", b""),
            "more than 40 symbolic links",
        ),
        ("a whiteout below a link to itself", |tar| _ = tar.symlink("w", "w").file("w/.wh.x", b""), "more than 40"),
        ("a hard link below a link to itself", |tar| _ = tar.symlink("w", "w").hard_link("h", "w/x"), "more than 40"),
        ("a hard link up", |tar| _ = tar.hard_link("h", "../../etc/shadow"), "leads upwards"),
        ("a hard link to nothing", |tar| _ = tar.hard_link("h", "absent"), "does not have"),
        ("a hard link to itself", |tar| _ = tar.hard_link("h", "h"), "does not have"),
        ("a hard link to a folder", |tar| _ = tar.hard_link("h", "etc"), "another name"),
        ("a root that is a link", |tar| _ = tar.symlink("./", "/etc"), "stays one"),
        ("a whiteout of no name", |tar| _ = tar.file("etc/.wh.", b""), "whiteout"),
        ("a whiteout of the folder", |tar| _ = tar.file("etc/.wh..", b""), "whiteout"),
        ("a whiteout of the one above", |tar| _ = tar.file("etc/.wh...", b""), "whiteout"),
        ("below a whiteout", |tar| _ = tar.file("etc/.wh.a/b", b""), "below a whiteout"),
    ];
    for (name, case, reason) in cases {
        let error = over(case).expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    // A link that makes a long path of a short one.
    let half = b"x/".repeat(1100);
    let through = |tar: &mut Tar| {
        _ = tar
            .pax(&[("linkpath", &half)])
            .symlink("l", "x")
            .pax(&[("path", &[b"l/", &half[..], b"f"].concat())])
            .file("f", b"")
    };
    assert!(over(through).unwrap_err().to_string().contains("4095"));
    let long = [b"x/".repeat(2048), b"x".to_vec()].concat();
    assert!(over(|tar| _ = tar.pax(&[("path", &long)]).file("x", b"")).unwrap_err().to_string().contains("4095"));
    assert!(over(|tar| _ = tar.file(&"x".repeat(99), b"").pax(&[("path", &b"y".repeat(256))]).file("x", b"")).is_err());
}

#[test]
fn devices_owners_modes_and_xattrs_are_preserved() {
    let capability = [1, 0, 0, 2, b'\n', 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = Tar::default();
    tar.add(entry("dev/null", b'3').mode(0o666).device(1, 3), b"");
    tar.add(entry("fifo", b'6').mode(0o600), b"");
    tar.add(entry("su", b'0').mode(0o4755).owner(0, 7), b"setuid");
    tar.pax(&[("uid", b"70000"), ("gid", b"4294967294"), ("mtime", b"12.5")]);
    tar.pax(&[
        ("uid", b"70000"),
        ("gid", b"4294967294"),
        ("mtime", b"12.5"),
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.com.apple.provenance", b"x"),
    ]);
    tar.file("ping", b"p");
    let (_folder, _path, writer) = apply_all(&[tar.end()]).unwrap();
    let at = |path: &str| writer.entry(path.as_bytes()).unwrap().unwrap();
    assert_eq!(at("dev/null").kind, EntryKind::Special(Special::CharacterDevice { major: 1, minor: 3 }));
    assert_eq!(at("fifo").kind, EntryKind::Special(Special::Fifo));
    assert_eq!((at("su").metadata.mode, at("su").metadata.gid), (0o4755, 7));
    let ping = at("ping").metadata;
    assert_eq!(
        (ping.uid, ping.gid, ping.mtime.seconds, ping.mtime.nanoseconds),
        (70_000, u32::MAX - 1, 12, 500_000_000)
    );
    // An attribute's value may have a line break; what an overlay or another system would make of
    // attributes is left out.
    assert_eq!(ping.xattrs, [(b"security.capability".to_vec(), capability.to_vec())]);
}

#[test]
fn layer_entries_and_size_are_limited() {
    let mut budget = Budget { entries: 2, metadata: 1 << 20, ..Budget::new(10) };
    let mut tar = Tar::default();
    tar.file("a", b"").file("b", b"").file("c", b"");
    let file = tempfile::tempfile().unwrap();
    let mut writer = Writer::new(file.try_clone().unwrap(), Options::image()).unwrap();
    let many = apply(&tar.end()[..], &mut writer, &mut budget).map(drop).unwrap_err();
    assert!(many.to_string().contains("2 million"), "{many}");
    // Folders that no entry describes count too: a long path is as many.
    let deep = [b"d/".repeat(2000), b"f".to_vec()].concat();
    let deep = Tar::default().pax(&[("path", &deep)]).file("f", b"").end();
    let mut budget = Budget { entries: 1000, ..Budget::new(10) };
    assert!(apply(&deep[..], &mut writer, &mut budget).map(drop).unwrap_err().to_string().contains("2 million"));
    // A hole of a terabyte counts, though nothing of it is stored.
    let mut tar = Tar::default();
    tar.pax(&[("GNU.sparse.size", b"1099511627776"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,1")]);
    let sparse = tar.file("sparse", b"x").end();
    let mut budget = Budget::new(1 << 30);
    assert!(matches!(apply(&sparse[..], &mut writer, &mut budget), Err(Error::ImageTooLarge { .. })));
}

/// A step of a layer: an entry, or a whiteout.
#[derive(Debug, Clone)]
enum Step {
    File(usize),
    Folder(usize),
    Whiteout(usize),
    Opaque(usize),
}

const PATHS: [&str; 7] = ["a", "b", "a/x", "a/y", "b/x", "a/x/p", "a/x/q"];

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    prop_oneof![
        path().prop_map(Step::File),
        path().prop_map(Step::Folder),
        path().prop_map(Step::Whiteout),
        path().prop_map(Step::Opaque)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The model: whiteouts of a layer first, then its entries, as the specification has it.
    #[test]
    fn whiteout_order_within_a_layer_does_not_matter(
        layers in proptest::collection::vec(proptest::collection::vec(step(), 1..6), 1..4),
    ) {
        let tar = |steps: &[&Step]| {
            let mut tar = Tar::default();
            for step in steps {
                let whiteout = |path: &str| match path.rsplit_once('/') {
                    Some((parent, name)) => format!("{parent}/.wh.{name}"),
                    None => format!(".wh.{path}"),
                };
                match step {
                    Step::File(path) => tar.file(PATHS[*path], b"f"),
                    Step::Folder(path) => tar.folder(PATHS[*path]),
                    Step::Whiteout(path) => tar.file(&whiteout(PATHS[*path]), b""),
                    Step::Opaque(path) => tar.file(&format!("{}/.wh..wh..opq", PATHS[*path]), b""),
                };
            }
            tar.end()
        };
        let is_whiteout = |step: &&Step| matches!(step, Step::Whiteout(_) | Step::Opaque(_));
        let as_is: Vec<_> = layers.iter().map(|layer| tar(&layer.iter().collect::<Vec<_>>())).collect();
        let sorted: Vec<_> = layers.iter().map(|layer| {
            let (first, then): (Vec<_>, Vec<_>) = layer.iter().partition(is_whiteout);
            tar(&[first, then].concat())
        }).collect();
        if let (Ok(as_is), Ok(sorted)) = (listing(&as_is), listing(&sorted)) {
            prop_assert_eq!(as_is, sorted);
        }
    }
}

#[test]
fn layer_metadata_memory_is_limited() {
    let of = |add: &dyn Fn(&mut Tar)| {
        let mut tar = Tar::default();
        add(&mut tar);
        let file = tempfile::tempfile().unwrap();
        let mut budget = Budget { entries: 10_000, metadata: 1 << 20, ..Budget::new(1 << 30) };
        apply(&tar.end()[..], &mut Writer::new(file, Options::image()).unwrap(), &mut budget).map(|_| budget)
    };
    // A path of 4000 bytes is as many directories as it has slashes, each with a path of its own.
    let deep = format!("{}x", "a/".repeat(2000));
    let deep = of(&|tar| _ = tar.add(entry("long", b'L'), deep.as_bytes()).file("short", b""));
    let huge = vec![b'a'; 600 << 10];
    let unknown = of(&|tar| {
        tar.pax(&[("comment", &huge)]).file("a", b"").pax(&[("comment", &huge)]).file("b", b"");
    });
    // Names of a few bytes, which links make many times as long.
    let links = of(&|tar| {
        let long = ["x"; 45].join("/");
        tar.folder(&long).symlink("l", &long).folder(&format!("l/{long}")).symlink("l/m", &long);
        (0..9000).for_each(|number| _ = tar.file(&format!("l/m/{number}"), b""));
    });
    // Hard links to what comes later, of which both names are kept.
    let later = of(&|tar| {
        let target = "t".repeat(90);
        (0..9000).for_each(|number| _ = tar.hard_link(&format!("{number}"), &target));
    });
    for refused in [deep, unknown, links, later] {
        let error = refused.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("512 MiB of names"), "{error}");
    }
    let ordinary = of(&|tar| _ = tar.folder("a").folder("a/b").file("a/b/c", b"").file("d/e/f", b"")).unwrap();
    assert_eq!((ordinary.entries, ordinary.metadata), (10_000 - 6, (1 << 20) - 1 - 3 - 5 - 5 - 1 - 3));
}
