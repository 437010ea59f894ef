//! Changing a configuration file: comments, order and layout of the rest stay.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use banger_util::file::create_private_directory;
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value as Written};

use super::file::{ConfigFile, Owner, read_text};
use super::key::{KEYS, Key, Stands};
use super::value::{Shape, Value, expected};
use crate::error::{CommandError, ErrorKind};
use crate::host::file::{parts, replace};
use crate::output::suggest;

/// The name of a repository's file, at its root.
pub const REPOSITORY_FILE: &str = "banger.toml";

/// A key as it is named on the command line.
#[derive(Debug)]
pub struct Name {
    /// The key.
    pub key: &'static Key,
    /// Behind a dot: which variable or alias.
    pub entry: Option<String>,
}

impl Name {
    /// Reads `image`, or `env.NAME`.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn parse(text: &str) -> Result<Name, CommandError> {
        let (name, entry) = match text.split_once('.') {
            Some((name, entry)) => (name, Some(entry.to_owned())),
            None => (text, None),
        };
        let Some(key) = Key::named(name) else {
            let error = CommandError::new(format!("there is no key `{text}`")).kind(ErrorKind::Usage);
            return Err(match suggest::nearest(name, KEYS.iter().map(|key| key.name.to_owned())) {
                Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
                None => error.hint("for all keys: banger config"),
            });
        };
        if entry.is_some() && !is_table(key) {
            return Err(
                CommandError::new(format!("`{name}` has no parts, so there is no `{text}`")).kind(ErrorKind::Usage)
            );
        }
        Ok(Name { key, entry })
    }

    /// The value that `text` is for this key.
    ///
    /// # Errors
    /// If it may not have it, in this file.
    pub fn value(&self, text: &str, owner: Owner) -> Result<Value, CommandError> {
        let name = self.key.name;
        if owner == Owner::Repository && self.key.stands == Stands::User {
            let error = CommandError::new(format!("`{name}` does not belong to a repository")).kind(ErrorKind::Usage);
            return Err(error.hint(format!("in your own file: banger config set {name} …")));
        }
        let value = match (self.key.shape, &self.entry) {
            (Shape::Variables, Some(_)) => Ok(Value::Text(text.to_owned())),
            (Shape::Aliases, Some(_)) if text.trim_start().starts_with('[') => {
                Value::from_text(&Shape::List(super::Kind::Text), text)
            }
            (Shape::Aliases, Some(_)) => Ok(Value::Text(text.to_owned())),
            (shape, _) => Value::from_text(&shape, text),
        };
        value.map_err(|may_be| {
            let shown = super::value::short(text);
            let error = CommandError::new(format!("`{name}` cannot be `{shown}`")).kind(ErrorKind::Usage);
            let error =
                error.hint(format!("it may be {}", if may_be.is_empty() { expected(&self.key.shape) } else { may_be }));
            if is_table(self.key) {
                error.hint(format!("one of them: banger config set {name}.NAME …"))
            } else {
                error
            }
        })
    }
}

fn is_table(key: &Key) -> bool {
    matches!(key.shape, Shape::Variables | Shape::Aliases)
}

/// Sets a key in the file at `path`, which is made if need be.
///
/// # Errors
/// If the file cannot be read or written, or would say what it may not.
pub fn set(path: &Path, owner: Owner, name: &Name, value: &Value) -> Result<(), CommandError> {
    change(path, owner, |document| {
        match &name.entry {
            None => put(document.as_table_mut(), name.key.name, written(value)),
            Some(entry) => {
                let table = document.as_table_mut().entry(name.key.name).or_insert_with(|| Item::Table(Table::new()));
                if let Some(table) = table.as_table_like_mut() {
                    put(table, entry, written(value));
                }
            }
        }
        true
    })
    .map(drop)
}

/// Removes a key from the file at `path`. True if it was there.
///
/// # Errors
/// If the file cannot be read or written, or still says what it may not.
pub fn unset(path: &Path, owner: Owner, name: &str) -> Result<bool, CommandError> {
    change(path, owner, |document| {
        if let Some((table, entry)) = name.split_once('.') {
            let Some(table) = document.get_mut(table).and_then(Item::as_table_like_mut) else { return false };
            return table.remove(entry).is_some();
        }
        document.remove(name).is_some()
    })
}

