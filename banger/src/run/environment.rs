//! Variables for the command.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use banger_agent::protocol::WireBytes;

use crate::config::Settings;
use crate::error::{CommandError, ErrorKind};

/// The variables of `--env-file`, then those of `--env`: later ones win.
///
/// # Errors
/// A file that cannot be read, or a line or option that is no variable.
pub(super) fn variables(options: &[OsString], files: &[PathBuf]) -> Result<Vec<(WireBytes, WireBytes)>, CommandError> {
    let mut all = Vec::new();
    for file in files {
        let content = std::fs::read(file).map_err(|error| CommandError::io("read", file, &error))?;
        for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii_start();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let place = || format!("line {} of `{}`", number + 1, file.display());
            all.extend(variable(exported(line)).ok_or_else(|| not_a_variable(&place()))?);
        }
    }
    for option in options {
        all.extend(
            variable(option.as_bytes())
                .ok_or_else(|| not_a_variable(&format!("`{}` of `--env`", banger_vmm::printable(option.as_bytes()))))?,
        );
    }
    Ok(all)
}

/// The line without the `export` that a file has which shells read too.
fn exported(line: &[u8]) -> &[u8] {
    let rest = line.strip_prefix(b"export").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace));
    rest.map_or(line, <[u8]>::trim_ascii_start)
}

/// `NAME=VALUE`, or `NAME` for what is set here: nothing if it is not. None if it is neither.
#[expect(clippy::option_option, reason = "no variable at all, and a variable that is not set, are different things")]
fn variable(text: &[u8]) -> Option<Option<(WireBytes, WireBytes)>> {
    let (name, value) = match text.iter().position(|byte| *byte == b'=') {
        Some(equals) => (&text[..equals], Some(text[equals + 1..].to_vec())),
        None => (text, env::var_os(OsString::from_vec(text.to_vec())).map(OsStringExt::into_vec)),
    };
    let is_name = !name.is_empty() && !text.contains(&0) && !name.contains(&b' ');
    is_name.then(|| value.map(|value| (WireBytes(name.to_vec()), WireBytes(value))))
}

fn not_a_variable(place: &str) -> CommandError {
    CommandError::new(format!("{place} is no variable"))
        .kind(ErrorKind::Usage)
        .hint("write NAME=VALUE, or NAME for the value that is set here")
}

/// The variables of the configuration: those that are written there, then those whose values are
/// set here.
pub(super) fn of_settings(settings: &Settings) -> Vec<(WireBytes, WireBytes)> {
    let written = settings.env().map(|(name, value)| (name.into(), value.into()));
    let from_host = settings.env_from_host().iter();
    let set = from_host.filter_map(|name| Some((name.as_str().into(), env::var_os(name)?.into())));
    written.chain(set).collect()
}

/// What a terminal in the guest has to know of the one here.
pub(super) fn of_terminal(has_terminal: bool) -> Vec<(WireBytes, WireBytes)> {
    if !has_terminal {
        return Vec::new();
    }
    let passed = ["TERM", "COLORTERM"].into_iter().filter_map(|name| Some((name.into(), env::var_os(name)?.into())));
    passed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_precede_options_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, "# comment\n\nA=1\n  B=two words = x\r\nCARGO_PKG_NAME\nNOT_SET_ANYWHERE\n").unwrap();
        let all = variables(&["A=2".into(), "C=".into()], std::slice::from_ref(&file)).unwrap();
        let all: Vec<_> = all.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let expected = [("A", "1"), ("B", "two words = x"), ("CARGO_PKG_NAME", "banger"), ("A", "2"), ("C", "")];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn env_file_lines_may_have_export_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, "export A=1\n export \t B=\"x\" # y\nexport CARGO_PKG_NAME\nexport=2\nexported=3\n")
            .unwrap();
        let all = variables(&[], std::slice::from_ref(&file)).unwrap();
        let all: Vec<_> = all.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let expected =
            [("A", "1"), ("B", "\"x\" # y"), ("CARGO_PKG_NAME", "banger"), ("export", "2"), ("exported", "3")];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        std::fs::write(&file, "export A B=1\n").unwrap();
        assert!(variables(&[], &[file]).is_err());
    }

    #[test]
    fn invalid_variables_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, "A=1\n=2\n").unwrap();
        assert!(variables(&[], std::slice::from_ref(&file)).unwrap_err().message.contains("line 2"));
        assert!(variables(&["=x".into()], &[]).is_err());
        assert!(variables(&[], &[folder.path().join("missing")]).is_err());
    }
}
