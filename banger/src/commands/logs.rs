//! `banger logs`.

use std::collections::VecDeque;
use std::io::{self, Write, stdout};
use std::os::fd::AsFd;
use std::path::Path;

use banger_vmm::{ConsoleLines, Followed, printable};
use serde::Serialize;

use crate::error::{CommandError, ErrorKind};
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Verbosity};
use crate::output::ui::Ui;
use crate::vm::machine::Machines;

/// A line that is longer is cut in parts, in bytes.
const MAX_LINE: usize = 16 << 10;

/// What a VM's console has said. It is foreign text, made printable.
#[derive(Clone, Debug, Serialize)]
pub struct VmLog {
    /// The VM's name.
    pub vm: String,
    /// The lines, without their ends.
    pub lines: Vec<String>,
}

/// Something new in a log that is followed. It is foreign text, made printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Whole lines, or the rests of lines that have begun, without their ends.
    Lines(Vec<String>),
    /// A line that has begun, such as a prompt. The rest of it is the next line.
    Begun(String),
}

/// A log that is followed: an iterator of what is there, then of what comes. It ends when the VM is
/// deleted, or `reader` is not read any more.
#[derive(Debug)]
pub struct FollowedLog<R> {
    console: ConsoleLines,
    cutter: Cutter,
    /// What was read, and is not given yet.
    events: VecDeque<LogEvent>,
    /// What the last wait ended with.
    last: Followed,
    /// Whether no more is read.
    is_over: bool,
    /// The descriptor that events are written to.
    reader: R,
}

