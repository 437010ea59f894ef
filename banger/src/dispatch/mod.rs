//! Resolves the words of a command line to a built-in command, an alias, or a plugin, in this
//! order.

mod alias;
mod familiar;

use std::ffi::{OsStr, OsString};

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches};

pub use self::alias::{Aliases, read};
use crate::cli::line::{Line, before_help};
use crate::cli::{Cli, Global, Run};
use crate::error::{CommandError, ErrorKind};
use crate::output::suggest;
use crate::plugin::{FoundPlugin, Plugins};

/// What a command line invokes.
#[derive(Debug)]
pub enum Invocation {
    /// A built-in command, or a command to run in the VM: words for [`Cli`].
    BuiltIn(Vec<OsString>),
    /// A plugin.
    Plugin {
        /// The plugin that was found.
        plugin: FoundPlugin,
        /// The options before the name of the plugin.
        options: Global,
        /// The words after the name of the plugin.
        arguments: Vec<OsString>,
    },
}

/// Why a command line invokes nothing.
#[derive(Debug)]
pub enum InvocationError {
    /// An error that clap prints, or `--help` or `--version`.
    Usage(clap::Error),
    /// An error that banger prints.
    Error(CommandError),
}

impl From<clap::Error> for InvocationError {
    fn from(error: clap::Error) -> Self {
        InvocationError::Usage(error)
    }
}

impl From<CommandError> for InvocationError {
    fn from(error: CommandError) -> Self {
        InvocationError::Error(error)
    }
}

/// Resolves `words`, the command line without the program's name. `aliases` is called if they name
/// no built-in command.
///
/// # Errors
/// If the words name nothing, aliases cannot be read or refer to each other in a circle, or options
/// cannot be combined with what is named.
pub fn resolve(
    words: Vec<OsString>,
    aliases: impl FnOnce() -> Result<Aliases, CommandError>,
    plugins: &Plugins,
) -> Result<Invocation, InvocationError> {
    let cli = Cli::command();
    let mut line = Line::split(before_help(words, &cli), &cli);
    // clap's `help` knows built-in commands only. Of others it is their own.
    let foreign = line.name.as_deref() == Some(OsStr::new("help"))
        && line.rest.first().is_some_and(|topic| is_topic(&cli, topic));
    if foreign {
        line.name = Some(line.rest.remove(0));
        line.rest.push("--help".into());
    }
    let mut aliases = alias::Expansion::new(aliases);
    loop {
        let Some(name) = line.name.clone() else { return Ok(Invocation::BuiltIn(line.words())) };
        if is_built_in(&cli, &name) {
            if !line.options.is_empty() {
                options_before(&line, &name)?;
            }
            return Ok(Invocation::BuiltIn(line.words()));
        }
        if let Some(words) = aliases.expand(&name)? {
            let Line { options, rest, .. } = line;
            let words = options.into_iter().chain(words.iter().map(OsString::from)).chain(rest).collect();
            line = Line::split(words, &cli);
            if foreign && line.name.is_none() {
                return Err(no_help(&name, &line).into());
            }
            continue;
        }
        return match plugins.find(&name) {
            Some(plugin) => {
                let options = options_before(&line, &name)?;
                Ok(Invocation::Plugin { plugin, options, arguments: line.rest })
            }
            None => {
                // An unknown option says more than the word after it.
                parse(&line.options)?;
                let known = built_in_names(&cli).chain(aliases.names()?).chain(plugins.names());
                Err(unknown(&line, &name, known, &cli).into())
            }
        };
    }
}

/// The word of a command line that names its command, if one does.
pub fn name(words: Vec<OsString>, cli: &clap::Command) -> Option<OsString> {
    Line::split(words, cli).name
}

/// Whether what follows `words`, the command line so far without the program's name, belongs to a
/// command for the VM.
pub fn is_run(words: &[OsString], cli: &clap::Command) -> bool {
    Line::split(words.to_vec(), cli).is_run
}

/// Whether `name` is a command of banger's own. `help` is clap's.
pub fn is_built_in(cli: &clap::Command, name: &OsStr) -> bool {
    name == "help" || cli.find_subcommand(name).is_some()
}

/// Whether `banger help <topic>` is not answered by clap.
fn is_topic(cli: &clap::Command, topic: &OsStr) -> bool {
    !topic.as_encoded_bytes().starts_with(b"-") && !is_built_in(cli, topic)
}

/// The names of built-in commands, and their aliases in clap.
fn built_in_names(cli: &clap::Command) -> impl Iterator<Item = String> {
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set());
    shown.flat_map(|command| command.get_name_and_visible_aliases()).map(str::to_owned)
}

