//! Aliases: names of the user for the beginnings of command lines.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use crate::config::{ConfigFile, Owner, Value};
use crate::error::{CommandError, ErrorKind};

/// Aliases by name, and the words that each stands for.
pub type Aliases = BTreeMap<String, Vec<String>>;

/// The aliases of a configuration file.
///
/// # Errors
/// If the file exists and cannot be read, or has an invalid alias.
pub fn read(config: &Path) -> Result<Aliases, CommandError> {
    let file = ConfigFile::read(config, Owner::User)?;
    match file.and_then(|mut file| file.values.remove("alias")) {
        Some(Value::Aliases(aliases)) => Ok(aliases),
        _ => Ok(Aliases::new()),
    }
}

/// The aliases of one command line: read when they are first needed, each used at most once.
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

    /// The names of all aliases.
    pub(super) fn names(&mut self) -> Result<Vec<String>, CommandError> {
        Ok(self.aliases()?.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alias_is_a_list_or_a_text() {
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
