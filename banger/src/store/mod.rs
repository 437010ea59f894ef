//! What VMs are made from, on the disk: [`images`] and the [`kernels`] that they boot, and how much
//! of the disk they take ([`disk_usage`]).

pub mod disk_usage;
pub mod images;
pub mod kernels;
