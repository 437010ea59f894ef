//! `/actions`.

use std::time::Duration;

use serde::Serialize;

use super::Request;

/// How long Firecracker may take to start a guest: it reads the whole kernel and initramfs.
const START: Duration = Duration::from_secs(60);

/// `InstanceActionInfo` of the schema.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "action_type")]
pub(in crate::backend::firecracker) enum Action {
    /// Boots the guest. Possible once.
    InstanceStart,
}

impl Action {
    pub(in crate::backend::firecracker) fn request(self) -> Request {
        Request::put("/actions", &self).within(START)
    }
}
