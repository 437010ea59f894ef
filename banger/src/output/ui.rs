//! All that banger itself prints. Standard output is for answers; everything else goes to standard
//! error.
//!
//! What is said may quote a guest, a repository or an image: it reaches the terminal as text, and
//! never as a command to it.

use std::env;
use std::io::{self, IsTerminal, Write, stderr, stdin, stdout};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::Signal;
use nix::sys::termios::{OutputFlags, tcgetattr};
use owo_colors::OwoColorize;
use serde::Serialize;

use banger_util::text::is_deceptive;

use super::options::{Color, Global};
use crate::error::{CommandError, ErrorKind};

/// What a plugin is told of the options before its name, and what banger takes for its own when a
/// plugin runs it.
pub const COLOR: &str = "BANGER_COLOR";
/// As [`COLOR`].
pub const QUIET: &str = "BANGER_QUIET";
/// As [`COLOR`].
pub const VERBOSE: &str = "BANGER_VERBOSE";
/// As [`COLOR`].
pub const NO_INPUT: &str = "BANGER_NO_INPUT";

/// The printer of one command.
#[derive(Debug)]
pub struct Ui {
    quiet: bool,
    verbose: bool,
    color: bool,
    json: bool,
    /// Whether somebody can answer.
    asks: bool,
    /// Whether something that moves may be shown.
    animates: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Ui {
    /// As the options and the environment want it. See no-color.org.
    pub fn new(options: &Global) -> Ui {
        let terminal = stderr().is_terminal();
        let color = match (options.color, env::var(COLOR).as_deref()) {
            (Color::Always, _) | (Color::Auto, Ok("always")) => true,
            (Color::Never, _) | (Color::Auto, Ok("never")) => false,
            (Color::Auto, _) => terminal && !is_set("NO_COLOR"),
        };
        // What runs commands for nobody says so, and may give them a terminal all the same.
        let unattended = is_set("CI");
        Ui {
            quiet: options.quiet || (is_set(QUIET) && !options.verbose),
            verbose: options.verbose || (is_set(VERBOSE) && !options.quiet),
            color,
            json: options.json,
            asks: terminal && stdin().is_terminal() && !unattended && !options.no_input && !is_set(NO_INPUT),
            animates: terminal && !unattended,
            bar: Mutex::new(None),
        }
    }

    /// What a user wants to know.
    pub fn status(&self, text: &str) {
        if !self.quiet {
            self.line(&format!("{} {}", self.name(), clean(text)));
        }
    }

    /// What a curious user wants to know.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.line(&format!("{} {}", self.name(), clean(text)));
        }
    }

    /// What a user should know even with `--quiet` away: something is not as expected.
    pub fn warning(&self, text: &str) {
        if !self.quiet {
            let label = if self.color { "warning:".yellow().to_string() } else { "warning:".to_owned() };
            self.line(&format!("{} {label} {}", self.name(), clean(text)));
        }
    }

    /// Whether only what was asked for is to be said.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether all is to be said.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether somebody can answer a question.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// Whether answers are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether lists are names alone: with `--quiet`, but not in JSON.
    pub fn shows_names_only(&self) -> bool {
        self.quiet && !self.json
    }

    /// A command's answer, on standard output: with `--json` this object on a line, else `text`,
    /// which may be empty.
    ///
    /// # Errors
    /// If it cannot be written. A reader that is gone ends this process.
    pub fn answer(&self, object: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), CommandError> {
        let text = if self.json { json(object) } else { text() };
        let written = stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush());
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            die_of_broken_pipe();
        }
        written.map_err(|error| CommandError::new(format!("cannot print the answer: {error}")).kind((&error).into()))
    }

    /// Asks a question that is answered with yes or no; without an answer it is no.
    ///
    /// # Errors
    /// If there is nobody to ask: standard input or standard error is no terminal, or `--no-input`
    /// or `CI` is set. The error names `--force`, which every command that asks has.
    pub fn confirm(&self, question: &str) -> Result<bool, CommandError> {
        let question = clean(question);
        if !self.asks {
            let error = CommandError::new(format!("there is nobody to ask: {question}"));
            return Err(error.kind(ErrorKind::InputNeeded).hint("to say yes beforehand: --force"));
        }
        self.finish();
        let mut answer = String::new();
        let asked = write!(stderr(), "{} {question} [y/N] ", self.name()).and_then(|()| stdin().read_line(&mut answer));
        asked.map_err(|error: io::Error| CommandError::new(format!("cannot ask: {error}")).kind((&error).into()))?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Shows `lines` and asks about them, as [`Ui::confirm`] does. Whoever is asked sees them even
    /// with `--quiet`.
    ///
    /// # Errors
    /// As [`Ui::confirm`].
    pub fn confirm_about(&self, lines: &[String], question: &str) -> Result<bool, CommandError> {
        if self.asks || !self.quiet {
            lines.iter().for_each(|line| self.line(&format!("{} {}", self.name(), clean(line))));
        }
        self.confirm(question)
    }

    /// Why the command ends: with `--json` as an object on standard output, in the place of the
    /// answer.
    pub fn error(&self, error: &CommandError) {
        self.finish();
        if self.json {
            // Standard output that is gone leaves the exit status.
            let _ = stdout().write_all(json(&error.answer()).as_bytes());
            return;
        }
        let (label, hint) = match self.color {
            true => ("error:".red().bold().to_string(), "hint:".cyan().to_string()),
            false => ("error:".to_owned(), "hint:".to_owned()),
        };
        self.line(&format!("{} {label} {}", self.name(), clean(&error.message)));
        for detail in &error.details {
            self.line(&format!("  {}", clean(detail)));
        }
        for text in &error.hints {
            self.line(&format!("  {hint} {}", clean(text)));
        }
    }

    /// What `--help` and `--version` answer: text, or with `--json` an object that has the text, or
    /// the version alone.
    pub fn help(&self, answer: &clap::Error) {
        // A reader that is gone needs no answer.
        let _ = match self.json {
            true => stdout().write_all(json(&help_object(answer)).as_bytes()),
            false => answer.print(),
        };
    }

    /// Why a command line is none. That a command is missing is answered with the help, which is
    /// for people.
    pub fn usage(&self, error: &clap::Error) {
        match error.kind() {
            clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !self.json => _ = error.print(),
            _ => self.error(&error.into()),
        }
    }

    /// Shows how many bytes of a transfer are done, where something that moves may be shown.
    pub fn transfers(&self, what: &str, done: u64, total: u64) {
        if self.animates && !self.quiet {
            if self.bar().is_none() {
                banger_image::Progress::phase(self, what);
            }
            banger_image::Progress::advance(self, done, total);
        }
    }

    /// Removes a progress bar.
    pub fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn name(&self) -> String {
        if self.color { "banger:".bold().to_string() } else { "banger:".to_owned() }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn line(&self, text: &str) {
        // A terminal that is raw takes a line's end for no more than it says; and what it shows, a
        // prompt maybe, is not to be written on.
        let raw = tcgetattr(stderr()).is_ok_and(|terminal| !terminal.output_flags.contains(OutputFlags::OPOST));
        let (start, end) = if raw { ("\r\n", "\r\n") } else { ("", "\n") };
        // Standard error that is gone is no reason to fail.
        let print = || _ = write!(stderr(), "{start}{text}{end}");
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

fn help_object(answer: &clap::Error) -> serde_json::Value {
    let text = answer.render().to_string();
    match answer.kind() {
        // clap's text is a name, which may have spaces, and the version.
        clap::error::ErrorKind::DisplayVersion => {
            serde_json::json!({ "version": text.split_whitespace().next_back() })
        }
        _ => serde_json::json!({ "help": text }),
    }
}

/// Whether a variable holds anything.
fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn clean(text: &str) -> String {
    banger_vmm::printable(text.as_bytes())
}

/// On one line. It holds what there is, and a terminal that shows it comes to no harm: JSON itself
/// escapes what is below the space, and what else [`banger_vmm::printable`] minds is only in texts,
/// where an escape stands for it too.
pub(crate) fn json(object: &impl Serialize) -> String {
    let json = serde_json::to_string(object).expect("plain data has a JSON form");
    let mut harmless = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        match c {
            c if c == '\u{7f}' || is_deceptive(c) => {
                harmless.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => harmless.push(c),
        }
    }
    harmless + "\n"
}

impl banger_image::Progress for Ui {
    fn phase(&self, what: &str) {
        if self.quiet {
            return;
        }
        if !self.animates {
            return self.status(what);
        }
        let mut bar = self.bar();
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::no_length();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_style(ProgressStyle::with_template("banger: {spinner} {msg} ({elapsed})").expect("a fixed template"));
        bar.set_message(clean(what));
    }

    fn advance(&self, done: u64, total: u64) {
        if let Some(bar) = &*self.bar() {
            let style = ProgressStyle::with_template("banger: {spinner} {msg} [{bar:30}] {percent}%");
            bar.set_style(style.expect("a fixed template").progress_chars("=> "));
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn message(&self, text: &str) {
        self.status(text);
    }
}

/// Ends this process as a write to a closed pipe ends one that knows nothing of it.
pub(crate) fn die_of_broken_pipe() -> ! {
    die_of(Signal::SIGPIPE)
}

/// Ends this process as the signal ends one that knows nothing of it.
pub(crate) fn die_of(of: Signal) -> ! {
    use nix::sys::signal::{SigHandler, SigSet, raise, signal};
    // SAFETY: the default action is no handler that could do anything.
    let _ = unsafe { signal(of, SigHandler::SigDfl) };
    let _ = SigSet::from_iter([of]).thread_unblock();
    let _ = raise(of);
    std::process::exit(128 + of as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes_control_characters_and_round_trips() {
        let name = "a\nb\u{1b}[31m\u{7f}\u{9b}1m \u{202e}txt \u{e9}\"";
        let json = json(&[name]);
        assert_eq!(json, "[\"a\\nb\\u001b[31m\\u007f\\u009b1m \\u202etxt \u{e9}\\\"\"]\n");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [name]);
    }

    #[test]
    fn version_and_help_have_json_forms() {
        let answer = |argument: &str| {
            let command = clap::Command::new("some thing").version("1.2.3");
            help_object(&command.try_get_matches_from(["thing", argument]).unwrap_err())
        };
        assert_eq!(answer("--version"), serde_json::json!({ "version": "1.2.3" }));
        assert!(answer("--help")["help"].as_str().unwrap().contains("Usage: "));
    }

    #[test]
    fn confirm_with_no_input_is_an_error() {
        let ui = Ui::new(&Global { no_input: true, ..Global::default() });
        let error = ui.confirm("delete `vm\u{1b}[31m`?").unwrap_err();
        assert_eq!((error.kind, error.status()), (ErrorKind::InputNeeded, 125));
        assert_eq!(error.message, "there is nobody to ask: delete `vm^[[31m`?");
        assert!(error.hints[0].contains("--force"));
    }
}
