//! Values, and what they may be.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path};
use std::time::Duration;

use banger_image::Location;
use banger_image::oci::{Reference, Source};
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::output::units;

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// One value.
    One(Kind),
    /// A list of values.
    List(Kind),
    /// A table of texts by the names of variables.
    Variables,
    /// A table of words by the names of aliases.
    Aliases,
}

/// What one value may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A text that is not empty.
    Text,
    /// An image: a name, a reference in a registry, or files of this machine.
    Image,
    /// A user of the guest, by name or number, with or without `:group`.
    User,
    /// A whole number from the first to the second.
    Number(u64, u64),
    /// `true` or `false`.
    Flag,
    /// A size such as `4G`, which this function reads into MiB.
    Size(fn(&str) -> Result<u64, String>),
    /// A time such as `30m`; `0` is never.
    Time,
    /// One of these.
    Choice(&'static [&'static str]),
    /// The name of a variable.
    Variable,
    /// A path of this machine, absolute or beginning with `~/`.
    Path,
    /// A path of this machine, absolute or beginning with `~/`, or a URL: `http:`, `https:` or
    /// `file:`.
    Location,
    /// A path in the repository, relative to its root.
    InRepository,
}

impl PartialEq for Kind {
    /// By name; what there may be within is not compared.
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A value that is as its key wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A size in MiB; shown as people write it.
    Size(#[serde(serialize_with = "shown_size")] u64),
    /// A time; shown as people write it.
    Time(#[serde(serialize_with = "shown_time")] Duration),
    /// A list.
    List(Vec<String>),
    /// Variables.
    Variables(BTreeMap<String, String>),
    /// Aliases.
    Aliases(BTreeMap<String, Vec<String>>),
}

/// What is wrong with a value, and where in the text.
#[derive(Debug)]
pub struct Wrong {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// In words, such as `is no size`.
    pub what: String,
    /// What it may be.
    pub may_be: String,
    /// What to do about it, where that says more than what it may be.
    pub hint: Option<String>,
}

impl Wrong {
    /// What to do about it.
    pub fn hint(self) -> String {
        let Wrong { may_be, hint, .. } = self;
        hint.unwrap_or_else(|| format!("it may be {may_be}"))
    }
}

impl Value {
    /// From a file.
    ///
    /// # Errors
    /// If it is not as `shape` wants it.
    pub fn from_toml(shape: &Shape, value: &Spanned<DeValue<'_>>) -> Result<Value, Wrong> {
        match shape {
            Shape::One(kind) => one(*kind, value),
            Shape::List(kind) => match value.get_ref() {
                DeValue::Array(items) => {
                    let items = items.iter().map(|item| Ok(one(*kind, item)?.to_string()));
                    Ok(Value::List(items.collect::<Result<_, Wrong>>()?))
                }
                // As on the command line, one item may stand alone.
                DeValue::String(_) => Ok(Value::List(vec![one(*kind, value)?.to_string()])),
                _ => Err(wrong_type(value, &format!("a text or a list, such as {}", example_of_list(*kind)))),
            },
            Shape::Variables => {
                let entries = table(value, "a table, such as { CI = \"1\" }")?.iter().map(|(name, value)| {
                    check(Kind::Variable, name.get_ref()).map_err(|may_be| wrong(name.span(), "is no name", may_be))?;
                    let text = variable(value).ok_or_else(|| match value.get_ref().as_integer() {
                        Some(number) => Wrong {
                            hint: Some(format!("put it in quotes: \"{number}\"")),
                            ..wrong_type(value, "a text")
                        },
                        None => wrong_type(value, "a text"),
                    })?;
                    if text.contains('\0') {
                        return Err(wrong(value.span(), "holds a NUL byte", "a variable cannot hold one".to_owned()));
                    }
                    Ok((name.get_ref().to_string(), text))
                });
                Ok(Value::Variables(entries.collect::<Result<_, Wrong>>()?))
            }
            Shape::Aliases => {
                let entries = table(value, "a table, such as { t = [\"--\", \"make\"] }")?.iter();
                let entries = entries.map(|(name, value)| Ok((name.get_ref().to_string(), words(value)?)));
                Ok(Value::Aliases(entries.collect::<Result<_, Wrong>>()?))
            }
        }
    }

    /// From a variable, or from the command line. A list is written as in a file; one item may
    /// stand alone.
    ///
    /// # Errors
    /// What it may be, in words.
    pub fn from_text(shape: &Shape, text: &str) -> Result<Value, String> {
        match shape {
            Shape::One(kind @ Kind::Number(..)) => {
                check(*kind, text)?;
                text.parse().map(Value::Number).map_err(|_| expected(shape))
            }
            Shape::One(Kind::Flag) => match text {
                "true" | "1" => Ok(Value::Flag(true)),
                "false" | "0" => Ok(Value::Flag(false)),
                _ => Err(expected(shape)),
            },
            Shape::One(kind) => from_str(*kind, text),
            Shape::List(kind) if !text.trim_start().starts_with('[') => {
                Ok(Value::List(vec![from_str(*kind, text)?.to_string()]))
            }
            Shape::List(_) | Shape::Variables | Shape::Aliases => {
                let value = DeValue::parse(text).map_err(|_| expected(shape))?;
                Value::from_toml(shape, &value).map_err(|wrong| wrong.may_be)
            }
        }
    }
}

fn one(kind: Kind, value: &Spanned<DeValue<'_>>) -> Result<Value, Wrong> {
    let mistaken = |may_be: String| {
        let number = value.get_ref().as_integer().map(|number| number.to_string());
        let text = value.get_ref().as_str().map(str::to_owned).or(number).unwrap_or_default();
        let what = match value.get_ref().as_str() {
            Some("") => "is empty".to_owned(),
            _ => format!("`{}` is not what it may be", banger_vmm::printable(short(&text).as_bytes())),
        };
        Wrong { span: value.span(), what, may_be, hint: None }
    };
    match (kind, value.get_ref()) {
        (Kind::Number(..), DeValue::Integer(_)) => {
            let number = integer(value).ok_or_else(|| mistaken(expected(&Shape::One(kind))))?;
            check(kind, &number.to_string()).map_err(mistaken)?;
            Ok(Value::Number(number))
        }
        (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
        // As on the command line, a size may be a number of MiB, and a time one of seconds.
        (Kind::Size(_) | Kind::Time, DeValue::Integer(_)) => {
            let number = integer(value).ok_or_else(|| mistaken(expected(&Shape::One(kind))))?;
            from_str(kind, &number.to_string()).map_err(mistaken)
        }
        (Kind::Number(..) | Kind::Flag, _) => Err(wrong_type(value, &expected(&Shape::One(kind)))),
        (_, DeValue::String(text)) => from_str(kind, text).map_err(mistaken),
        _ => Err(wrong_type(value, &format!("a text, such as {}", example(kind)))),
    }
}

/// The text that a variable has whose value is this: a number in decimal digits, and `true` or
/// `false`, are texts already.
fn variable(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn integer(value: &Spanned<DeValue<'_>>) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn from_str(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Size(read) => read(text).map(Value::Size),
        Kind::Time if text == "0" => Ok(Value::Time(Duration::ZERO)),
        Kind::Time => units::duration(text).map(Value::Time).map_err(|_| expected(&Shape::One(kind))),
        kind => check(kind, text).map(|()| Value::Text(text.to_owned())),
    }
}

/// Whether `text` may be a `kind`; else what it may be.
fn check(kind: Kind, text: &str) -> Result<(), String> {
    let fits = match kind {
        Kind::Text => !text.is_empty() && !text.contains('\0'),
        Kind::Image => is_image(text),
        Kind::User => {
            let is_name =
                |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
            let mut parts = text.split(':');
            parts.clone().count() <= 2 && parts.all(is_name)
        }
        Kind::Number(least, most) => text.parse().is_ok_and(|number: u64| (least..=most).contains(&number)),
        Kind::Choice(choices) => choices.contains(&text),
        Kind::Variable => {
            let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
            text.starts_with(is_start) && text.chars().all(|c| is_start(c) || c.is_ascii_digit())
        }
        Kind::Path => is_path(text),
        Kind::Location => is_path(text) || text.parse::<Location>().is_ok(),
        Kind::InRepository => {
            let parts = Path::new(text).components();
            !text.is_empty()
                && !text.contains('\0')
                && parts.into_iter().all(|part| matches!(part, Component::Normal(_)))
        }
        Kind::Flag | Kind::Size(_) | Kind::Time => true,
    };
    if fits { Ok(()) } else { Err(expected(&Shape::One(kind))) }
}

/// Whether an image may have this name. Whether there is such an image is not asked.
fn is_image(text: &str) -> bool {
    // A store has names that are no references, such as `a..b`.
    let is_name = || {
        let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(is_letter)
    };
    match Source::is_in_files(text) {
        true => !text.ends_with(':') && !text.contains('\0'),
        false => is_name() || text.parse::<Reference>().is_ok(),
    }
}

fn is_path(text: &str) -> bool {
    (text.starts_with('/') || text.starts_with("~/")) && !text.contains('\0')
}

/// What a value may be, in words.
pub(super) fn expected(shape: &Shape) -> String {
    match shape {
        Shape::One(Kind::Text) => "a text that is not empty".to_owned(),
        Shape::One(Kind::Image) => {
            "an image's name, a reference such as `debian:12`, or `oci:FOLDER`, `oci-archive:FILE`, `docker-archive:FILE`"
                .to_owned()
        }
        Shape::One(Kind::User) => {
            "a user name or number, optionally with a group: `dev`, `1000:1000`".to_owned()
        }
        Shape::One(Kind::Number(least, most)) => format!("a number from {least} to {most}"),
        Shape::One(Kind::Flag) => "`true` or `false`".to_owned(),
        Shape::One(Kind::Size(_)) => "a size, such as `4G`".to_owned(),
        Shape::One(Kind::Time) => "a time, such as `30m`; `0` is never".to_owned(),
        Shape::One(Kind::Choice(choices)) => {
            let quoted: Vec<_> = choices.iter().map(|choice| format!("`{choice}`")).collect();
            quoted.join(" or ")
        }
        Shape::One(Kind::Variable) => "a variable's name: letters, digits and `_`".to_owned(),
        Shape::One(Kind::Path) => "a path that begins with `/` or `~/`".to_owned(),
        Shape::One(Kind::Location) => {
            "a URL, http:, https: or file:, or a path that begins with `/` or `~/`".to_owned()
        }
        Shape::One(Kind::InRepository) => "a path in the repository, relative to its root, without `..`".to_owned(),
        Shape::List(kind) => format!("a list; of each item: {}", expected(&Shape::One(*kind))),
        Shape::Variables => "a table of texts".to_owned(),
        Shape::Aliases => "a table; each alias is a text, or a list of words".to_owned(),
    }
}

/// How one value is written in a file.
fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Size(_) => "\"4G\"",
        Kind::Time => "\"30m\"",
        Kind::Number(..) => "4",
        Kind::Flag => "true",
        Kind::Choice(choices) => match choices.first() {
            Some(&"user") => "\"user\"",
            Some(&"agent") => "\"agent\"",
            _ => "\"full\"",
        },
        Kind::Variable => "\"NAME\"",
        Kind::Path => "\"/etc/file\"",
        Kind::Location => "\"https://images.example.com/catalog.toml\"",
        Kind::InRepository => "\"package-lock.json\"",
        Kind::Image => "\"debian:12\"",
        Kind::User => "\"1000:1000\"",
        Kind::Text => "\"text\"",
    }
}

/// How a list of one item is written in a file.
fn example_of_list(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "\"npm ci\"",
        kind => example(kind),
    }
}

