//! GET requests to web servers, repeated while the server is busy.

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::{Backoff, Http, RequestError, Response};
use crate::error::{Error, Result};

/// Hint for when a web server cannot be reached.
pub(crate) const UNREACHABLE: &str = "check the network, the URL, and HTTPS_PROXY";

/// Requests `url`, several times if the server is busy or cannot be reached. The status of the
/// response is 200, 206 or 416.
///
/// # Errors
/// [`Error::Server`], which `what` begins.
pub(crate) fn fetch<'a>(http: &'a Http, what: &str, url: &Url, headers: &HeaderMap) -> Result<Response<'a>> {
    let mut backoff = Backoff::new(UNREACHABLE);
    loop {
        let response = match http.get(url, headers, None) {
            Ok(response) => response,
            Err(error) => {
                backoff.wait(what, error)?;
                continue;
            }
        };
        let status = response.status();
        let reason = format!("the server answers {status}");
        match status.as_u16() {
            200 | 206 | 416 => return Ok(response),
            408 | 429 | 500..=599 => {
                backoff.retry_after(response.retry_after());
                backoff.wait(what, RequestError::Transport(reason))?;
            }
            _ => return Err(Error::Server { what: what.to_owned(), reason, hint: None }),
        }
    }
}

/// Requests `url` and returns the body.
///
/// # Errors
/// [`Error::Server`], which `what` begins; also if the body has more than `most` bytes.
pub(crate) fn fetch_bytes(http: &Http, what: &str, url: &Url, most: u64) -> Result<Vec<u8>> {
    let mut backoff = Backoff::new(UNREACHABLE);
    loop {
        match fetch(http, what, url, &HeaderMap::new())?.bytes(most) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => backoff.wait(what, error)?,
        }
    }
}
