//! Images and kernels for banger's microVMs.
//!
//! A [`Store`] keeps them in the user's data directory, each in a directory of its own that is
//! either complete or absent. A [`Catalog`], the embedded one or a team's own, names where each
//! image and kernel comes from: a bundle is an image or a kernel as one file, a recipe builds on
//! this host from the distribution's signed archive, and registries are read by [`oci`].
//!
//! An image that is built or pulled is a tar stream. [`ext4`] writes a file system while the stream
//! arrives, without root, and the store renames the finished directory into place. A bundle has a
//! file system already, which is checked before it is stored, as is one that is registered.
//!
//! # Modules
//!
//! A module imports only modules of the rows below its own. `error`, `kind`, `name`, `digest` and
//! `progress` are for all of them; `error` has [`ext4::Error`] in it.
//!
//! | module | subject |
//! |---|---|
//! | `store` | images and kernels of the data directory: find, get, list, delete |
//! | `catalog` | what can be had by name, and from where |
//! | `bundle` | an image as one file |
//! | `manifest` | `manifest.json` of a stored image or kernel |
//! | [`oci`], `kernel` | images of registries and archives; kernels and their modules |
//! | `recipe` | builds on this host: mmdebstrap, npm, namespaces |
//! | `fetch`, `files` | HTTP and files of known content; free space |
//! | [`archive`] | tar streams and their compression |
//! | [`ext4`] | file systems: written and checked |
//!
//! # Behaviour
//!
//! Everything here blocks: call it from a thread that may wait. The crate reads no environment
//! variables and prints nothing; progress and messages go to a [`Progress`].

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
pub use store::kernels::FirecrackerObstacle;
pub use store::pull::{Change, Pulled};
pub use store::register::Exported;
pub use store::{Image, Kernel, Store};
