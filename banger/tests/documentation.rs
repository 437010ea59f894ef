//! What is generated of the documentation is as the code has it.

#[path = "../examples/docs/pages.rs"]
mod pages;

use std::fs;
use std::path::PathBuf;

#[test]
fn generated_pages_are_up_to_date() {
    let pages = pages::pages().expect("pages that are written by hand");
    let is_stale = |path: &PathBuf, content: &String| fs::read_to_string(path).ok().as_ref() != Some(content);
    let mut stale: Vec<_> =
        pages.iter().filter(|(path, content)| is_stale(path, content)).map(|(path, _)| path.clone()).collect();
    // Manual pages of commands that are gone.
    let manuals = fs::read_dir(pages::manuals_folder()).expect("manual pages").flatten().map(|entry| entry.path());
    stale.extend(manuals.filter(|path| !pages.contains_key(path)));
    assert!(stale.is_empty(), "to be written anew by `cargo run -p banger --example docs`: {stale:#?}");
}

#[test]
fn synopsis_shows_values_and_command_separator() {
    let pages = pages::pages().expect("pages that are written by hand");
    let page = |name: &str| &pages[&pages::manuals_folder().join(name)];
    let exec = page("banger-vm-exec.1");
    for part in ["[\\-e|\\-\\-env <NAME[=VALUE]>]...", "[\\-\\-timeout <TIME>]", "<VM> [\\-\\- <COMMAND>...]"] {
        assert!(exec.contains(part), "{part} in {exec}");
    }
    assert!(page("banger-port-add.1").contains("<FORWARD>...\n"), "{}", page("banger-port-add.1"));
    assert!(page("banger-port.1").contains(" <COMMAND>\n") && page("banger-config.1").contains("[<COMMAND>]\n"));
}
