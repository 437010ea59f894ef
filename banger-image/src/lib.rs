//! Images and kernels for banger's microVMs.
//!
//! A [`Store`] keeps them in the user's data folder, each in a folder of its own that is either
//! whole or absent. What is not there yet comes from a [`Catalog`], the embedded one or a team's
//! own: an entry names its sources. A bundle is an image or a kernel as one file, a recipe builds
//! on this host from the distribution's own signed archive, and what a registry has is in [`oci`].
//!
//! The way of an image that is built or pulled: a tar stream → [`ext4`] makes a file system of it
//! while it comes, without root → the store renames the result into place. A bundle has a file
//! system already, which is looked at before it is taken, as is one that is registered.
//!
//! Everything here is blocking: call it from a thread that may wait. It reads no environment and
//! prints nothing; what there is to tell goes to a [`Progress`].

pub mod archive;
mod bundle;
mod catalog;
mod digest;
mod error;
pub mod ext4;
mod fetch;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod kernel;
mod kind;
mod manifest;
mod name;
pub mod oci;
mod progress;
mod recipe;
mod store;

pub use archive::decompress::decompressed;
pub use catalog::{Catalog, ImageEntry, ImageSource, KernelEntry, KernelSource};
pub use error::{Error, Result};
pub use fetch::location::Location;
pub use fetch::pinned::Pinned;
pub use kind::Kind;
pub use manifest::{ImageManifest, KernelManifest, Ready};
pub use progress::Progress;
pub use recipe::npm::NPM_REGISTRY;
pub use store::pull::{Change, Pulled};
pub use store::register::Exported;
pub use store::{Image, Kernel, Store};
