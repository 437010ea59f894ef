//! Completions: what a shell proposes when TAB is pressed after `banger`.
//!
//! `banger completions bash` prints a script that has the shell ask banger itself, each time,
//! through the variable [`VARIABLE`]: so the proposals are of this moment, plugins, aliases and VMs
//! among them. For words behind a plugin's name a program that the plugin brings for that is asked
//! (see [`plugin::propose`](crate::plugin::propose)); nothing else of a plugin is run.

mod bash;
mod guest;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::{Arg, Command, CommandFactory, ValueEnum, ValueHint};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use serde::Serialize;

pub use self::guest::{hosts, places};
use crate::cli::{Cli, Shell};
use crate::config::{KEYS, Kind, Shape};
use crate::dispatch::{self, Aliases, is_built_in};
use crate::error::{CommandError, ErrorKind};
use crate::output::command_output::{CommandOutput, Verbosity};
use crate::plugin::{Proposal, fitted, with_values};

/// The variable with the name of the shell that asks. The words so far are banger's arguments.
pub const VARIABLE: &str = "BANGER_COMPLETE";

/// The variable with the index of the word that is being typed, from 0; set by the scripts for bash
/// and zsh.
const INDEX: &str = "_CLAP_COMPLETE_INDEX";

fn completer(shell: Shell) -> &'static dyn EnvCompleter {
    match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    }
}

/// What a shell reads to complete banger's command lines.
#[derive(Clone, Debug, Serialize)]
pub struct CompletionScript {
    /// The script, in the shell's language.
    pub script: String,
}

impl CommandOutput for CompletionScript {
    fn text(&self, _verbosity: Verbosity) -> String {
        self.script.clone()
    }
}

/// The script for `shell`.
pub fn script(shell: Shell) -> CompletionScript {
    let mut script = Vec::new();
    let written = completer(shell).write_registration(VARIABLE, "banger", "banger", "banger", &mut script);
    written.expect("memory takes what it is given");
    let mut script = String::from_utf8(script).expect("a script is text");
    if shell == Shell::Bash {
        // The line itself: its words are split at colons, which are a part of places and
        // references.
        let variable = "        BANGER_COMPLETE=\"bash\"";
        assert!(script.contains(variable), "the script says for which shell it asks");
        let line = format!("        {}=\"${{COMP_LINE:0:COMP_POINT}}\" \\\n", bash::LINE);
        let line = format!("{line}        {}=\"$2\" \\\n{variable}", bash::PIECE);
        script = script.replace(variable, &line);
    }
    if shell == Shell::Zsh {
        // From a folder of $fpath this is the body of `_banger`, read when completions are first
        // asked for: it has to answer then.
        script.push_str("[[ ${funcstack[1]} != _banger ]] || _clap_dynamic_completer_banger \"$@\"\n");
    }
    CompletionScript { script }
}

/// What can be completed, besides what is built in.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Aliases, and the words that they stand for.
    pub aliases: Aliases,
    /// Names of plugins.
    pub plugins: BTreeSet<String>,
    /// Parts of plugins: proposed where nothing else fits.
    pub parts: BTreeSet<String>,
    /// Names of VMs, for arguments that name a VM.
    pub vms: Vec<String>,
    /// Names of images, for arguments that name an image.
    pub images: Vec<String>,
    /// Variables of the configuration, as `env.NAME`.
    pub variables: Vec<String>,
    /// Host ports and sockets that are forwarded to the VM that the words name.
    pub hosts: Vec<String>,
    /// Completions of the last word as a path in a VM.
    pub places: Vec<String>,
}

/// The words of the command line, made of those that the script passes. `banger` is the first, the
/// one that is being typed the last.
pub fn typed(shell: &str, words: Vec<OsString>) -> Vec<OsString> {
    if let Some(line) = bash_line(shell) {
        return bash::words(&line).0;
    }
    let mut words: Vec<_> = words.into_iter().skip_while(|word| word != "--").skip(1).collect();
    // bash and zsh give the words behind the one that is typed too, and say which that is.
    let index = env::var(INDEX).ok().and_then(|index| index.parse::<usize>().ok()).filter(|_| shell != "fish");
    words.truncate(index.map_or(words.len(), |index| index.saturating_add(1)));
    words
}

