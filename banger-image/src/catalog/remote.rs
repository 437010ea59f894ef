//! A team's catalog, at a URL or in a file.
//!
//! ```text
//! <cache>/catalogs/<16 digits>.toml   the last good one of a URL, for when the web cannot be reached
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use banger_util::file::{Durability, replace};
use fs_err as fs;
use serde::Deserialize;
use toml::de::{DeTable, ValueDeserializer};

use super::{Catalog, image, kernel, wrong_at};
use crate::error::{Error, Result};
use crate::fetch::http::{Http, fetch_bytes, is_loopback};
use crate::fetch::location::{Address, Location};
use crate::files::create_private;
use crate::progress::Progress;

/// The longest catalog, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// The TOML file of a catalog: each table is an image, but for `kernels`, whose tables are kernels.
#[derive(Default)]
struct CatalogFile {
    kernels: BTreeMap<String, kernel::KernelTable>,
    images: BTreeMap<String, image::ImageTable>,
}

impl CatalogFile {
    /// Parses table by table, so that errors have their position.
    fn parse(text: &str) -> std::result::Result<CatalogFile, toml::de::Error> {
        let mut written = CatalogFile::default();
        for (name, table) in DeTable::parse(text)?.into_inner() {
            let table = ValueDeserializer::from(table);
            match name.get_ref().as_ref() {
                "kernels" => written.kernels = Deserialize::deserialize(table)?,
                name => _ = written.images.insert(name.to_owned(), Deserialize::deserialize(table)?),
            }
        }
        Ok(written)
    }
}

/// Reads a team's catalog. Of a URL the last good copy is used when the server cannot be reached;
/// it is kept below `cache`, banger's cache directory.
///
/// # Errors
/// [`Error::Server`], [`Error::Catalog`].
pub(super) fn get(location: &Location, cache: &Path, progress: &dyn Progress) -> Result<Catalog> {
    let what = location.to_string();
    let parse = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).map_err(|_| wrong(&what, "it is no UTF-8 text"))?;
        let CatalogFile { kernels, images } =
            CatalogFile::parse(&text).map_err(|error| wrong_at(&what, &text, &error))?;
        let images = image::read(&what, images, Some(location))?;
        let kernels = kernel::read(&what, kernels, Some(location))?;
        Ok::<_, Error>((Catalog { images, kernels }, text))
    };
    let url = match location.address() {
        Address::Path(path) => {
            let bytes = read(path).map_err(|error| wrong(&what, &error.to_string()))?;
            return Ok(parse(bytes)?.0);
        }
        Address::Url(url) => url,
    };
    let copy = copy_of(location, cache);
    let got = Http::new(is_loopback(url))
        .and_then(|http| fetch_bytes(&http, &format!("cannot get the catalog {what}"), url, MAX_BYTES));
    match (got, fs::read(&copy)) {
        (Ok(bytes), former) => {
            let (catalog, text) = parse(bytes)?;
            if former.ok().as_deref() != Some(text.as_bytes()) {
                keep(&copy, &text)?;
            }
            Ok(catalog)
        }
        (Err(error), Ok(former)) => {
            progress.message(&format!("{error}; the copy of when it was last got is used"));
            Ok(parse(former)?.0)
        }
        (Err(error), Err(_)) => Err(error),
    }
}

fn copy_of(location: &Location, cache: &Path) -> PathBuf {
    let digest = blake3::hash(location.in_full().as_bytes()).to_hex();
    cache.join("catalogs").join(format!("{}.toml", &digest[..16]))
}

/// Replaces the copy atomically.
fn keep(copy: &Path, text: &str) -> Result<()> {
    let folder = copy.parent().unwrap_or(copy);
    create_private(folder)?;
    Ok(replace(copy, text.as_bytes(), 0o600, Durability::Synced)?)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening what is no file, such as a FIFO, may take forever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn wrong(what: &str, reason: &str) -> Error {
    Error::Catalog { what: what.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_errors_have_line_numbers() {
        for (text, place) in [
            ("# a team's\n[base]\nkernal = 1\n", ":3: unknown field `kernal`"),
            ("[kernels.k]\nurl = 1\n", ":2: "),
            ("[base]\ndescription = \"\"\n\n[base\n", ":4: "),
            ("base = 1\n", ":1: "),
        ] {
            let error = CatalogFile::parse(text).map(|_| ()).unwrap_err();
            let error = wrong_at("c.toml", text, &error).to_string();
            assert!(error.starts_with(&format!("catalog: c.toml{place}")) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
