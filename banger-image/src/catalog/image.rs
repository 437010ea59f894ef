//! Tables of images in the TOML of a catalog.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::{entries, recipe};
use crate::error::{Error, Result};
use crate::fetch::location::Location;
use crate::fetch::pinned::{Pinned, PinnedTable};
use crate::kind::Kind;
use crate::manifest::Ready;
use crate::name;
use crate::oci::Reference;

/// An image that a catalog names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// One line for people.
    pub description: String,
    /// The name of the kernel that it boots with.
    pub kernel: String,
    /// When commands may run in a VM of it.
    pub ready: Ready,
    /// Where it comes from, in the order in which they are tried.
    pub sources: Vec<ImageSource>,
}

/// A source of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A bundle at a URL or in a file.
    Bundle(Pinned),
    /// Built on this host by the embedded recipe of that name.
    Recipe(String),
    /// An image of an OCI registry.
    Oci(Reference),
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageSource::Bundle(bundle) => write!(f, "bundle {bundle}"),
            ImageSource::Recipe(name) => write!(f, "recipe {name}"),
            ImageSource::Oci(reference) => reference.fmt(f),
        }
    }
}

/// The table of an [`ImageEntry`] in a catalog.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageTable {
    description: String,
    kernel: String,
    ready: Ready,
    sources: Vec<SourceTable>,
}

/// The inline table of an [`ImageSource`]: `{ url, sha256, size }`, `{ recipe }` or `{ oci }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    url: Option<String>,
    sha256: Option<String>,
    size: Option<u64>,
    recipe: Option<String>,
    oci: Option<String>,
}

/// Parses the tables of images of the catalog that errors call `what`. URLs may be relative to
/// `base`, if there is one.
///
/// # Errors
/// [`Error::Catalog`].
pub(super) fn read(
    what: &str,
    written: BTreeMap<String, ImageTable>,
    base: Option<&Location>,
) -> Result<BTreeMap<String, ImageEntry>> {
    entries(what, "image", written, |written, name| written.read(name, base))
}

impl ImageTable {
    fn read(self, name: &str, base: Option<&Location>) -> std::result::Result<ImageEntry, String> {
        let ImageTable { description, kernel, ready, sources } = self;
        name::check(Kind::Image, name).map_err(|error| error.to_string())?;
        name::check(Kind::Image, &name::folder_name(name, ""))
            .map_err(|_| "its name has more than 51 characters".to_owned())?;
        name::check(Kind::Kernel, &kernel).map_err(|error| error.to_string())?;
        if sources.is_empty() {
            return Err("it has no sources".to_owned());
        }
        let sources = sources.into_iter().map(|source| source.read(base)).collect::<std::result::Result<_, _>>()?;
        Ok(ImageEntry { description, kernel, ready, sources })
    }
}

impl SourceTable {
    fn read(self, base: Option<&Location>) -> std::result::Result<ImageSource, String> {
        match self {
            SourceTable { url: Some(url), sha256: Some(sha256), size: Some(size), recipe: None, oci: None } => {
                Ok(ImageSource::Bundle(PinnedTable { url, sha256, size }.read(base)?))
            }
            SourceTable { url: None, sha256: None, size: None, recipe: Some(name), oci: None } => {
                recipe(&name).map_err(|error| error.to_string())?;
                Ok(ImageSource::Recipe(name))
            }
            SourceTable { url: None, sha256: None, size: None, recipe: None, oci: Some(reference) } => {
                reference.parse().map(ImageSource::Oci).map_err(|error: Error| error.to_string())
            }
            _ => Err("a source is `{ url, sha256, size }`, `{ recipe }` or `{ oci }`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::toml;

    fn parse(what: &str, text: &str, base: Option<&Location>) -> Result<BTreeMap<String, ImageEntry>> {
        read(what, toml(what, text)?, base)
    }

    fn sources(text: &str, base: Option<&str>) -> Result<Vec<ImageSource>> {
        let text = format!("[base]\ndescription = ''\nkernel = 'k'\nready = 'system'\nsources = [{text}]\n");
        let base = base.map(|base| base.parse::<Location>().unwrap());
        parse("c.toml", &text, base.as_ref()).map(|mut images| images.remove("base").unwrap().sources)
    }

    #[test]
    fn image_sources_parse_with_urls_relative_to_catalog() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let text = format!(
            "{{ url = 'v1/base.tar.zst', sha256 = '{hex}', size = 7 }}, {{ recipe = 'debian-bookworm-minimal' }}, {{ oci = 'x.example/team/base:1' }}"
        );
        let [ImageSource::Bundle(bundle), ImageSource::Recipe(_), ImageSource::Oci(reference)] =
            &sources(&text, Some("https://x.example/images/catalog.toml")).unwrap()[..]
        else {
            panic!()
        };
        assert_eq!(bundle.to_string(), "https://x.example/images/v1/base.tar.zst");
        assert_eq!((bundle.sha256.hex().as_str(), bundle.size), (hex, 7));
        assert_eq!(reference.to_string(), "x.example/team/base:1");
        assert!(sources(&text, None).unwrap_err().to_string().contains("neither a URL"));
    }

    #[test]
    fn invalid_image_entry_errors_name_the_mistake() {
        let base = Some("https://x.example/c.toml");
        let hex = "0".repeat(64);
        let cases = [
            ("{ url = 'a' }".to_owned(), "a source is"),
            ("{ recipe = 'a', oci = 'b:1' }".to_owned(), "a source is"),
            ("{}".to_owned(), "a source is"),
            ("{ recipe = '../x' }".to_owned(), "no such recipe"),
            ("{ oci = 'A B' }".to_owned(), "no reference"),
            ("{ url = 'a', sha256 = 'abc', size = 1 }".to_owned(), "64 digits"),
            (format!("{{ url = 'a', sha256 = '{hex}', size = -1 }}"), "invalid value"),
            (format!("{{ url = 'file:///etc/passwd', sha256 = '{hex}', size = 1 }}"), "may not name"),
            (format!("{{ url = 'gopher://a', sha256 = '{hex}', size = 1 }}"), "not known"),
            ("{ magic = 'x' }".to_owned(), "magic"),
        ];
        for (text, reason) in cases {
            let error = sources(&text, base).unwrap_err().to_string();
            assert!(error.contains("c.toml") && error.contains(reason), "{text}: {error}");
        }
        let named = |name: &str| {
            let text =
                format!("['{name}']\ndescription = ''\nkernel = 'k'\nready = 'agent'\nsources = [{{ oci = 'a:1' }}]\n");
            parse("c.toml", &text, None).map(drop)
        };
        assert!(named(&"x".repeat(51)).is_ok());
        for wrong in ["../x", "A", "", &"x".repeat(52)] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }
}
