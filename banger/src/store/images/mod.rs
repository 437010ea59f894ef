//! The user's images: by name, or by a reference in a registry or to files, which is pulled when it
//! is first wanted.

mod prune;

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

use banger_agent::protocol::WireBytes;
use banger_image::oci::{Credentials, PullOptions, Reference, Source};
use banger_image::{Catalog, Image, ImageManifest, ImageSource, Pulled, Store};
use banger_vmm::Vm;

use crate::config::{DEFAULT_KERNEL, ImageAccess};
use crate::error::{CommandError, ErrorKind};
use crate::host::npm;
use crate::host::paths::{Paths, search_path};
use crate::output::ui::Ui;
use crate::store::catalog::catalog;
use crate::store::in_use::InUse;
use crate::store::kernels::Kernels;

pub use self::prune::Removed;

/// See the module.
pub struct Images<'a> {
    store: Store,
    in_use: InUse,
    paths: &'a Paths,
    ui: &'a Ui,
}

impl<'a> Images<'a> {
    /// Those below the user's folders.
    pub fn new(paths: &'a Paths, ui: &'a Ui) -> Images<'a> {
        Images { store: Store::new(&paths.data), in_use: InUse::new(paths), paths, ui }
    }

    /// The store that they are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Which VMs were made from which image.
    pub fn in_use(&self) -> &InUse {
        &self.in_use
    }

    /// The names of those that are here, each once.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn names(&self) -> Result<Vec<String>, CommandError> {
        let mut names: Vec<_> = self.store.images()?.into_iter().map(|image| image.manifest.name).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The names that a VM can be made from: of those that are here, and of the catalog's.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn names_to_use(&self) -> Result<Vec<String>, CommandError> {
        let here = self.names()?.into_iter();
        Ok(here.chain(Catalog::embedded()?.images.into_keys()).collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// How to pull if nothing else is said: with the user's own credentials.
    pub fn pull_options(&self) -> PullOptions {
        let files = credential_files(self.paths.home.as_deref(), &|name| {
            env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        });
        let credentials = Credentials { files, search_path: search_path() };
        let npm_registry = npm::registry(self.paths.home.as_deref());
        PullOptions { credentials, npm_registry, ..PullOptions::new(&self.paths.cache) }
    }

    /// The image that is named, or referred to; it is made or pulled if it is not here.
    ///
    /// # Errors
    /// If it cannot be had; with [`ImageAccess::Anonymous`], [`ErrorKind::TrustNeeded`] if it is
    /// the user's own.
    pub fn ensure(&self, named: &str, access: ImageAccess) -> Result<Image, CommandError> {
        let image = match access {
            ImageAccess::User => self.ensure_as_user(named),
            ImageAccess::Anonymous => self.ensure_as_anybody(named),
        };
        self.ui.finish();
        image
    }

    fn ensure_as_user(&self, named: &str) -> Result<Image, CommandError> {
        if Reference::is_meant_by(named) {
            let source = Source::parse(named)?;
            let name = source.store_name();
            match self.store.image(&name)? {
                Some(image) => Ok(image),
                None => self.pull(&source, &name, DEFAULT_KERNEL, &self.pull_options()).map(|pulled| pulled.image),
            }
        } else {
            match self.store.image(named)? {
                Some(image) => Ok(image),
                None => self.pull_named(named, &self.pull_options()).map(|pulled| pulled.image),
            }
        }
    }

    /// What an untrusted file names. Whoever wrote that file may have a command read the image in
    /// the VM and send it away, so it is one that anybody can have, or one that the user's own
    /// configuration has given a name.
    fn ensure_as_anybody(&self, named: &str) -> Result<Image, CommandError> {
        if !Reference::is_meant_by(named) {
            return match self.store.image(named)? {
                Some(image) if image.manifest.anonymous || self.is_of_catalog(named, &image.manifest) => Ok(image),
                Some(_) => {
                    let message = format!("`{named}` is an image of your own, and an untrusted `banger.toml` names it");
                    Err(CommandError::new(message).kind(ErrorKind::TrustNeeded).hint(TRUST))
                }
                None => self.ensure_as_user(named),
            };
        }
        let source = Source::parse(named)?;
        if !matches!(source, Source::Registry(_)) {
            let message = format!("an untrusted `banger.toml` names files of this machine: `{named}`");
            return Err(CommandError::new(message).kind(ErrorKind::TrustNeeded).hint(TRUST));
        }
        let name = source.store_name();
        let here = self.store.image(&name)?;
        let is_public = |image: &Image| image.manifest.anonymous && image.manifest.source == source.to_string();
        if let Some(image) = here.clone().filter(is_public) {
            return Ok(image);
        }
        // One that came with the user's login may be had without one too. The registry is asked,
        // and what it names is not fetched again.
        let kernel = here.as_ref().map_or(DEFAULT_KERNEL, |image| &image.manifest.kernel);
        let with_sshd = here.as_ref().is_some_and(|image| image.manifest.with_sshd);
        let options = PullOptions { credentials: Credentials::default(), with_sshd, ..self.pull_options() };
        let pulled = self.store.pull(&source, &name, kernel, &options, self.ui).map_err(hint_at_trust)?;
        self.remove_outdated(&name)?;
        Ok(pulled.image)
    }

    /// Whether an image that is here is what a catalog calls so.
    fn is_of_catalog(&self, named: &str, image: &ImageManifest) -> bool {
        let is_source =
            |source: &ImageSource| matches!(source, ImageSource::Oci(_)) && source.to_string() == image.source;
        let is_it =
            |catalog: Catalog| catalog.images.get(named).is_some_and(|entry| entry.sources.iter().any(is_source));
        image.is_of_catalog() || catalog(self.paths, self.ui).is_ok_and(is_it)
    }

    /// Whether a VM can be made from what is named: it is here, or in a catalog. That a registry
    /// has it is believed.
    ///
    /// # Errors
    /// If the store or a team's catalog cannot be read.
    pub fn is_to_be_had(&self, named: &str) -> Result<bool, CommandError> {
        if Reference::is_meant_by(named) {
            return Ok(Source::parse(named).is_ok());
        }
        Ok(self.store.image(named)?.is_some() || catalog(self.paths, self.ui)?.images.contains_key(named))
    }

    /// Gets an image of a catalog, or brings it up to date.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn pull_named(&self, name: &str, options: &PullOptions) -> Result<Pulled, CommandError> {
        let catalog = catalog(self.paths, self.ui);
        let pulled = catalog.and_then(|catalog| {
            if let Some(entry) = catalog.images.get(name).filter(|entry| is_of_a_team(&entry.kernel)) {
                self.store.ensure_kernel(&entry.kernel, &catalog, self.ui)?;
            }
            let pulled = self.store.pull_named(name, &catalog, options, self.ui);
            pulled.map_err(|error| hint_at_registries(name, error))
        });
        self.ui.finish();
        let pulled = pulled?;
        self.remove_outdated(name)?;
        Ok(pulled)
    }

    /// Pulls an image. What was called so before goes, unless a VM was made from it.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn pull(
        &self,
        source: &Source,
        name: &str,
        kernel: &str,
        options: &PullOptions,
    ) -> Result<Pulled, CommandError> {
        if is_of_a_team(kernel) {
            self.kernels().ensure(kernel)?;
        }
        let pulled = self.store.pull(source, name, kernel, options, self.ui);
        self.ui.finish();
        let pulled = pulled?;
        self.remove_outdated(name)?;
        Ok(pulled)
    }

    /// Takes a copy of a root file system, an ext4 image in a file.
    ///
    /// # Errors
    /// If it is none, or its name is taken.
    pub fn register(&self, name: &str, rootfs: &Path, kernel: &str) -> Result<Image, CommandError> {
        if is_of_a_team(kernel) {
            self.kernels().ensure(kernel)?;
        }
        let image = self.store.register(name, rootfs, kernel, self.ui);
        self.ui.finish();
        Ok(image?)
    }

    /// The kernels that images boot.
    pub fn kernels(&self) -> Kernels<'a> {
        Kernels::new(self.paths, self.ui)
    }

    /// Deletes what was called so before, unless a VM was made from it.
    fn remove_outdated(&self, name: &str) -> Result<(), CommandError> {
        for old in self.store.outdated(name)? {
            // One that a VM needs stays, and goes with a later pull.
            match self.store.delete_image(&old.name, |folders| self.in_use.by_images(folders), self.ui) {
                Ok(_) => self.ui.detail(&format!("removed `{}`, which no VM was made from", old.name)),
                Err(error) => self.ui.detail(&error.message),
            }
        }
        Ok(())
    }

    /// Deletes an image, and returns what was deleted.
    ///
    /// # Errors
    /// If it is not there, or VMs were made from it.
    pub fn delete(&self, name: &str) -> Result<Vec<String>, CommandError> {
        self.store.delete_image(name, |folders| self.in_use.by_images(folders), self.ui)
    }

    /// What an image that is named, or referred to, is called in the store.
    pub fn store_name(named: &str) -> String {
        match Source::parse(named) {
            Ok(source) if Reference::is_meant_by(named) => source.store_name(),
            _ => named.to_owned(),
        }
    }

    /// Whether what a VM was made from is called so, or was.
    pub fn is_called(&self, folder: &str, named: &str) -> bool {
        let name = Self::store_name(named);
        folder == name || self.store.image(folder).ok().flatten().is_some_and(|image| image.manifest.name == name)
    }

    /// What the image in this folder of the store is called. One that is gone is called as its
    /// folder was.
    pub fn name_of(&self, folder: &str) -> String {
        let image = self.store.image(folder).ok().flatten();
        image.map_or_else(|| folder.to_owned(), |image| image.manifest.name)
    }

    /// What a VM was made from, if that can be read.
    pub fn of(&self, vm: &Vm) -> Option<ImageManifest> {
        let image = vm.record().ok().and_then(|record| self.store.image(&record.image).ok()?);
        image.map(|image| image.manifest)
    }
}

