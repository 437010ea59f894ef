//! Tables of kernels in the TOML of a catalog.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::{entries, recipe};
use crate::error::Result;
use crate::fetch::location::Location;
use crate::fetch::pinned::{Pinned, PinnedTable};
use crate::kernel::BOOT;
use crate::kind::Kind;
use crate::name;

/// A kernel that a catalog names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEntry {
    /// One line for people.
    pub description: String,
    /// Names of the modules that the initramfs loads, in order; their dependencies are added.
    pub boot_modules: Vec<String>,
    /// Where it comes from, in the order in which they are tried.
    pub sources: Vec<KernelSource>,
}

/// A source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// A tar archive with `boot/vmlinuz-<release>` and `lib/modules/<release>`, at a URL or in a
    /// file.
    Bundle(Pinned),
    /// Built on this host by the embedded recipe of that name.
    Recipe(String),
}

impl fmt::Display for KernelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelSource::Bundle(bundle) => write!(f, "bundle {bundle}"),
            KernelSource::Recipe(name) => write!(f, "recipe {name}"),
        }
    }
}

/// The table of a [`KernelEntry`] in a catalog.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelTable {
    description: String,
    boot_modules: Option<Vec<String>>,
    sources: Vec<SourceTable>,
}

/// The inline table of a [`KernelSource`]: `{ url, sha256, size }` or `{ recipe }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    url: Option<String>,
    sha256: Option<String>,
    size: Option<u64>,
    recipe: Option<String>,
}

/// Parses the tables of kernels of the catalog that errors call `what`. URLs may be relative to
/// `base`, if there is one.
///
/// # Errors
/// [`Error::Catalog`](crate::Error::Catalog).
pub(super) fn read(
    what: &str,
    written: BTreeMap<String, KernelTable>,
    base: Option<&Location>,
) -> Result<BTreeMap<String, KernelEntry>> {
    entries(what, "kernel", written, |written, name| written.read(name, base))
}

impl KernelTable {
    fn read(self, name: &str, base: Option<&Location>) -> std::result::Result<KernelEntry, String> {
        name::check(Kind::Kernel, name).map_err(|error| error.to_string())?;
        if self.sources.is_empty() {
            return Err("it has no sources".to_owned());
        }
        let sources = self.sources.into_iter().map(|source| source.read(base));
        Ok(KernelEntry {
            description: self.description,
            boot_modules: self.boot_modules.unwrap_or_else(|| BOOT.map(str::to_owned).into()),
            sources: sources.collect::<std::result::Result<_, _>>()?,
        })
    }
}

impl SourceTable {
    fn read(self, base: Option<&Location>) -> std::result::Result<KernelSource, String> {
        match self {
            SourceTable { url: Some(url), sha256: Some(sha256), size: Some(size), recipe: None } => {
                Ok(KernelSource::Bundle(PinnedTable { url, sha256, size }.read(base)?))
            }
            SourceTable { url: None, sha256: None, size: None, recipe: Some(name) } => {
                recipe(&name).map_err(|error| error.to_string())?;
                Ok(KernelSource::Recipe(name))
            }
            _ => Err("a source is `{ url, sha256, size }` or `{ recipe }`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str, rest: &str) -> Result<KernelEntry> {
        let written = toml::from_str(&format!("['{name}']\ndescription = ''\n{rest}\n")).unwrap();
        let base = "https://x.example/catalog.toml".parse().unwrap();
        read("c.toml", written, Some(&base)).map(|mut kernels| kernels.remove(name).unwrap())
    }

    #[test]
    fn kernel_sources_parse_as_bundle_or_recipe() {
        let hex = "0".repeat(64);
        let text =
            format!("sources = [{{ url = 'k.tar.zst', sha256 = '{hex}', size = 7 }}, {{ recipe = 'generic-6.12' }}]");
        let entry = kernel("ours", &text).unwrap();
        assert_eq!(entry.sources[0].to_string(), "bundle https://x.example/k.tar.zst");
        assert_eq!(entry.sources[1], KernelSource::Recipe("generic-6.12".into()));
        assert_eq!(entry.boot_modules, BOOT);
        assert_eq!(kernel("ours", &format!("boot_modules = ['ext4']\n{text}")).unwrap().boot_modules, ["ext4"]);
    }

    #[test]
    fn invalid_kernel_entry_errors_name_the_mistake() {
        for (name, text, reason) in [
            ("ours", "sources = []", "no sources"),
            ("ours", "sources = [{ url = 'k' }]", "a source is"),
            ("ours", "sources = [{ recipe = '../x' }]", "no such recipe"),
            ("../x", "sources = [{ recipe = 'generic-6.12' }]", "../x"),
        ] {
            let error = kernel(name, text).unwrap_err().to_string();
            assert!(error.contains("c.toml: kernel") && error.contains(reason), "{text}: {error}");
        }
    }
}
