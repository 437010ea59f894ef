//! Where in a command line its command's name is.

use std::ffi::{OsStr, OsString};

/// `banger <options> <name> <rest>`.
#[derive(Debug)]
pub(crate) struct Line {
    /// What comes before the name; without one, everything.
    pub(crate) options: Vec<OsString>,
    /// The first word that is neither an option nor an option's value, if there is one before `--`.
    pub(crate) name: Option<OsString>,
    /// What comes after it: the command's own.
    pub(crate) rest: Vec<OsString>,
    /// Whether there is no name, but a `--` that is not an option's value: a command for the VM
    /// follows it.
    pub(crate) is_run: bool,
}

impl Line {
    /// Splits `words` as clap would read them by `cli`. clap itself stops at a word that is no
    /// subcommand and says nothing of what came before.
    pub(crate) fn split(mut words: Vec<OsString>, cli: &clap::Command) -> Line {
        let mut place = 0;
        while let Some(word) = words.get(place) {
            if word == "--" {
                break;
            }
            if !word.as_encoded_bytes().starts_with(b"-") || word == "-" {
                let mut rest = words.split_off(place);
                let name = rest.remove(0);
                return Line { options: words, name: Some(name), rest, is_run: false };
            }
            place += if takes_next(word, cli) { 2 } else { 1 };
        }
        let is_run = place < words.len();
        Line { options: words, name: None, rest: Vec::new(), is_run }
    }

    /// These options but for `--json`, which does not go with a run: its output is the command's
    /// own. No option has it as its value.
    pub(crate) fn without_json(options: &[OsString]) -> impl Iterator<Item = &OsStr> {
        options.iter().map(OsString::as_os_str).filter(|word| *word != "--json")
    }

    /// Moves the options behind the name to those before it.
    pub(crate) fn options_first(&mut self, cli: &clap::Command) {
        let mut words = std::mem::take(&mut self.rest).into_iter();
        while let Some(word) = words.next() {
            if word == "-" || !word.as_encoded_bytes().starts_with(b"-") {
                self.rest.push(word);
                continue;
            }
            let value = if takes_next(&word, cli) { words.next() } else { None };
            self.options.extend([word].into_iter().chain(value));
        }
    }

    /// All words, in their order.
    pub(crate) fn words(self) -> Vec<OsString> {
        self.options.into_iter().chain(self.name).chain(self.rest).collect()
    }

    /// The command line that runs the name as a command in the VM.
    pub(crate) fn in_the_vm(&self) -> String {
        let before = Line::without_json(&self.options);
        let after = self.name.iter().chain(&self.rest).map(OsString::as_os_str);
        let words = [OsStr::new("banger")].into_iter().chain(before).chain([OsStr::new("--")]).chain(after);
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}

/// `words`, a command line without the program's name, with the options behind a `help` before it:
/// clap's takes no option, and these are of every command.
pub(crate) fn before_help(words: Vec<OsString>, cli: &clap::Command) -> Vec<OsString> {
    if !words.iter().any(|word| word == "help") {
        return words;
    }
    // A command has the options of every command once it is built.
    let mut cli = cli.clone();
    cli.build();
    let (mut words, mut before) = (words, Vec::new());
    let mut command = &cli;
    loop {
        let mut line = Line::split(words, command);
        let is_help = line.name.as_deref() == Some(OsStr::new("help"));
        if is_help {
            line.options_first(command);
        }
        let inner = line.name.as_ref().filter(|_| !is_help).and_then(|name| command.find_subcommand(name));
        let Some(inner) = inner.filter(|inner| inner.has_subcommands()) else {
            before.append(&mut line.words());
            return before;
        };
        words = std::mem::take(&mut line.rest);
        before.append(&mut line.words());
        command = inner;
    }
}

/// Whether the word after this option is its value.
fn takes_next(word: &OsStr, cli: &clap::Command) -> bool {
    let word = word.to_string_lossy();
    let takes_value = |argument: &clap::Arg| argument.get_action().takes_values();
    if let Some(long) = word.strip_prefix("--") {
        return cli.get_arguments().any(|argument| argument.get_long() == Some(long) && takes_value(argument));
    }
    // The value of a short option may follow in the same word.
    let mut letters = word.chars().skip(1);
    while let Some(letter) = letters.next() {
        if cli.get_arguments().any(|argument| argument.get_short() == Some(letter) && takes_value(argument)) {
            return letters.next().is_none();
        }
    }
    false
}
