//! The pauses between attempts.

use std::thread;
use std::time::Duration;

use super::Failure;
use crate::error::{Error, Result};

/// How often something is tried, and how long the first pause is; each is twice as long as the one
/// before.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What to do about a server whose certificate is not trusted.
const UNTRUSTED: &str =
    "if you trust its authority, install that one's certificate on this machine, or name it in SSL_CERT_FILE";

/// See the module.
pub(crate) struct Pause {
    attempts: u32,
    wanted: Option<Duration>,
    hint: &'static str,
}

impl Pause {
    /// `hint`: what to do when no attempt was of use.
    pub(crate) fn new(hint: &'static str) -> Pause {
        Pause { attempts: 0, wanted: None, hint }
    }

    /// Starts anew: something has come.
    pub(crate) fn reset(&mut self) {
        *self = Pause::new(self.hint);
    }

    /// What the server asks for.
    pub(crate) fn wanted(&mut self, wanted: Option<Duration>) {
        self.wanted = wanted;
    }

    /// Waits, if another attempt makes sense.
    pub(crate) fn after(&mut self, what: &str, failure: Failure) -> Result<()> {
        let fail = |reason: String, hint: Option<String>| Err(Error::Server { what: what.to_owned(), reason, hint });
        let reason = match failure {
            Failure::Transport(reason) => reason,
            Failure::Refused(reason) => return fail(reason, None),
            Failure::Untrusted(reason) => return fail(reason, Some(UNTRUSTED.to_owned())),
        };
        self.attempts += 1;
        let wanted = self.wanted.take();
        if let Some(wanted) = wanted.filter(|wanted| *wanted > LONGEST_PAUSE) {
            return fail(reason, Some(format!("the server wants to be left alone for {} s", wanted.as_secs())));
        }
        if self.attempts == ATTEMPTS {
            return fail(reason, Some(self.hint.to_owned()));
        }
        thread::sleep(wanted.unwrap_or(FIRST_PAUSE * 2u32.pow(self.attempts - 1)));
        Ok(())
    }
}
