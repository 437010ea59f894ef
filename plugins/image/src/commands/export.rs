//! `banger image export`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use banger::banger_image::{Exported, Image, Ready};
use banger::error::CommandError;
use banger::output::command_output::{CommandOutput, Message, Verbosity};
use banger::output::ui::Ui;
use banger::output::units::bytes;
use banger::store::images::Images;
use banger_util::file::{AtomicFile, Durability};
use serde::Serialize;

/// An image that was written as a bundle: what the entry of a catalog for it says.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ExportedImage {
    /// The image's name.
    name: String,
    /// What it is, in a line.
    description: String,
    /// The name of the kernel that it boots.
    kernel: String,
    /// When its VMs count as started: `agent` or `system`.
    ready: &'static str,
    /// The file's name, which is its URL seen from a catalog beside it.
    url: String,
    /// SHA-256 of the file, in hex.
    sha256: String,
    /// Length of the file, in bytes.
    size: u64,
    /// The file; none: standard output.
    #[serde(skip)]
    output: Option<PathBuf>,
}

/// Writes an image as a bundle to the file `output`, or with `-` to standard output.
///
/// # Errors
/// If there is no such image, or the file cannot be written.
pub(super) fn export(named: &str, output: &Path, images: &Images<'_>, ui: &Ui) -> Result<ExportedImage, CommandError> {
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
        return Ok(ExportedImage::new(&image, &format!("{}.tar.zst", image.manifest.name), &exported?));
    }
    let file = output.file_name().ok_or_else(|| crate::usage(format!("`{}` is no file's name", output.display())))?;
    let beside = beside(output)?;
    let exported = images.store().export(&image.name, beside.as_file(), ui);
    ui.finish();
    let exported = exported?;
    beside.replace(Durability::Synced).map_err(|error| CommandError::io("write", output, &error))?;
    let image = ExportedImage::new(&image, &relative_url(&file.to_string_lossy()), &exported);
    Ok(ExportedImage { output: Some(output.to_owned()), ..image })
}

impl CommandOutput for ExportedImage {
    fn messages(&self) -> Vec<Message> {
        match &self.output {
            Some(output) => {
                vec![Message::status(format!("`{}` is written ({})", output.display(), bytes(self.size)))]
            }
            // Standard output is the bundle's.
            None => self.entry().lines().map(Message::status).collect(),
        }
    }

    fn text(&self, _verbosity: Verbosity) -> String {
        self.entry()
    }
}

impl ExportedImage {
    fn new(image: &Image, url: &str, exported: &Exported) -> ExportedImage {
        let manifest = &image.manifest;
        ExportedImage {
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
            output: None,
        }
    }

    /// Prints the result, unless standard output has the bundle: then its messages alone.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(super) fn print_result(&self, ui: &Ui) -> Result<(), CommandError> {
        if self.output.is_none() {
            self.print_messages(ui);
            return Ok(());
        }
        self.print(ui)
    }

    /// The entry in the TOML of a catalog.
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

/// A text as a basic string of TOML, which differs from a JSON string in DEL only.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text has a JSON form").replace('\u{7f}', "\\u007f")
}

/// A temporary file beside `output`, to be renamed to it.
fn beside(output: &Path) -> Result<AtomicFile, CommandError> {
    // As a file that is made at once: the umask takes away what it does.
    AtomicFile::create(output, 0o666).map_err(|error| {
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        CommandError::io("create a file in", folder, &error)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use banger::banger_image::Catalog;
    use banger::cli::Global;

    use super::*;

    #[test]
    fn exported_entry_parses_as_a_catalog() {
        let answer = |name: &str, file: &str| ExportedImage {
            name: name.to_owned(),
            description: "a \"b\"\n\u{7f}".to_owned(),
            kernel: "generic-6.12".to_owned(),
            ready: "agent",
            url: relative_url(file),
            sha256: "0".repeat(64),
            size: 7,
            output: None,
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
