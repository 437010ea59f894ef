//! What editors and people are told of the keys: JSON schemas of both files, and the table of the
//! documentation.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};

use super::file::Owner;
use super::key::{KEYS, Key, Stands};
use super::value::{Kind, Shape};

/// The schema of a file, by JSON Schema 2020-12.
pub fn schema(owner: Owner) -> Json {
    let keys = KEYS.iter().filter(|key| owner == Owner::User || key.stands != Stands::User);
    let properties: Map<_, _> = keys.map(|key| (key.name.to_owned(), property(key, owner))).collect();
    let title = match owner {
        Owner::User => "banger's config.toml",
        Owner::Repository => "banger.toml",
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// A schema as it is kept in a file.
pub fn text(schema: &Json) -> String {
    serde_json::to_string_pretty(schema).expect("a JSON value has a JSON form") + "\n"
}

fn property(key: &Key, owner: Owner) -> Json {
    let mut property = match key.shape {
        Shape::One(kind) => one(kind),
        Shape::List(kind) => json!({ "anyOf": [{ "type": "array", "items": one(kind) }, one(kind)] }),
        Shape::Variables => {
            json!({ "type": "object", "propertyNames": one(Kind::Variable), "additionalProperties": { "type": ["string", "number", "boolean"] } })
        }
        Shape::Aliases => {
            let words = json!({ "type": ["string", "array"], "items": { "type": "string" } });
            json!({ "type": "object", "additionalProperties": words })
        }
    };
    property["description"] = description(key, owner).into();
    if let Some(default) = key.default {
        property["default"] = match key.shape {
            Shape::One(Kind::Flag) => json!(default == "true"),
            _ => default.into(),
        };
    }
    property
}

fn description(key: &Key, owner: Owner) -> String {
    let mut text = key.about.to_owned();
    if key.stands == Stands::Trusted && owner == Owner::Repository {
        text.push_str(" Ignored until the repository is trusted: `banger trust`.");
    }
    text
}

fn one(kind: Kind) -> Json {
    match kind {
        Kind::Text => json!({ "type": "string", "minLength": 1 }),
        Kind::Image => json!({ "type": "string", "pattern": "^[^/\\s]" }),
        Kind::User => json!({ "type": "string", "pattern": "^[^:\\s]+(:[^:\\s]+)?$" }),
        Kind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Size(_) => {
            json!({ "type": ["string", "integer"], "pattern": "^[0-9]+(\\.[0-9]+)?([MmGgTt]([Ii]?[Bb])?)?$" })
        }
        Kind::Time => json!({ "type": ["string", "integer"], "pattern": "^[0-9]+(\\.[0-9]+)?[smh]?$" }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Variable => json!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" }),
        Kind::Path => json!({ "type": "string", "pattern": "^(/|~/)" }),
        Kind::Location => json!({ "type": "string", "pattern": "^(/|~/|https?:|file:)" }),
        Kind::InRepository => json!({ "type": "string", "pattern": "^[^/]" }),
    }
}

/// The keys as a table in Markdown.
pub fn table() -> String {
    let mut table = "| key | what | default | files | variable | option |\n|---|---|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let default = key.default.map_or_else(|| key.without.to_owned(), |default| format!("`{default}`"));
        let files = match key.stands {
            Stands::Anywhere => "both",
            Stands::Trusted => "both; the repository's with [trust](#trust)",
            Stands::User => "the user's",
        };
        let quoted = |text: &str| format!("`{text}`");
        let variable = key.variable().as_deref().map(quoted).unwrap_or_default();
        let option = key.flag.map(quoted).unwrap_or_default();
        let about = key.about.replace('|', "\\|");
        writeln!(table, "| `{}` | {about} | {default} | {files} | {variable} | {option} |", key.name)
            .expect("strings take what they are given");
    }
    table
}
