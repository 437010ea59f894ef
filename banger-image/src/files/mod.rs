//! Files and disks of this machine.

pub(crate) mod space;
pub(crate) mod sparse;
