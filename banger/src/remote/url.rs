//! `banger://NAME`: the URL of a VM's repository. It has no user, port, path or query.

use std::ffi::OsStr;

use crate::error::{CommandError, ErrorKind};

/// The scheme of the URLs.
pub const SCHEME: &str = "banger";

/// The URL of the VM called `name`.
pub fn url(name: &str) -> String {
    format!("{SCHEME}://{name}")
}

/// The VM's name in a URL, as it is written there: nothing is decoded.
///
/// # Errors
/// If it is no such URL.
pub(super) fn name(url: &OsStr) -> Result<&str, CommandError> {
    let refuse = |why: &str| {
        let shown = banger_vmm::printable(url.as_encoded_bytes());
        let error = CommandError::new(format!("`{shown}` is not the URL of a VM: {why}")).kind(ErrorKind::Usage);
        Err(error.hint("a URL is banger:// and the VM's name, for example: git fetch banger://NAME"))
    };
    let Some(name) = url.to_str().and_then(|url| url.strip_prefix("banger://")) else {
        return refuse("it does not begin with `banger://`");
    };
    match name.bytes().find(|byte| b"@:/?#%".contains(byte)) {
        Some(b'@') => refuse("it has a user"),
        Some(b':') => refuse("it has a port"),
        Some(b'/') => refuse("it has a path"),
        Some(b'?' | b'#') => refuse("it has a query or a fragment"),
        Some(_) => refuse("it has `%`, which is not decoded"),
        None if banger_vmm::is_name(name) => Ok(name),
        None => refuse("no VM can have this name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_the_scheme_and_a_name() {
        assert_eq!(name(OsStr::new(&url("box-1.x"))).unwrap(), "box-1.x");
        let bad = [
            ("box", "begin with"),
            ("https://box", "begin with"),
            ("banger:box", "begin with"),
            ("banger://", "can have this name"),
            ("banger://box/", "path"),
            ("banger://box/../other", "path"),
            ("banger://root@box", "user"),
            ("banger://box:22", "port"),
            ("banger://box?x", "query"),
            ("banger://b%6fx", "decoded"),
            ("banger://--upload-pack=x", "can have this name"),
            ("banger://BOX", "can have this name"),
            ("banger://b\nx", "can have this name"),
        ];
        for (url, why) in bad {
            let error = name(OsStr::new(url)).unwrap_err();
            assert!(error.message.contains(why), "{url}: {}", error.message);
            assert_eq!(error.kind, ErrorKind::Usage);
        }
    }
}
