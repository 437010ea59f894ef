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
mod atomic_dir_store;
mod bundle;
mod catalog;
mod digest;
mod error;
pub mod ext4;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod kernel;
mod kernels;
mod location;
mod manifest;
mod mmdebstrap;
mod name;
mod namespace;
mod npm;
pub mod oci;
mod pinned;
mod progress;
mod pull;
mod register;
mod rootfs;
mod space;
mod sparse;
mod store;
mod tool;
mod unpack;

pub use catalog::{Catalog, ImageEntry, ImageSource, KernelEntry, KernelSource};
pub use error::{Error, Result};
pub use location::Location;
pub use manifest::{ImageManifest, KernelManifest, Ready};
pub use name::Kind;
pub use npm::NPM_REGISTRY;
pub use pinned::Pinned;
pub use progress::Progress;
pub use pull::{Change, Pulled};
pub use register::Exported;
pub use store::{Image, Kernel, Store};
pub use unpack::decompressed;
