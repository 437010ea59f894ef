//! The guest's `.git/config`, written new from an allow-list of effective values.
//!
//! What can run a program, include a file, name a credential or point outside the repository is not
//! on the list; git-config(1) is the source of the names.

use std::collections::BTreeMap;

use super::config::{Named, quote_name, quote_value};
use super::{Repository, Result};

/// Keys that are copied from plain sections; `*` stands for every key of the section.
const PLAIN: &[(&str, &[&str])] = &[
    ("advice", &["*"]),
    ("author", &["name", "email"]),
    ("branch", &["autosetupmerge", "autosetuprebase", "sort"]),
    ("committer", &["name", "email"]),
    (
        "core",
        &[
            "abbrev",
            "autocrlf",
            "bigfilethreshold",
            "checkroundtripencoding",
            "commentchar",
            "commentstring",
            "eol",
            "filemode",
            "ignorecase",
            "logallrefupdates",
            "precomposeunicode",
            "protecthfs",
            "protectntfs",
            "quotepath",
            "safecrlf",
            "sparsecheckout",
            "sparsecheckoutcone",
            "symlinks",
            "warnambiguousrefs",
            "whitespace",
        ],
    ),
    (
        "diff",
        &[
            "algorithm",
            "colormoved",
            "colormovedws",
            "context",
            "dirstat",
            "dstprefix",
            "ignoresubmodules",
            "indentheuristic",
            "interhunkcontext",
            "mnemonicprefix",
            "noprefix",
            "relative",
            "renamelimit",
            "renames",
            "srcprefix",
            "statgraphwidth",
            "statnamewidth",
            "submodule",
            "suppressblankempty",
            "wordregex",
            "wserrorhighlight",
        ],
    ),
    ("format", &["pretty"]),
    ("i18n", &["commitencoding", "logoutputencoding"]),
    ("init", &["defaultbranch"]),
    ("log", &["abbrevcommit", "date", "decorate", "follow", "mailmap", "showroot"]),
    ("merge", &["conflictstyle", "directoryrenames", "ff", "renamelimit", "renames"]),
    ("pretty", &["*"]),
    ("pull", &["ff", "rebase"]),
    ("push", &["autosetupremote", "default", "followtags"]),
    ("rebase", &["autosquash", "autostash", "missingcommitscheck", "updaterefs"]),
    ("remote", &["pushdefault"]),
    ("status", &["*"]),
    ("submodule", &["active", "recurse"]),
    ("tag", &["sort"]),
    ("user", &["name", "email", "useconfigonly"]),
    ("versionsort", &["suffix"]),
];

/// Keys that are copied from sections with a name of their own, `[remote "origin"]`.
const NAMED: &[(&str, &[&str])] = &[
    ("branch", &["description", "merge", "pushremote", "rebase", "remote"]),
    ("remote", &["fetch", "partialclonefilter", "promisor", "prune", "push", "pushurl", "tagopt", "url"]),
    ("submodule", &["active", "branch", "fetchrecursesubmodules", "ignore", "path", "update", "url"]),
];

/// Keys of which every value counts, not only the last.
const MULTIPLE: &[(&str, &str)] = &[
    ("branch", "merge"),
    ("remote", "fetch"),
    ("remote", "push"),
    ("remote", "pushurl"),
    ("remote", "url"),
    ("submodule", "active"),
    ("versionsort", "suffix"),
];

/// Section, its own name if any, key.
type Key = (String, Option<Vec<u8>>, String);

impl Repository {
    /// The bytes of the guest's `.git/config`.
    ///
    /// # Errors
    /// A configuration file that cannot be read or parsed.
    pub fn guest_config(&self) -> Result<Vec<u8>> {
        let config = self.config()?;
        let mut values = allowed(&config);
        let mut set = |section: &str, key: &str, value: &str| {
            values.insert((section.into(), None, key.into()), vec![value.as_bytes().to_vec()]);
        };
        let is_extended = self.is_sha256() || self.partial()?.is_some();
        set("core", "repositoryformatversion", if is_extended { "1" } else { "0" });
        if self.is_sha256() {
            set("extensions", "objectformat", "sha256");
        }
        if let Some(remote) = self.promisor(&config).and_then(|remote| remote_without_user_info(&remote)) {
            set("extensions", "partialclone", &remote);
        }
        set("core", "bare", "false");
        // Inodes, devices and change times are the guest's own, and say nothing about the host's
        // index.
        set("core", "checkstat", "minimal");
        set("core", "trustctime", "false");
        // The host knows which packs it has sent; nobody shall repack them behind its back.
        set("gc", "auto", "0");
        set("maintenance", "auto", "false");
        Ok(render(&values))
    }

    /// The content of the user's `core.excludesFile`, or of `git/ignore` in the XDG folder; empty
    /// if there is none.
    ///
    /// # Errors
    /// A configuration file that cannot be read or parsed, a file of more than 16 MiB.
    pub fn global_excludes(&self) -> Result<Vec<u8>> {
        self.read_if_any(self.global_excludes_file(&self.config()?)?)
    }

    /// The content of the user's own attributes file, which a guest has no other way to know; empty
    /// if there is none.
    ///
    /// # Errors
    /// A configuration or file that cannot be read.
    pub fn global_attributes(&self) -> Result<Vec<u8>> {
        self.read_if_any(self.global_attributes_file(&self.config()?)?)
    }

    /// `core.attributesFile`, else `~/.config/git/attributes`: gitattributes(5).
    pub(crate) fn global_attributes_file(&self, config: &gix::config::File) -> Result<Option<Named>> {
        self.named_file(config, "core.attributesFile", "attributes")
    }

