//! A download of a known length, which is resumed where its connection was cut (RFC 9110, 14,
//! "Range Requests").

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, RANGE};

use super::{Backoff, RequestError, Response};
use crate::error::Result;

/// A download of [`Download::new`]'s `size` bytes that survives cut connections.
pub(crate) struct Download<'a> {
    what: String,
    size: u64,
    have: u64,
    /// The most bytes received so far in any attempt: only more than these reset the backoff, so
    /// that a download which is always cut at the same place ends.
    furthest: u64,
    backoff: Backoff,
    response: Option<Response<'a>>,
}

/// A step of a download.
pub(crate) enum DownloadEvent {
    /// The next bytes.
    Bytes(Bytes),
    /// The next bytes are the first of the content again: the server cannot resume.
    Restart,
    /// The server sent more bytes than expected.
    TooMuch,
    /// All bytes were received.
    End,
}

impl<'a> Download<'a> {
    /// A download of `size` bytes, of which `have` are there already. `what` begins its errors;
    /// `hint` says what to do when the server cannot be reached.
    pub(crate) fn new(what: &str, size: u64, have: u64, hint: &'static str) -> Download<'a> {
        Download { what: what.to_owned(), size, have, furthest: have, backoff: Backoff::new(hint), response: None }
    }

    /// How many bytes were received, those from before included.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Discards what was received: the next request asks for the whole content.
    pub(crate) fn restart(&mut self) {
        (self.response, self.have, self.furthest) = (None, 0, 0);
    }

    /// The next step. `ask` sends a request with the given headers.
    ///
    /// # Errors
    /// Those of `ask`; [`Error::Server`](crate::Error::Server) after the last attempt.
    pub(crate) fn next(&mut self, ask: impl Fn(&HeaderMap) -> Result<Response<'a>>) -> Result<DownloadEvent> {
        loop {
            let Some(response) = &mut self.response else {
                if self.have == self.size {
                    return Ok(DownloadEvent::End);
                }
                if self.open(&ask)? {
                    return Ok(DownloadEvent::Restart);
                }
                continue;
            };
            let error = match response.chunk() {
                Ok(Some(chunk)) => {
                    let length = chunk.len() as u64;
                    if length > self.size - self.have {
                        return Ok(DownloadEvent::TooMuch);
                    }
                    self.have += length;
                    if self.have > self.furthest {
                        self.furthest = self.have;
                        self.backoff.reset();
                    }
                    return Ok(DownloadEvent::Bytes(chunk));
                }
                Ok(None) if self.have == self.size => {
                    self.response = None;
                    return Ok(DownloadEvent::End);
                }
                Ok(None) => RequestError::Transport(format!("it ended after {} of {} bytes", self.have, self.size)),
                Err(error) => error,
            };
            self.response = None;
            self.backoff.wait(&self.what, error)?;
        }
    }

    /// Requests the missing bytes. Returns whether the server sends all from the start instead.
    fn open(&mut self, ask: &impl Fn(&HeaderMap) -> Result<Response<'a>>) -> Result<bool> {
        let mut headers = HeaderMap::new();
        if self.have > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.have)).expect("digits are text");
            headers.insert(RANGE, range);
        }
        let response = ask(&headers)?;
        let starts_at_ours = response.status() == StatusCode::PARTIAL_CONTENT
            && response.header("content-range").any(|range| range.starts_with(&format!("bytes {}-", self.have)));
        let is_whole = response.status() == StatusCode::OK;
        let restarts = self.have > 0 && !starts_at_ours;
        if restarts {
            self.have = 0;
        }
        if is_whole || starts_at_ours {
            self.response = Some(response);
        } else {
            self.backoff
                .wait(&self.what, RequestError::Transport("a range of bytes was answered with another".into()))?;
        }
        Ok(restarts)
    }
}
