//! `/machine-config`.

use serde::Serialize;

use super::Request;

/// `MachineConfiguration` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct MachineConfiguration {
    pub(in crate::backend::firecracker) vcpu_count: u32,
    pub(in crate::backend::firecracker) mem_size_mib: u64,
}

impl MachineConfiguration {
    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put("/machine-config", self)
    }
}
