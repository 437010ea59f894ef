//! `banger --list`: what can stand after `banger`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde::Serialize;

use crate::cli::Cli;
use crate::dispatch::{Aliases, is_built_in};
use crate::output::command_output::{CommandOutput, Verbosity};
use crate::plugin::{API, Environment, KnownPlugins, Plugins, describe};

/// All that can stand after `banger`: built-in commands, aliases, plugins, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct CommandList {
    /// The version of the contract with plugins.
    pub plugin_api: u32,
    /// The commands.
    pub commands: Vec<CommandEntry>,
}

/// A command in a [`CommandList`].
#[derive(Clone, Debug, Serialize)]
pub struct CommandEntry {
    /// The word to type.
    pub name: String,
    /// What the word is.
    pub kind: CommandKind,
    /// Other names of a built-in command.
    pub also: Vec<String>,
    /// One line; none: a plugin that says nothing of itself, or was not asked.
    pub description: Option<String>,
    /// The words that an alias stands for.
    pub words: Option<Vec<String>>,
    /// The program of a plugin, the configuration file of an alias.
    pub path: Option<String>,
    /// The kind of command that has the same name and takes precedence.
    pub shadowed_by: Option<CommandKind>,
    /// Why a plugin cannot be run.
    pub problem: Option<String>,
    /// Whether a plugin has no description because it was never run, so that it may not be asked.
    #[serde(skip)]
    pub is_new: bool,
}

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// A command of banger's own.
    BuiltIn,
    /// Words of the user's configuration.
    Alias,
    /// A program `banger-NAME`.
    Plugin,
}

/// Lists all commands. With `ask_plugins`, plugins beside banger, and those that were run before,
/// are run to ask for their descriptions; otherwise nothing is run. `config` is the file that
/// `aliases` are from.
pub fn overview(
    ask_plugins: bool,
    aliases: &Aliases,
    config: Option<&Path>,
    plugins: &Plugins,
    known: &KnownPlugins,
    environment: &Environment,
) -> CommandList {
    let cli = Cli::command();
    let mut commands = built_in(&cli);
    for (name, words) in aliases {
        let mut entry = CommandEntry::new(name, CommandKind::Alias);
        entry.description = Some(format!("stands for: {}", words.join(" ")));
        entry.words = Some(words.clone());
        entry.path = config.map(|path| path.to_string_lossy().into_owned());
        entry.shadowed_by = is_built_in(&cli, OsStr::new(name)).then_some(CommandKind::BuiltIn);
        commands.push(entry);
    }
    commands.extend(of_plugins(&cli, aliases, plugins, known, environment, ask_plugins));
    CommandList { plugin_api: API, commands }
}

impl CommandOutput for CommandList {
    fn text(&self, verbosity: Verbosity) -> String {
        if verbosity.quiet { names(self) } else { text(self) }
    }
}

impl CommandEntry {
    fn new(name: &str, kind: CommandKind) -> CommandEntry {
        let (also, description, words, path, shadowed_by, problem) = (Vec::new(), None, None, None, None, None);
        CommandEntry {
            name: name.to_owned(),
            kind,
            also,
            description,
            words,
            path,
            shadowed_by,
            problem,
            is_new: false,
        }
    }
}

fn built_in(cli: &clap::Command) -> Vec<CommandEntry> {
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let entry = |command: &clap::Command| {
        let mut entry = CommandEntry::new(command.get_name(), CommandKind::BuiltIn);
        entry.also = command.get_visible_aliases().map(str::to_owned).collect();
        entry.description = command.get_about().map(ToString::to_string);
        entry
    };
    shown.map(entry).collect()
}

