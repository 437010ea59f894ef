//! `/vm`.

use serde::Serialize;

use super::Request;

/// `Vm` of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state")]
pub(in crate::backend::firecracker) enum VmState {
    Paused,
    Resumed,
}

impl VmState {
    pub(in crate::backend::firecracker) fn request(self) -> Request {
        Request::patch("/vm", &self)
    }
}