fn bash_line(shell: &str) -> Option<String> {
    env::var(bash::LINE).ok().filter(|line| shell == "bash" && !line.is_empty())
}

/// The output for the shell named `shell` that completes `words`, the words of [`typed`].
/// `of_plugin` is given the words after the first, and returns what the plugin that they name
/// proposes for the last of them; `None` if they name no plugin, or it proposes nothing.
///
/// # Errors
/// If the shell is unknown, or the words are not those of the script.
pub fn complete(
    shell: &str,
    words: Vec<OsString>,
    names: &Names,
    of_plugin: impl FnOnce(&[OsString]) -> Option<Vec<Proposal>>,
    here: Option<&Path>,
) -> Result<Vec<u8>, CommandError> {
    let wrong = |what: String| CommandError::new(what).kind(ErrorKind::Usage);
    let shell = Shell::from_str(shell, false).map_err(|_| wrong(format!("{VARIABLE} is `{shell}`: no known shell")))?;
    let mut words = words;
    let mut answer = Vec::new();
    let before = words.split_last().and_then(|(_, before)| before.get(1..)).unwrap_or_default();
    let foreign = match dispatch::is_run(before, &Cli::command()) {
        true => Some(only(|words| words.value_hint(ValueHint::AnyPath))),
        false => words.get(1..).and_then(of_plugin).map(of_plugin_only),
    };
    let mut cli = match foreign {
        Some(cli) => {
            // Whatever the words before mean to the plugin or to the command, here they mean
            // nothing.
            let last = words.len() - 1;
            words[1..last].fill("word".into());
            cli
        }
        None => command_line(Cli::command(), &words, names),
    };
    let completed = match shell {
        Shell::Bash => {
            let piece = env::var(bash::PIECE).ok();
            let kept = bash_line("bash").map_or(0, |line| bash::kept(&line, piece.as_deref()));
            let separator = env::var_os(bash::SEPARATOR).unwrap_or_else(|| "\n".into());
            bash::complete(&mut cli, words, here, kept).map(|proposals| answer = proposals.join(separator.as_bytes()))
        }
        Shell::Zsh | Shell::Fish => completer(shell).write_complete(&mut cli, words, here, &mut answer),
    };
    completed.map_err(|error| wrong(format!("cannot complete this: {error}")))?;
    Ok(answer)
}

/// A command line whose words are all completed as `with` has it.
fn only(with: impl FnOnce(Arg) -> Arg) -> Command {
    let words = Arg::new("words").num_args(0..).allow_hyphen_values(true);
    Command::new("banger").disable_help_flag(true).arg(with(words))
}

/// A command line in which each word may be one of these.
fn of_plugin_only(proposals: Vec<Proposal>) -> Command {
    let candidates = move || {
        let candidate = |proposal: &Proposal| {
            CompletionCandidate::new(&proposal.value).help(proposal.about.clone().map(Into::into))
        };
        proposals.iter().map(candidate).collect()
    };
    only(|words| words.add(ArgValueCandidates::new(candidates)))
}

