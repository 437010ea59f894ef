//! Answers for programs, and for people, of commands that need no VM.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What `banger <arguments>` prints to somebody at home in `home` who stands in `folder`.
fn answer(home: &Path, folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home);
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn names_are_exact_in_json_and_escaped_in_text() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    let root = home.join("a\nb\u{1b}c");
    fs::create_dir(&root).unwrap();
    assert!(Command::new("git").args(["init", "--quiet"]).current_dir(&root).status().unwrap().success());
    fs::write(root.join("banger.toml"), "").unwrap();
    fs::create_dir_all(home.join(".cache/banger/a\nb")).unwrap();

    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&answer(&home, &root, &[arguments, &["--json"]].concat())).unwrap()
    };
    let file = root.join("banger.toml");
    assert_eq!(json(&["status"])["workspace"], root.to_str().unwrap());
    assert_eq!(json(&["config"])["repo"], file.to_str().unwrap());
    assert_eq!(json(&["trust"])["file"], file.to_str().unwrap());
    assert_eq!(json(&["du"])["caches"][0]["name"], "a\nb");

    let shown = answer(&home, &root, &["status"]);
    assert!(shown.lines().next().unwrap().ends_with("/a^Jb^[c"), "{shown}");
    let shown = answer(&home, &root, &["du"]);
    assert!(shown.contains("  a^Jb\n"), "{shown}");
}
