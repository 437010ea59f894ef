//! Client for one repository of a registry (OCI distribution specification 1.1; Docker Registry
//! HTTP API V2).

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::blob::Blob;
use super::cache::{Access, Cache};
use super::challenge::Challenge;
use super::credentials::{Credential, Credentials};
use super::model::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::fetch::http::{Backoff, Download, DownloadEvent, Http, RequestError, Response, is_loopback, origin};

/// The longest token, and the longest message of an error, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
const MAX_ERROR: u64 = 64 << 10;

/// The reply of a registry to a request.
enum Reply<'a> {
    Response(Response<'a>),
    /// Status 404: the repository does not have it.
    NotFound,
}

/// A client for the repository of a [`Reference`].
pub(super) struct Registry<'a> {
    http: Http,
    reference: &'a Reference,
    credentials: &'a Credentials,
    base: Url,
    /// The `Authorization` header of requests, once the registry has asked for it.
    authorization: Mutex<Option<HeaderValue>>,
    /// Whether a credential was sent to the registry or to its token server.
    showed_credential: AtomicBool,
    /// Called with messages for the user.
    tell: &'a (dyn Fn(&str) + Sync),
}

impl<'a> Registry<'a> {
    /// Chooses the protocol. Plain HTTP is used with `plain_http`, and for a loopback address that
    /// does not answer to HTTPS.
    pub(super) fn new(
        reference: &'a Reference,
        credentials: &'a Credentials,
        plain_http: bool,
        tell: &'a (dyn Fn(&str) + Sync),
    ) -> Result<Registry<'a>> {
        let host = if reference.registry == "docker.io" { "registry-1.docker.io" } else { &reference.registry };
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/{}/", reference.repository))
                .map_err(|error| Error::Reference { text: reference.to_string(), reason: error.to_string() })
        };
        let mut base = url(if plain_http { "http" } else { "https" })?;
        let is_loopback = is_loopback(&base);
        let http = Http::new(is_loopback)?;
        if is_loopback && !plain_http {
            // A registry for trying things out has no certificate.
            let probe = base.join("/v2/").unwrap_or_else(|_| base.clone());
            if matches!(http.get(&probe, &HeaderMap::new(), None), Err(RequestError::Transport(_))) {
                base = url("http")?;
            }
        }
        let showed_credential = AtomicBool::new(false);
        Ok(Registry { http, reference, credentials, base, authorization: Mutex::default(), showed_credential, tell })
    }

    /// Whether credentials were sent so far.
    pub(super) fn access(&self) -> Access {
        if self.showed_credential.load(Ordering::Relaxed) { Access::User } else { Access::Anonymous }
    }

    /// Fetches the manifest or index that the reference names: bytes, media type and digest.
    pub(super) fn root(&self) -> Result<(Vec<u8>, String, Digest)> {
        let wanted = self.reference.wanted();
        let (bytes, media_type, announced) = self.manifest(&wanted)?;
        let digest = Digest::of(&bytes);
        if self.reference.digest.or(announced).is_some_and(|expected| expected != digest) {
            let reason = format!("its content is {digest}, which is not what was asked for or announced");
            return Err(Error::Image { what: "its manifest".into(), reason });
        }
        Ok((bytes, media_type, digest))
    }

    /// Fetches the manifest or index that a descriptor of an index names.
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let (bytes, ..) = self.manifest(&descriptor.digest.to_string())?;
        let digest = Digest::of(&bytes);
        if digest != descriptor.digest || bytes.len() as u64 != descriptor.size {
            let reason =
                format!("its content is {digest} of {} bytes, and should be {}", bytes.len(), descriptor.digest);
            return Err(Error::Image { what: "its manifest".into(), reason });
        }
        Ok(bytes)
    }

    fn manifest(&self, name: &str) -> Result<(Vec<u8>, String, Option<Digest>)> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let accept = HeaderValue::from_str(&accept).expect("media types are text");
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let what = format!("cannot get the manifest of `{}`", self.reference);
        let mut backoff = Backoff::new(UNREACHABLE);
        loop {
            let response = match self.request(&what, &format!("manifests/{name}"), &headers)? {
                Reply::Response(response) => response,
                Reply::NotFound => return Err(Error::NotInRegistry { reference: self.reference.to_string() }),
            };
            let media_type = response.header("content-type").next().unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            let announced = response.header("docker-content-digest").next().and_then(|digest| digest.parse().ok());
            match response.bytes(MAX_MANIFEST) {
                Ok(bytes) if media_type == HTML || bytes.trim_ascii_start().starts_with(b"<") => {
                    return Err(self.web_page(&what));
                }
                Ok(bytes) => return Ok((bytes, media_type, announced)),
                Err(error) => backoff.wait(&what, error)?,
            }
        }
    }

    /// Opens a blob in the cache, or downloads it into the cache. `advance` is called with the
    /// number of bytes that were received, or negative if so many have to be received again.
    /// Setting `stop` ends the download.
    pub(super) fn blob(
        &self,
        descriptor: &Descriptor,
        cache: &Cache,
        advance: &dyn Fn(i64),
        stop: &AtomicBool,
    ) -> Result<Blob> {
        let Descriptor { digest, size, .. } = *descriptor;
        let what = format!("cannot get {digest} of `{}`", self.reference);
        let mut access = self.access();
        if let Some(blob) = cache.open(digest, size, access)? {
            advance(size.cast_signed());
            return Ok(blob);
        }
        let mut partial = cache.partial(digest, access)?;
        // Another process may have been faster.
        if let Some(blob) = cache.open(digest, size, access)? {
            partial.discard()?;
            advance(size.cast_signed());
            return Ok(blob);
        }
        let mut hasher = Hasher::default();
        let mut have = partial.file.metadata()?.len();
        let mut is_resumed = have > 0;
        if have > size {
            (have, is_resumed) = (0, false);
            partial.file.set_len(0)?;
        }
        // What a process that was killed had received.
        let read =
            hasher.update_from(Blob::new(std::sync::Arc::new(fs_err::File::open(partial.file.path())?), 0, have))?;
        advance(read.cast_signed());
        let path = format!("blobs/{digest}");
        let ask = |headers: &HeaderMap| match self.request(&what, &path, headers)? {
            Reply::Response(response) => Ok(response),
            Reply::NotFound => {
                let reason = "the registry does not have it, though its manifest names it".to_owned();
                Err(Error::Server { what: what.clone(), reason, hint: None })
            }
        };
        let mut download = Download::new(&what, size, have, UNREACHABLE);
        let wrong = |reason: String| Err(Error::WrongContent { what: what.clone(), reason });
        loop {
            if stop.load(Ordering::Relaxed) {
                let reason = "another part of the image failed".into();
                return Err(Error::Server { what, reason, hint: None });
            }
            let before = download.have();
            match download.next(ask)? {
                DownloadEvent::Bytes(bytes) => {
                    if self.access() != access {
                        // The registry gives its blobs to fewer than its manifests.
                        access = self.access();
                        let own = cache.partial(digest, access)?;
                        std::mem::replace(&mut partial, own).discard()?;
                        partial.file.set_len(0)?;
                        if before > 0 {
                            download.restart();
                            (is_resumed, hasher) = (false, Hasher::default());
                            advance(-before.cast_signed());
                            continue;
                        }
                    }
                    partial.file.write_all(&bytes)?;
                    hasher.update(&bytes);
                    advance(bytes.len() as i64);
                    continue;
                }
                DownloadEvent::TooMuch => {
                    partial.discard()?;
                    return wrong(format!("more came than the {size} bytes that its manifest announces"));
                }
                DownloadEvent::End => {
                    let is = std::mem::take(&mut hasher).finish();
                    if is == digest {
                        return partial.finish();
                    }
                    if !is_resumed {
                        partial.discard()?;
                        return wrong(format!("what came is {is}"));
                    }
                    // What was there before may have been cut by a crash of the machine.
                    download.restart();
                }
                DownloadEvent::Restart => {}
            }
            advance(-before.cast_signed());
            (is_resumed, hasher) = (false, Hasher::default());
            partial.file.set_len(0)?;
        }
    }

    /// The error for a server that answers with HTML, and so is no registry.
    fn web_page(&self, what: &str) -> Error {
        let host = self.base.host_str().unwrap_or_default();
        Error::Server {
            what: what.to_owned(),
            reason: format!("{host} answers with a web page"),
            hint: Some(format!(
                "is {host} a registry? its name may be another one than the web site's, or a proxy is in between"
            )),
        }
    }

    /// Requests `path` of the repository, several times if the registry is busy, and authorizes if
    /// the registry asks for it. `what` begins errors.
    fn request(&self, what: &str, path: &str, headers: &HeaderMap) -> Result<Reply<'_>> {
        let url = self.base.join(path).expect("names and digests are parts of URLs");
        let fail = |reason: String, hint: Option<&str>| {
            Err(Error::Server { what: what.to_owned(), reason, hint: hint.map(str::to_owned) })
        };
        let mut backoff = Backoff::new(UNREACHABLE);
        let mut was_refused = false;
        loop {
            let sent = self.authorization.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            let response = match self.http.get(&url, headers, sent.as_ref()) {
                Ok(response) => response,
                Err(error) => {
                    backoff.wait(what, error)?;
                    continue;
                }
            };
            match response.status().as_u16() {
                200 | 206 | 416 => return Ok(Reply::Response(response)),
                401 if !was_refused => {
                    was_refused = true;
                    let challenge = Challenge::find(response.header("www-authenticate"));
                    drop(response);
                    self.authorize(what, challenge)?;
                }
                401 | 403 => {
                    let hint = if sent.is_some() { CHECK_ACCESS } else { LOG_IN };
                    return Err(unauthorized(
                        what,
                        format!("the registry refuses it{}", server_message(response)),
                        hint,
                    ));
                }
                404 if response.header("content-type").any(|media_type| media_type.starts_with(HTML)) => {
                    return Err(self.web_page(what));
                }
                404 => return Ok(Reply::NotFound),
                408 | 429 | 500..=599 => {
                    let status = response.status();
                    let wanted = response.retry_after();
                    backoff.retry_after(wanted);
                    backoff.wait(
                        what,
                        RequestError::Transport(format!("the registry answers {status}{}", server_message(response))),
                    )?;
                }
                _ => {
                    let status = response.status();
                    return fail(format!("the registry answers {status}{}", server_message(response)), None);
                }
            }
        }
    }

    /// Sets the `Authorization` header that answers the registry's challenge.
    fn authorize(&self, what: &str, challenge: Option<Challenge>) -> Result<()> {
        let Reference { registry, repository, .. } = self.reference;
        let credential = self.credentials.find(registry, repository).unwrap_or_else(|reason| {
            (self.tell)(&format!("{reason}; trying without credentials"));
            None
        });
        let fail = |reason: &str, hint| Err(unauthorized(what, reason.to_owned(), hint));
        let authorization = match (challenge, credential) {
            (Some(Challenge::Basic), Some(Credential::Password { user, password })) => {
                self.showed_credential.store(true, Ordering::Relaxed);
                basic(&user, &password)
            }
            (Some(Challenge::Basic), _) => return fail("the registry wants a user name and password", LOG_IN),
            (Some(Challenge::Bearer { realm, service }), credential) => {
                let token = self.token(what, &realm, service.as_deref(), credential)?;
                format!("Bearer {token}")
            }
            (None, _) => return fail("the registry wants something that banger does not know", CHECK_ACCESS),
        };
        let Ok(mut value) = HeaderValue::from_str(&authorization) else {
            return fail("the credential or token has characters that no header may have", CHECK_ACCESS);
        };
        value.set_sensitive(true);
        *self.authorization.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(value);
        Ok(())
    }

    /// Fetches a token that allows to pull from the repository, and nothing else, whatever scope
    /// the challenge proposes.
    fn token(&self, what: &str, realm: &str, service: Option<&str>, credential: Option<Credential>) -> Result<String> {
        #[derive(Deserialize)]
        struct TokenResponse {
            token: Option<String>,
            access_token: Option<String>,
        }

        let fail = |reason: String, hint: Option<&str>| Error::Server {
            what: what.to_owned(),
            reason,
            hint: hint.map(str::to_owned),
        };
        let mut url =
            Url::parse(realm).map_err(|_| fail("the registry names no valid place for tokens".into(), None))?;
        let is_encrypted = url.scheme() == "https";
        if !is_encrypted && (self.base.scheme() == "https" || url.scheme() != "http") {
            return Err(fail(format!("tokens are to come from {}, which is not encrypted", origin(&url)), None));
        }
        let credential = match credential {
            Some(credential) if is_trusted(&self.base, &url) => Some(credential),
            Some(_) => {
                (self.tell)(&format!(
                    "tokens for {} come from {}, which is not told your credentials",
                    self.reference.registry,
                    origin(&url)
                ));
                None
            }
            None => None,
        };
        if credential.is_some() {
            self.showed_credential.store(true, Ordering::Relaxed);
        }
        let scope = format!("repository:{}:pull", self.reference.repository);
        let mut backoff = Backoff::new(UNREACHABLE);
        let bytes = loop {
            let response = match &credential {
                Some(Credential::IdentityToken(token)) => {
                    let mut form = url.clone();
                    form.query_pairs_mut()
                        .clear()
                        .append_pair("grant_type", "refresh_token")
                        .append_pair("service", service.unwrap_or_default())
                        .append_pair("client_id", "banger")
                        .append_pair("scope", &scope)
                        .append_pair("refresh_token", token);
                    self.http.post(&url, form.query().unwrap_or_default().to_owned())
                }
                other => {
                    let mut query = url.clone();
                    if let Some(service) = service {
                        query.query_pairs_mut().append_pair("service", service);
                    }
                    query.query_pairs_mut().append_pair("scope", &scope);
                    let authorization = match other {
                        Some(Credential::Password { user, password }) => {
                            HeaderValue::from_str(&basic(user, password)).ok()
                        }
                        _ => None,
                    };
                    self.http.get(&query, &HeaderMap::new(), authorization.as_ref())
                }
            };
            let response = match response {
                Ok(response) => response,
                Err(error) => {
                    backoff.wait(what, error)?;
                    continue;
                }
            };
            match response.status().as_u16() {
                200 => match response.bytes(MAX_TOKEN) {
                    Ok(bytes) => break bytes,
                    Err(error) => backoff.wait(what, error)?,
                },
                429 | 500..=599 => {
                    let status = response.status();
                    backoff.retry_after(response.retry_after());
                    backoff.wait(what, RequestError::Transport(format!("{} answers {status}", origin(&url))))?;
                }
                _ => {
                    let hint = if credential.is_some() { CHECK_ACCESS } else { LOG_IN };
                    let reason = format!("{} gives no token{}", origin(&url), server_message(response));
                    return Err(unauthorized(what, reason, hint));
                }
            }
        };
        url.set_query(None);
        let answer: Option<TokenResponse> = serde_json::from_slice(&bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| fail(format!("{} answers without a token", origin(&url)), None))
    }
}