/// `cli` with aliases and plugins as if they were built in, whose own arguments may be paths, and
/// with the names of VMs and images.
fn command_line(cli: Command, words: &[OsString], names: &Names) -> Command {
    let values = |name: &str| {
        let values = match name {
            "VM" => names.vms.clone(),
            "IMAGE" => names.images.clone(),
            "KEY" => keys(names),
            "VALUE" => words.iter().rev().nth(1).map(|key| choices(&key.to_string_lossy(), names)).unwrap_or_default(),
            "HOST" => names.hosts.clone(),
            "FROM" | "TO" => names.places.clone(),
            _ => return None,
        };
        Some(move || values.clone())
    };
    let typed = words.last().cloned().unwrap_or_default();
    let mut cli = with_values(fitted(cli, words), &typed, &values);
    if dispatch::name(words.iter().skip(1).cloned().collect(), &cli).is_some_and(|name| !is_built_in(&cli, &name)) {
        // Behind another's name banger's options are not banger's.
        cli = cli.mut_args(|argument| argument.global(false));
    }
    let aliases = names.aliases.iter().map(|(name, words)| (name, format!("Stands for: {}", words.join(" "))));
    let plugins = names.plugins.iter().map(|name| (name, "A plugin".to_owned()));
    let parts = names.parts.iter().map(|name| (name, "A part of a plugin".to_owned()));
    for (name, about) in aliases.chain(plugins).chain(parts) {
        if !is_built_in(&cli, name.as_ref()) {
            let about = banger_vmm::printable(about.as_bytes());
            let words = Arg::new("words").num_args(0..).allow_hyphen_values(true).value_hint(ValueHint::AnyPath);
            let command = Command::new(name).about(about).disable_help_flag(true).arg(words);
            cli = cli.subcommand(command.hide(names.parts.contains(name)));
        }
    }
    cli
}

/// The keys of the configuration, and what stands in its tables.
fn keys(names: &Names) -> Vec<String> {
    let keys = KEYS.iter().map(|key| key.name.to_owned());
    let aliases = names.aliases.keys().map(|name| format!("alias.{name}"));
    keys.chain(names.variables.iter().cloned()).chain(aliases).collect()
}