/// Replaces a value where it stands, with what is around it, or adds it.
fn put(table: &mut dyn TableLike, name: &str, mut new: Written) {
    match table.get_mut(name) {
        Some(Item::Value(old)) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        Some(item) => *item = Item::Value(new),
        None => drop(table.insert(name, Item::Value(new))),
    }
}

/// Changes the file at `path`, if `edit` says that it did.
fn change(path: &Path, owner: Owner, edit: impl FnOnce(&mut DocumentMut) -> bool) -> Result<bool, CommandError> {
    let failed = |error: &io::Error| CommandError::io("write", path, error).kind(ErrorKind::Config);
    // The user's file may be a link into a folder that they keep in git.
    let target = if owner == Owner::User { followed(path) } else { path.to_owned() };
    let (folder, _) = parts(&target).ok_or_else(|| failed(&io::ErrorKind::InvalidFilename.into()))?;
    create_private_directory(&folder).map_err(|error| failed(&error))?;
    // Two changes at once must not take each other back.
    let lock = File::open(&folder).map_err(|error| failed(&error))?;
    lock.lock().map_err(|error| failed(&error))?;
    let text = read_text(path, owner)?.unwrap_or_default();
    let mut document: DocumentMut = match text.parse() {
        Ok(document) => document,
        // Its own reader says better where it is wrong.
        Err(error) => {
            ConfigFile::parse(path, owner, text)?;
            return Err(
                CommandError::new(format!("cannot change `{}`: {error}", path.display())).kind(ErrorKind::Config)
            );
        }
    };
    if !edit(&mut document) {
        return Ok(false);
    }
    let text = document.to_string();
    let file = ConfigFile::parse(path, owner, text)?;
    let mode = if owner == Owner::User { 0o600 } else { 0o666 };
    replace(&target, file.text.as_bytes(), mode).map_err(|error| failed(&error))?;
    Ok(true)
}

/// Where links lead, also when nothing is there yet.
fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the kernel follows: path_resolution(7).
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    path
}

