//! What VMs are made from, on the disk: [`images`] and the [`kernels`] that they boot, where they
//! come from (`catalog`), which of them VMs need ([`in_use`]), and how much of the disk they take
//! ([`disk_usage`]).

pub(crate) mod catalog;
pub mod disk_usage;
pub mod images;
pub mod in_use;
pub mod kernels;
