//! `/boot-source`.

use std::path::Path;

use serde::Serialize;

use super::Request;

/// `BootSource` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct BootSource<'a> {
    pub(in crate::backend::firecracker) kernel_image_path: &'a Path,
    pub(in crate::backend::firecracker) initrd_path: &'a Path,
    pub(in crate::backend::firecracker) boot_args: &'a str,
}

impl BootSource<'_> {
    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put("/boot-source", self)
    }
}
