//! A download of a known length, which goes on where it was cut.

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, RANGE};

use super::{Failure, Pause, Response};
use crate::error::Result;

/// See the module.
pub(crate) struct Download<'a> {
    what: String,
    size: u64,
    have: u64,
    /// The most that it ever had: whoever is always cut at the same place gets nowhere.
    furthest: u64,
    pause: Pause,
    response: Option<Response<'a>>,
}

/// What comes of a download.
pub(crate) enum Part {
    /// The next bytes.
    Bytes(Bytes),
    /// It begins from the start again: the server cannot go on where it was.
    Restart,
    /// More came than its size.
    TooMuch,
    /// All is there.
    End,
}

impl<'a> Download<'a> {
    /// One of `size` bytes, of which `have` are there. `what` begins its errors, `hint` is what to
    /// do when the server cannot be reached.
    pub(crate) fn new(what: &str, size: u64, have: u64, hint: &'static str) -> Download<'a> {
        Download { what: what.to_owned(), size, have, furthest: have, pause: Pause::new(hint), response: None }
    }

    /// How much there is.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Begins from the start with the next part: what was there is of no use.
    pub(crate) fn restart(&mut self) {
        (self.response, self.have, self.furthest) = (None, 0, 0);
    }

    /// The next part. `ask` sends a request with these headers.
    ///
    /// # Errors
    /// Those of `ask`; what keeps it from going on.
    pub(crate) fn next(&mut self, ask: impl Fn(&HeaderMap) -> Result<Response<'a>>) -> Result<Part> {
        loop {
            let Some(response) = &mut self.response else {
                if self.have == self.size {
                    return Ok(Part::End);
                }
                if self.open(&ask)? {
                    return Ok(Part::Restart);
                }
                continue;
            };
            let failure = match response.chunk() {
                Ok(Some(chunk)) => {
                    let length = chunk.len() as u64;
                    if length > self.size - self.have {
                        return Ok(Part::TooMuch);
                    }
                    self.have += length;
                    if self.have > self.furthest {
                        self.furthest = self.have;
                        self.pause.reset();
                    }
                    return Ok(Part::Bytes(chunk));
                }
                Ok(None) if self.have == self.size => {
                    self.response = None;
                    return Ok(Part::End);
                }
                Ok(None) => Failure::Transport(format!("it ended after {} of {} bytes", self.have, self.size)),
                Err(failure) => failure,
            };
            self.response = None;
            self.pause.after(&self.what, failure)?;
        }
    }

    /// Asks for what is missing. True: all comes from the start.
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
            self.pause.after(&self.what, Failure::Transport("a range of bytes was answered with another".into()))?;
        }
        Ok(restarts)
    }
}
