//! Fuzz targets for what this crate reads of images and of those who made them. `fuzz/` runs them
//! under libFuzzer, and the test `fuzzing` of `banger-tests` for a bounded number of inputs.
//! `docs/fuzzing.md` says how.
//!
//! A target takes any bytes and panics if a promise is broken. It never fails on bad input.

use crate::archive::fuzzing::tar_seeds;
use crate::ext4::fuzzing::ext4_seeds;
use crate::kernel::fuzzing::kernel_seeds;
use crate::oci::fuzzing::{config_seeds, manifest_seeds};

pub use crate::archive::fuzzing::tar;
pub use crate::ext4::fuzzing::ext4_check;
pub use crate::kernel::fuzzing::kernel;
pub use crate::oci::fuzzing::{layer, oci_config, oci_manifest};

/// A target: its name, its function, and inputs to start from.
pub type Target = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

/// All targets of this crate.
pub fn targets() -> Vec<Target> {
    vec![
        ("tar", tar, tar_seeds()),
        ("layer", layer, tar_seeds()),
        ("ext4_check", ext4_check, ext4_seeds()),
        ("kernel", kernel, kernel_seeds()),
        ("oci_manifest", oci_manifest, manifest_seeds()),
        ("oci_config", oci_config, config_seeds()),
    ]
}