/// Whether a kernel is none of banger's own catalog. The store takes no image for a kernel that it
/// does not know, so such a one has to be here before.
fn is_of_a_team(kernel: &str) -> bool {
    Catalog::embedded().is_ok_and(|catalog| !catalog.kernels.contains_key(kernel))
}

/// The variables that an image has for every command.
pub fn variables(image: &ImageManifest) -> Vec<(WireBytes, WireBytes)> {
    let entries = image.oci.iter().flat_map(|origin| &origin.config.env);
    entries.filter_map(|entry| entry.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// Where Podman and Docker keep credentials, in the order in which containers-auth.json(5) has
/// them.
fn credential_files(home: Option<&Path>, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let below = |folder: Option<PathBuf>, file: &str| folder.map(|folder| folder.join(file));
    let config = variable("XDG_CONFIG_HOME").or_else(|| home.map(|home| home.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
    let files = [
        below(variable("XDG_RUNTIME_DIR"), "containers/auth.json"),
        below(config, "containers/auth.json"),
        below(docker, "config.json"),
    ];
    files.into_iter().flatten().collect()
}

/// A name of one word is none of a registry's: who mistypes a name must not get what a stranger
/// called so.
fn hint_at_registries(named: &str, error: banger_image::Error) -> CommandError {
    let is_unknown = matches!(error, banger_image::Error::Unknown { .. });
    let error = CommandError::from(error);
    if let Some(source) = Source::in_files(Path::new(named)).filter(|_| is_unknown) {
        return error.hint(format!("for the file of this name: {source}"));
    }
    match format!("{named}:latest").parse::<Reference>() {
        Ok(reference) if is_unknown => error.hint(format!("for {reference}, name it with its tag: `{named}:latest`")),
        _ => error,
    }
}

/// What to do about what needs trust.
const TRUST: &str = "if you trust the file as it is now: banger trust";

/// A pull without the user's logins, for a file that is not trusted, that a registry has refused.
fn hint_at_trust(error: banger_image::Error) -> CommandError {
    use banger_image::Error;
    let (is_refused, is_missing) =
        (matches!(error, Error::Unauthorized { .. }), matches!(error, Error::NotInRegistry { .. }));
    let mut error = CommandError::from(error);
    let why = "an untrusted `banger.toml` names it, so your logins at registries were not used";
    if is_refused {
        error = error.kind(ErrorKind::TrustNeeded);
        error.hints = vec![format!("{why}; {TRUST}")];
    } else if is_missing {
        // To some registries a private image is one that is not there.
        error.hints = vec!["check its name and tag".to_owned(), format!("if it is private: {why}; {TRUST}")];
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_files_follow_docker_and_podman_locations() {
        let none = |_: &str| None;
        let home = Some(Path::new("/home/me"));
        assert_eq!(
            credential_files(home, &none),
            [Path::new("/home/me/.config/containers/auth.json"), Path::new("/home/me/.docker/config.json")]
        );
        let set = |name: &str| (name != "REGISTRY_AUTH_FILE").then(|| PathBuf::from("/set").join(name));
        assert_eq!(
            credential_files(home, &set),
            [
                Path::new("/set/XDG_RUNTIME_DIR/containers/auth.json"),
                Path::new("/set/XDG_CONFIG_HOME/containers/auth.json"),
                Path::new("/set/DOCKER_CONFIG/config.json")
            ]
        );
        assert_eq!(credential_files(None, &|name| Some(name.into())), [Path::new("REGISTRY_AUTH_FILE")]);
    }

    #[test]
    fn references_and_image_names_are_distinguished() {
        assert_eq!(Images::store_name("debian-bookworm-minimal"), "debian-bookworm-minimal");
        assert!(Images::store_name("debian:12").starts_with("debian-12-"));
        assert_eq!(Images::store_name("debian:12"), Images::store_name("docker.io/library/debian:12"));
    }
}
