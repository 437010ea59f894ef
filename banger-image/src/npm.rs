//! Programs that come in packages of npm. npm(1) itself downloads them, from wherever its user has set it up to; what comes is
//! checked against the recipe.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use fs_err as fs;
use serde::Deserialize;
use sha2::{Digest, Sha512};
use tar::Archive;

use crate::error::{Error, Result};
use crate::ext4::{Metadata, Timestamp, Writer};
use crate::progress::Progress;
use crate::tool::NPM;

/// What precedes a SHA-512 in base64: Subresource Integrity (W3C), as npm's lock files have it.
const SHA512: &str = "sha512-";

/// A package of which one program is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// Its name, such as `@scope/name`.
    name: String,
    /// Its exact version.
    version: String,
    /// The digest of its archive.
    pub(crate) integrity: String,
    /// The program's path in the package.
    program: PathBuf,
    /// Its path in the image, relative to the root.
    to: String,
}

/// A package that was downloaded and checked.
pub(crate) struct Fetched<'a> {
    package: &'a Package,
    archive: PathBuf,
}

impl Package {
    /// Downloads the package into the new folder `folder`.
    pub(crate) fn fetch(&self, folder: &Path, progress: &dyn Progress) -> Result<Fetched<'_>> {
        progress.phase(&format!("downloading {} {}", self.name, self.version));
        NPM.require()?;
        fs::create_dir(folder)?;
        // npm reads the settings of the project that it stands in, which must not be that of whoever wants an image.
        fs::write(folder.join("package.json"), "{}\n")?;
        let wrapper = [OsString::from("env"), OsString::from("--chdir"), folder.into()];
        let what = format!("{}@{}", self.name, self.version);
        let arguments = ["pack", "--ignore-scripts", "--loglevel=error", "--", &what];
        let drain = |stdout: &mut dyn Read| Ok(io::copy(stdout, &mut io::sink())?);
        NPM.stream(&wrapper, &arguments, |_| (), drain)?;
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?.into_iter().map(|entry| entry.path());
        let archive = entries.find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
        let archive = archive.ok_or_else(|| self.wrong("npm has downloaded nothing"))?;
        self.check(&archive)?;
        Ok(Fetched { package: self, archive })
    }

    fn check(&self, archive: &Path) -> Result<()> {
        let mut hasher = Sha512::new();
        let mut file = fs::File::open(archive)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                count => hasher.update(&piece[..count]),
            }
        }
        let is = format!("{SHA512}{}", STANDARD.encode(hasher.finalize()));
        match is == self.integrity {
            true => Ok(()),
            false => Err(self.wrong(&format!("what came is {is}, and should be {}", self.integrity))),
        }
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::Archive { entry: format!("{}@{}", self.name, self.version), reason: reason.to_owned() }
    }
}

impl Fetched<'_> {
    /// Adds the program to an image, as root's.
    pub(crate) fn add(&self, image: &mut Writer) -> Result<()> {
        let mut archive = Archive::new(GzDecoder::new(fs::File::open(&self.archive)?));
        // All that a package has is below this folder.
        let wanted = Path::new("package").join(&self.package.program);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if entry.path()? != wanted || !entry.header().entry_type().is_file() {
                continue;
            }
            let seconds = i64::try_from(entry.header().mtime()?).unwrap_or_default();
            let mtime = Timestamp { seconds, nanoseconds: 0 };
            let metadata = Metadata { mode: 0o755, mtime, ..Metadata::default() };
            let size = entry.size();
            return match image.file(self.package.to.as_bytes(), metadata, &mut entry)? == size {
                true => Ok(()),
                false => Err(self.package.wrong("it ends in the middle of the program")),
            };
        }
        Err(self.package.wrong(&format!("it has no `{}`", self.package.program.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext4::Options;

    /// A package with one program, in an archive as npm leaves it.
    fn fetched(folder: &Path) -> (Package, PathBuf) {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, content) in [("package/package.json", "{}"), ("package/bin/tool", "a program")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            tar.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let archive = folder.join("tool-1.0.0.tgz");
        fs::write(&archive, &bytes).unwrap();
        let package = Package {
            name: "tool".into(),
            version: "1.0.0".into(),
            integrity: format!("{SHA512}{}", STANDARD.encode(Sha512::digest(&bytes))),
            program: "bin/tool".into(),
            to: "usr/local/bin/tool".into(),
        };
        (package, archive)
    }

    #[test]
    fn one_program_of_a_package_that_is_the_right_one_becomes_a_part_of_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let (package, archive) = fetched(folder.path());
        package.check(&archive).unwrap();
        let path = folder.path().join("image");
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut image = Writer::new(file.into_file(), Options::image()).unwrap();
        Fetched { package: &package, archive: archive.clone() }.add(&mut image).unwrap();
        let missing = Package { program: "bin/other".into(), ..package.clone() };
        let error = Fetched { package: &missing, archive: archive.clone() }.add(&mut image).unwrap_err();
        assert!(error.to_string().contains("it has no `bin/other`"), "{error}");
        image.finish().unwrap();
        let image = ext4_view::Ext4::load_from_path(&path).unwrap();
        assert_eq!(image.read("/usr/local/bin/tool").unwrap(), b"a program");
        assert_eq!(image.metadata("/usr/local/bin/tool").unwrap().mode(), 0o755);

        fs::write(&archive, "another archive").unwrap();
        let error = package.check(&archive).unwrap_err();
        assert!(error.to_string().contains("tool@1.0.0") && error.to_string().contains("what came is"), "{error}");
    }
}
