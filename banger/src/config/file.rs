//! One configuration file: reading it, and saying where in it something is wrong.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use toml::de::DeTable;

use super::key::{KEYS, Key, Stands};
use super::value::{Value, short};
use crate::error::{CommandError, ErrorKind};
use crate::host::permissions;
use crate::output::suggest;

/// No configuration file is longer, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The user's: `config.toml`.
    User,
    /// What all who work on a repository share: its `banger.toml`.
    Repository,
}

/// A file that has been read, and says nothing that it may not.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub owner: Owner,
    /// Its bytes, which trust is in.
    pub text: String,
    /// What it says, by the names of keys.
    pub values: BTreeMap<&'static str, Value>,
}

impl ConfigFile {
    /// Reads the file at `path`; none if there is none.
    ///
    /// # Errors
    /// If it cannot be read, is too long, or says what it may not. The error has the place.
    pub fn read(path: &Path, owner: Owner) -> Result<Option<ConfigFile>, CommandError> {
        read_text(path, owner)?.map(|text| ConfigFile::parse(path, owner, text)).transpose()
    }

    /// Reads `text`, which is or shall be in the file at `path`.
    ///
    /// # Errors
    /// If it says what it may not.
    pub fn parse(path: &Path, owner: Owner, text: String) -> Result<ConfigFile, CommandError> {
        let source = Source { path, text: &text };
        let table = DeTable::parse(&text).map_err(|error| {
            let span = error.span().unwrap_or(text.len()..text.len());
            source.error(&span, error.message().lines().next().unwrap_or("this is not TOML"))
        })?;
        let mut values = BTreeMap::new();
        for (name, value) in table.get_ref() {
            let key = Key::named(name.get_ref()).ok_or_else(|| source.unknown(&name.span(), name.get_ref(), owner))?;
            if owner == Owner::Repository && key.stands == Stands::User {
                let error = source.error(&name.span(), &format!("`{}` does not belong to a repository", key.name));
                return Err(error.hint("it names things of this machine, so it stands in your own config.toml"));
            }
            // It would have what is in the file read in its own VM.
            let is_in_files = |text: &str| is_image_in_files(key, text);
            if owner == Owner::Repository && value.get_ref().as_str().is_some_and(is_in_files) {
                let error = source.error(&name.span(), "a repository may not name files of this machine");
                return Err(error.hint("name an image, or one of a registry; files are for `--image`"));
            }
            let value = Value::from_toml(&key.shape, value).map_err(|wrong| {
                let error = source.error(&wrong.span, &format!("`{}`: this {}", key.name, wrong.what));
                error.hint(wrong.hint())
            })?;
            values.insert(key.name, value);
        }
        Ok(ConfigFile { path: path.to_owned(), owner, text, values })
    }
}

fn is_image_in_files(key: &Key, text: &str) -> bool {
    let is_path = ["/", "./", "../", "~"].iter().any(|start| text.starts_with(start));
    key.name == "image" && (is_path || banger_image::oci::Source::is_in_files(text))
}

/// The text of the file at `path`; none if there is none.
///
/// # Errors
/// If it cannot be read, is too long, or is no text.
pub(super) fn read_text(path: &Path, owner: Owner) -> Result<Option<String>, CommandError> {
    let wrong = |what: &str| CommandError::new(format!("`{}` {what}", path.display())).kind(ErrorKind::Config);
    let failed = |error: &io::Error| CommandError::io("read", path, error).kind(ErrorKind::Config);
    // A FIFO would be waited for; and a repository could have a link to whatever the user can read,
    // of which an error shows a line.
    let no_link = if owner == Owner::Repository { libc::O_NOFOLLOW } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY | no_link);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
        Err(error) if no_link != 0 && error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(wrong("is a link").hint("a repository's configuration is a file of its own"));
        }
        Err(error) => return Err(failed(&error)),
    };
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        return Err(wrong(if kind.is_dir() { "is a folder" } else { "is no file" })
            .hint("the configuration is a file; remove what is there, or make it one"));
    }
    if owner == Owner::User {
        permissions::check(path, &metadata)?;
        permissions::check_entry(path.parent().unwrap_or(Path::new("/")))?;
    }
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(wrong(&format!("is longer than {MAX_LENGTH} bytes")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            Err(Source { path, text: &text }.error(&(valid..valid + 1), "this is no UTF-8"))
        }
    }
}

