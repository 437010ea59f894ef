//! Writes the inputs that each target starts from into `corpus/<target>` of the current directory.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let image = banger_image::fuzzing::targets();
    let all = banger_agent::fuzzing::targets().into_iter().chain(image).chain(banger::git::fuzzing::targets());
    for (name, _, seeds) in all {
        let directory = Path::new("corpus").join(name);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
