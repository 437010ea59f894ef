//! `/network-interfaces/{iface_id}`.

use serde::Serialize;

use super::{RateLimiter, Request};

/// `NetworkInterface` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct NetworkInterface<'a> {
    /// Of letters, digits and `_`.
    pub(in crate::backend::firecracker) iface_id: &'a str,
    /// The tap. Trap: Firecracker makes one that does not exist, if it may.
    pub(in crate::backend::firecracker) host_dev_name: &'a str,
    pub(in crate::backend::firecracker) guest_mac: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::backend::firecracker) rx_rate_limiter: Option<RateLimiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::backend::firecracker) tx_rate_limiter: Option<RateLimiter>,
}

impl NetworkInterface<'_> {
    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put(format!("/network-interfaces/{}", self.iface_id), self)
    }
}
