//! The contract of a command's result: data, and its two printed forms.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::error::CommandError;
use crate::output::ui::{Ui, json};

/// The data that a command returns. Programs use the fields or [`CommandOutput::json`]; a terminal
/// shows [`CommandOutput::messages`] and [`CommandOutput::text`].
pub trait CommandOutput: Serialize {
    /// Messages about the result, for standard error, in order.
    fn messages(&self) -> Vec<Message> {
        Vec::new()
    }

    /// The answer for standard output: whole lines, or nothing. Foreign text in it is printable.
    fn text(&self, _verbosity: Verbosity) -> String {
        String::new()
    }

    /// The answer as one line of JSON, as `docs/reference/json.md` describes it.
    fn json(&self) -> String
    where
        Self: Sized,
    {
        json(self)
    }

    /// Prints the messages alone: for a command whose standard output is not its answer.
    fn print_messages(&self, ui: &Ui) {
        for message in self.messages() {
            match message {
                Message::Status(text) => ui.status(&text),
                Message::Warning(text) => ui.warning(&text),
            }
        }
    }

    /// Prints the messages, then the answer: JSON with `--json`, else text.
    ///
    /// # Errors
    /// If standard output cannot be written. A reader that is gone ends this process.
    fn print(&self, ui: &Ui) -> Result<(), CommandError>
    where
        Self: Sized,
    {
        self.print_messages(ui);
        let verbosity = Verbosity { quiet: ui.is_quiet(), verbose: ui.is_verbose() };
        ui.answer(self, || self.text(verbosity))
    }
}

/// A message to the user about a command's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What was done, or that there was nothing to do.
    Status(String),
    /// Something is not as expected.
    Warning(String),
}

impl Message {
    /// A [`Message::Status`].
    pub fn status(text: impl Into<String>) -> Message {
        Message::Status(text.into())
    }

    /// A [`Message::Warning`].
    pub fn warning(text: impl Into<String>) -> Message {
        Message::Warning(text.into())
    }
}

/// How much a text for people says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbosity {
    /// With `--quiet`: lists are names alone.
    pub quiet: bool,
    /// With `--verbose`: nothing is left out.
    pub verbose: bool,
}

/// A duration, which JSON has in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Millis(pub Duration);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u128(self.0.as_millis())
    }
}