/// The options before a command's name. Only global options may stand there.
fn options_before(line: &Line, name: &OsStr) -> Result<Global, InvocationError> {
    let matches = parse(&line.options)?;
    let run = Run::augment_args(clap::Command::new("run"));
    let of_cli = Cli::command();
    let own = run.get_arguments().chain(of_cli.get_arguments().filter(|argument| argument.get_id() == "list"));
    let given =
        |argument: &&clap::Arg| matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
    if let Some(stray) = own.into_iter().find(given) {
        let (option, name) = (stray.get_long().unwrap_or_default(), name.to_string_lossy());
        let error = CommandError::new(format!("`--{option}` is no option of `banger {name}`")).kind(ErrorKind::Usage);
        return Err(match option {
            "list" => error.into(),
            _ => error.hint(format!("to run `{name}` in the VM: {}", line.in_the_vm())).into(),
        });
    }
    Ok(Global::from_arg_matches(&matches)?)
}

fn parse(options: &[OsString]) -> Result<clap::ArgMatches, clap::Error> {
    Cli::command().try_get_matches_from(std::iter::once(&OsString::from("banger")).chain(options))
}

fn unknown(line: &Line, name: &OsStr, known: impl Iterator<Item = String>, cli: &clap::Command) -> CommandError {
    let name = name.to_string_lossy();
    let mut error = CommandError::new(format!("there is no command `{name}`")).kind(ErrorKind::UnknownCommand);
    let familiar = familiar::familiar(&line.options, &name, &line.rest, cli);
    let is_program = familiar.as_ref().is_none_or(|familiar| familiar.is_program);
    // What another tool calls so says more than a name that looks like it.
    let meant = familiar.map(|familiar| familiar.hints);
    let nearest = || suggest::nearest(&name, known).map(|nearest| vec![format!("did you mean `{nearest}`?")]);
    error.hints.extend(meant.or_else(nearest).unwrap_or_default());
    if is_program {
        error = error.hint(format!("to run it in the VM: {}", line.in_the_vm()));
    }
    error.hint("for all commands: banger --list")
}

