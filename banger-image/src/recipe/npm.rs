//! Programs in packages of npm. The registry has each version at a URL of its own, and the recipe
//! has its digest.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tar::Archive;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::ext4::{Metadata, Timestamp, Writer};
use crate::fetch::pinned::Pinned;
use crate::progress::Progress;

/// The default registry of npm packages, a URL.
pub const NPM_REGISTRY: &str = "https://registry.npmjs.org";

/// The most that a package may have, in bytes.
const MAX_BYTES: u64 = 2 << 30;

/// A package of which one program is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// The name of the package, such as `@scope/name`.
    name: String,
    /// Its exact version.
    version: String,
    /// The digest of its archive.
    pub(crate) sha256: Digest,
    /// The archive's length in bytes.
    pub(crate) size: u64,
    /// The program's path in the package.
    program: PathBuf,
    /// The program's path in the image, relative to the root.
    to: String,
}

impl Package {
    /// Downloads the package from the registry at the URL `registry`, and adds its program to the
    /// image in the same pass, owned by root.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::Archive`], [`Error::FileSystem`].
    pub(crate) fn add(&self, registry: &str, image: &mut Writer, progress: &dyn Progress) -> Result<()> {
        let what = format!("{} {}", self.name, self.version);
        let too_large = || self.wrong(format!("it has more than {MAX_BYTES} bytes when it is unpacked"));
        let wrong = |reason| self.wrong(reason);
        let take = |stream: &mut dyn Read| self.take(&mut Archive::new(stream), image);
        self.archive(registry)?.unpack(&what, MAX_BYTES, too_large, wrong, progress, take)
    }

    /// Where a registry has it, by npm's own custom: `<registry>/@scope/name/-/name-<version>.tgz`.
    fn archive(&self, registry: &str) -> Result<Pinned> {
        let base = self.name.rsplit('/').next().unwrap_or(&self.name);
        let url = format!("{}/{}/-/{base}-{}.tgz", registry.trim_end_matches('/'), self.name, self.version);
        let location = url.parse().map_err(|reason| self.wrong(reason))?;
        Ok(Pinned { location, sha256: self.sha256, size: self.size })
    }

    fn take<R: Read>(&self, archive: &mut Archive<R>, image: &mut Writer) -> Result<()> {
        // All that a package has is below this folder.
        let wanted = Path::new("package").join(&self.program);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if entry.path()? != wanted || !entry.header().entry_type().is_file() {
                continue;
            }
            let seconds = i64::try_from(entry.header().mtime()?).unwrap_or_default();
            let mtime = Timestamp { seconds, nanoseconds: 0 };
            let metadata = Metadata { mode: 0o755, mtime, ..Metadata::default() };
            let size = entry.size();
            return match image.file(self.to.as_bytes(), metadata, &mut entry)? == size {
                true => Ok(()),
                false => Err(self.wrong("it ends in the middle of the program".to_owned())),
            };
        }
        Err(self.wrong(format!("it has no `{}`", self.program.display())))
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Archive { entry: format!("{} {}", self.name, self.version), reason }
    }
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;
    use crate::ext4::Options;
    use crate::fetch::http::server::{Server, response};
    use crate::progress::Silent;

    /// A package with one program, as npm leaves it.
    fn package() -> (Package, Vec<u8>) {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, content) in [("package/package.json", "{}"), ("package/bin/tool", "a program")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            tar.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let package = Package {
            name: "@scope/tool".into(),
            version: "1.0.0".into(),
            sha256: Digest::of(&bytes),
            size: bytes.len() as u64,
            program: "bin/tool".into(),
            to: "usr/local/bin/tool".into(),
        };
        (package, bytes)
    }

    #[test]
    fn verified_npm_package_program_is_added_to_image() {
        let folder = tempfile::tempdir().unwrap();
        let (package, bytes) = package();
        let sent = bytes.clone();
        let server = Server::new(move |request, _| match request.path.as_str() {
            "/npm/@scope/tool/-/tool-1.0.0.tgz" => response("200 OK", "", &sent),
            "/other/@scope/tool/-/tool-1.0.0.tgz" => response("200 OK", "", &vec![0; sent.len()]),
            _ => response("404 Not Found", "", b""),
        });
        let registry = |path: &str| format!("http://{}/{path}/", server.address);
        let path = folder.path().join("image");
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut image = Writer::new(file.into_file(), Options::image()).unwrap();
        package.add(&registry("npm"), &mut image, &Silent).unwrap();
        // What the tree says of a folder counts, though it comes later.
        image.directory(b"usr/local", Metadata { mode: 0o700, ..Metadata::default() }).unwrap();

        let missing = Package { program: "bin/other".into(), ..package.clone() };
        let mut error =
            |package: &Package, path: &str| package.add(&registry(path), &mut image, &Silent).unwrap_err().to_string();
        assert!(error(&missing, "npm").contains("it has no `bin/other`"));
        assert!(error(&package, "nowhere").contains("404"));
        let other = error(&package, "other");
        assert!(other.contains("its content is sha256:"), "{other}");

        image.finish().unwrap();
        let image = ext4_view::Ext4::load_from_path(&path).unwrap();
        assert_eq!(image.read("/usr/local/bin/tool").unwrap(), b"a program");
        assert_eq!(image.metadata("/usr/local/bin/tool").unwrap().mode(), 0o755);
        assert_eq!(image.metadata("/usr/local").unwrap().mode(), 0o700);
    }
}
