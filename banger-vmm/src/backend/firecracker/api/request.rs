//! One call of the API.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use hyper::Method;
use serde::Serialize;

/// How long Firecracker may take for a call that reads and writes no more than a configuration. It
/// takes less than a millisecond; a machine under load, or a disk that wakes up, takes longer.
const ORDINARY: Duration = Duration::from_secs(10);

/// A call of the API. Its text is what an error says was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend::firecracker) struct Request {
    pub(super) method: Method,
    pub(super) path: Cow<'static, str>,
    /// JSON.
    pub(super) body: Option<Vec<u8>>,
    /// How long Firecracker may take to answer.
    pub(super) patience: Duration,
}

impl Request {
    pub(super) fn get(path: &'static str) -> Request {
        Request { method: Method::GET, path: path.into(), body: None, patience: ORDINARY }
    }

    pub(super) fn put(path: impl Into<Cow<'static, str>>, body: &impl Serialize) -> Request {
        Request { method: Method::PUT, path: path.into(), body: Some(json(body)), patience: ORDINARY }
    }

    pub(super) fn patch(path: &'static str, body: &impl Serialize) -> Request {
        Request { method: Method::PATCH, ..Request::put(path, body) }
    }

    #[cfg(test)]
    pub(in crate::backend::firecracker) fn body_json(&self) -> serde_json::Value {
        serde_json::from_slice(self.body.as_deref().unwrap_or(b"null")).unwrap()
    }

    /// This call, for which Firecracker may take so long.
    pub(super) fn within(self, patience: Duration) -> Request {
        Request { patience, ..self }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("the API's resources are objects with names for keys")
}
