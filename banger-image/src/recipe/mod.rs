//! Recipes: images and kernels that are built on this host from Debian's signed archive and from
//! packages of npm.

mod mmdebstrap;
pub(crate) mod namespace;
pub(crate) mod npm;
pub(crate) mod rootfs;
mod tool;

pub(crate) use self::mmdebstrap::Recipe;
