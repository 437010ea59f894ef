//! The catalog of images and kernels: banger's own, with that of the user's team.

use banger_image::Catalog;

use crate::config::{Overrides, Settings};
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;

/// Reads banger's own catalog, with the team's that the user's configuration names.
///
/// # Errors
/// If the configuration or the team's catalog cannot be read.
pub(crate) fn catalog(paths: &Paths, ui: &Ui) -> Result<Catalog, CommandError> {
    let catalog = Catalog::embedded()?;
    let settings = Settings::of_process(paths, None, &Overrides::default())?;
    let Some(location) = settings.catalog_url(paths.home.as_deref()) else { return Ok(catalog) };
    let catalog = catalog.with_team(&location, &paths.cache, ui);
    catalog.map_err(|error| {
        CommandError::from(error).hint("`catalog_url` of your configuration names it: `banger config get catalog_url`")
    })
}
