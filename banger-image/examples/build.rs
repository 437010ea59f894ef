//! Makes the default image and its kernel in the data folder that is named, with plain progress
//! lines.
//!
//! ```sh
//! cargo run -p banger-image --example build -- ~/.local/share/banger
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use banger_image::oci::PullOptions;
use banger_image::{Catalog, Progress, Store};

struct Lines(Instant);

impl Progress for Lines {
    fn phase(&self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f32());
    }
    fn advance(&self, _done: u64, _total: u64) {}
    fn message(&self, text: &str) {
        println!("{text}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let data_dir = std::env::args_os().nth(1).ok_or("usage: build DATA_DIR")?;
    let store = Store::new(Path::new(&data_dir));
    let progress = Lines(Instant::now());
    let catalog = Catalog::embedded()?;
    let kernel = store.ensure_kernel("generic-6.12", &catalog, &progress)?;
    println!("{}: {}", kernel.dir.display(), kernel.manifest.version);
    // A recipe needs no cache of downloads.
    let options = PullOptions::new(Path::new(&data_dir));
    let image = store.ensure_image("debian-bookworm-minimal", &catalog, &options, &progress)?;
    println!("{}: {} bytes", image.dir.display(), image.manifest.rootfs_bytes);
    Ok(())
}
