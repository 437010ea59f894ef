//! `/entropy`.

use serde::Serialize;

use super::Request;

/// `EntropyDevice` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct EntropyDevice {}

impl EntropyDevice {
    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put("/entropy", self)
    }
}
