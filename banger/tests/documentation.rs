//! What is generated of the documentation is as the code has it.

#[path = "../examples/docs/pages.rs"]
mod pages;

use std::fs;
use std::path::PathBuf;

#[test]
fn generated_pages_are_not_stale() {
    let pages = pages::pages().expect("pages that are written by hand");
    let is_stale = |path: &PathBuf, content: &String| fs::read_to_string(path).ok().as_ref() != Some(content);
    let mut stale: Vec<_> =
        pages.iter().filter(|(path, content)| is_stale(path, content)).map(|(path, _)| path.clone()).collect();
    // Manual pages of commands that are gone.
    let manuals = fs::read_dir(pages::manuals_folder()).expect("manual pages").flatten().map(|entry| entry.path());
    stale.extend(manuals.filter(|path| !pages.contains_key(path)));
    assert!(stale.is_empty(), "to be written anew by `cargo run -p banger --example docs`: {stale:#?}");
}