fn of_plugins(
    cli: &clap::Command,
    aliases: &Aliases,
    plugins: &Plugins,
    known: &KnownPlugins,
    environment: &Environment,
    ask: bool,
) -> Vec<CommandEntry> {
    let mut entries = Vec::new();
    let mut programs: Vec<(usize, PathBuf)> = Vec::new();
    for name in plugins.names() {
        let Some(found) = plugins.find(OsStr::new(&name)) else { continue };
        let mut entry = CommandEntry::new(&name, CommandKind::Plugin);
        entry.path = Some(found.path.to_string_lossy().into_owned());
        entry.problem = found.problem.map(|problem| problem.describe().to_owned());
        if is_built_in(cli, OsStr::new(&name)) {
            entry.shadowed_by = Some(CommandKind::BuiltIn);
        } else if aliases.contains_key(&name) {
            entry.shadowed_by = Some(CommandKind::Alias);
        } else if entry.problem.is_none() && ask {
            programs.push((entries.len(), found.path));
        }
        entries.push(entry);
    }
    let paths: Vec<_> = programs.iter().map(|(_, path)| path.as_path()).collect();
    for ((place, path), answer) in programs.iter().zip(describe(&paths, known, environment)) {
        let entry = &mut entries[*place];
        let Some(answer) = answer else {
            entry.is_new = !known.may_ask(path);
            continue;
        };
        entry.description = Some(answer.description);
        if answer.api > API {
            entry.problem = Some(format!("needs version {} of the contract, this banger has {API}", answer.api));
        }
    }
    entries
}

/// The names of what can be run, a line each.
fn names(overview: &CommandList) -> String {
    let shown = overview.commands.iter().filter(|entry| entry.shadowed_by.is_none());
    shown.map(|entry| banger_vmm::printable(entry.name.as_bytes()) + "\n").collect()
}

fn text(overview: &CommandList) -> String {
    let mut text = String::new();
    let label = |entry: &CommandEntry| {
        let names = [std::slice::from_ref(&entry.name), &entry.also].concat().join(", ");
        banger_vmm::printable(names.as_bytes())
    };
    let width = overview.commands.iter().map(|entry| label(entry).chars().count()).max().unwrap_or_default();
    for (kind, heading) in
        [(CommandKind::BuiltIn, "Built in"), (CommandKind::Alias, "Aliases"), (CommandKind::Plugin, "Plugins")]
    {
        let mut entries = overview.commands.iter().filter(|entry| entry.kind == kind).peekable();
        if entries.peek().is_some() {
            text.push_str(&format!("{}{heading}:\n", if text.is_empty() { "" } else { "\n" }));
        }
        for entry in entries {
            let mut parts: Vec<_> =
                entry.description.iter().map(|text| banger_vmm::printable(text.as_bytes())).collect();
            parts.extend(entry.is_new.then(|| "(run it once to see its description)".to_owned()));
            parts.extend(
                entry
                    .path
                    .iter()
                    .filter(|_| kind == CommandKind::Plugin)
                    .map(|path| format!("[{}]", banger_vmm::printable(path.as_bytes()))),
            );
            parts.extend(entry.problem.iter().map(|problem| format!("(cannot be run: {problem})")));
            parts.extend(entry.shadowed_by.map(|by| match by {
                CommandKind::Alias => "(never run: an alias has its name)".to_owned(),
                CommandKind::BuiltIn | CommandKind::Plugin => "(never run: a built-in command has its name)".to_owned(),
            }));
            text.push_str(&format!("  {:<width$}  {}\n", label(entry), parts.join("  ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn never_run_plugin_has_a_note_about_its_description() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("banger-new", 0o755), ("banger-old", 0o755), ("banger-closed", 0o644)] {
            let program = folder.path().join(name);
            fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        }
        let plugins = Plugins::new(folder.path().as_os_str(), None);
        let known = KnownPlugins::new(Some(&folder.path().join("cache")), None);
        known.note(&folder.path().join("banger-old"));
        let environment = Environment::new("/banger".into(), None).unwrap();
        let shown = |ask: bool| {
            let commands = of_plugins(&Cli::command(), &Aliases::new(), &plugins, &known, &environment, ask);
            text(&CommandList { plugin_api: API, commands })
        };
        let note = "(run it once to see its description)";
        let lines: Vec<String> = shown(true).lines().filter(|line| line.contains(note)).map(str::to_owned).collect();
        assert!(matches!(&lines[..], [line] if line.starts_with("  new ")), "{}", shown(true));
        assert!(!shown(false).contains(note), "nothing was asked");
    }
}
