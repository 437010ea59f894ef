//! GET and POST over HTTP, with redirects that take no credentials along.

mod backoff;
mod download;
mod fetch;
#[cfg(test)]
pub(crate) mod server;

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, StatusCode, Url};
use tokio::runtime::Runtime;

pub(crate) use self::backoff::Backoff;
pub(crate) use self::download::{Download, DownloadEvent};
pub(crate) use self::fetch::{UNREACHABLE, fetch, fetch_bytes};
use crate::error::{Error, Result};

/// How long connecting may take, and how long a server may be silent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;

/// A blocking HTTP client.
pub(crate) struct Http {
    runtime: Runtime,
    client: Client,
}

/// Why a request has no response.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The server was not reached, or the connection broke; another attempt may succeed.
    Transport(String),
    /// The response is not acceptable; another attempt would end the same way.
    Refused(String),
    /// This host does not trust the server's certificate.
    Untrusted(String),
}

/// A response whose body is still to come.
pub(crate) struct Response<'a> {
    http: &'a Http,
    inner: reqwest::Response,
}

impl Http {
    /// A client. With `is_loopback`, proxies of the environment are not used.
    ///
    /// # Errors
    /// [`Error::Server`] if there are no certificates of authorities.
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

    /// Sends a GET request and follows redirects. `authorization` is sent to the origin of `url`
    /// only. A redirect from https to http is refused.
    pub(crate) fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> std::result::Result<Response<'_>, RequestError> {
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
            let next = next.ok_or_else(|| RequestError::Refused(format!("{at} redirects to nowhere")))?;
            if !matches!(next.scheme(), "http" | "https") || (at.scheme() == "https" && next.scheme() != "https") {
                return Err(RequestError::Refused(format!(
                    "{at} redirects to {}, which is not encrypted",
                    origin(&next)
                )));
            }
            at = next;
        }
        Err(RequestError::Refused(format!("{url} redirects more than {MAX_REDIRECTS} times")))
    }

    /// Posts a form (`application/x-www-form-urlencoded`). Redirects are returned, not followed.
    pub(crate) fn post(&self, url: &Url, form: String) -> std::result::Result<Response<'_>, RequestError> {
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
    ) -> std::result::Result<Response<'_>, RequestError> {
        let mut request = self.client.request(method, url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let inner = self.runtime.block_on(async { request.send().await });
        inner.map(|inner| Response { http: self, inner }).map_err(|error| request_error(&error))
    }
}

impl Response<'_> {
    pub(crate) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The values of the header `name` that are ASCII.
    pub(crate) fn header(&self, name: &str) -> impl Iterator<Item = &str> {
        self.inner.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// The `Retry-After` header, if it is a number of seconds (RFC 9110, 10.2.3).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.header(RETRY_AFTER.as_str()).next()?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) fn chunk(&mut self) -> std::result::Result<Option<Bytes>, RequestError> {
        let chunk = self.http.runtime.block_on(self.inner.chunk());
        chunk.map_err(|error| request_error(&error))
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`RequestError::Refused`] if it has more than `most` bytes.
    pub(crate) fn bytes(mut self, most: u64) -> std::result::Result<Vec<u8>, RequestError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk()? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > most {
                return Err(RequestError::Refused(format!(
                    "{} answers with more than {most} bytes",
                    origin(self.inner.url())
                )));
            }
        }
        Ok(bytes)
    }
}

/// Scheme, host and port of a URL, without the parts that may hold secrets.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Whether the host of a URL is a loopback name or address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn request_error(error: &reqwest::Error) -> RequestError {
    if is_untrusted(error) { RequestError::Untrusted(chain(error)) } else { RequestError::Transport(chain(error)) }
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
