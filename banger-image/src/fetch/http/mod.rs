//! GET and POST over HTTP, with redirects that take no credentials along.

mod download;
mod fetch;
mod pause;
#[cfg(test)]
pub(crate) mod server;

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, StatusCode, Url};
use tokio::runtime::Runtime;

pub(crate) use self::download::{Download, Part};
pub(crate) use self::fetch::{UNREACHABLE, fetch, fetch_bytes};
pub(crate) use self::pause::Pause;
use crate::error::{Error, Result};

/// How long a connection may take, and how long nothing may come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;

/// An HTTP client for threads that may wait.
pub(crate) struct Http {
    runtime: Runtime,
    client: Client,
}

/// Why a request has no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was reached: another attempt may.
    Transport(String),
    /// It must not be done.
    Refused(String),
    /// The server's certificate is none that this machine trusts.
    Untrusted(String),
}

/// A response whose body is still to come.
pub(crate) struct Response<'a> {
    http: &'a Http,
    inner: reqwest::Response,
}

impl Http {
    /// A client; `is_loopback`: proxies are for elsewhere.
    pub(crate) fn new(is_loopback: bool) -> Result<Http> {
        let cannot = |reason: String| Error::Server {
            what: "cannot start an HTTP client".into(),
            reason,
            hint: Some("certificates of authorities are needed: `sudo apt-get install ca-certificates`".into()),
        };
        // That there is one already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(|error| cannot(error.to_string()))?;
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")));
        if is_loopback {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| cannot(chain(&error)))?;
        Ok(Http { runtime, client })
    }

    /// Gets `url`. `authorization` goes to its own origin only, wherever a redirect leads; none
    /// leads from https to http.
    pub(crate) fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> std::result::Result<Response<'_>, Failure> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = headers.clone();
            if let Some(authorization) = authorization.filter(|_| at.origin() == url.origin()) {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.send(Method::GET, &at, headers, None)?;
            let status = response.status();
            let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.inner.headers().get(LOCATION).filter(|_| is_redirect) else {
                return Ok(response);
            };
            let next = location.to_str().ok().and_then(|location| at.join(location).ok());
            let next = next.ok_or_else(|| Failure::Refused(format!("{at} redirects to nowhere")))?;
            if !matches!(next.scheme(), "http" | "https") || (at.scheme() == "https" && next.scheme() != "https") {
                return Err(Failure::Refused(format!("{at} redirects to {}, which is not encrypted", origin(&next))));
            }
            at = next;
        }
        Err(Failure::Refused(format!("{url} redirects more than {MAX_REDIRECTS} times")))
    }

    /// Posts a form. A redirect is an answer like others.
    pub(crate) fn post(&self, url: &Url, form: String) -> std::result::Result<Response<'_>, Failure> {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(reqwest::header::CONTENT_TYPE, kind)]);
        self.send(Method::POST, url, headers, Some(form))
    }

    fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<String>,
    ) -> std::result::Result<Response<'_>, Failure> {
        let mut request = self.client.request(method, url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let inner = self.runtime.block_on(async { request.send().await });
        inner.map(|inner| Response { http: self, inner }).map_err(|error| failure(&error))
    }
}

impl Response<'_> {
    pub(crate) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The values of a header that are text.
    pub(crate) fn header(&self, name: &str) -> impl Iterator<Item = &str> {
        self.inner.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// After how long the server wants to be asked again, if it says so in seconds.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.header(RETRY_AFTER.as_str()).next()?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The next part of the body; none at its end.
    pub(crate) fn chunk(&mut self) -> std::result::Result<Option<Bytes>, Failure> {
        let chunk = self.http.runtime.block_on(self.inner.chunk());
        chunk.map_err(|error| failure(&error))
    }

    /// The whole body, of at most `most` bytes.
    pub(crate) fn bytes(mut self, most: u64) -> std::result::Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk()? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > most {
                return Err(Failure::Refused(format!(
                    "{} answers with more than {most} bytes",
                    origin(self.inner.url())
                )));
            }
        }
        Ok(bytes)
    }
}

/// Scheme, host and port of a URL: the rest may have secrets in it.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Whether a URL leads to this machine itself.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn failure(error: &reqwest::Error) -> Failure {
    if is_untrusted(error) { Failure::Untrusted(chain(error)) } else { Failure::Transport(chain(error)) }
}

/// Whether TLS has failed for the server's certificate, somewhere below `error`.
fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_it = |error: &(dyn std::error::Error + 'static)| {
        matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
    };
    // An I/O error shows what is below what it holds, and not what it holds.
    let held = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    is_it(error) || held.is_some_and(|held| is_untrusted(held)) || error.source().is_some_and(is_untrusted)
}

/// An error with its causes. reqwest's own text leaves them out; the URL in it may be signed, and
/// is not shown.
fn chain(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    let mut texts = Vec::new();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        source = error.source();
    }
    if texts.is_empty() {
        texts.push(if error.is_timeout() { "it does not answer in time".into() } else { "the request failed".into() });
    }
    texts.splice(..0, error.url().map(origin));
    texts.join(": ")
}
