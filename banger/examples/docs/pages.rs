//! The pages of documentation that are made from the code: manual pages, the reference of the
//! command line, the table of errors. banger's plugins are in them too.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use banger::cli::Cli;
use banger::error::ErrorKind;
use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;

/// The command lines of plugins in this repository.
#[path = "../../../plugins/image/src/cli.rs"]
mod image;
#[path = "../../../plugins/kernel/src/cli.rs"]
mod kernel;
#[path = "../../../plugins/ssh/src/cli.rs"]
mod ssh;
#[path = "../../../plugins/vm/src/cli.rs"]
mod vm;

/// Around what is generated in a page that is written by hand.
const BEGIN: &str = "<!-- generated: cargo run -p banger --example docs -->\n";
const END: &str = "<!-- end -->\n";

/// All pages, by their paths.
///
/// # Errors
/// If a page that is generated in part cannot be read, or has no place for it.
pub(crate) fn pages() -> io::Result<BTreeMap<PathBuf, String>> {
    let docs = docs();
    let mut all = vec![Cli::command()];
    let ssh = [ssh::SshCli::command(), ssh::ConfigCli::command(), ssh::ProxyCli::command()];
    for plugin in [image::Cli::command(), kernel::Cli::command(), vm::Cli::command()].into_iter().chain(ssh) {
        // Of its manual pages, as with those of git's commands.
        let name = plugin.get_name().replace(' ', "-");
        all.push(plugin.display_name(name));
    }
    let all: Vec<_> = all.into_iter().map(|cli| built(cli.disable_help_subcommand(true))).collect();
    let mut pages = BTreeMap::new();
    all.iter().try_for_each(|cli| manuals(cli, &manuals_folder(), &mut pages))?;
    pages.insert(docs.join("reference/cli.md"), reference(&all));
    let exit_codes = docs.join("reference/exit-codes.md");
    let page = with_generated(&fs::read_to_string(&exit_codes)?, &kinds())?;
    pages.insert(exit_codes, page);
    Ok(pages)
}

fn built(mut cli: Command) -> Command {
    cli.build();
    cli
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Where the manual pages are, and nothing else is.
pub(crate) fn manuals_folder() -> PathBuf {
    docs().join("man")
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// A manual page for `command`, and for each below it.
fn manuals(command: &Command, folder: &Path, pages: &mut BTreeMap<PathBuf, String>) -> io::Result<()> {
    let usage = command.get_overridden_usage().map_or_else(|| synopsis(command), ToString::to_string);
    let man = Man::new(command.clone().override_usage(usage));
    let mut page = Vec::new();
    man.render(&mut page)?;
    pages.insert(folder.join(man.get_filename()), String::from_utf8_lossy(&page).into_owned());
    shown(command).try_for_each(|command| manuals(command, folder, pages))
}

/// `banger stop [-f|--force] [VM]`, with the values of options and the `--` before a command, which
/// [`Man`] leaves out.
fn synopsis(command: &Command) -> String {
    let mut words = vec![command.get_bin_name().unwrap_or(command.get_name()).to_owned()];
    let shown = || command.get_arguments().filter(|argument| !argument.is_hide_set());
    let is_list = |argument: &Arg| {
        let is_many = argument.get_num_args().is_some_and(|count| count.max_values() > 1);
        is_many || matches!(argument.get_action(), clap::ArgAction::Append)
    };
    let optional = |argument: &Arg, text: String| {
        let text = if argument.is_required_set() { text } else { format!("[{text}]") };
        if is_list(argument) { text + "..." } else { text }
    };
    for argument in shown().filter(|argument| !argument.is_positional()) {
        let short = argument.get_short().map(|short| format!("-{short}"));
        let long = argument.get_long().map(|long| format!("--{long}"));
        let name = short.into_iter().chain(long).collect::<Vec<_>>().join("|");
        let value = if argument.get_action().takes_values() { format!(" {}", values(argument)) } else { String::new() };
        words.push(optional(argument, name + &value));
    }
    for argument in shown().filter(|argument| argument.is_positional()) {
        words.push(match argument.is_last_set() {
            true => format!("[-- {}...]", values(argument)),
            false => optional(argument, values(argument)),
        });
    }
    if command.has_subcommands() {
        words.push(if command.is_subcommand_required_set() { "<COMMAND>" } else { "[<COMMAND>]" }.to_owned());
    }
    words.join(" ")
}

/// `<NAME>`
fn values(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ")
}

fn reference(all: &[Command]) -> String {
    let mut page = format!("# The command line\n\n{BEGIN}");
    all.iter().for_each(|cli| section(cli, &mut page));
    page.push_str(END);
    page
}

fn section(command: &Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let mut blocks = vec![format!("\n## {name}")];
    blocks.extend(command.get_about().map(|about| format!("{about}.")));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").lines().map(str::trim).collect::<Vec<_>>().join("\n");
    blocks.push(format!("```\n{usage}\n```"));
    let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        blocks.push(format!("Also: {}", aliases.join(", ")));
    }
    // What goes with every command is said once.
    let is_own = |argument: &&Arg| name == "banger" || !(argument.is_global_set() || argument.get_id() == "help");
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set()).filter(is_own);
    let rows: Vec<_> =
        arguments.map(|argument| format!("| {} | {} |", label(argument), cell(&help(argument)))).collect();
    if !rows.is_empty() {
        blocks.push(format!("| | |\n|---|---|\n{}", rows.join("\n")));
    }
    blocks.extend(command.get_after_help().map(|after| format!("```\n{after}\n```")));
    page.push_str(&(blocks.join("\n\n") + "\n"));
    for command in shown(command) {
        section(command, page);
    }
}

/// `-e`, `--env <NAME>`
fn label(argument: &Arg) -> String {
    let takes_value = argument.get_action().takes_values();
    let value = if takes_value { values(argument) } else { String::new() };
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let mut options: Vec<_> = short.into_iter().chain(long).collect();
    match options.last_mut() {
        Some(last) if takes_value => write!(last, " {value}").expect("strings take what they are given"),
        Some(_) => {}
        None => options.push(value),
    }
    options.iter().map(|option| format!("`{option}`")).collect::<Vec<_>>().join(", ")
}

fn help(argument: &Arg) -> String {
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<_> = argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        help.push_str(&format!("; {}", values.join(", ")));
    }
    if argument.is_global_set() {
        help.push_str(" (with every command)");
    }
    help
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<").replace('\n', " ")
}

/// The kinds of errors.
fn kinds() -> String {
    let mut table = "| kind | exit code | meaning |\n|---|---|---|\n".to_owned();
    for kind in ErrorKind::ALL {
        table.push_str(&format!("| `{kind}` | {} | {} |\n", kind.status(), kind.meaning()));
    }
    table
}

/// `page` with what is between the two marks replaced.
fn with_generated(page: &str, generated: &str) -> io::Result<String> {
    let missing = || io::Error::other("the page does not say where the generated part goes");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok([before, BEGIN, "\n", generated, "\n", END, after].concat())
}
