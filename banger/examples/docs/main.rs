//! Writes the pages of documentation that are made from the code: `cargo run -p banger --example
//! docs`, anywhere in the repository.

mod pages;

use std::fs;

fn main() -> std::io::Result<()> {
    let pages = pages::pages()?;
    if pages::manuals_folder().exists() {
        fs::remove_dir_all(pages::manuals_folder())?;
    }
    for (path, content) in pages {
        fs::create_dir_all(path.parent().expect("a page is in a folder"))?;
        fs::write(path, content)?;
    }
    Ok(())
}
