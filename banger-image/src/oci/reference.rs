//! Names of images in registries: `[registry/]repository[:tag][@digest]`, as docker(1) reads them.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// What is meant when no registry is named.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The longest repository, and the longest tag (OCI distribution specification, "Pulling
/// manifests").
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;
/// Characters of the readable part of a store name: with a dash and eight digits, a dot and twelve,
/// it is a valid name.
const MAX_READABLE: usize = 40;

/// The reference of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host, possibly with a port.
    pub registry: String,
    /// The repository, such as `library/debian`.
    pub repository: String,
    /// The tag, such as `12`; `latest` if neither tag nor digest was given.
    pub tag: Option<String>,
    /// The digest of the manifest. It takes precedence over a tag.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Whether `word` is meant as a reference, and not as the name of an image in the store or the
    /// catalog: names have none of `/:@`.
    #[must_use]
    pub fn is_meant_by(word: &str) -> bool {
        word.contains(['/', ':', '@'])
    }

    /// The default name of the image in the store: a readable part, and a digest of the whole
    /// reference, so that different references have different names.
    #[must_use]
    pub fn store_name(&self) -> String {
        let last = self.repository.rsplit('/').next().unwrap_or_default();
        store_name(&format!("{last}-{}", self.tag.as_deref().unwrap_or_default()), &self.to_string())
    }

    /// The name of the manifest in requests: the digest if there is one, else the tag.
    pub(super) fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

/// A name for the store: the readable part, and a digest of `whole`.
pub(super) fn store_name(readable: &str, whole: &str) -> String {
    let readable = readable.to_ascii_lowercase();
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
    let readable: String = readable.chars().map(letter).take(MAX_READABLE).collect();
    let readable = readable.trim_matches(['-', '.', '_']);
    let readable = if readable.is_empty() { "image" } else { readable };
    format!("{readable}-{}", &blake3::hash(whole.as_bytes()).to_hex()[..8])
}

impl fmt::Display for Reference {
    /// In full: equal references have equal texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        let wrong = |reason: &str| Error::Reference { text: text.to_owned(), reason: reason.to_owned() };
        let rest = text.strip_prefix("docker://").unwrap_or(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|reason| wrong(&reason))?)),
            None => (rest, None),
        };
        // A colon before the last slash is that of a port.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            _ => (DEFAULT_REGISTRY, path.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository,
        };
        if !is_host(registry) {
            return Err(wrong("its registry is no host name"));
        }
        if repository.len() > MAX_REPOSITORY || !repository.split('/').all(is_component) {
            return Err(wrong(
                "a repository is lower-case letters and digits, with single separators of . _ - and / between",
            ));
        }
        let is_tag = |tag: &str| {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            (1..=MAX_TAG).contains(&tag.len())
                && tag.bytes().next().is_some_and(word)
                && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag is up to 128 letters, digits, and . _ -"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Reference { registry: registry.to_ascii_lowercase(), repository, tag, digest })
    }
}

/// `host`, `host:port`, `[address]:port`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (None, rest.strip_prefix(':')),
        Some(_) => return false,
        None => text.split_once(':').map_or((Some(text), None), |(host, port)| (Some(host), Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.is_none_or(|host| host.len() < 254 && host.split('.').all(label))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// One part of a repository: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let separators = bytes.split(|&b| is_word(b)).filter(|separator| !separator.is_empty());
    let is_separator =
        |separator: &[u8]| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-');
    bytes.first().copied().is_some_and(is_word)
        && bytes.last().copied().is_some_and(is_word)
        && separators.into_iter().all(is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::name;

    fn read(text: &str) -> Reference {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn references_parse_as_in_docker() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("debian:12", "docker.io/library/debian:12".to_owned()),
            ("docker.io/debian", "docker.io/library/debian:latest".to_owned()),
            ("docker://index.docker.io/a/b:x", "docker.io/a/b:x".to_owned()),
            ("ghcr.io/owner/name", "ghcr.io/owner/name:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/a/b:v1.0_2", "localhost:5000/a/b:v1.0_2".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("Registry.Example/a--b/c__d", "registry.example/a--b/c__d:latest".to_owned()),
            (&format!("debian@{digest}"), format!("docker.io/library/debian@{digest}")),
            (&format!("debian:12@{digest}"), format!("docker.io/library/debian:12@{digest}")),
        ];
        for (text, whole) in cases {
            assert_eq!(read(text).to_string(), whole, "{text}");
            assert_eq!(read(&whole), read(text));
        }
        assert_eq!(read(&format!("debian:12@{digest}")).wanted(), digest);
    }

    #[test]
    fn invalid_references_are_refused() {
        let long = "a/".repeat(200) + "a";
        let bad = [
            "",
            ":",
            "/",
            "a:",
            "a/:x",
            "Debian:12",
            "a//b:1",
            "../a:1",
            "a/../b",
            "a b:1",
            "a:-x",
            "a@sha256:12",
            "a@md5:x",
            "ex ample.org/a",
            "-x.org/a",
            "x.org:99999/a",
            "x.org:/a",
            "[::g]:1/a",
            "user@x.org/a",
            "a___b:1",
            "a.-b/c:1",
            &long,
            "x.org/a\n:1",
            "x.org/a:\u{1b}[31m",
        ];
        for text in bad {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn references_map_to_unique_valid_names() {
        let long = format!("ghcr.io/{}:{}", "a".repeat(200), "B".repeat(128));
        let texts = ["debian:12", "debian", "ghcr.io/library/debian:12", "a/debian:12", "x.org/--", &long];
        let names: Vec<_> =
            texts.iter().filter_map(|text| Some(text.parse::<Reference>().ok()?.store_name())).collect();
        assert_eq!(names.len(), 5);
        for name in &names {
            // With the digest of a generation behind it.
            name::check(Kind::Image, &format!("{name}.0123456789ab")).unwrap();
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1);
        }
        assert!(names[0].starts_with("debian-12-"), "{}", names[0]);
        assert!(!Reference::is_meant_by("debian-bookworm-minimal") && Reference::is_meant_by("debian:12"));
    }
}