    fn read_if_any(&self, file: Option<Named>) -> Result<Vec<u8>> {
        match file {
            Some(file) => Ok(self.read_named(&file, 16 << 20)?.unwrap_or_default()),
            None => Ok(Vec::new()),
        }
    }
}

fn allowed(config: &gix::config::File) -> BTreeMap<Key, Vec<Vec<u8>>> {
    let mut values: BTreeMap<Key, Vec<Vec<u8>>> = BTreeMap::new();
    for section in config.sections() {
        let name = section.header().name().to_string().to_ascii_lowercase();
        let mut own = section.header().subsection_name().map(|own| own.to_vec());
        let list = if own.is_some() { NAMED } else { PLAIN };
        // `git fetch --filter=… URL` makes the URL the name of a remote.
        if name == "remote"
            && let Some(url) = own
        {
            let Some(kept) = without_user_info(&url) else { continue };
            own = Some(kept);
        }
        let Some((_, keys)) = list.iter().find(|(section, _)| *section == name) else { continue };
        let mut names: Vec<String> = section.value_names().map(|key| key.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        for key in names {
            if !keys.contains(&key.as_str()) && *keys != ["*"] {
                continue;
            }
            // A key without `=` means true.
            let given = match section.value_implicit(&key) {
                Some(None) => vec![b"true".to_vec()],
                _ => section.values(&key).into_iter().map(Vec::from).collect(),
            };
            let kept = given.into_iter().filter_map(|value| harmless(&name, &key, value));
            let slot = values.entry((name.clone(), own.clone(), key.clone())).or_default();
            slot.extend(kept);
            if !MULTIPLE.contains(&(name.as_str(), key.as_str())) {
                slot.drain(..slot.len().saturating_sub(1));
            }
        }
    }
    values
}

/// A value as the guest may have it; `None` for what it may not.
fn harmless(section: &str, key: &str, value: Vec<u8>) -> Option<Vec<u8>> {
    if value.contains(&0) {
        return None;
    }
    match (section, key) {
        ("remote" | "submodule", "url" | "pushurl") => without_user_info(&value),
        // The name of a remote, or a URL: `git push -u URL` writes one.
        ("branch", "remote" | "pushremote") | ("remote", "pushdefault") => without_user_info(&value),
        // `!command` would be run by `git submodule update`.
        ("submodule", "update") if value.starts_with(b"!") => None,
        _ => Some(value),
    }
}

/// Takes passwords and tokens out of the name of a remote, which may be a URL.
pub(super) fn remote_without_user_info(name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&without_user_info(name.as_bytes())?).into_owned())
}

/// Takes passwords and tokens out of a URL. The user name of an ssh URL is part of the address and
/// stays; that of any other may be a token and goes. Remote helpers (`ext::`) are commands: `None`.
fn without_user_info(url: &[u8]) -> Option<Vec<u8>> {
    let find = |needle: &[u8]| url.windows(needle.len()).position(|window| window == needle);
    let Some(colon) = find(b"://") else {
        let helper = find(b"::").is_some_and(|end| {
            end > 0 && url[..end].iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        });
        return (!helper).then(|| url.to_vec());
    };
    let scheme = &url[..colon];
    if scheme.windows(2).any(|pair| pair == b"::") {
        return None;
    }
    let (start, rest) = url.split_at(colon + 3);
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (&authority[..0], authority),
    };
    let user = match scheme {
        b"ssh" | b"git+ssh" | b"ssh+git" => user.split(|byte| *byte == b':').next().unwrap_or_default(),
        _ => b"",
    };
    let at: &[u8] = if user.is_empty() { b"" } else { b"@" };
    Some([start, user, at, host, path].concat())
}

fn render(values: &BTreeMap<Key, Vec<Vec<u8>>>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut current = None;
    for ((section, own, key), values) in values {
        // A newline cannot be written in a section's name at all.
        if values.is_empty() || own.as_ref().is_some_and(|own| own.contains(&b'\n') || own.contains(&0)) {
            continue;
        }
        if current != Some((section, own)) {
            current = Some((section, own));
            text.push(b'[');
            text.extend_from_slice(section.as_bytes());
            if let Some(own) = own {
                text.push(b' ');
                quote_name(&mut text, own);
            }
            text.extend_from_slice(b"]\n");
        }
        for value in values {
            text.push(b'\t');
            text.extend_from_slice(key.as_bytes());
            text.extend_from_slice(b" = ");
            quote_value(&mut text, value);
            text.push(b'\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::without_user_info;

    #[test]
    fn secrets_are_removed_from_urls() {
        for (url, kept) in [
            ("https://user:secret@example.org/x.git", Some("https://example.org/x.git")),
            ("https://token@example.org:8443/x", Some("https://example.org:8443/x")),
            ("https://a@b@example.org", Some("https://example.org")),
            ("https://example.org/a@b", Some("https://example.org/a@b")),
            ("ssh://git:secret@example.org/x", Some("ssh://git@example.org/x")),
            ("git@example.org:x.git", Some("git@example.org:x.git")),
            ("/srv/x.git", Some("/srv/x.git")),
            ("../x::y", Some("../x::y")),
            ("ext::sh -c whoami", None),
            ("helper::https://example.org", None),
        ] {
            let answer = without_user_info(url.as_bytes());
            assert_eq!(answer.as_deref(), kept.map(str::as_bytes), "{url}");
        }
    }
}
