//! Aliases: names that the user gives to the beginnings of command lines.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::{CommandError, ErrorKind};

/// The words that each alias stands for.
pub type Aliases = BTreeMap<String, Vec<String>>;

/// No configuration file is longer, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Reads the table `[alias]` of a configuration file. An alias is a list of words, or a text of words with spaces between them.
///
/// # Errors
/// If there is a file and it cannot be read, or the table is not as it may be.
pub fn read(config: &Path) -> Result<Aliases, CommandError> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        alias: BTreeMap<String, Words>,
    }
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Words {
        Text(String),
        List(Vec<String>),
    }
    let mut text = String::new();
    match File::open(config).and_then(|file| file.take(MAX_CONFIG + 1).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Aliases::new()),
        Err(error) => return Err(CommandError::io("read", config, &error).kind(ErrorKind::Config)),
        Ok(length) if length as u64 > MAX_CONFIG => {
            let message = format!("`{}` is longer than {MAX_CONFIG} bytes", config.display());
            return Err(CommandError::new(message).kind(ErrorKind::Config));
        }
        Ok(_) => {}
    }
    let wrong = |error: toml::de::Error| {
        let message = format!("cannot understand `{}`: {}", config.display(), error.message());
        CommandError::new(message).kind(ErrorKind::Config)
    };
    let config: Config = toml::from_str(&text).map_err(wrong)?;
    let words = |words| match words {
        Words::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
        Words::List(list) => list,
    };
    Ok(config.alias.into_iter().map(|(name, alias)| (name, words(alias))).collect())
}

/// Aliases on their way through one command line: read when they are first needed, each used once.
pub(super) struct Expansion<F> {
    read: Option<F>,
    aliases: Aliases,
    used: Vec<String>,
}

impl<F: FnOnce() -> Result<Aliases, CommandError>> Expansion<F> {
    pub(super) fn new(read: F) -> Self {
        Expansion { read: Some(read), aliases: Aliases::new(), used: Vec::new() }
    }

    fn aliases(&mut self) -> Result<&Aliases, CommandError> {
        if let Some(read) = self.read.take() {
            self.aliases = read()?;
        }
        Ok(&self.aliases)
    }

    /// What `name` stands for, if it is an alias.
    pub(super) fn expand(&mut self, name: &OsStr) -> Result<Option<Vec<String>>, CommandError> {
        let Some(name) = name.to_str() else { return Ok(None) };
        let Some(words) = self.aliases()?.get(name).cloned() else { return Ok(None) };
        let again = self.used.iter().any(|used| used == name);
        self.used.push(name.to_owned());
        if again {
            let message = format!("aliases without end: {}", self.used.join(" → "));
            let error = CommandError::new(message).kind(ErrorKind::AliasLoop);
            return Err(error.hint("see them all: banger --list"));
        }
        if words.is_empty() {
            let error = CommandError::new(format!("the alias `{name}` stands for nothing"));
            return Err(error.kind(ErrorKind::Config).hint(format!("give it words: {name} = [\"--\", \"make\"]")));
        }
        Ok(Some(words))
    }

    /// The names of all.
    pub(super) fn names(&mut self) -> Result<Vec<String>, CommandError> {
        Ok(self.aliases()?.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_a_list_or_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        assert_eq!(read(&file).unwrap(), Aliases::new());
        std::fs::write(&file, "image = 'x'\n[alias]\nt = ['--', 'make', 'a b']\ns = 'status  --json'\n").unwrap();
        let aliases = read(&file).unwrap();
        assert_eq!(aliases["t"], ["--", "make", "a b"]);
        assert_eq!(aliases["s"], ["status", "--json"]);
        for wrong in ["[alias]\nt = 1\n", "[alias]\nt = 'a'\nt = 'b'\n", "[alias\n", "alias = 3\n"] {
            std::fs::write(&file, wrong).unwrap();
            assert_eq!(read(&file).unwrap_err().kind, ErrorKind::Config, "{wrong}");
        }
        std::fs::write(&file, b"[alias]\nt = '\xff'\n").unwrap();
        assert_eq!(read(&file).unwrap_err().kind, ErrorKind::Config);
        assert_eq!(read(folder.path()).unwrap_err().kind, ErrorKind::Config);
    }
}
