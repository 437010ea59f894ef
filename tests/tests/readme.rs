//! What the README shows is what happens.

use std::ffi::{OsStr, OsString};

use banger_tests::{Home, Output, Repository, banger_binary, path_with, readme};

/// Runs what a section shows in the root of a repository, with this `PATH`, and compares what it
/// prints.
#[track_caller]
fn assert_true(section: &str, repository: &Repository<'_>, path: &OsStr) {
    let home = repository.home;
    let tilde = home.path().to_str().unwrap();
    for example in readme::examples("README.md", section) {
        let mut shell = home.command("sh");
        shell.args(["-c", &example.command]).env("PATH", path).current_dir(&repository.root);
        let output = Output::from(shell.output().unwrap()).ok();
        example.assert_shown(&output.text().replace(tilde, "~"));
    }
}

/// Folders for `PATH`: one of the home's own, those of the tests, and that of banger.
fn path(home: &Home) -> OsString {
    let mut path = path_with(&home.bin());
    path.push(":");
    path.push(banger_binary().parent().unwrap());
    path
}

#[test]
fn readme_section_vms_by_name_holds() {
    let home = Home::new();
    assert_true("VMs by name", &home.repository("hello"), &path(&home));
    assert!(home.vms().is_empty());
}

#[test]
fn readme_section_plugins_holds() {
    let home = Home::new();
    let repository = home.repository("banger");
    repository.write("README.md", "a copy\n");
    for name in ["banger-matrix", "banger-watch"] {
        let path = format!("docs/examples/plugins/{name}");
        let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&path);
        repository.write(&path, std::fs::read(example).unwrap());
    }
    assert_true("Plugins", &repository, &path(&home));
}
