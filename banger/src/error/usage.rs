//! Errors of the command line, as clap(1) finds them, with hints that are right for banger.

use clap::error::{ContextKind, ContextValue};

use super::{CommandError, ErrorKind};

impl From<&clap::Error> for CommandError {
    /// clap has its errors only as text: a paragraph, then tips, then the usage.
    fn from(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let mut paragraphs = text.split("\n\n");
        let message = paragraphs.next().unwrap_or_default();
        let words: Vec<_> = message.trim_start_matches("error: ").split_whitespace().collect();
        let usage = paragraphs.find_map(|paragraph| paragraph.trim().strip_prefix("Usage: ")).unwrap_or_default();
        let takes_command = usage.contains("-- <COMMAND>...");
        let tips = text.lines().filter_map(|line| line.trim_start().strip_prefix("tip: ")).map(str::to_owned);
        // Behind `--` is a command, so an option there is not passed as a value: it is run.
        let tips = tips.filter(|tip| !(takes_command && tip.starts_with("to pass ")));
        let known_elsewhere = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(option)) if takes_command => familiar(option).map(str::to_owned),
            _ => None,
        };
        let usages = usage.lines().map(|line| format!("usage: {}", line.trim()));
        CommandError {
            hints: known_elsewhere.into_iter().chain(tips).chain(usages).collect(),
            ..CommandError::new(words.join(" ")).kind(ErrorKind::Usage)
        }
    }
}

/// What does here what an unknown option of a run does in docker-run(1).
fn familiar(option: &str) -> Option<&'static str> {
    match option.split('=').next().unwrap_or(option) {
        "-i" | "-t" | "--interactive" | "--tty" => Some(
            "omit `-i` and `-t`: a command always has standard input, and a terminal where there is one (not with -T)",
        ),
        "--volume" | "--mount" => Some("the repository is in the VM already; for other files: banger cp"),
        "--name" => Some("to make a VM that has a name of its own: banger vm run --name NAME"),
        "-m" => Some("memory of the VM: --memory 4G"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn hints(line: &str) -> Vec<String> {
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        CommandError::from(&error).hints
    }

    #[test]
    fn docker_run_options_get_explanatory_hints() {
        for line in ["banger -it", "banger --rm -i -- bash", "banger --tty -- bash", "banger -ti -- bash"] {
            assert!(hints(line)[0].starts_with("omit `-i` and `-t`"), "{line}: {:?}", hints(line));
        }
        assert!(hints("banger --name=x -- bash")[0].contains("banger vm run --name"));
        for line in ["banger -it", "banger --verison", "banger -Z -- x"] {
            assert!(!hints(line).iter().any(|hint| hint.contains("to pass")), "{line}: {:?}", hints(line));
        }
        assert_eq!(hints("banger --verison")[0], "a similar argument exists: '--version'");
    }

    #[test]
    fn value_starting_with_dash_gets_a_hint() {
        assert!(
            hints("banger config get -x")[0].starts_with("to pass '-x' as a value"),
            "{:?}",
            hints("banger config get -x")
        );
    }
}
