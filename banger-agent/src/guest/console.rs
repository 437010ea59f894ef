//! The guest's console, which the host keeps for when something goes wrong.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes a line to the console. Best effort: a guest whose console cannot be written goes on.
pub(super) fn console(message: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = writeln!(console, "banger-agent: {message}");
    }
}
