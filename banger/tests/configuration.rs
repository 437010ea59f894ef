//! What is generated of the keys of the configuration is as the code has it.

use std::fs;
use std::path::{Path, PathBuf};

use banger::config::{Owner, schema};

fn docs(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(path)
}

#[test]
fn schema_files_are_up_to_date() {
    for (owner, name, command) in [
        (Owner::User, "config.schema.json", "banger config schema"),
        (Owner::Repository, "banger.toml.schema.json", "banger config schema --repo"),
    ] {
        let kept = fs::read_to_string(docs("reference").join(name)).unwrap_or_default();
        assert!(kept == schema::text(&schema::schema(owner)), "docs/reference/{name} is what `{command}` prints");
    }
}

#[test]
fn table_of_keys_is_up_to_date() {
    let page = fs::read_to_string(docs("configuration.md")).unwrap();
    let table = schema::table();
    assert!(page.contains(&table), "docs/configuration.md shall have this table:\n{table}");
}

/// All that is read from the environment by this name is in the one table of it.
#[test]
fn every_banger_variable_is_documented() {
    let page = fs::read_to_string(docs("configuration.md")).unwrap();
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = 0;
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        // Tests name variables that nothing reads.
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let code = fs::read_to_string(&path).unwrap();
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for part in code.split("\"BANGER_").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            if !name.is_empty() && part[name.len()..].starts_with('"') {
                found += 1;
                assert!(page.contains(&format!("`BANGER_{name}`")), "BANGER_{name}, of {}", path.display());
            }
        }
    }
    assert!(found >= 8, "the search finds what it looks for: {found}");
}
