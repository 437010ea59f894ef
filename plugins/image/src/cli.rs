//! The command line, as clap sees it: types only.

use std::path::PathBuf;

use banger::banger_image::oci::Platform;
use banger::cli::Global;
use banger::config::DEFAULT_KERNEL;

use clap::{Parser, Subcommand, ValueHint};

/// Pull, list, show, export, delete and prune images
#[derive(Debug, Parser)]
#[command(name = "banger image", bin_name = "banger image", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Get an image, or refresh it
    #[command(after_help = "Examples:
  banger image pull debian-bookworm-minimal        of the catalog
  banger image pull debian:12                      of Docker Hub
  banger image pull ghcr.io/owner/name:v1 --name mine
  banger image pull oci:build/layout               a folder, as skopeo and umoci write it
  banger image pull docker-archive:image.tar       a file, as docker save writes it

Credentials are those of docker login and podman login. VMs that were made from an image keep it when its name is pulled again.")]
    Pull {
        /// A name of the catalog; a reference, with its tag; or oci:FOLDER, oci-archive:FILE,
        /// docker-archive:FILE, each with :NAME behind it if there is more than one image
        #[arg(value_name = "SOURCE")]
        image: String,
        /// What to call it [default: made from the reference, which goes for it too]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The kernel that it boots
        #[arg(long, value_name = "KERNEL", default_value = DEFAULT_KERNEL)]
        kernel_ref: String,
        /// What to take of an image that there is for several platforms [default: this machine's]
        #[arg(long, value_name = "OS/ARCHITECTURE")]
        platform: Option<Platform>,
        /// Speak to the registry without encryption; to this machine itself, that is done anyway
        #[arg(long)]
        plain_http: bool,
        /// Install an SSH server when a VM of it starts, by its own package manager and beside the
        /// first command
        #[arg(long)]
        with_sshd: bool,
        /// The most that an image's layers may have, unpacked (`100G`)
        #[arg(long, value_name = "SIZE", value_parser = banger::output::units::option(banger::output::units::mebibytes))]
        max_size: Option<u64>,
    },
    /// Take a copy of a root file system as an image
    #[command(after_help = "Example:
  banger image register --name base --rootfs build/rootfs.ext4

The file is an ext4 file system, whole and unmounted, such as mke2fs -d or mkosi makes one. It is only read.")]
    Register {
        /// What to call it
        #[arg(long, value_name = "NAME")]
        name: String,
        /// The file
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        rootfs: PathBuf,
        /// The kernel that it boots
        #[arg(long, value_name = "KERNEL", default_value = DEFAULT_KERNEL)]
        kernel_ref: String,
    },
    /// Write an image into a file that a catalog can name
    #[command(after_help = "Example:
  banger image export base --output public/base.tar.zst >public/catalog.toml

What is printed is the image's entry of a catalog, with the file beside it. The same image gives the same bytes.")]
    Export {
        /// Its name, or its reference
        #[arg(value_name = "IMAGE")]
        image: String,
        /// The file; - is standard output, and the entry goes to standard error then
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: PathBuf,
    },
    /// List the images that are here; with `--quiet` names only
    #[command(visible_alias = "ls")]
    List,
    /// Show what is known of an image
    #[command(visible_alias = "inspect")]
    Show {
        /// Its name, or its reference
        #[arg(value_name = "IMAGE")]
        image: String,
    },
    /// Remove all images that no VM was made from, but for the default one and those that were made
    /// of files here
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete an image that no VM was made from
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name, or its reference
        #[arg(value_name = "IMAGE")]
        image: String,
    },
}
