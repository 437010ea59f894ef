//! Where the user's npm takes packages from: npm-config(7).

use std::env;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use banger_image::NPM_REGISTRY;

/// The longest `.npmrc` that is looked at, in bytes.
const MAX_NPMRC: u64 = 1 << 20;

/// The registry, a URL without whatever proves who the user is, whose home folder is `home`.
pub(crate) fn registry(home: Option<&Path>) -> String {
    registry_with(&|name| env::var(name).ok(), home)
}

fn registry_with(variable: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> String {
    let file = || {
        let mut text = String::new();
        let file = File::open(home?.join(".npmrc")).ok()?;
        file.take(MAX_NPMRC).read_to_string(&mut text).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once('='));
        lines.filter(|(key, _)| key.trim() == "registry").map(|(_, value)| value.trim().to_owned()).next_back()
    };
    let named = ["npm_config_registry", "NPM_CONFIG_REGISTRY"].into_iter().find_map(variable).or_else(file);
    let is_plain = |address: &String| address.starts_with("http") && !address.contains(['@', '$', ' ']);
    named.filter(is_plain).map_or_else(|| NPM_REGISTRY.to_owned(), |address| address.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npm_registry_comes_from_user_configuration() {
        let home = tempfile::tempdir().unwrap();
        let of = |value: Option<&str>| {
            registry_with(&|name| value.filter(|_| name == "npm_config_registry").map(str::to_owned), Some(home.path()))
        };
        assert_eq!(of(None), NPM_REGISTRY);
        std::fs::write(
            home.path().join(".npmrc"),
            "//npm.example/:_authToken=secret\nregistry = https://npm.example/all/\n",
        )
        .unwrap();
        assert_eq!(of(None), "https://npm.example/all");
        assert_eq!(of(Some("http://127.0.0.1:4873/")), "http://127.0.0.1:4873");
        assert_eq!(of(Some("https://user:secret@npm.example/")), NPM_REGISTRY);
    }
}
