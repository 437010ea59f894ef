//! What is generated of the documentation is as the code has it.

#[path = "../examples/docs/pages.rs"]
mod pages;

#[test]
fn generated_pages_are_not_stale() {
    let stale: Vec<_> = pages::pages()
        .expect("pages that are written by hand")
        .into_iter()
        .filter(|(path, content)| std::fs::read_to_string(path).ok().as_ref() != Some(content))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(stale.is_empty(), "to be written anew by `cargo run -p banger --example docs`: {stale:#?}");
}
