//! Credentials for registries, as Docker and Podman keep them: `config.json` of docker-login(1),
//! `auth.json` of containers-auth.json(5), and credential helpers (docker-credential-helpers,
//! "Development").

use std::collections::BTreeMap;
use std::env::split_paths;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
use serde::Deserialize;

/// Docker Hub's name in those files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The longest file, and the longest answer of a helper, in bytes.
const MAX_FILE: u64 = 4 << 20;
const MAX_ANSWER: u64 = 64 << 10;
/// The user name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Where to look for credentials.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Files to look in, in order; they need not exist.
    pub files: Vec<PathBuf>,
    /// Directories of helpers, in the form of `PATH`. Relative ones are ignored.
    pub search_path: OsString,
}

/// A credential for a registry or its token server.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// A token with which access tokens can be requested, without a password.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    identitytoken: String,
}

impl Credentials {
    /// The credential for a repository, if there is one.
    ///
    /// # Errors
    /// The reason, as text: a file is malformed, or a helper fails.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, String> {
        for path in &self.files {
            let file = match fs::File::open(path) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                file => file.map_err(|error| error.to_string())?,
            };
            let mut bytes = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let file: AuthFile = serde_json::from_slice(&bytes)
                .map_err(|error| format!("`{}` is not as docker-login(1) writes it: {error}", path.display()))?;
            if let Some(found) = self.find_in(&file, registry, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(&self, file: &AuthFile, registry: &str, repository: &str) -> Result<Option<Credential>, String> {
        let server = if registry == "docker.io" { DOCKER_HUB } else { registry };
        if let Some(helper) = file.cred_helpers.get(registry).or_else(|| file.cred_helpers.get(server)) {
            return self.ask_helper(helper, server);
        }
        // The most precise name counts: a registry's may have a namespace or a repository behind
        // it.
        let whole = format!("{registry}/{repository}");
        let fits = |key: &str| {
            let key = host_and_path(key);
            key == registry || whole.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_hub = |key: &str| registry == "docker.io" && host_and_path(key) == "index.docker.io";
        let mut fitting: Vec<_> = file.auths.iter().filter(|(key, _)| fits(key) || is_hub(key)).collect();
        fitting.sort_by_key(|(key, _)| std::cmp::Reverse(host_and_path(key).len()));
        for (key, auth) in fitting {
            if !auth.identitytoken.is_empty() {
                return Ok(Some(Credential::IdentityToken(auth.identitytoken.clone())));
            }
            if !auth.auth.is_empty() {
                let decoded = STANDARD.decode(auth.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let (user, password) = decoded
                    .as_deref()
                    .and_then(|text| text.trim_end_matches('\0').split_once(':'))
                    .ok_or_else(|| format!("the credential for `{key}` is not as docker-login(1) writes it"))?;
                return Ok(Some(Credential::Password { user: user.to_owned(), password: password.to_owned() }));
            }
        }
        if file.creds_store.is_empty() { Ok(None) } else { self.ask_helper(&file.creds_store, server) }
    }

    /// Asks the helper `docker-credential-<name>`.
    fn ask_helper(&self, name: &str, server: &str) -> Result<Option<Credential>, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct HelperResponse {
            username: String,
            secret: String,
        }

        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_name) {
            return Err(format!("{name:?} is not the name of a credential helper"));
        }
        let program = format!("docker-credential-{name}");
        let mut folders = split_paths(&self.search_path).filter(|folder| folder.is_absolute());
        let path = folders.find_map(|folder| Some(folder.join(&program)).filter(|path| path.is_file()));
        let path = path.ok_or_else(|| format!("the credential helper `{program}` is not installed"))?;
        let failed = |error: io::Error| format!("the credential helper `{}` failed: {error}", path.display());
        let mut child = Command::new(&path)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it says why in its answer.
            let _ = stdin.write_all(server.as_bytes());
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let output = String::from_utf8_lossy(&answer).trim().to_owned();
        if !status.success() {
            return match output.contains("credentials not found") {
                true => Ok(None),
                false => Err(format!("the credential helper `{program}` failed: {output:.200}")),
            };
        }
        let HelperResponse { username, secret } = serde_json::from_slice(&answer)
            .map_err(|_| format!("the credential helper `{program}` answered something else than JSON"))?;
        Ok(Some(match username == TOKEN_USER {
            true => Credential::IdentityToken(secret),
            false => Credential::Password { user: username, password: secret },
        }))
    }
}

/// A name in those files without what Docker puts around a host.
fn host_and_path(key: &str) -> &str {
    let has_scheme = key.contains("://");
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let rest = rest.trim_end_matches('/');
    // With a scheme the path is that of an API: `/v1`, `/v2`.
    if has_scheme { rest.split('/').next().unwrap_or(rest) } else { rest }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.into(), password: password.into() })
    }

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Fixture {
            Fixture(tempfile::tempdir().unwrap())
        }

        fn credentials(&self, files: &[&str]) -> Credentials {
            let paths = (0..files.len()).map(|number| self.0.path().join(number.to_string()));
            let files: Vec<_> = paths
                .zip(files)
                .map(|(path, text)| {
                    fs::write(&path, text).unwrap();
                    path
                })
                .collect();
            Credentials { files, search_path: self.0.path().join("bin").into() }
        }

        fn helper(&self, name: &str, script: &str) {
            let folder = self.0.path().join("bin");
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join(format!("docker-credential-{name}"));
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn most_specific_entry_of_the_first_file_wins() {
        let fixture = Fixture::new();
        let encoded = |text: &str| STANDARD.encode(text);
        let (first, second) = (
            format!(
                r#"{{"auths": {{"x.org/team": {{"auth": "{}"}}, "x.org": {{"auth": "{}"}}, "https://y.org/v2/": {{"auth": "{}"}}}}}}"#,
                encoded("team:p:w"),
                encoded("all:p"),
                encoded("y:p")
            ),
            format!(r#"{{"auths": {{"{DOCKER_HUB}": {{"auth": "{}"}}, "x.org": {{"auth": "!"}}}}}}"#, encoded("hub:p")),
        );
        let credentials = fixture.credentials(&[&first, "", &second]);
        let find = |registry: &str, repository: &str| credentials.find(registry, repository).unwrap();
        assert_eq!(find("x.org", "team/a"), password("team", "p:w"));
        assert_eq!(find("x.org", "teams/a"), password("all", "p"));
        assert_eq!(find("y.org", "a"), password("y", "p"));
        assert_eq!(find("docker.io", "library/a"), password("hub", "p"));
        assert_eq!(find("evil-x.org", "team/a"), None);
        assert_eq!(Credentials::default().find("x.org", "a"), Ok(None));
        assert!(fixture.credentials(&["{\"auths\": []}"]).find("x.org", "a").unwrap_err().contains("docker-login"));
    }

    #[test]
    fn credential_helpers_are_run_by_name_never_by_path() {
        let fixture = Fixture::new();
        fixture.helper(
            "good",
            r#"read server; echo "{\"ServerURL\": \"$server\", \"Username\": \"u\", \"Secret\": \"$server\"}""#,
        );
        fixture.helper("token", r#"echo '{"Username": "<token>", "Secret": "t"}'"#);
        fixture.helper("none", "echo 'credentials not found in native keychain'; exit 1");
        fixture.helper("broken", "echo 'no keyring'; exit 1");
        let helper = |name: &str| fixture.credentials(&[&format!(r#"{{"credHelpers": {{"x.org": "{name}"}}}}"#)]);
        assert_eq!(helper("good").find("x.org", "a").unwrap(), password("u", "x.org"));
        assert_eq!(helper("token").find("x.org", "a").unwrap(), Some(Credential::IdentityToken("t".into())));
        assert_eq!(helper("none").find("x.org", "a"), Ok(None));
        assert!(helper("broken").find("x.org", "a").unwrap_err().contains("no keyring"));
        assert!(helper("absent").find("x.org", "a").unwrap_err().contains("not installed"));
        let store = fixture.credentials(&[r#"{"credsStore": "good", "auths": {"docker.io": {}}}"#]);
        assert_eq!(store.find("docker.io", "library/a").unwrap(), password("u", DOCKER_HUB));
        for name in ["../../x", "/bin/sh", "a/b", ".", "a b", "a\n"] {
            let name = serde_json::to_string(name).unwrap();
            let file = format!(r#"{{"credHelpers": {{"x.org": {name}}}}}"#);
            let error = fixture.credentials(&[&file]).find("x.org", "a").unwrap_err();
            assert!(error.contains("not the name"), "{error}");
        }
    }
}
