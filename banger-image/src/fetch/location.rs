//! Where a catalog or a bundle is: on the web, or in a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

/// An `http:` or `https:` URL, or an absolute path, which a `file:` URL is too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Web(Url),
    File(PathBuf),
}

impl Location {
    pub(crate) fn place(&self) -> &Place {
        &self.0
    }

    /// What is named at this location: a URL, or relative to it as links of a web page are (RFC
    /// 3986, 5). The web names no file of this machine.
    ///
    /// # Errors
    /// Why that is nothing, in words.
    pub fn join(&self, named: &str) -> Result<Location, String> {
        let base = match &self.0 {
            Place::Web(url) => url.clone(),
            Place::File(path) => of_path(path)?,
        };
        let joined = of_url(&base.join(named).map_err(|error| format!("`{named}` is no URL: {error}"))?)?;
        match (&self.0, &joined.0) {
            (Place::Web(_), Place::File(_)) => {
                Err(format!("`{named}` is a file of this machine, which the web may not name"))
            }
            _ => Ok(joined),
        }
    }

    /// All that names it, secrets included: for a digest, and not to be shown.
    pub(crate) fn in_full(&self) -> String {
        match &self.0 {
            Place::Web(url) => url.to_string(),
            Place::File(path) => path.display().to_string(),
        }
    }
}

fn of_path(path: &Path) -> Result<Url, String> {
    Url::from_file_path(path).map_err(|()| format!("`{}` is no absolute path", path.display()))
}

fn of_url(url: &Url) -> Result<Location, String> {
    match url.scheme() {
        "http" | "https" => Ok(Location(Place::Web(url.clone()))),
        "file" => match url.to_file_path() {
            Ok(path) => Ok(Location(Place::File(path))),
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
            return Ok(Location(Place::File(text.into())));
        }
        of_url(&Url::parse(text).map_err(|_| "it is neither a URL nor an absolute path".to_owned())?)
    }
}

impl fmt::Display for Location {
    /// Without what may be a secret: a user, a password, a query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Web(url) => write!(f, "{}{}", crate::fetch::http::origin(url), url.path()),
            Place::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_names_are_beside_the_catalog_and_the_web_names_no_file() {
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
    fn secrets_are_not_shown() {
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