/// The alias `name` has led to `line`, which names no command but is a run: help is no reason to
/// run anything.
fn no_help(name: &OsStr, line: &Line) -> CommandError {
    let words = line.options.iter().filter(|word| *word != "--help").map(|word| word.to_string_lossy());
    let words = words.collect::<Vec<_>>().join(" ");
    let error = CommandError::new(format!("`{}` is an alias of a run: banger {words}", name.to_string_lossy()));
    error.kind(ErrorKind::Usage).hint("what runs can be told: banger --help")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn aliases(all: &[(&str, &[&str])]) -> Aliases {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        all.iter().map(|(name, words)| ((*name).to_owned(), owned(words))).collect()
    }

    /// What `line`, split at spaces, means to somebody who has these aliases and a plugin `watch`.
    fn of(line: &str, all: &[(&str, &[&str])]) -> Result<Invocation, InvocationError> {
        use std::os::unix::fs::OpenOptionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).mode(0o755).open(folder.path().join("banger-watch")).unwrap();
        let plugins = Plugins::new(folder.path().as_os_str(), None);
        resolve(line.split_whitespace().map(OsString::from).collect(), || Ok(aliases(all)), &plugins)
    }

    #[track_caller]
    fn words(invocation: Result<Invocation, InvocationError>) -> String {
        match invocation {
            Ok(Invocation::BuiltIn(words)) => words.join(OsStr::new(" ")).into_string().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn error(invocation: Result<Invocation, InvocationError>) -> CommandError {
        match invocation {
            Err(InvocationError::Error(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn built_in_precedes_alias_precedes_plugin() {
        let all: &[(&str, &[&str])] =
            &[("status", &["--", "no"]), ("watch", &["--", "yes"]), ("t", &["--rm", "--", "make"]), ("s", &["status"])];
        assert_eq!(words(of("-q status --json", all)), "-q status --json");
        assert_eq!(words(of("rm --force", all)), "rm --force");
        assert_eq!(words(of("-e A=1 -- watch", all)), "-e A=1 -- watch");
        assert_eq!(words(of("watch it", all)), "-- yes it");
        assert_eq!(words(of("-v t test", all)), "-v --rm -- make test");
        assert_eq!(words(of("--color never s --json", all)), "--color never status --json");
        let Ok(Invocation::Plugin { plugin, options, arguments }) = of("-q --color=never watch -e --help -- x", &[])
        else {
            panic!("a plugin");
        };
        assert_eq!(plugin.path.file_name(), Some(OsStr::new("banger-watch")));
        assert!(options.quiet && options.color == crate::cli::Color::Never);
        assert_eq!(arguments, ["-e", "--help", "--", "x"]);
    }

    #[test]
    fn alias_chains_resolve_and_loops_are_errors() {
        let all: &[(&str, &[&str])] =
            &[("a", &["-q", "b"]), ("b", &["c", "x"]), ("c", &["a"]), ("w", &["watch", "y"]), ("v", &["-v", "w"])];
        let error = error(of("a", all));
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::AliasLoop, "aliases without end: a → b → c → a"));
        let Ok(Invocation::Plugin { options, arguments, .. }) = of("v z", all) else { panic!("a plugin") };
        assert!(options.verbose);
        assert_eq!(arguments, ["y", "z"]);
    }

    #[test]
    fn unknown_command_suggests_near_names() {
        let hints = |line| error(of(line, &[("test-all", &["--", "make"])])).hints;
        assert_eq!(hints("statsu")[0], "did you mean `status`?");
        assert_eq!(hints("wach now")[0], "did you mean `watch`?");
        assert_eq!(hints("testall")[0], "did you mean `test-all`?");
        let far = hints("--rm -e A=1 make test");
        assert_eq!(far, ["to run it in the VM: banger --rm -e A=1 -- make test", "for all commands: banger --list"]);
        assert_eq!(error(of("../watch", &[])).kind, ErrorKind::UnknownCommand);
        // A run has no `--json`, so no hint has it either.
        assert_eq!(hints("--json -q nosuch")[0], "to run it in the VM: banger -q -- nosuch");
        // What other tools call a command says more than a name that is one letter away.
        assert_eq!(
            hints("run make"),
            [
                "a command needs no `run` or `exec`: banger -- make",
                "in another image: banger --rm --image IMAGE -- COMMAND",
                "for all commands: banger --list"
            ]
        );
        assert!(hints("up")[0].ends_with("banger start") && hints("up").len() == 2, "{:?}", hints("up"));
        assert_eq!(hints("ps")[..2], ["for a list of VMs: banger list", "to run it in the VM: banger -- ps"]);
    }

    #[test]
    fn run_options_before_a_command_are_an_error() {
        let error = error(of("--rm -e A=1 watch", &[]));
        assert_eq!(error.kind, ErrorKind::Usage);
        assert_eq!(error.hints, ["to run `watch` in the VM: banger --rm -e A=1 -- watch"]);
        assert!(matches!(of("--cpus 2 status", &[]), Err(InvocationError::Error(_))));
        assert!(matches!(of("--list status", &[]), Err(InvocationError::Error(_))));
        assert!(matches!(of("--wrong watch", &[]), Err(InvocationError::Usage(_))));
        assert!(matches!(of("--wrong unknown", &[]), Err(InvocationError::Usage(_))));
    }

    #[test]
    fn help_of_alias_or_plugin_is_delegated() {
        let all: &[(&str, &[&str])] =
            &[("s", &["status", "--json"]), ("t", &["--rm", "--", "make"]), ("w", &["watch"])];
        assert_eq!(words(of("help status", all)), "help status");
        assert_eq!(words(of("help", all)), "help");
        assert_eq!(words(of("help --color never", all)), "--color never help");
        assert_eq!(words(of("help --json status", all)), "--json help status");
        assert_eq!(words(of("help status --json", all)), "--json help status");
        assert_eq!(words(of("port help add --json", all)), "port --json help add");
        assert_eq!(words(of("-q port help --color never add", all)), "-q port --color never help add");
        assert_eq!(words(of("config set help --repo", all)), "config set help --repo");
        assert_eq!(words(of("-- help --json", all)), "-- help --json");
        assert_eq!(words(of("help s", all)), "status --json --help");
        for (line, expected) in [("-q help watch", &["--help"][..]), ("help w it", &["it", "--help"])] {
            let Ok(Invocation::Plugin { plugin, arguments, .. }) = of(line, all) else { panic!("{line}: no plugin") };
            assert_eq!(plugin.path.file_name(), Some(OsStr::new("banger-watch")));
            assert_eq!(arguments, expected, "{line}");
        }
        assert_eq!(error(of("help t", all)).message, "`t` is an alias of a run: banger --rm -- make");
        let unknown = error(of("help wach", all));
        assert_eq!((unknown.kind, unknown.hints[0].as_str()), (ErrorKind::UnknownCommand, "did you mean `watch`?"));
    }

    #[test]
    fn built_in_command_reads_no_configuration() {
        let plugins = Plugins::new(Path::new("/").as_os_str(), None);
        let invocation = resolve(vec!["status".into()], || unreachable!("no alias is needed"), &plugins);
        assert_eq!(words(invocation), "status");
    }
}