fn written(value: &Value) -> Written {
    match value {
        Value::Number(number) => i64::try_from(*number).unwrap_or(i64::MAX).into(),
        Value::Flag(flag) => (*flag).into(),
        Value::Text(_) | Value::Size(_) | Value::Time(_) => value.to_string().into(),
        Value::List(items) => Written::Array(items.iter().collect()),
        Value::Variables(all) => Written::InlineTable(all.iter().map(|(name, text)| (name, text.as_str())).collect()),
        Value::Aliases(all) => {
            let words = |words: &Vec<String>| Written::Array(words.iter().collect());
            let table: InlineTable = all.iter().map(|(name, alias)| (name, words(alias))).collect();
            Written::InlineTable(table)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set_text(path: &Path, name: &str, text: &str) -> Result<(), CommandError> {
        let name = Name::parse(name)?;
        set(path, Owner::User, &name, &name.value(text, Owner::User)?)
    }

    #[test]
    fn set_changes_a_value_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/config.toml");
        set_text(&path, "cpus", "2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "cpus = 2\n");
        fs::write(&path, "# mine\ncpus =  2   # two\n\n[env]  # all\nA = '1' # a\n").unwrap();
        set_text(&path, "cpus", "3").unwrap();
        set_text(&path, "env.B", "x = \"y\"").unwrap();
        set_text(&path, "env.A", "2").unwrap();
        set_text(&path, "memory", "4G").unwrap();
        set_text(&path, "alias.t", "[\"--\", \"make\"]").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for part in [
            "# mine\ncpus =  3   # two\n",
            "memory = \"4G\"\n\n[env]  # all\n",
            "A = \"2\" # a\n",
            "t = [\"--\", \"make\"]",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let file = ConfigFile::read(&path, Owner::User).unwrap().unwrap();
        assert_eq!(file.values["env"].to_string(), r#"{ A = "2", B = "x = \"y\"" }"#);
        assert!(unset(&path, Owner::User, "env.A").unwrap());
        assert!(!unset(&path, Owner::User, "env.A").unwrap());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn invalid_values_are_not_written_but_can_be_unset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "imag = 1 # a mistake\n").unwrap();
        assert!(set_text(&path, "cpus", "2").unwrap_err().message.contains("`imag`"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "imag = 1 # a mistake\n");
        assert!(unset(&path, Owner::User, "imag").unwrap());
        for (name, text) in
            [("cpus", "0"), ("cpus", "many"), ("memory", "1"), ("env", "1"), ("mise", "maybe"), ("setup", "[1]")]
        {
            let error = set_text(&path, name, text).unwrap_err();
            assert_eq!((error.kind, error.hints.is_empty()), (ErrorKind::Usage, false), "{name}");
        }
        for (name, text) in [
            ("owner", "a b"),
            ("owner", "1000:"),
            ("owner", ":5"),
            ("owner", "root:"),
            ("owner", "a:b:c"),
            ("image", "a b"),
            ("image", "/tmp/x.tar"),
            ("image", "oci:"),
            ("default_image_name", "A"),
        ] {
            let error = set_text(&path, name, text).unwrap_err();
            assert_eq!((error.kind, error.message), (ErrorKind::Usage, format!("`{name}` cannot be `{text}`")));
        }
        for (name, text) in [
            ("owner", "1000:1000"),
            ("owner", "dev"),
            ("image", "debian-bookworm-minimal"),
            ("image", "a..b"),
            ("image", "docker://ghcr.io/a/b:1"),
            ("image", "oci-archive:/tmp/a b.tar"),
        ] {
            assert!(Name::parse(name).unwrap().value(text, Owner::User).is_ok(), "{text}");
        }
        assert_eq!(set_text(&path, "cpu", "1").unwrap_err().hints, ["did you mean `cpus`?"]);
        assert!(set_text(&path, "cpus.x", "1").is_err());
        let of_user = Name::parse("ssh_key_path").unwrap();
        assert!(of_user.value("/key", Owner::User).is_ok() && of_user.value("/key", Owner::Repository).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn set_keeps_symlinks_and_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("config.toml"), folder.path().join("dotfiles"));
        std::os::unix::fs::symlink("dotfiles", &path).unwrap();
        set_text(&path, "cpus", "2").unwrap();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
        set_text(&path, "cpus", "3").unwrap();
        assert!(path.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "cpus = 3\n");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o644);
    }

    /// Lines of a file that is as somebody wrote it: each key once, comments and spaces anywhere.
    fn file() -> impl Strategy<Value = String> {
        let comment = "( *# ?[a-z=\\[\"' ]{0,12})?";
        let lines = proptest::sample::subsequence(
            vec!["cpus = 2", "memory = '2G'", "mise=false", "setup = [ 'a', # b\n  'c' ]", "net   =   \"user\""],
            0..=5,
        );
        let table =
            proptest::option::of(proptest::sample::subsequence(vec!["A = '1'", "B = \"2\"", "C='''3'''"], 0..=3));
        (lines, table, proptest::collection::vec(comment, 12)).prop_map(|(lines, table, comments)| {
            let header = table.as_ref().map(|_| "[env]");
            let all = lines.into_iter().chain(header).chain(table.into_iter().flatten());
            let lines = all.zip(comments).map(|(line, comment)| format!("#{comment}\n{line}{comment}\n\n"));
            lines.collect()
        })
    }

    proptest! {
        // Each case syncs two files to the disk.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn set_then_unset_restores_the_file(
            text in file(),
            (name, value) in proptest::sample::select(vec![("disk", "64G"), ("image", "x"), ("env.Z", "1"), ("alias.t", "status")]),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("config.toml");
            fs::write(&path, &text).unwrap();
            set_text(&path, name, value).unwrap();
            let after = fs::read_to_string(&path).unwrap();
            for line in text.lines() {
                prop_assert!(after.lines().any(|other| other == line), "{line:?} is not in\n{after}");
            }
            unset(&path, Owner::User, name).unwrap();
            let after = fs::read_to_string(&path).unwrap();
            // A table that was made for it stays, empty.
            let without = |text: &str, header: &str| text.replace(header, "").trim_end().to_owned();
            let header = match name.split_once('.') { Some((table, _)) => format!("[{table}]\n"), None => String::new() };
            if text.contains(&header) {
                prop_assert_eq!(after.trim_end(), text.trim_end());
            } else {
                prop_assert_eq!(without(&after, &header), text.trim_end());
            }
        }
    }
}
