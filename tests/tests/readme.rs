//! What the README shows is what happens.

use banger_tests::{Home, Output, banger_binary, path_with, readme};

#[test]
fn the_section_on_plugins_is_true() {
    let home = Home::new();
    let repository = home.repository("banger");
    repository.write("README.md", "a copy\n");
    for name in ["banger-matrix", "banger-watch"] {
        let path = format!("docs/examples/plugins/{name}");
        let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&path);
        repository.write(&path, std::fs::read(example).unwrap());
    }
    let mut path = path_with(&home.bin());
    path.push(":");
    path.push(banger_binary().parent().unwrap());
    let tilde = home.path().to_str().unwrap();
    for example in readme::examples("README.md", "Plugins") {
        let mut shell = home.command("sh");
        shell.args(["-c", &example.command]).env("PATH", &path).current_dir(&repository.root);
        let output = Output::from(shell.output().unwrap()).ok();
        example.assert_shown(&output.text().replace(tilde, "~"));
    }
}