/// A text and where it is from.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// An error at `span`: its line and column, counted in characters from 1, and the line itself.
    fn error(&self, span: &Range<usize>, what: &str) -> CommandError {
        let floor = |mut at: usize| {
            at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (floor(span.start), floor(span.end.max(span.start)));
        let begin = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let number = self.text[..begin].matches('\n').count() + 1;
        let line = self.text[begin..].lines().next().unwrap_or_default();
        let column = self.text[begin..start].chars().count();
        let place = format!("{}:{number}:{}", self.path.display(), column + 1);
        let mut error = CommandError::new(format!("{place}: {what}")).kind(ErrorKind::Config);
        let (shown, marks) = excerpt(line, column, self.text[start..end].lines().next().unwrap_or_default());
        let margin = " ".repeat(number.to_string().len());
        error.details = vec![format!("{number} | {shown}"), format!("{margin} | {marks}")];
        error
    }

    fn unknown(&self, span: &Range<usize>, name: &str, owner: Owner) -> CommandError {
        let error = self.error(span, &format!("there is no key `{}`", short(name)));
        let stands = |key: &&Key| owner == Owner::User || key.stands != Stands::User;
        let known = KEYS.iter().filter(stands).map(|key| key.name.to_owned());
        match suggest::nearest(name, known) {
            Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
            None => error.hint("all keys: banger config schema, or docs/configuration.md"),
        }
    }
}

