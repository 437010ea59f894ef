//! `/vsock`.

use std::path::Path;

use serde::Serialize;

use super::Request;

/// `Vsock` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct Vsock<'a> {
    pub(in crate::backend::firecracker) guest_cid: u32,
    /// Firecracker makes the socket at once, and fails if there is anything already.
    pub(in crate::backend::firecracker) uds_path: &'a Path,
}

impl Vsock<'_> {
    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put("/vsock", self)
    }
}