/// The values that a key may have, where it is one of a few, or names an image.
fn choices(key: &str, names: &Names) -> Vec<String> {
    if matches!(key, "image" | "default_image_name") {
        return names.images.clone();
    }
    let choices: &[&str] = match KEYS.iter().find(|known| known.name == key).map(|key| key.shape) {
        Some(Shape::One(Kind::Choice(choices))) => choices,
        Some(Shape::One(Kind::Flag)) => &["true", "false"],
        _ => &[],
    };
    choices.iter().map(|choice| (*choice).to_owned()).collect()
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
    fn plugin_proposals_replace_built_in_completion() {
        let proposal = |value: &str| Proposal { value: value.to_owned(), about: Some("what it is".to_owned()) };
        let propose = |words: &[&str]| {
            let given: Vec<OsString> = ["banger"].iter().chain(words).map(OsString::from).collect();
            let names = Names { plugins: ["image".to_owned()].into(), ..Names::default() };
            let of_plugin = |typed: &[OsString]| {
                assert_eq!(typed, words);
                (typed[0] == "image").then(|| ["pull", "--json", "debian:12"].map(proposal).to_vec())
            };
            String::from_utf8(complete("fish", given, &names, of_plugin, None).unwrap()).unwrap()
        };
        assert_eq!(propose(&["image", "--x", "--", "p"]), "pull\twhat it is\n");
        assert_eq!(propose(&["image", "--"]), "--json\twhat it is\n");
        assert_eq!(propose(&["image", ""]).lines().count(), 3);
        assert_eq!(propose(&["image", "pull", "debian:"]), "debian:12\twhat it is\n");
        assert_eq!(propose(&["image", "x"]), "");
        assert!(propose(&["stat"]).starts_with("status\t"));
        // A command for the VM has words of its own.
        for words in [&["--", "s"][..], &["-q", "--", "so"], &["--", "image", "p"], &["--", "status", "--js"]] {
            let given: Vec<OsString> = ["banger"].iter().chain(words).map(OsString::from).collect();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("some-file"), "").unwrap();
            let of_plugin = |_: &[OsString]| unreachable!("no plugin is meant");
            let here = Some(folder.path());
            let answer = complete("fish", given, &Names::default(), of_plugin, here).unwrap();
            let files = if words.last().is_some_and(|word| "some-file".starts_with(word)) { "some-file\n" } else { "" };
            assert_eq!(String::from_utf8(answer).unwrap(), files, "{words:?}");
        }
        assert!(propose(&["--image", "--", "stat"]).starts_with("status\t"));
    }

    #[test]
    fn names_of_each_kind_are_proposed_in_their_place() {
        let names = Names {
            aliases: [("status".to_owned(), vec![]), ("stand-up".to_owned(), vec![])].into(),
            plugins: ["state".to_owned(), "stop".to_owned(), "stand-up".to_owned()].into(),
            vms: vec!["some-vm".to_owned(), "other".to_owned()],
            images: vec!["debian".to_owned()],
            parts: ["state-proxy".to_owned()].into(),
            variables: vec!["env.A".to_owned()],
            hosts: vec!["8080".to_owned()],
            places: vec![":src/".to_owned()],
        };
        assert_eq!(shown(Cli::command(), &["banger", "sta"], &names), ["status", "start", "stand-up", "state"]);
        assert_eq!(shown(Cli::command(), &["banger", "-q", "sto"], &names), ["stop"]);
        assert_eq!(shown(Cli::command(), &["banger", "--host"], &names), ["--host-wins"]);
        assert_eq!(shown(Cli::command(), &["banger", "--image", "de"], &names), ["debian"]);
        assert_eq!(shown(Cli::command(), &["banger", "completions", "z"], &names), ["zsh"]);
        assert_eq!(shown(Cli::command(), &["banger", "stop", "--js"], &names), ["--json"]);
        assert!(shown(Cli::command(), &["banger", "state", "--js"], &names).is_empty());

        let of_vms = Command::new("peek").arg(Arg::new("name").value_name("VM")).arg(Arg::new("x").long("x"));
        let cli = Cli::command().subcommand(of_vms);
        assert_eq!(shown(cli.clone(), &["banger", "peek", "so"], &names), ["some-vm"]);
        assert!(shown(cli, &["banger", "peek", "--x", "so"], &names).is_empty());
        assert_eq!(shown(Cli::command(), &["banger", "logs", "so"], &names), ["some-vm"]);

        // Of the configuration, forwarded ports and files of a VM.
        let here = |words: &[&str]| shown(Cli::command(), words, &names);
        let keys = here(&["banger", "config", "set", ""]);
        assert!(
            ["memory", "env.A", "alias.stand-up"].iter().all(|key| keys.iter().any(|known| known == key)),
            "{keys:?}"
        );
        assert!(keys.iter().all(|key| !key.starts_with('-')), "{keys:?}");
        assert_eq!(here(&["banger", "config", "get", "mem"]), ["memory"]);
        assert_eq!(here(&["banger", "config", "set", "history", ""]), ["full", "shallow", "none"]);
        assert_eq!(here(&["banger", "config", "set", "mise", "t"]), ["true"]);
        assert_eq!(here(&["banger", "config", "set", "image", ""]), ["debian"]);
        assert_eq!(here(&["banger", "port", "remove", ""]), ["8080"]);
        assert_eq!(here(&["banger", "cp", ":"]), [":src/"]);
        let both = shown(
            Cli::command(),
            &["banger", "cp", "sr"],
            &Names { places: vec!["srv:".to_owned(), "box:".to_owned()], ..Names::default() },
        );
        assert_eq!(both, ["src/", "srv:"], "files here, and VMs");

        // What is meant for people to type, each once; a part of a plugin only by its name.
        let all = here(&["banger", ""]);
        assert!(
            all.iter().all(|word| !word.starts_with('-') && word != "." && word != "rm" && word != "ls"),
            "{all:?}"
        );
        assert!(all.contains(&"status".to_owned()) && !all.contains(&"state-proxy".to_owned()), "{all:?}");
        assert!(all.len() < 22, "{all:?}");
        assert_eq!(here(&["banger", "state-"]), ["state-proxy"]);
        assert_eq!(here(&["banger", "rm"]), ["rm"]);
    }
}
