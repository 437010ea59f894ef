//! Images and kernels for banger's microVMs.
//!
//! A [`Store`] keeps them in the user's data folder, each in a folder of its own that is either
//! whole or absent. What is not there yet is built from the embedded [`Catalog`]: an entry names
//! its sources, and a recipe is a source that builds on this host, from the distribution's own
//! signed archive, with `mmdebstrap`.
//!
//! The way of an image: `mmdebstrap` writes a tar stream → [`ext4`] makes a file system of it while it
//! comes, without root → the store renames the result into place.
//!
//! Everything here is blocking: call it from a thread that may wait. It reads no environment and
//! prints nothing; what there is to tell goes to a [`Progress`].

mod archive;
mod bundle;
mod catalog;
mod digest;
mod error;
pub mod ext4;
mod http;
mod kernel;
mod location;
mod manifest;
mod mmdebstrap;
mod name;
mod namespace;
pub mod oci;
mod progress;
mod pull;
mod register;
mod rootfs;
mod shelf;
mod sparse;
mod store;
mod tool;
mod unpack;

pub use bundle::Bundle;
pub use catalog::{Catalog, ImageEntry, ImageSource, KernelEntry, Source};
pub use error::{Error, Result};
pub use location::Location;
pub use manifest::{ImageManifest, KernelManifest, Ready};
pub use name::Kind;
pub use progress::Progress;
pub use pull::{Change, Pulled};
pub use register::Exported;
pub use store::{Image, Kernel, Store};
