//! All that banger itself prints. Standard output is for answers; everything else goes to standard error.
//!
//! What is said may quote a guest, a repository or an image: it reaches the terminal as text, and never as a command to it.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;

use crate::cli::{Color, Global};
use crate::error::CommandError;

/// The printer of one command.
#[derive(Debug)]
pub struct Ui {
    quiet: bool,
    verbose: bool,
    color: bool,
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Ui {
    /// As the options and the environment want it. See no-color.org.
    pub fn new(options: &Global) -> Ui {
        let terminal = stderr().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match options.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !plain,
        };
        Ui { quiet: options.quiet, verbose: options.verbose, color, terminal, bar: Mutex::new(None) }
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

    /// Why the command ends.
    pub fn error(&self, error: &CommandError) {
        self.finish();
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
        // Standard error that is gone is no reason to fail.
        let print = || _ = writeln!(stderr(), "{text}");
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

fn clean(text: &str) -> String {
    banger_vmm::printable(text.as_bytes())
}

impl banger_image::Progress for Ui {
    fn phase(&self, what: &str) {
        if self.quiet {
            return;
        }
        if !self.terminal {
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