/// The part of a line around what is wrong, which begins at `column`, and the marks below it. What
/// a terminal would not show as one column is replaced, so that the marks fit.
fn excerpt(line: &str, column: usize, wrong: &str) -> (String, String) {
    const BEFORE: usize = 60;
    const WIDTH: usize = 100;
    let skipped = column.saturating_sub(BEFORE);
    let one_column = |c: char| {
        if c == '\t' {
            ' '
        } else if c.is_control() {
            '\u{fffd}'
        } else {
            c
        }
    };
    let shown: String = line.chars().skip(skipped).take(WIDTH).map(one_column).collect();
    let width = wrong.trim_end().chars().count().clamp(1, (WIDTH - (column - skipped)).max(1));
    (shown, format!("{}{}", " ".repeat(column - skipped), "^".repeat(width)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn error(owner: Owner, text: &str) -> CommandError {
        let error = ConfigFile::parse(Path::new("c.toml"), owner, text.to_owned()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Config);
        error
    }

    #[test]
    fn config_errors_have_position_excerpt_and_suggestion() {
        let unknown = error(Owner::User, "# so\ncpus = 2\n  imag = \"x\" # y\n");
        assert_eq!(unknown.message, "c.toml:3:3: there is no key `imag`");
        assert_eq!(unknown.details, ["3 |   imag = \"x\" # y", "  |   ^^^^"]);
        assert_eq!(unknown.hints, ["did you mean `image`?"]);
        let wrong = error(Owner::Repository, "cpus = \"two\"\n");
        assert_eq!(wrong.message, "c.toml:1:8: `cpus`: this is a text");
        assert_eq!(
            (&wrong.details[1][..], &wrong.hints[0][..]),
            ("  |        ^^^^^", "it may be a number from 1 to 255")
        );
        for (text, what, hint) in [
            ("env = { A = 0xff }\n", "this is a number", "put it in quotes: \"0xff\""),
            ("setup = 3\n", "this is a number", "it may be a text or a list, such as \"npm ci\""),
            ("owner = \"\"\n", "this is empty", "it may be a user name or number"),
        ] {
            let error = error(Owner::User, text);
            assert!(error.message.ends_with(what) && error.hints[0].starts_with(hint), "{error:?}");
        }
        let long = error(Owner::User, &format!("image = \"{}\" x\n", "ä".repeat(500)));
        assert!(long.message.starts_with("c.toml:1:512: "), "{}", long.message);
        assert!(long.details.iter().all(|line| line.chars().count() < 120), "{:?}", long.details);
    }

    #[test]
    fn repository_config_cannot_use_a_local_image() {
        for image in ["oci:/srv/layout", "docker-archive:/etc/shadow", "oci-archive:x:y"] {
            let text = format!("image = \"{image}\"\n");
            assert!(error(Owner::Repository, &text).message.ends_with("may not name files of this machine"), "{image}");
            ConfigFile::parse(Path::new("c.toml"), Owner::User, text).unwrap();
        }
        ConfigFile::parse(Path::new("c.toml"), Owner::Repository, "image = \"oci/layout:1\"\n".to_owned()).unwrap();
    }

    #[test]
    fn invalid_values_are_refused_with_position() {
        for (text, place, part) in [
            ("cpus = 0", "1:8", "`0` is not"),
            ("cpus = 256", "1:8", "not what it may be"),
            ("cpus = -1", "1:8", "`-1`"),
            ("cpus = 99999999999999999999", "1:8", "999"),
            ("cpus = 1.5", "1:8", "a number"),
            ("memory = \"12\"", "1:10", "`12`"),
            ("memory = true", "1:10", "is `true` or `false`"),
            ("disk = \"1P\"", "1:8", "`1P`"),
            ("net = \"bridge\"", "1:7", "`bridge`"),
            ("history = [\"full\"]", "1:11", "a list"),
            ("idle_timeout = \"soon\"", "1:16", "`soon`"),
            ("setup = 3", "1:9", "a number"),
            ("setup = \"\"", "1:9", "this is empty"),
            ("setup = [\"a\", 3]", "1:15", "a number"),
            ("setup_inputs = [\"../x\"]", "1:17", "`../x`"),
            ("setup_inputs = [\"/etc/passwd\"]", "1:17", "`/etc/passwd`"),
            ("mise = \"no\"", "1:8", "a text"),
            ("env = { A = 0xff }", "1:13", "a number"),
            ("env = { A = [1] }", "1:13", "a list"),
            ("[env]\n\"A B\" = \"1\"", "2:1", "no name"),
            ("[env]\nA = \"\\u0000\"", "2:5", "NUL"),
            ("env_from_host = [\"A=B\"]", "1:18", "`A=B`"),
            ("image = \"a\"\nimage = \"b\"", "2:1", "duplicate key"),
            ("image = ", "1:9", ""),
            ("[image\n", "1:7", ""),
            ("image = { x = 1 }", "1:9", "a table"),
            ("image = 1979-05-27", "1:9", "a date"),
        ] {
            for owner in [Owner::User, Owner::Repository] {
                let error = error(owner, text);
                let message = &error.message;
                assert!(
                    message.starts_with(&format!("c.toml:{place}: ")) && message.contains(part),
                    "{text}: {message}"
                );
            }
        }
        for text in ["ca_certificates = [\"pem\"]", "ssh_key_path = \"key\"", "cpus = 256", "alias = 3"] {
            error(Owner::User, text);
        }
    }

    #[test]
    fn scalars_are_accepted_for_lists_and_texts() {
        let values =
            |text: &str| ConfigFile::parse(Path::new("c.toml"), Owner::Repository, text.to_owned()).unwrap().values;
        let lists = values("setup = \"npm ci\"\nsetup_inputs = \"package.json\"\nenv_from_host = \"TOKEN\"\n");
        let shown: Vec<_> = lists.values().map(ToString::to_string).collect();
        assert_eq!(shown, ["[\"TOKEN\"]", "[\"npm ci\"]", "[\"package.json\"]"]);
        let env = values("[env]\nA = 1\nB = true\nC = 1.50\nD = -7\nE = \"x\"\n");
        assert_eq!(env["env"].to_string(), r#"{ A = "1", B = "true", C = "1.50", D = "-7", E = "x" }"#);
        let sizes = values("memory = \"8GiB\"\ndisk = \"0.5TB\"\n");
        assert_eq!((sizes["memory"].to_string(), sizes["disk"].to_string()), ("8G".into(), "512G".into()));
    }

    #[test]
    fn idle_timeout_error_hints_how_to_write_never() {
        for text in ["never", "1 day", "-1", "0s"] {
            let error = error(Owner::User, &format!("idle_timeout = \"{text}\"\n"));
            assert_eq!(error.hints, ["it may be a time, such as `30m`; `0` is never"], "{text}");
        }
    }

    #[test]
    fn repository_config_cannot_set_user_only_keys() {
        for key in KEYS.iter().filter(|key| key.stands == Stands::User) {
            let error = error(Owner::Repository, &format!("{} = 1", key.name));
            assert!(error.message.contains("does not belong to a repository"), "{}", error.message);
        }
    }

    #[test]
    fn unreadable_config_file_errors_name_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banger.toml");
        let read = |owner| ConfigFile::read(&path, owner);
        assert!(read(Owner::User).unwrap().is_none());
        fs::create_dir(&path).unwrap();
        assert!(read(Owner::User).unwrap_err().message.ends_with("is a folder"));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b' '; MAX_LENGTH as usize + 1]).unwrap();
        assert!(read(Owner::User).unwrap_err().message.contains("longer than"));
        fs::write(&path, b"# \xc3\xa4\nimage = \"\xff\"").unwrap();
        assert!(read(Owner::User).unwrap_err().message.ends_with(":2:10: this is no UTF-8"));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(Owner::User).unwrap_err().message.ends_with("is no file"));
        fs::remove_file(&path).unwrap();
        fs::write(folder.path().join("secret"), "password").unwrap();
        std::os::unix::fs::symlink("secret", &path).unwrap();
        assert!(read(Owner::Repository).unwrap_err().message.ends_with("is a link"));
        assert!(read(Owner::User).unwrap_err().message.contains(":1:"));
        let deep = format!("env = {}", "[".repeat(100_000));
        assert!(ConfigFile::parse(&path, Owner::User, deep).is_err());
    }
}
