//! `/drives/{drive_id}`.

use std::path::Path;

use serde::Serialize;

use super::{RateLimiter, Request};

/// `Drive` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct Drive<'a> {
    /// Of letters, digits and `_`.
    pub(in crate::backend::firecracker) drive_id: &'a str,
    pub(in crate::backend::firecracker) path_on_host: &'a Path,
    /// True: Firecracker adds `root=` to the kernel's command line.
    pub(in crate::backend::firecracker) is_root_device: bool,
    pub(in crate::backend::firecracker) is_read_only: bool,
    pub(in crate::backend::firecracker) cache_type: CacheType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::backend::firecracker) rate_limiter: Option<RateLimiter>,
}

/// What becomes of a guest's flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(in crate::backend::firecracker) enum CacheType {
    /// The guest is offered none, so that nothing reaches the disk before the host likes.
    Unsafe,
    /// Each is an fsync(2) of the file.
    Writeback,
}

impl Drive<'_> {
    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put(format!("/drives/{}", self.drive_id), self)
    }
}