/// The type of a web page.
const HTML: &str = "text/html";
const LOG_IN: &str = "log in with `docker login` or `podman login`; is the name right?";
const CHECK_ACCESS: &str = "may this user read the repository? log in anew with `docker login` or `podman login`";
const UNREACHABLE: &str =
    "check the network, the registry's name, and HTTPS_PROXY; for a registry without encryption: --plain-http";

fn unauthorized(what: &str, reason: String, hint: &str) -> Error {
    Error::Unauthorized { what: what.to_owned(), reason, hint: hint.to_owned() }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// The message of an error response: `{"errors": [{"message": …}]}` (OCI distribution
/// specification, "Error Codes"), with a colon before it; empty if there is none.
fn server_message(response: Response<'_>) -> String {
    let bytes = response.bytes(MAX_ERROR).unwrap_or_default();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = document["errors"][0]["message"].as_str().or_else(|| document["details"].as_str());
    message.map_or_else(String::new, |message| format!(": {message:.200}"))
}

/// Whether credentials for a registry may be sent to the token server `realm`: it has the same
/// host, or is in the same domain, as `auth.docker.io` is for `registry-1.docker.io`, and
/// `gitlab.com` for `registry.gitlab.com`.
fn is_trusted(registry: &Url, realm: &Url) -> bool {
    let (Some(registry_host), Some(realm_host)) = (registry.host_str(), realm.host_str()) else { return false };
    if registry_host == realm_host {
        return true;
    }
    let domain = registry.domain().and_then(|domain| domain.split_once('.')).map(|(_, domain)| domain);
    let is_within =
        |domain: &str| realm_host == domain || realm_host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    domain.is_some_and(|domain| domain.contains('.') && is_within(domain))
}

#[cfg(test)]
mod tests;
