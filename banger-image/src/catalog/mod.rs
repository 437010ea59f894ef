//! The catalog: which images and kernels there are, and where each comes from. A team's catalog is
//! added to the embedded one.

mod image;
mod kernel;
mod remote;

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use self::image::{ImageEntry, ImageSource};
pub use self::kernel::{KernelEntry, KernelSource};
use crate::error::{Error, Result};
use crate::fetch::location::Location;
use crate::progress::Progress;
use crate::recipe::Recipe;

const IMAGES: &str = include_str!("../../../catalog/images.toml");
const KERNELS: &str = include_str!("../../../catalog/kernels.toml");

/// The recipes that ship with the catalog, by name.
const RECIPES: [(&str, &str); 3] = [
    ("debian-bookworm", include_str!("../../../catalog/debian-bookworm/recipe.toml")),
    ("debian-bookworm-minimal", include_str!("../../../catalog/debian-bookworm-minimal/recipe.toml")),
    ("generic-6.12", include_str!("../../../catalog/generic-6.12/recipe.toml")),
];

/// The images and kernels that can be had by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Images by name.
    pub images: BTreeMap<String, ImageEntry>,
    /// Kernels by name.
    pub kernels: BTreeMap<String, KernelEntry>,
}

impl Catalog {
    /// The catalog that ships with banger.
    ///
    /// # Errors
    /// [`Error::Catalog`] if it is malformed; a test makes sure that it is not.
    pub fn embedded() -> Result<Catalog> {
        Catalog::parse(IMAGES, KERNELS)
    }

    fn parse(images: &str, kernels: &str) -> Result<Catalog> {
        let kernels = kernel::read("kernels.toml", toml("kernels.toml", kernels)?, None)?;
        let images = image::read("images.toml", toml("images.toml", images)?, None)?;
        for (name, entry) in &images {
            if !kernels.contains_key(&entry.kernel) {
                let reason = format!("there is no kernel `{}`", entry.kernel);
                return Err(Error::Catalog { what: format!("image `{name}`"), reason });
            }
        }
        Ok(Catalog { images, kernels })
    }

    /// Adds the images and kernels of a team's catalog, which is at `location`. They replace
    /// entries of this catalog that have the same name. A copy of a catalog at a URL is kept in
    /// `cache`, banger's cache directory, and used when the server cannot be reached.
    ///
    /// # Errors
    /// [`Error::Server`] if the catalog cannot be fetched, [`Error::Catalog`] if it is malformed.
    pub fn with_team(mut self, location: &Location, cache: &Path, progress: &dyn Progress) -> Result<Catalog> {
        let team = remote::get(location, cache, progress)?;
        self.images.extend(team.images);
        self.kernels.extend(team.kernels);
        Ok(self)
    }
}

/// Converts the tables of the catalog that errors call `what`; `kind` is `image` or `kernel`.
fn entries<W, E>(
    what: &str,
    kind: &str,
    written: BTreeMap<String, W>,
    read: impl Fn(W, &str) -> std::result::Result<E, String>,
) -> Result<BTreeMap<String, E>> {
    let entries = written.into_iter().map(|(name, written)| {
        let wrong =
            |reason: String| Error::Catalog { what: format!("{what}: {kind} `{}`", name.escape_debug()), reason };
        let entry = read(written, &name).map_err(wrong)?;
        Ok((name, entry))
    });
    entries.collect()
}

/// The embedded recipe `name`.
///
/// # Errors
/// [`Error::Catalog`] if there is none.
pub(crate) fn recipe(name: &str) -> Result<Recipe> {
    let Some((_, text)) = RECIPES.iter().find(|(known, _)| *known == name) else {
        let reason = "there is no such recipe".into();
        return Err(Error::Catalog { what: format!("recipe `{name}`"), reason });
    };
    toml(&format!("{name}/recipe.toml"), text)
}

fn toml<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| wrong_at(what, text, &error))
}

/// The error of parsing `text`, with its line.
fn wrong_at(what: &str, text: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| format!(":{}", before.matches('\n').count() + 1)).unwrap_or_default();
    Error::Catalog { what: format!("{what}{line}"), reason: error.message().replace('\n', " ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Ready;

    const KERNEL: &str = "[k]\ndescription = ''\nboot_modules = []\nsources = [{ recipe = 'generic-6.12' }]\n";

    #[test]
    fn embedded_catalog_is_valid() {
        let catalog = Catalog::embedded().unwrap();
        let image = &catalog.images["debian-bookworm-minimal"];
        assert_eq!(image.ready, Ready::Agent);
        assert!(catalog.kernels.contains_key(&image.kernel));
    }

    #[test]
    fn invalid_catalog_errors_name_the_mistake() {
        let image = |rest: &str| {
            let text = format!("[i]\ndescription = ''\nready = 'agent'\n{rest}");
            Catalog::parse(&text, KERNEL).unwrap_err().to_string()
        };
        let recipe = "sources = [{ recipe = 'generic-6.12' }]";
        assert!(image(&format!("kernel = 'k'\nkernal = 'k'\n{recipe}")).contains("kernal"));
        assert!(image(&format!("kernel = 'x'\n{recipe}")).contains("no kernel `x`"));
        assert!(image("kernel = 'k'\nsources = []").contains("no sources"));
        assert!(image("kernel = 'k'\nsources = [{ recipe = 'x' }]").contains("no such recipe"));
        assert!(image("kernel = 'k'\nsources = [{ magic = 'x' }]").contains("magic"));
        assert!(Catalog::parse("", &KERNEL.replace("[k]", "['../k']")).is_err());
    }
}
