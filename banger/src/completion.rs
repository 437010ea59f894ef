//! Completions: what a shell proposes when TAB is pressed behind `banger`.
//!
//! `banger completions bash` prints a script that has the shell ask banger itself, each time, through the variable [`VARIABLE`]: so
//! the proposals are of this moment, plugins, aliases and VMs among them. Nothing of a plugin is run for that.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use clap::{Arg, Command, CommandFactory, ValueEnum, ValueHint};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::cli::{Cli, Shell};
use crate::dispatch::{self, Aliases, is_built_in};
use crate::error::{CommandError, ErrorKind};

/// Holds the name of the shell that asks; the words so far are banger's arguments.
pub const VARIABLE: &str = "BANGER_COMPLETE";

fn completer(shell: Shell) -> &'static dyn EnvCompleter {
    match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    }
}

/// The script that the shell reads.
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    let written = completer(shell).write_registration(VARIABLE, "banger", "banger", "banger", &mut script);
    written.expect("memory takes what it is given");
    let mut script = String::from_utf8(script).expect("a script is text");
    if shell == Shell::Zsh {
        // From a folder of $fpath this is the body of `_banger`, read when completions are first asked for: it has to answer then.
        script.push_str("[[ ${funcstack[1]} != _banger ]] || _clap_dynamic_completer_banger \"$@\"\n");
    }
    script
}

/// What may stand on a command line, besides what is built in.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Aliases, and what they stand for.
    pub aliases: Aliases,
    /// Plugins.
    pub plugins: BTreeSet<String>,
    /// VMs, where an argument is one.
    pub vms: Vec<String>,
}

/// What `shell`, by its name, shows for `words`: banger's arguments as the script gives them, `--` and then the words of the command
/// line, `banger` being the first.
///
/// # Errors
/// If the shell is not known, or the words are not what the script gives.
pub fn complete(
    shell: &str,
    words: Vec<OsString>,
    names: &Names,
    here: Option<&Path>,
) -> Result<Vec<u8>, CommandError> {
    let wrong = |what: String| CommandError::new(what).kind(ErrorKind::Usage);
    let shell = Shell::from_str(shell, false).map_err(|_| wrong(format!("{VARIABLE} is `{shell}`: no known shell")))?;
    let words: Vec<_> = words.into_iter().skip_while(|word| word != "--").skip(1).collect();
    let mut answer = Vec::new();
    let mut cli = command_line(Cli::command(), &words, names);
    let completed = completer(shell).write_complete(&mut cli, words, here, &mut answer);
    completed.map_err(|error: io::Error| wrong(format!("cannot complete this: {error}")))?;
    Ok(answer)
}

/// `cli` with aliases and plugins as if they were built in, whose own arguments may be paths, and with the names of VMs.
fn command_line(cli: Command, words: &[OsString], names: &Names) -> Command {
    let mut cli = with_vms(cli, &names.vms);
    if dispatch::name(words.iter().skip(1).cloned().collect(), &cli).is_some_and(|name| !is_built_in(&cli, &name)) {
        // Behind another's name banger's options are not banger's.
        cli = cli.mut_args(|argument| argument.global(false));
    }
    let aliases = names.aliases.iter().map(|(name, words)| (name, format!("Stands for: {}", words.join(" "))));
    let plugins = names.plugins.iter().map(|name| (name, "A plugin".to_owned()));
    for (name, about) in aliases.chain(plugins) {
        if !is_built_in(&cli, name.as_ref()) {
            let about = banger_vmm::printable(about.as_bytes());
            let words = Arg::new("words").num_args(0..).allow_hyphen_values(true).value_hint(ValueHint::AnyPath);
            cli = cli.subcommand(Command::new(name).about(about).disable_help_flag(true).arg(words));
        }
    }
    cli
}

fn with_vms(command: Command, vms: &[String]) -> Command {
    let candidates = |argument: Arg| {
        let is_vm = argument.get_value_names().is_some_and(|names| names == ["VM"]);
        if !is_vm {
            return argument;
        }
        let vms = vms.to_vec();
        argument.add(ArgValueCandidates::new(move || vms.iter().map(CompletionCandidate::new).collect()))
    };
    command.mut_args(candidates).mut_subcommands(|command| with_vms(command, vms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fish shows behind `words`, the last of which is being typed.
    fn shown(cli: Command, words: &[&str], names: &Names) -> Vec<String> {
        let mut answer = Vec::new();
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let mut cli = command_line(cli, &words, names);
        completer(Shell::Fish).write_complete(&mut cli, words, None, &mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        answer.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn names_of_all_kinds_are_proposed_where_they_fit() {
        let names = Names {
            aliases: [("status".to_owned(), vec![]), ("stand-up".to_owned(), vec![])].into(),
            plugins: ["state".to_owned(), "stop".to_owned(), "stand-up".to_owned()].into(),
            vms: vec!["some-vm".to_owned(), "other".to_owned()],
        };
        assert_eq!(shown(Cli::command(), &["banger", "sta"], &names), ["status", "stand-up", "state"]);
        assert_eq!(shown(Cli::command(), &["banger", "-q", "sto"], &names), ["stop"]);
        assert_eq!(shown(Cli::command(), &["banger", "--host"], &names), ["--host-wins"]);
        assert_eq!(shown(Cli::command(), &["banger", "completions", "z"], &names), ["zsh"]);
        assert_eq!(shown(Cli::command(), &["banger", "stop", "--js"], &names), ["--json"]);
        assert!(shown(Cli::command(), &["banger", "state", "--js"], &names).is_empty());

        let of_vms = Command::new("peek").arg(Arg::new("name").value_name("VM")).arg(Arg::new("x").long("x"));
        let cli = Cli::command().subcommand(of_vms);
        assert_eq!(shown(cli.clone(), &["banger", "peek", "so"], &names), ["some-vm"]);
        assert!(shown(cli, &["banger", "peek", "--x", "so"], &names).is_empty());
        assert_eq!(shown(Cli::command(), &["banger", "logs", "so"], &names), ["some-vm"]);
    }
}
