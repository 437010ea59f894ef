//! Names that other tools give to commands, and what does the same here: docker(1), podman(1), vagrant(1), docker-compose(1), multipass.

use std::ffi::{OsStr, OsString};

use super::line::Line;

/// What does here what an unknown command does elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Familiar {
    /// A sentence with the command line to type.
    pub(super) hint: String,
    /// Whether a program of this name may be meant too, in the VM.
    pub(super) is_program: bool,
}

/// What `name`, with these words after it, would be here; none: no other tool has it, or nothing here is like it.
pub(super) fn familiar(options: &[OsString], name: &str, rest: &[OsString], cli: &clap::Command) -> Option<Familiar> {
    let of = |hint: &str, is_program| Some(Familiar { hint: hint.to_owned(), is_program });
    match name {
        "run" | "exec" => Some(Familiar { hint: without_run(options, rest, cli), is_program: false }),
        "shell" | "attach" | "enter" | "connect" | "console" => of("for a shell in the VM: banger", false),
        "up" | "boot" | "launch" => {
            of("a command starts the VM by itself; to start it without one: banger start", false)
        }
        "down" | "suspend" => of("to stop the VM: banger stop", false),
        "halt" | "poweroff" | "shutdown" => of("to stop the VM: banger stop", true),
        "kill" => of("to stop the VM at once: banger stop --force", true),
        "destroy" | "remove" => of("to delete the VM: banger delete", false),
        "ps" => of("for a list of VMs: banger list", true),
        "top" | "stats" => of("for what running VMs take: banger vm stats", true),
        "inspect" | "info" | "show" => of("to show the VM: banger status", false),
        "images" => of("for a list of images: banger image list", false),
        "pull" => of("to pull an image: banger image pull IMAGE", false),
        "create" => of("to make a VM of its own name: banger vm create --name NAME", false),
        "rename" => of("to rename a VM: banger vm rename VM NAME", true),
        "clean" | "gc" => of("to remove what nobody needs: banger prune", false),
        "version" => of("for the version: banger --version", false),
        _ => None,
    }
}

/// `run --rm -it make test` as banger has it: its options, `--`, and the command.
fn without_run(options: &[OsString], rest: &[OsString], cli: &clap::Command) -> String {
    let inner = Line::split(rest.to_vec(), cli);
    let (known, command) = match inner.name {
        Some(name) => (inner.options, [name].into_iter().chain(inner.rest).collect()),
        // `run -- make`, or `run --rm` and no command: a shell.
        None => match inner.options.iter().position(|word| word == "--") {
            Some(end) => (inner.options[..end].to_vec(), inner.options[end + 1..].to_vec()),
            None => (inner.options, Vec::new()),
        },
    };
    // A command has a terminal where there is one.
    let known = known.into_iter().filter(|word| !is_terminal_option(word));
    let options = Line::without_json(options).map(OsStr::to_owned).chain(known);
    let separator = (!command.is_empty()).then(|| OsString::from("--"));
    let words: Vec<OsString> = options.chain(separator).chain(command).collect();
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let words = words.join(" ");
    format!("a command needs no `run` or `exec`: {}", format!("banger {words}").trim_end())
}

fn is_terminal_option(word: &OsStr) -> bool {
    ["-i", "-t", "-it", "-ti", "--interactive", "--tty"].iter().any(|option| word == *option)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn hint(options: &str, line: &str) -> Option<String> {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        familiar(&words(options), name, &words(rest), &crate::cli::Cli::command()).map(|familiar| familiar.hint)
    }

    #[test]
    fn run_is_left_away_with_its_terminal_options() {
        for (options, line, expected) in [
            ("", "run make", "banger -- make"),
            ("--json", "run make", "banger -- make"),
            ("-e A=1", "exec -it bash -l", "banger -e A=1 -- bash -l"),
            ("", "run --rm -it -e A=1 make test", "banger --rm -e A=1 -- make test"),
            ("", "run -- make test", "banger -- make test"),
            ("", "run", "banger"),
        ] {
            let hint = hint(options, line).unwrap();
            assert_eq!(hint, format!("a command needs no `run` or `exec`: {expected}"), "{line}");
        }
    }

    #[test]
    fn a_name_of_another_tool_leads_to_a_command_that_exists() {
        assert!(hint("", "up").unwrap().ends_with("banger start"));
        assert!(hint("", "pull debian").unwrap().contains("banger image pull"));
        assert_eq!(hint("", "make"), None);
    }
}
