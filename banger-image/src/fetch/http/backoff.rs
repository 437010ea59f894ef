//! Pauses between attempts at a request, each twice as long as the one before.

use std::thread;
use std::time::Duration;

use super::RequestError;
use crate::error::{Error, Result};

/// How many attempts are made.
const ATTEMPTS: u32 = 5;
/// How long the first pause is.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What to do about a server whose certificate is not trusted.
const UNTRUSTED: &str =
    "if you trust its authority, install that one's certificate on this machine, or name it in SSL_CERT_FILE";

/// Counts failed attempts and waits between them.
pub(crate) struct Backoff {
    attempts: u32,
    /// The next pause, if the server has asked for one.
    requested: Option<Duration>,
    hint: &'static str,
}

impl Backoff {
    /// A backoff before the first attempt. `hint` says what to do when all attempts have failed.
    pub(crate) fn new(hint: &'static str) -> Backoff {
        Backoff { attempts: 0, requested: None, hint }
    }

    /// Forgets failed attempts, after progress.
    pub(crate) fn reset(&mut self) {
        *self = Backoff::new(self.hint);
    }

    /// Sets the length of the next pause: the value of a `Retry-After` header (RFC 9110, 10.2.3).
    pub(crate) fn retry_after(&mut self, pause: Option<Duration>) {
        self.requested = pause;
    }

    /// Waits before the next attempt at `what`, which has failed with `error`.
    ///
    /// # Errors
    /// [`Error::Server`] if another attempt is of no use, was the last, or would have to wait for
    /// longer than [`LONGEST_PAUSE`].
    pub(crate) fn wait(&mut self, what: &str, error: RequestError) -> Result<()> {
        let fail = |reason: String, hint: Option<String>| Err(Error::Server { what: what.to_owned(), reason, hint });
        let reason = match error {
            RequestError::Transport(reason) => reason,
            RequestError::Refused(reason) => return fail(reason, None),
            RequestError::Untrusted(reason) => return fail(reason, Some(UNTRUSTED.to_owned())),
        };
        self.attempts += 1;
        let requested = self.requested.take();
        if let Some(pause) = requested.filter(|pause| *pause > LONGEST_PAUSE) {
            return fail(reason, Some(format!("the server wants to be left alone for {} s", pause.as_secs())));
        }
        if self.attempts == ATTEMPTS {
            return fail(reason, Some(self.hint.to_owned()));
        }
        thread::sleep(requested.unwrap_or(FIRST_PAUSE * 2u32.pow(self.attempts - 1)));
        Ok(())
    }
}
