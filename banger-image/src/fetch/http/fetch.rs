//! What a web server has at a URL.

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::{Failure, Http, Pause, Response};
use crate::error::{Error, Result};

/// What to do when a web server cannot be reached.
pub(crate) const UNREACHABLE: &str = "check the network, the URL, and HTTPS_PROXY";

/// Asks for `url`, again if the server is busy. The response is of the status 200, 206 or 416.
/// `what` begins the error.
pub(crate) fn fetch<'a>(http: &'a Http, what: &str, url: &Url, headers: &HeaderMap) -> Result<Response<'a>> {
    let mut pause = Pause::new(UNREACHABLE);
    loop {
        let response = match http.get(url, headers, None) {
            Ok(response) => response,
            Err(failure) => {
                pause.after(what, failure)?;
                continue;
            }
        };
        let status = response.status();
        let reason = format!("the server answers {status}");
        match status.as_u16() {
            200 | 206 | 416 => return Ok(response),
            408 | 429 | 500..=599 => {
                pause.wanted(response.retry_after());
                pause.after(what, Failure::Transport(reason))?;
            }
            _ => return Err(Error::Server { what: what.to_owned(), reason, hint: None }),
        }
    }
}

/// The whole of what is there, which has at most `most` bytes.
pub(crate) fn fetch_bytes(http: &Http, what: &str, url: &Url, most: u64) -> Result<Vec<u8>> {
    let mut pause = Pause::new(UNREACHABLE);
    loop {
        match fetch(http, what, url, &HeaderMap::new())?.bytes(most) {
            Ok(bytes) => return Ok(bytes),
            Err(failure) => pause.after(what, failure)?,
        }
    }
}