fn table<'a, 'i>(value: &'a Spanned<DeValue<'i>>, wanted: &str) -> Result<&'a DeTable<'i>, Wrong> {
    value.get_ref().as_table().ok_or_else(|| wrong_type(value, wanted))
}

/// An alias is a list of words, or a text of words with spaces between them.
fn words(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Wrong> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
        DeValue::Array(items) => {
            let word = |item: &Spanned<DeValue<'_>>| {
                item.get_ref().as_str().map(str::to_owned).ok_or_else(|| wrong_type(item, "a text"))
            };
            items.iter().map(word).collect()
        }
        _ => Err(wrong_type(value, "a text, or a list of texts")),
    }
}

fn wrong(span: Range<usize>, what: &str, may_be: String) -> Wrong {
    Wrong { span, what: what.to_owned(), may_be, hint: None }
}

fn wrong_type(value: &Spanned<DeValue<'_>>, wanted: &str) -> Wrong {
    let is = match value.get_ref() {
        DeValue::String(_) => "is a text",
        DeValue::Integer(_) | DeValue::Float(_) => "is a number",
        DeValue::Boolean(_) => "is `true` or `false`",
        DeValue::Datetime(_) => "is a date",
        DeValue::Array(_) => "is a list",
        DeValue::Table(_) => "is a table",
    };
    wrong(value.span(), is, wanted.to_owned())
}

/// Enough of a text to know it by.
pub(super) fn short(text: &str) -> String {
    const ENOUGH: usize = 60;
    let mut short: String = text.chars().take(ENOUGH).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl fmt::Display for Value {
    /// As one would write it on a command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |item: &String| serde_json::to_string(item).expect("a text has a JSON form");
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Number(number) => number.fmt(f),
            Value::Flag(flag) => flag.fmt(f),
            Value::Size(mib) => f.write_str(&units::size(*mib)),
            Value::Time(time) => f.write_str(&units::time(*time)),
            Value::List(items) => write!(f, "[{}]", items.iter().map(quoted).collect::<Vec<_>>().join(", ")),
            Value::Variables(all) => {
                let all = all.iter().map(|(name, value)| format!("{name} = {}", quoted(value)));
                write!(f, "{{ {} }}", all.collect::<Vec<_>>().join(", "))
            }
            Value::Aliases(all) => {
                let all = all.iter().map(|(name, words)| format!("{name} = {}", Value::List(words.clone())));
                write!(f, "{{ {} }}", all.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's way")]
fn shown_size<S: serde::Serializer>(mib: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::size(*mib))
}

fn shown_time<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::time(*time))
}
