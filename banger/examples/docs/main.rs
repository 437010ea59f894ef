//! Writes the pages of documentation that are made from the code: `cargo run -p banger --example docs`, anywhere in the repository.

mod pages;

use std::fs;

fn main() -> std::io::Result<()> {
    for (path, content) in pages::pages()? {
        fs::create_dir_all(path.parent().expect("a page is in a folder"))?;
        fs::write(path, content)?;
    }
    Ok(())
}
