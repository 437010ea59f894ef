//! Limits of a device's rate.

use serde::Serialize;

/// `RateLimiter` of the schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::backend::firecracker) struct RateLimiter {
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::backend::firecracker) bandwidth: Option<TokenBucket>,
    /// In operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::backend::firecracker) ops: Option<TokenBucket>,
}

/// `TokenBucket` of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(in crate::backend::firecracker) struct TokenBucket {
    size: u64,
    /// In milliseconds.
    refill_time: u64,
}

impl TokenBucket {
    /// So many each second.
    pub(in crate::backend::firecracker) fn per_second(size: u64) -> TokenBucket {
        TokenBucket { size, refill_time: 1000 }
    }
}