/// The console of the VM named `name`, or without a name of the VM of the workspace around `here`:
/// the last `count` lines, or all that are kept.
///
/// # Errors
/// If there is no VM, or its log cannot be read.
pub fn logs(
    name: Option<&str>,
    count: Option<usize>,
    here: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<VmLog, CommandError> {
    let vm = super::existing(name, here, paths, &Machines::new(paths, ui))?;
    let (bytes, _) = vm.console()?;
    let mut cutter = Cutter::default();
    let mut lines = cutter.lines(&bytes);
    lines.extend(cutter.rest());
    keep_last(&mut lines, count);
    Ok(VmLog { vm: vm.name().to_owned(), lines })
}

/// Follows the console of the VM named `name`, or without a name of the VM of the workspace around
/// `here`: first the last `count` lines, or all that are kept, then those to come. `reader` is the
/// descriptor that they are written to.
///
/// # Errors
/// If there is no VM, or its log cannot be read.
pub fn follow_logs<R: AsFd>(
    name: Option<&str>,
    count: Option<usize>,
    reader: R,
    here: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<FollowedLog<R>, CommandError> {
    let vm = super::existing(name, here, paths, &Machines::new(paths, ui))?;
    let (bytes, console) = vm.console()?;
    let mut cutter = Cutter::default();
    let mut lines = cutter.lines(&bytes);
    // A line that has only begun counts as one.
    let begun = cutter.begun();
    let has_begun = begun.is_some();
    lines.extend(begun);
    keep_last(&mut lines, count);
    let begun = if has_begun { lines.pop() } else { None };
    let lines = (!lines.is_empty()).then_some(LogEvent::Lines(lines));
    let events = lines.into_iter().chain(begun.map(LogEvent::Begun)).collect();
    Ok(FollowedLog { console, cutter, events, last: Followed::More, is_over: false, reader })
}

fn keep_last(lines: &mut Vec<String>, count: Option<usize>) {
    lines.drain(..lines.len().saturating_sub(count.unwrap_or(usize::MAX)));
}

impl CommandOutput for VmLog {
    fn text(&self, _verbosity: Verbosity) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl<R: AsFd> Iterator for FollowedLog<R> {
    type Item = Result<LogEvent, banger_vmm::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.read_on() {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }
}

impl<R: AsFd> FollowedLog<R> {
    /// Reads what there is, or waits until there may be more.
    fn read_on(&mut self) -> Result<(), banger_vmm::Error> {
        if let Some(bytes) = self.console.read()? {
            let lines = self.cutter.lines(&bytes);
            self.events.extend((!lines.is_empty()).then_some(LogEvent::Lines(lines)));
            return Ok(());
        }
        if self.last == Followed::Deleted {
            self.is_over = true;
            self.events.extend(self.cutter.rest().map(|line| LogEvent::Lines(vec![line])));
            return Ok(());
        }
        self.last = self.console.wait(&self.reader)?;
        self.is_over = self.last == Followed::Unwanted;
        Ok(())
    }

    /// Prints the events as they come, until the log ends, or standard output has no reader.
    ///
    /// # Errors
    /// With `--json`, since a log without an end is no answer; if the log cannot be read, or
    /// standard output cannot be written.
    pub fn print(self, ui: &Ui) -> Result<(), CommandError> {
        if ui.is_json() {
            let error = CommandError::new("`--follow` has no end, so it has no answer as JSON").kind(ErrorKind::Usage);
            return Err(error.hint("what there is now: banger logs --json"));
        }
        let mut out = stdout();
        for event in self {
            let text = match event? {
                LogEvent::Lines(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
                LogEvent::Begun(begun) => begun,
            };
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Ok(()) => {}
                // Who has read enough may go.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => {
                    return Err(CommandError::new(format!("cannot print the log: {error}")).kind((&error).into()));
                }
            }
        }
        Ok(())
    }
}

/// Cuts what a guest writes into lines that can be printed.
#[derive(Debug, Default)]
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

    /// The beginning of a line that has no end yet, if it can be shown. The next line is the rest
    /// of it.
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
    use super::super::test_home::TestHome;
    use super::*;

    #[test]
    fn lines_are_escaped_and_whole_for_any_chunking() {
        let text = b"one\r\n\n\x1b]0;title\x07\r\rtwo\nlast";
        let expected = ["one", "", "^[]0;title^G^M^Mtwo"];
        assert_eq!(Cutter::default().lines(text), expected);
        let mut cutter = Cutter::default();
        let lines: Vec<_> = text.iter().flat_map(|byte| cutter.lines(&[*byte])).collect();
        assert_eq!(lines, expected);
        assert_eq!((cutter.rest().as_deref(), cutter.rest()), (Some("last"), None));
    }

    #[test]
    fn begun_line_is_shown_once() {
        let mut cutter = Cutter::default();
        assert_eq!((cutter.lines(b"one\nlogin: \xc3").len(), cutter.begun().as_deref()), (1, Some("login: ")));
        assert_eq!(cutter.begun(), None);
        assert_eq!(cutter.lines(b"\xa9\r\nnext\r"), ["\u{e9}"]);
        assert_eq!(cutter.begun().as_deref(), Some("next"));
        assert_eq!(cutter.lines(b"\n\n"), ["", ""]);
    }

    #[test]
    fn endless_line_is_split() {
        let mut cutter = Cutter::default();
        assert_eq!(cutter.lines(&vec![b'x'; 40 << 10]).len(), 2);
        assert_eq!(cutter.rest().unwrap().len(), 8 << 10);
    }

    #[test]
    fn followed_log_is_events_until_the_vm_is_deleted() {
        let home = TestHome::new();
        let vm = home.create("box", serde_json::Value::Null);
        let log = vm.folder().join("console.log");
        std::fs::write(&log, "one\ntwo\nlogin: ").unwrap();
        let data = logs(Some("box"), Some(2), home.folder.path(), &home.paths, &home.ui).unwrap();
        assert_eq!(data.json(), "{\"vm\":\"box\",\"lines\":[\"two\",\"login: \"]}\n");
        assert_eq!(data.text(Verbosity::default()), "two\nlogin: \n");

        let reader = std::fs::File::open("/dev/null").unwrap();
        let mut events = follow_logs(Some("box"), Some(2), reader, home.folder.path(), &home.paths, &home.ui).unwrap();
        let mut next = || events.next().transpose().unwrap();
        assert_eq!(next(), Some(LogEvent::Lines(vec!["two".into()])));
        assert_eq!(next(), Some(LogEvent::Begun("login: ".into())));
        let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        file.write_all(b"me\nlast").unwrap();
        assert_eq!(next(), Some(LogEvent::Lines(vec!["me".into()])));
        Machines::new(&home.paths, &home.ui).store().delete("box").unwrap();
        assert_eq!((next(), next()), (Some(LogEvent::Lines(vec!["last".into()])), None));
    }
}
