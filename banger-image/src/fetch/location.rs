//! Where a catalog or a bundle is: at a URL, or in a file of this host.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

/// The location of a catalog or a bundle: an `http:` or `https:` URL, or an absolute path. A
/// path may be written as a `file:` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location(Address);

/// A [`Location`], to be matched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Url(Url),
    Path(PathBuf),
}

impl Location {
    pub(crate) fn address(&self) -> &Address {
        &self.0
    }

    /// The location that `named` refers to from a file at this location: an absolute URL, or a
    /// relative reference (RFC 3986, 5).
    ///
    /// # Errors
    /// The reason, as text: `named` is no URL, has an unknown scheme, or is a file of this host
    /// while this location is not.
    pub fn join(&self, named: &str) -> Result<Location, String> {
        let base = match &self.0 {
            Address::Url(url) => url.clone(),
            Address::Path(path) => of_path(path)?,
        };
        let joined = of_url(&base.join(named).map_err(|error| format!("`{named}` is no URL: {error}"))?)?;
        match (&self.0, &joined.0) {
            (Address::Url(_), Address::Path(_)) => {
                Err(format!("`{named}` is a file of this machine, which the web may not name"))
            }
            _ => Ok(joined),
        }
    }

    /// The whole URL or path, secrets included: for a digest, not for people.
    pub(crate) fn in_full(&self) -> String {
        match &self.0 {
            Address::Url(url) => url.to_string(),
            Address::Path(path) => path.display().to_string(),
        }
    }
}

fn of_path(path: &Path) -> Result<Url, String> {
    Url::from_file_path(path).map_err(|()| format!("`{}` is no absolute path", path.display()))
}

fn of_url(url: &Url) -> Result<Location, String> {
    match url.scheme() {
        "http" | "https" => Ok(Location(Address::Url(url.clone()))),
        "file" => match url.to_file_path() {
            Ok(path) => Ok(Location(Address::Path(path))),
            Err(()) => Err("a file: URL has three slashes, and a path of this machine".to_owned()),
        },
        other => Err(format!("`{other}:` is not known; http:, https: and file: are")),
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Location, String> {
        if text.contains('\0') {
            return Err("it has a NUL byte".to_owned());
        }
        if text.starts_with('/') {
            return Ok(Location(Address::Path(text.into())));
        }
        of_url(&Url::parse(text).map_err(|_| "it is neither a URL nor an absolute path".to_owned())?)
    }
}

impl fmt::Display for Location {
    /// Leaves out what may be a secret: user, password and query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Url(url) => write!(f, "{}{}", crate::fetch::http::origin(url), url.path()),
            Address::Path(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_locations_resolve_beside_the_catalog() {
        let at = |base: &str, named: &str| base.parse::<Location>().unwrap().join(named).map(|there| there.in_full());
        let web = "https://u:p@x.example/team/catalog.toml?v=1";
        assert_eq!(at(web, "a/b.tar.zst").unwrap(), "https://u:p@x.example/team/a/b.tar.zst");
        assert_eq!(at(web, "/b").unwrap(), "https://u:p@x.example/b");
        assert_eq!(at(web, "http://y.example/b").unwrap(), "http://y.example/b");
        for named in ["file:///etc/passwd", "ftp://x/y", "https://"] {
            assert!(at(web, named).is_err(), "{named}");
        }
        for base in ["/srv/my images/catalog.toml", "file:///srv/my%20images/catalog.toml"] {
            assert_eq!(at(base, "b.tar.zst").unwrap(), "/srv/my images/b.tar.zst");
            assert_eq!(at(base, "../c").unwrap(), "/srv/c");
            assert_eq!(at(base, "/d").unwrap(), "/d");
            assert_eq!(at(base, "https://y.example/b").unwrap(), "https://y.example/b");
        }
    }

    #[test]
    fn secrets_in_locations_are_not_displayed() {
        let shown = |text: &str| text.parse::<Location>().map(|there| there.to_string());
        assert_eq!(
            shown("https://user:secret@x.example:8443/c.toml?token=secret").unwrap(),
            "https://x.example:8443/c.toml"
        );
        assert_eq!(shown("/a b/c").unwrap(), "/a b/c");
        for text in ["", "catalog.toml", "../x", "file://host/x", "ssh://x/y", "/a\0"] {
            assert!(shown(text).is_err(), "{text:?}");
        }
    }
}
