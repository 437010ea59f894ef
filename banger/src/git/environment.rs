//! Configuration in the environment: the variables `GIT_CONFIG_*` of git-config(1), ENVIRONMENT.
//!
//! Other variables of git's (`GIT_DIR`, `GIT_WORK_TREE` and so on) are not read: the directory one
//! stands in names the workspace.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::config::{quote_name, quote_value};
use super::{GitError, Host, Result};

const COUNT: &str = "GIT_CONFIG_COUNT";
const PARAMETERS: &str = "GIT_CONFIG_PARAMETERS";

impl Host {
    /// The value of one of git's variables.
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// The system's configuration file: `$GIT_CONFIG_SYSTEM` replaces it, `$GIT_CONFIG_NOSYSTEM`
    /// turns both off.
    pub(crate) fn system_config(&self) -> Option<PathBuf> {
        let off = self.variable("GIT_CONFIG_NOSYSTEM").is_some_and(|value| is_true(value.as_bytes()));
        let replaced = self.variable("GIT_CONFIG_SYSTEM").map(PathBuf::from);
        replaced.or_else(|| self.system_config.clone()).filter(|_| !off)
    }

    /// `$GIT_CONFIG_GLOBAL`, which replaces all of the user's configuration files. It may be empty:
    /// then there are none.
    pub(crate) fn global_config(&self) -> Option<PathBuf> {
        self.variable("GIT_CONFIG_GLOBAL").map(PathBuf::from)
    }

    /// The settings in variables, as the text of a configuration file: `GIT_CONFIG_COUNT`, then
    /// `GIT_CONFIG_PARAMETERS`, where `git -c` puts its own for what it runs.
    ///
    /// # Errors
    /// What git itself refuses.
    pub(crate) fn environment_config(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let count = self.variable(COUNT).unwrap_or_default();
        let failed = |reason: String| GitError::malformed("the configuration", COUNT, reason);
        let count = match count.to_str() {
            Some("") => 0,
            number => number
                .and_then(|number| number.trim_start().parse::<i32>().ok())
                .filter(|count| *count >= 0)
                .ok_or_else(|| failed("it is no number of settings".into()))?,
        };
        for number in 0..count {
            let named = |part: &str| {
                let name = format!("GIT_CONFIG_{part}_{number}");
                self.variable(&name).ok_or_else(|| failed(format!("`{name}` is missing")))
            };
            let (key, value) = (named("KEY")?, named("VALUE")?);
            add(&mut text, key.as_bytes(), Some(value.as_bytes())).map_err(failed)?;
        }
        let failed = |reason: String| GitError::malformed("the configuration", PARAMETERS, reason);
        let mut rest = self.variable(PARAMETERS).unwrap_or_default().as_bytes();
        while !rest.is_empty() {
            let (key, value, after) = parameter(rest).ok_or_else(|| failed("its format is not git's".into()))?;
            add(&mut text, &key, value.as_deref()).map_err(failed)?;
            rest = after.trim_ascii_start();
        }
        Ok(text)
    }
}

/// The first setting in the value of `GIT_CONFIG_PARAMETERS`, and what follows: `'key'='value'`,
/// `'key'=` or, as git before 2.31 has it, `'key=value'`. See `parse_config_env_list` in git's
/// `config.c`.
#[expect(clippy::type_complexity, reason = "key, value and rest")]
fn parameter(text: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>, &[u8])> {
    let (key, rest) = unquoted(text)?;
    let ends = |rest: &[u8]| rest.first().is_none_or(u8::is_ascii_whitespace);
    if ends(rest) {
        let mut parts = key.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default().trim_ascii().to_vec();
        return Some((name, parts.next().map(<[u8]>::to_vec), rest));
    }
    let rest = rest.strip_prefix(b"=")?;
    if ends(rest) {
        return Some((key, None, rest));
    }
    let (value, rest) = unquoted(rest)?;
    ends(rest).then_some((key, Some(value), rest))
}

/// A word in single quotes, where a quote or an exclamation mark is outside of them after a
/// backslash: `sq_dequote_step` in git's `quote.c`.
fn unquoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = text.strip_prefix(b"'")?;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\'')?;
        word.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest {
            [b'\\', byte @ (b'\'' | b'!'), b'\'', after @ ..] => {
                word.push(*byte);
                rest = after;
            }
            _ => return Some((word, rest)),
        }
    }
}

/// Adds a setting. `key` is `section.name` or `section.own name.name`; without a value it is true.
fn add(text: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
    let refused = || format!("`{}` is no name of a setting", key.escape_ascii());
    let first = key.iter().position(|byte| *byte == b'.').ok_or_else(refused)?;
    let last = key.iter().rposition(|byte| *byte == b'.').unwrap_or(first);
    let (section, name) = (&key[..first], &key[last + 1..]);
    let is_word = |word: &[u8]| word.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    if section.is_empty() || !is_word(section) || !name.first().is_some_and(u8::is_ascii_alphabetic) || !is_word(name) {
        return Err(refused());
    }
    text.push(b'[');
    text.extend_from_slice(section);
    if last > first {
        let own = &key[first + 1..last];
        if own.contains(&b'\n') || own.contains(&0) {
            return Err(refused());
        }
        text.push(b' ');
        quote_name(text, own);
    }
    text.extend_from_slice(b"]\n\t");
    text.extend_from_slice(name);
    if let Some(value) = value {
        text.extend_from_slice(b" = ");
        quote_value(text, value);
    }
    text.push(b'\n');
    Ok(())
}

/// A boolean in a variable, as git reads it: `git_parse_maybe_bool` in git's `parse.c`.
fn is_true(value: &[u8]) -> bool {
    let word = |word: &str| value.eq_ignore_ascii_case(word.as_bytes());
    let number = || std::str::from_utf8(value).ok().and_then(|value| value.trim().parse::<i64>().ok());
    word("true") || word("yes") || word("on") || number().is_some_and(|number| number != 0)
}
