//! What a plugin proposes for the words behind its name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::question::Question;
use super::{Environment, FoundPlugin, PREFIX};

/// What the name of the program starts with that proposes for a plugin. Only a plugin that brings
/// one is asked: to be run with arguments that it does not know while somebody types would not be
/// expected of it.
pub(super) const COMPLETER: &str = "banger_complete-";
/// The most that it may say, in bytes.
const MAX_ANSWER: usize = 256 << 10;
/// How long somebody waits who has pressed TAB.
const LIMIT: Duration = Duration::from_secs(1);
/// How much is shown of what a proposal is, in characters.
const MAX_SHOWN: usize = 200;

/// What the word that is being typed may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The whole word.
    pub value: String,
    /// What it is, in one line.
    pub about: Option<String>,
}

/// Asks the program beside the plugin, if there is one. `words` are those behind the plugin's name,
/// the last being typed. None: it says nothing.
pub fn propose(
    plugin: &FoundPlugin,
    words: &[OsString],
    here: Option<&Path>,
    environment: &Environment,
) -> Option<Vec<Proposal>> {
    let program = completer(plugin)?;
    let question =
        Question { arguments: words, folder: here.unwrap_or(Path::new("/")), most: MAX_ANSWER, limit: LIMIT };
    Some(parse(&question.ask(&program, environment)?))
}

fn completer(plugin: &FoundPlugin) -> Option<PathBuf> {
    let name = plugin.path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let program = plugin.path.with_file_name(format!("{COMPLETER}{name}"));
    let is_program = program.is_file() && access(&program, AccessFlags::X_OK).is_ok();
    (is_program && plugin.problem.is_none()).then_some(program)
}

/// Lines of a word, or a word, a tab and what it is. What a shell could take for something else
/// than a word is left out.
fn parse(answer: &[u8]) -> Vec<Proposal> {
    let lines = answer.split(|&byte| byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    let proposal = |line: &str| {
        let (value, about) = line.split_once('\t').map_or((line, None), |(value, about)| (value, Some(about)));
        let about = about.map(|about| banger_vmm::printable(about.as_bytes()).chars().take(MAX_SHOWN).collect());
        let is_word = !value.is_empty() && !value.contains(char::is_control);
        is_word.then(|| Proposal { value: value.to_owned(), about })
    };
    lines.filter_map(proposal).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(path: PathBuf, body: &str) -> PathBuf {
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn only_the_completer_program_is_run() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let plugin = FoundPlugin { path: script(at("banger-x"), "touch \"$0.ran\""), problem: None };
        let environment = Environment::new("/b".into(), None).unwrap();
        let words = ["one two", ""].map(OsString::from);
        let ask = || propose(&plugin, &words, Some(folder.path()), &environment);
        assert_eq!(ask(), None);
        let answer = r#"pwd; printf '%s\t%s\n' "$2-" "$1 $# $BANGER" bad"#;
        script(at("banger_complete-x"), &format!("{answer}; printf 'a\\033[2J\\n\\nb\\t\\033c\\n\\377\\n'"));
        let proposal =
            |value: &str, about: Option<&str>| Proposal { value: value.into(), about: about.map(Into::into) };
        let here = fs::canonicalize(folder.path()).unwrap();
        let expected = [
            proposal(here.to_str().unwrap(), None),
            proposal("-", Some("one two 2 /b")),
            proposal("bad", Some("")),
            proposal("b", Some("^[c")),
        ];
        assert_eq!(ask().unwrap(), expected);
        for body in ["exit 1", "exec yes", "sleep 1000"] {
            script(at("banger_complete-x"), body);
            assert_eq!(ask(), None, "{body}");
        }
        fs::set_permissions(at("banger_complete-x"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(ask(), None);
        assert!(!at("banger-x.ran").exists());
    }
}
