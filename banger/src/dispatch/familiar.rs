//! Commands of other tools, and the commands of banger that correspond to them: docker(1),
//! podman(1), vagrant(1), docker-compose(1), multipass.

use std::ffi::{OsStr, OsString};

use crate::cli::line::Line;

/// The commands of banger that correspond to a command of another tool.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Familiar {
    /// Sentences, each with one command line to type.
    pub(super) hints: Vec<String>,
    /// Whether a program of this name in the VM may be meant instead.
    pub(super) is_program: bool,
}

/// What corresponds to the command `name` with these words after it; `None` if no other tool has
/// it, or nothing corresponds to it.
pub(super) fn familiar(options: &[OsString], name: &str, rest: &[OsString], cli: &clap::Command) -> Option<Familiar> {
    let of = |hint: &str, is_program| Some(Familiar { hints: vec![hint.to_owned()], is_program });
    match name {
        "run" | "exec" => Some(Familiar { hints: without_run(options, name, rest, cli), is_program: false }),
        volume if is_volume(volume) && options.last().is_some_and(|option| is_volume_option(option)) => {
            of(VOLUME, false)
        }
        "build" => of("build it elsewhere, then: banger image pull docker-archive:FILE", false),
        "shell" | "attach" | "enter" | "connect" | "console" => of("for a shell in the VM: banger", false),
        "up" | "boot" | "launch" => of("a command starts the VM by itself; to only start it: banger start", false),
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

/// What corresponds to docker's `-v HOST:GUEST`.
const VOLUME: &str = "-v is --verbose here; the repository is in the VM already; for other files: banger cp";

/// Whether docker-run(1) takes this as a volume: a path or a name, a colon and an absolute path.
fn is_volume(word: &str) -> bool {
    word.split_once(":/").is_some_and(|(from, to)| !from.is_empty() && !to.starts_with('/'))
}

/// `-v`, also behind other short options.
fn is_volume_option(word: &OsStr) -> bool {
    let word = word.to_string_lossy();
    word == "--volume" || (word.starts_with('-') && !word.starts_with("--") && word.ends_with('v'))
}

/// Takes docker's volumes out of words behind `run`. Whether there was one.
fn take_volumes(words: &mut Vec<OsString>, cli: &clap::Command) -> bool {
    let mut found = false;
    loop {
        let line = Line::split(words.clone(), cli);
        let at = line.options.len();
        let is_one = line.name.is_some_and(|name| is_volume(&name.to_string_lossy()))
            && line.options.last().is_some_and(|option| is_volume_option(option));
        if !is_one {
            return found;
        }
        found = true;
        words.drain(at - 1..=at);
    }
}

/// `run --rm -it make test` as banger has it: its options, `--`, and the command. Before the
/// command of `exec`, docker has the name of a container.
fn without_run(options: &[OsString], name: &str, rest: &[OsString], cli: &clap::Command) -> Vec<String> {
    let mut rest = rest.to_vec();
    let has_volumes = take_volumes(&mut rest, cli);
    let inner = Line::split(rest, cli);
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
    let options: Vec<OsString> = Line::without_json(options).map(OsStr::to_owned).chain(known).collect();
    let separator = [OsString::from("--")];
    let line = |words: &[&[OsString]]| {
        let words: Vec<_> = words.concat().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    };
    let mut hints = match &command[..] {
        [vm, program, ..] if name == "exec" && !program.as_encoded_bytes().starts_with(b"-") => {
            let words = line(&[&options, std::slice::from_ref(vm), &separator, &command[1..]]);
            vec![
                format!("to run a command in a VM by name: banger vm exec {words}"),
                "in this repository's VM: banger -- COMMAND".to_owned(),
            ]
        }
        _ => {
            let words = line(&[&options, if command.is_empty() { &[] } else { &separator }, &command]);
            vec![format!("a command needs no `run` or `exec`: {}", format!("banger {words}").trim_end())]
        }
    };
    let has_image = options.iter().any(|option| option.as_encoded_bytes().starts_with(b"--image"));
    if name == "run" && !command.is_empty() && !has_image {
        hints.push("in another image: banger --rm --image IMAGE -- COMMAND".to_owned());
    }
    hints.extend(has_volumes.then(|| VOLUME.to_owned()));
    hints
}

fn is_terminal_option(word: &OsStr) -> bool {
    ["-i", "-t", "-it", "-ti", "--interactive", "--tty"].iter().any(|option| word == *option)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn hints(options: &str, line: &str) -> Vec<String> {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        familiar(&words(options), name, &words(rest), &crate::cli::Cli::command())
            .map_or_else(Vec::new, |familiar| familiar.hints)
    }

    #[test]
    fn docker_run_and_exec_hints_drop_terminal_options() {
        for (options, line, expected) in [
            ("", "run make", "banger -- make"),
            ("--json", "run make", "banger -- make"),
            ("-e A=1", "exec -it bash -l", "banger -e A=1 -- bash -l"),
            ("", "run --rm -it -e A=1 make test", "banger --rm -e A=1 -- make test"),
            ("", "run -- make test", "banger -- make test"),
            ("", "run", "banger"),
        ] {
            assert_eq!(hints(options, line)[0], format!("a command needs no `run` or `exec`: {expected}"), "{line}");
        }
    }

    #[test]
    fn commands_of_other_tools_map_to_banger_commands() {
        assert!(hints("", "up")[0].ends_with("banger start"));
        assert!(hints("", "pull debian")[0].contains("banger image pull"));
        assert!(hints("", "build -t x .")[0].ends_with("banger image pull docker-archive:FILE"));
        assert!(hints("", "make").is_empty());
    }

    #[test]
    fn first_word_may_be_a_vm_or_image_name() {
        assert_eq!(
            hints("--json", "exec -it -e A=1 foo ls -l"),
            [
                "to run a command in a VM by name: banger vm exec -e A=1 foo -- ls -l",
                "in this repository's VM: banger -- COMMAND"
            ]
        );
        assert_eq!(hints("", "exec make"), ["a command needs no `run` or `exec`: banger -- make"]);
        let image = "in another image: banger --rm --image IMAGE -- COMMAND";
        assert_eq!(hints("", "run -it ubuntu bash")[1..], [image]);
        assert_eq!(hints("", "run"), ["a command needs no `run` or `exec`: banger"]);
        assert_eq!(hints("", "run --image debian -- ls").len(), 1);
    }

    #[test]
    fn docker_volume_option_gets_a_hint() {
        for volume in ["/tmp/r:/src", "./r:/src:ro", "cache:/root/.cache"] {
            assert_eq!(hints("-v", volume), [VOLUME]);
            assert_eq!(hints("-q --rm -itv", volume), [VOLUME]);
            let run = hints("", &format!("run -e A=1 -v {volume} --rm -v {volume} ubuntu ls"));
            assert_eq!(run[0], "a command needs no `run` or `exec`: banger -e A=1 --rm -- ubuntu ls");
            assert_eq!(run.last().unwrap(), VOLUME);
        }
        for (options, word) in [("", "/tmp/r:/src"), ("-q", "/tmp/r:/src"), ("-v", "make"), ("-v", "http://x")] {
            assert!(hints(options, word).is_empty(), "{options} {word}");
        }
    }
}
