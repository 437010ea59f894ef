//! What a plugin on this library is around what it does: a command line, one printer, errors as
//! banger's own, completions.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{Write, stdout};
use std::iter;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, Command, Parser, ValueHint};
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter, complete,
};

use super::describe::ARGUMENT;
use super::propose::COMPLETER;
use super::{API, Description, fitted};
use crate::cli::Global;
use crate::cli::line::before_help;
use crate::error::{CommandError, FAILED};
use crate::host::paths::Paths;
use crate::output::panic;
use crate::output::ui::Ui;

/// Finds what may stand for an argument. The last are the words so far, behind the plugin's name.
pub type Values = fn(&Paths, &Ui, &[OsString]) -> Result<Vec<String>, CommandError>;

/// The command line of a plugin. What its help says that it is, in one line, is what `banger
/// --list` says too.
pub trait Program: Parser {
    /// For names of arguments' values, such as `IMAGE`, what is proposed for them.
    const VALUES: &[(&str, Values)];

    /// The options of every command.
    fn global(&self) -> &Global;

    /// Does what the command line says, and answers. Returns the exit status.
    ///
    /// # Errors
    /// What keeps it from that.
    fn run(&self, paths: &Paths, ui: &Ui) -> Result<u8, CommandError>;
}

/// The `main` of a plugin. By the name of its completer, a link to it, it proposes words.
pub fn main<P: Program>() -> ExitCode {
    panic::guard(start::<P>)
}

fn start<P: Program>() -> ExitCode {
    let mut words: Vec<_> = env::args_os().collect();
    let name = if words.is_empty() { OsString::new() } else { words.remove(0) };
    let program_name = name.clone();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if name.as_encoded_bytes().starts_with(COMPLETER.as_bytes()) {
        return answer(proposals(P::command(), P::VALUES, &words).as_bytes());
    }
    if words.first().is_some_and(|word| word == ARGUMENT) {
        let description = Description {
            api: API,
            description: P::command().get_about().map(ToString::to_string).unwrap_or_default(),
        };
        return answer(&serde_json::to_vec(&description).expect("a description is JSON"));
    }
    let program = match P::try_parse_from(iter::once(program_name).chain(before_help(words.clone(), &P::command()))) {
        Ok(program) => program,
        // `--help` and `--version` are answers, and no errors.
        Err(answer) if !answer.use_stderr() => {
            before_parsing(&words).help(&answer);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            before_parsing(&words).usage(&error);
            return ExitCode::from(FAILED);
        }
    };
    let ui = Ui::new(program.global());
    let checked = Paths::from_env().and_then(|paths| paths.check().map(|()| paths));
    match checked.and_then(|paths| program.run(&paths, &ui)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.status())
        }
    }
}

