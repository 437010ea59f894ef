//! A command line as far as it has been typed: what may come next in it, and no more.

use std::ffi::{OsStr, OsString};

use clap::builder::Str;
use clap::{Arg, ArgAction, Command, ValueHint};

/// `command` such that what is proposed for the last of `words` fits: commands and values before
/// options, which come when `-` is typed or there is nothing else; a command by its name, and by
/// another one if that is what is typed; the words of a command for the VM only behind `--`.
pub(crate) fn fitted(command: Command, words: &[OsString]) -> Command {
    let (typed, before) =
        words.split_last().map_or((OsStr::new(""), words), |(last, before)| (last.as_os_str(), before));
    let escaped = before.iter().any(|word| word == "--");
    fit(command, typed.is_empty() && !escaped, escaped)
}

fn fit(command: Command, hide_options: bool, escaped: bool) -> Command {
    let aliases: Vec<_> = command.get_all_aliases().map(|alias| Str::from(alias.to_owned())).collect();
    // Hidden ones are found by who types them, and not listed.
    let command = command.visible_alias(None::<&'static str>).aliases(aliases);
    let command = command.mut_args(|argument| match argument.is_positional() {
        false if hide_options => argument.hide(true),
        true if argument.is_last_set() && !escaped => argument.value_hint(ValueHint::Other),
        _ => argument,
    });
    // clap adds its own later, for all to see.
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).hide(true);
    let command = match hide_options && !command.is_disable_help_flag_set() {
        true => command.disable_help_flag(true).disable_version_flag(true).arg(flag("help").short('h')),
        false => command,
    };
    command.mut_subcommands(|command| fit(command, hide_options, escaped))
}
