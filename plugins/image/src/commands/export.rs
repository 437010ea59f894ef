//! `banger image export`.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::{self, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use banger::banger_image::{Exported, Image, Ready};
use banger::error::CommandError;
use banger::output::ui::Ui;
use banger::output::units::bytes;
use banger::store::images::Images;
use serde::Serialize;
use tempfile::NamedTempFile;

/// The answer, as `--json` has it: what an entry of a catalog says.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    description: String,
    kernel: String,
    ready: &'static str,
    /// The file's name, which is its URL seen from a catalog beside it.
    url: String,
    /// Of the file, in hex.
    sha256: String,
    /// The file's length in bytes.
    size: u64,
}

pub(super) fn export(named: &str, output: &Path, images: &Images<'_>, ui: &Ui) -> Result<(), CommandError> {
    let name = Images::store_name(named);
    let image = match images.store().image(&name)? {
        Some(image) => image,
        None => return Err(images.store().not_here(&name)?.into()),
    };
    if output == Path::new("-") {
        let mut stdout = io::stdout().lock();
        if stdout.is_terminal() {
            return Err(crate::usage("a bundle is nothing for a terminal: `--output FILE`, or a pipe"));
        }
        let exported = images.store().export(&image.name, &mut stdout, ui);
        ui.finish();
        let answer = Answer::new(&image, &format!("{}.tar.zst", image.manifest.name), &exported?);
        // Standard output is the bundle's.
        answer.entry().lines().for_each(|line| ui.status(line));
        return Ok(());
    }
    let file = output.file_name().ok_or_else(|| crate::usage(format!("`{}` is no file's name", output.display())))?;
    let beside = beside(output, file)?;
    let exported = images.store().export(&image.name, beside.as_file(), ui);
    ui.finish();
    let exported = exported?;
    let moved = beside.as_file().sync_all().and_then(|()| Ok(beside.persist(output)?));
    moved.map_err(|error| CommandError::io("write", output, &error))?;
    ui.status(&format!("`{}` is written ({})", output.display(), bytes(exported.size)));
    let answer = Answer::new(&image, &relative_url(&file.to_string_lossy()), &exported);
    ui.answer(&answer, || answer.entry())
}

impl Answer {
    fn new(image: &Image, url: &str, exported: &Exported) -> Answer {
        let manifest = &image.manifest;
        Answer {
            name: manifest.name.clone(),
            description: manifest.description.clone(),
            kernel: manifest.kernel.clone(),
            ready: match manifest.ready {
                Ready::Agent => "agent",
                Ready::System => "system",
            },
            url: url.to_owned(),
            sha256: exported.sha256.hex(),
            size: exported.size,
        }
    }

    /// As a catalog has it.
    fn entry(&self) -> String {
        let [description, kernel, url] = [&self.description, &self.kernel, &self.url].map(|text| quoted(text));
        let name = if self.name.contains('.') { quoted(&self.name) } else { self.name.clone() };
        format!(
            "[{name}]\ndescription = {description}\nkernel = {kernel}\nready = \"{}\"\nsources = [{{ url = {url}, sha256 = \"{}\", size = {} }}]\n",
            self.ready, self.sha256, self.size
        )
    }
}

/// A file's name as a URL relative to its folder (RFC 3986, 4.2); spaces and the like are taken as
/// they are.
fn relative_url(name: &str) -> String {
    let escaped = name.replace('%', "%25").replace('#', "%23").replace('?', "%3F");
    if escaped.contains(':') { format!("./{escaped}") } else { escaped }
}

/// A text in TOML, whose basic strings are JSON's but for DEL.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text has a JSON form").replace('\u{7f}', "\\u007f")
}

/// The file that is written before it takes the place of another; gone if it does not.
fn beside(output: &Path, file: &OsStr) -> Result<NamedTempFile, CommandError> {
    let mut prefix = OsString::from(".");
    prefix.push(file);
    prefix.push(".");
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As a file that is made at once: the umask takes away what it does.
    let made = tempfile::Builder::new().prefix(&prefix).permissions(Permissions::from_mode(0o666)).tempfile_in(folder);
    made.map_err(|error| CommandError::io("create a file in", folder, &error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use banger::banger_image::Catalog;
    use banger::cli::Global;

    use super::*;

    #[test]
    fn an_entry_is_what_a_catalog_takes() {
        let answer = |name: &str, file: &str| Answer {
            name: name.to_owned(),
            description: "a \"b\"\n\u{7f}".to_owned(),
            kernel: "generic-6.12".to_owned(),
            ready: "agent",
            url: relative_url(file),
            sha256: "0".repeat(64),
            size: 7,
        };
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("catalog.toml");
        for (name, file) in [("base", "base.tar.zst"), ("base-1.2", "my 100%#?:base.zst")] {
            fs::write(&catalog, answer(name, file).entry()).unwrap();
            let location = catalog.to_str().unwrap().parse().unwrap();
            let images = Catalog::embedded().unwrap().with_team(&location, folder.path(), &Ui::new(&Global::default()));
            let images = images.unwrap().images;
            assert_eq!(images[name].description, "a \"b\"\n\u{7f}");
            assert_eq!(images[name].sources[0].to_string(), format!("bundle {}", folder.path().join(file).display()));
        }
    }
}