fn answer(answer: &[u8]) -> ExitCode {
    match stdout().write_all(answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// For answers to a command line that was not understood, or asks for help.
fn before_parsing(words: &[OsString]) -> Ui {
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    Ui::new(&Global { json, ..Global::default() })
}

/// Lines of what the last of `words` may be.
fn proposals(command: Command, values: &'static [(&str, Values)], words: &[OsString]) -> String {
    let typed = words.last().cloned().unwrap_or_default();
    let find = |name: &str| {
        let (_, values) = values.iter().find(|(known, _)| *known == name)?;
        let words = words.to_vec();
        Some(move || {
            let ui = Ui::new(&Global { quiet: true, ..Global::default() });
            // What cannot be read is left out: a line that is being typed is no place for errors.
            Paths::from_env().and_then(|paths| values(&paths, &ui, &words)).unwrap_or_default()
        })
    };
    let mut command = with_values(fitted(command, words), &typed, &find);
    let all: Vec<_> = [OsString::from("banger")].into_iter().chain(words.iter().cloned()).collect();
    let here = env::current_dir().ok();
    let found = complete(&mut command, all, words.len(), here.as_deref()).unwrap_or_default();
    let line = |candidate: CompletionCandidate| {
        let value = candidate.get_value().to_str()?;
        let about = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let about = about.lines().next().unwrap_or_default();
        Some(if about.is_empty() { format!("{value}\n") } else { format!("{value}\t{about}\n") })
    };
    found.into_iter().filter_map(line).collect()
}

/// `command` with proposals for the arguments whose value's name `find` knows. For one that may be
/// a path of the host too, paths are proposed first, unless `typed` has a colon, as what is in a VM
/// has.
pub(crate) fn with_values<V>(command: Command, typed: &OsStr, find: &impl Fn(&str) -> Option<V>) -> Command
where
    V: Fn() -> Vec<String> + Send + Sync + 'static,
{
    let candidates = |argument: Arg| {
        let name = argument.get_value_names().and_then(|names| names.first()).map(|name| name.as_str().to_owned());
        let is_path = !matches!(argument.get_value_hint(), ValueHint::Unknown | ValueHint::Other);
        let is_here_too = is_path && !typed.as_encoded_bytes().contains(&b':');
        match name.and_then(|name| find(&name)) {
            Some(values) if is_here_too => argument.add(ArgValueCompleter::new(move |typed: &OsStr| {
                let starts = |value: &String| value.as_bytes().starts_with(typed.as_encoded_bytes());
                let values = values().into_iter().filter(starts).map(CompletionCandidate::new);
                PathCompleter::any().complete(typed).into_iter().chain(values).collect::<Vec<_>>()
            })),
            Some(values) => argument.add(ArgValueCandidates::new(move || {
                values().iter().map(CompletionCandidate::new).collect::<Vec<_>>()
            })),
            None => argument,
        }
    };
    command.mut_args(candidates).mut_subcommands(|command| with_values(command, typed, find))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Things
    #[derive(Debug, Parser)]
    #[command(name = "banger things")]
    enum Things {
        /// Show one
        Show {
            #[arg(value_name = "THING")]
            thing: String,
            /// How
            #[arg(long, value_name = "WAY")]
            how: Option<String>,
        },
        /// List all
        #[command(visible_alias = "all")]
        List,
        /// Run something
        Run {
            /// From where
            #[arg(value_name = "THING", value_hint = ValueHint::AnyPath)]
            from: Option<String>,
            /// What
            #[arg(last = true, value_hint = ValueHint::AnyPath)]
            command: Vec<OsString>,
        },
    }

    const VALUES: &[(&str, Values)] = &[
        ("THING", |_, _, _| Ok(vec!["this".to_owned(), "that".to_owned(), "other".to_owned()])),
        ("WAY", |_, _, _| Err(CommandError::new("there is none"))),
    ];

    #[test]
    fn proposals_cover_commands_options_and_values() {
        use clap::CommandFactory;
        let proposed = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            proposals(Things::command(), VALUES, &words)
        };
        assert_eq!(proposed(&["l"]), "list\tList all\n");
        // Commands by their names, and no options before one is begun.
        let first =
            |text: String| text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(first(proposed(&[""])), ["show", "list", "run", "help"]);
        assert_eq!(first(proposed(&["a"])), ["all"]);
        assert_eq!(first(proposed(&["-"])), ["-h"]);
        assert_eq!(first(proposed(&["list", ""])), ["--help"], "there is nothing else");
        // What may be a path of the host is one, or another value, unless it has a colon.
        assert!(
            first(proposed(&["run", "src/pl"])).contains(&"src/plugin/".to_owned()),
            "{}",
            proposed(&["run", "src/pl"])
        );
        assert_eq!(first(proposed(&["run", "th"])), ["this", "that"]);
        assert_eq!(proposed(&["run", "t:"]), "");
        assert!(first(proposed(&["run", "--", "src/pl"])).contains(&"src/plugin/".to_owned()));
        assert_eq!(proposed(&["show", "th"]), "this\nthat\n");
        assert_eq!(proposed(&["show", "--h"]), "--how\tHow\n--help\tPrint help\n");
        assert_eq!(proposed(&["show", "--how", ""]), "");
        assert_eq!(proposed(&["none", "x"]), "");
        assert_eq!(proposed(&[]), "");
    }
}
