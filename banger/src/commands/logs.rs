//! `banger logs`.

use std::io::{self, StdoutLock, Write, stdout};
use std::path::Path;

use banger_vmm::{ConsoleLines, Followed, printable};
use serde::Serialize;

use crate::error::{CommandError, ErrorKind};
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::vm::machine::Machines;

/// A line that is longer is cut in parts, in bytes.
const MAX_LINE: usize = 16 << 10;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Logs {
    vm: String,
    lines: Vec<String>,
}

/// Prints the console of the VM named `name`, or of the workspace's: the last `count` lines, or all
/// that is kept; with `follow`, also what comes, until the VM is deleted. What it said is foreign,
/// so it is made printable.
///
/// # Errors
/// If there is no VM, or its log cannot be read.
pub fn logs(
    name: Option<&str>,
    follow: bool,
    count: Option<usize>,
    here: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<(), CommandError> {
    let vm = super::existing(name, here, paths, &Machines::new(paths, ui))?;
    if follow && ui.is_json() {
        let error = CommandError::new("`--follow` has no end, so it has no answer as JSON").kind(ErrorKind::Usage);
        return Err(error.hint("what there is now: banger logs --json"));
    }
    let (bytes, mut console) = vm.console()?;
    let mut cutter = Cutter::default();
    let mut lines = cutter.lines(&bytes);
    // One that has only begun, such as a prompt, is a line too.
    let begun = if follow { cutter.begun() } else { cutter.rest() };
    let has_begun = begun.is_some();
    lines.extend(begun);
    lines.drain(..lines.len().saturating_sub(count.unwrap_or(usize::MAX)));
    if !follow {
        let logs = Logs { vm: vm.name().to_owned(), lines };
        return ui.answer(&logs, || logs.lines.iter().map(|line| format!("{line}\n")).collect());
    }
    let mut out = stdout().lock();
    let begun = if has_begun { lines.pop() } else { None };
    match print(&mut out, lines, begun).and_then(|()| self::follow(&mut out, &mut console, &mut cutter)) {
        Err(End::Output(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::new(format!("cannot print the log: {error}")).kind((&error).into()))
        }
        Err(End::Log(error)) => Err(error.into()),
        // Who has read enough may go.
        Ok(()) | Err(End::Output(_)) => Ok(()),
    }
}

/// Why the following ended before the VM did.
enum End {
    Output(io::Error),
    Log(banger_vmm::Error),
}

fn follow(out: &mut StdoutLock<'_>, console: &mut ConsoleLines, cutter: &mut Cutter) -> Result<(), End> {
    let mut last = Followed::More;
    loop {
        while let Some(bytes) = console.read().map_err(End::Log)? {
            print(out, cutter.lines(&bytes), None)?;
        }
        if last == Followed::Deleted {
            return print(out, cutter.rest().into_iter().collect(), None);
        }
        last = console.wait(&*out).map_err(End::Log)?;
        if last == Followed::Unwanted {
            return Ok(());
        }
    }
}

/// Prints lines, and the beginning of one.
fn print(out: &mut StdoutLock<'_>, lines: Vec<String>, begun: Option<String>) -> Result<(), End> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).chain(begun).collect();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(End::Output)
}

/// Cuts what a guest writes into lines that can be printed.
#[derive(Default)]
struct Cutter(Vec<u8>);

impl Cutter {
    /// The lines that are whole with these bytes.
    fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend(bytes);
        let mut lines = Vec::new();
        let mut start = 0;
        while start < self.0.len() {
            let rest = &self.0[start..];
            let window = &rest[..rest.len().min(MAX_LINE)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    lines.push(line(&rest[..end]));
                    start += end + 1;
                }
                None if window.len() == MAX_LINE => {
                    lines.push(line(window));
                    start += MAX_LINE;
                }
                None => break,
            }
        }
        self.0.drain(..start);
        lines
    }

    /// The same, as far as it can be shown before the line is whole: what is a line from then on is
    /// the rest of it.
    fn begun(&mut self) -> Option<String> {
        // What may be half a character, or half a line's end, waits for the other half.
        let half = self.0.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
        let whole = self.0.len() - half;
        let whole = whole - usize::from(self.0[..whole].ends_with(b"\r"));
        let begun: Vec<u8> = self.0.drain(..whole).collect();
        (whole > 0).then(|| printable(&begun))
    }

    /// What follows the last line's end.
    fn rest(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| line(&std::mem::take(&mut self.0)))
    }
}

/// A serial console ends its lines with a carriage return too.
fn line(bytes: &[u8]) -> String {
    printable(bytes.strip_suffix(b"\r").unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_harmless_however_they_come() {
        let text = b"one\r\n\n\x1b]0;title\x07\r\rtwo\nlast";
        let expected = ["one", "", "^[]0;title^G^M^Mtwo"];
        assert_eq!(Cutter::default().lines(text), expected);
        let mut cutter = Cutter::default();
        let lines: Vec<_> = text.iter().flat_map(|byte| cutter.lines(&[*byte])).collect();
        assert_eq!(lines, expected);
        assert_eq!((cutter.rest().as_deref(), cutter.rest()), (Some("last"), None));
    }

    #[test]
    fn a_line_that_has_begun_is_shown_once() {
        let mut cutter = Cutter::default();
        assert_eq!((cutter.lines(b"one\nlogin: \xc3").len(), cutter.begun().as_deref()), (1, Some("login: ")));
        assert_eq!(cutter.begun(), None);
        assert_eq!(cutter.lines(b"\xa9\r\nnext\r"), ["\u{e9}"]);
        assert_eq!(cutter.begun().as_deref(), Some("next"));
        assert_eq!(cutter.lines(b"\n\n"), ["", ""]);
    }

    #[test]
    fn a_line_without_an_end_is_not_held_for_ever() {
        let mut cutter = Cutter::default();
        assert_eq!(cutter.lines(&vec![b'x'; 40 << 10]).len(), 2);
        assert_eq!(cutter.rest().unwrap().len(), 8 << 10);
    }
}
