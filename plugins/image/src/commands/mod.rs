//! The commands of `banger image`.

mod delete;
mod export;
mod list;
mod prune;
mod pull;
mod register;
mod show;

use banger::banger_image::oci::Origin;
use banger::banger_image::{Image, ImageManifest};
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::command_output::CommandOutput;
use banger::output::ui::Ui;
use banger::store::disk_usage::allocated;
use banger::store::images::Images;
use serde::Serialize;

use crate::cli::Command;

/// Runs the command, and prints its result.
pub(crate) fn run(command: &Command, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let images = Images::new(paths, ui);
    match command {
        Command::Pull { image, name, kernel_ref, platform, plain_http, with_sshd, max_size } => {
            let mut options = images.pull_options();
            options.platform = platform.clone();
            options.plain_http = *plain_http;
            options.with_sshd = *with_sshd;
            options.max_bytes = max_size.map_or(options.max_bytes, |mebibytes| mebibytes << 20);
            pull::pull(image, name.as_deref(), kernel_ref, &options, &images)?.print(ui)
        }
        Command::Register { name, rootfs, kernel_ref } => {
            register::register(name, rootfs, kernel_ref, &images)?.print(ui)
        }
        Command::Export { image, output } => export::export(image, output, &images, ui)?.print_result(ui),
        Command::List => list::list(&images)?.print(ui),
        Command::Show { image } => show::show(image, &images)?.print(ui),
        Command::Prune { dry_run } => prune::prune(*dry_run, &images, paths)?.print(ui),
        Command::Delete { image } => delete::delete(image, &images)?.print(ui),
    }
}

/// The digest of the manifest or bundle that an image was pulled as.
fn digest(manifest: &ImageManifest) -> Option<String> {
    let of_origin = || manifest.oci.as_ref().map(|origin| origin.digest);
    manifest.bundle.or_else(of_origin).map(|digest| digest.to_string())
}

/// An image in the store.
#[derive(Clone, Debug, Serialize)]
struct ImageEntry {
    /// The image's name.
    name: String,
    /// The name of its directory, which VMs know it by.
    folder: String,
    /// Whether another image has been pulled by its name since.
    outdated: bool,
    /// What the image was made of.
    source: String,
    /// The digest of the manifest of an image that was pulled from a registry or an archive, of the
    /// bundle of a catalog's.
    digest: Option<String>,
    /// The platform that was pulled, such as `linux/amd64`.
    platform: Option<String>,
    /// The name of the kernel that its VMs boot.
    kernel: String,
    /// Bytes that the image takes on this machine's disks.
    disk_bytes: u64,
    /// Length of the root file system, in bytes.
    rootfs_bytes: u64,
    /// When the image was made, in seconds since 1970.
    created: u64,
    /// The names of the VMs that were made from it.
    vms: Vec<String>,
}

impl ImageEntry {
    fn new(image: &Image, images: &Images<'_>, vms: Vec<String>) -> Result<ImageEntry, CommandError> {
        let manifest = &image.manifest;
        let origin: Option<&Origin> = manifest.oci.as_ref();
        let current = images.store().image(&manifest.name)?;
        Ok(ImageEntry {
            name: manifest.name.clone(),
            folder: image.name.clone(),
            outdated: current.is_none_or(|current| current.name != image.name),
            source: manifest.source.clone(),
            digest: digest(manifest),
            platform: origin.map(|origin| origin.platform.clone()),
            kernel: manifest.kernel.clone(),
            disk_bytes: allocated(&image.dir),
            rootfs_bytes: manifest.rootfs_bytes,
            created: manifest.created,
            vms,
        })
    }
}
