//! HTTP over a Unix socket, with bounds on what the other end may say and for how long.

use std::path::PathBuf;
use std::pin::pin;

use banger_util::text::printable;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{StatusCode, http};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Request;

/// No answer is longer, in bytes: neither its head nor its body.
const MAX_ANSWER: usize = 64 << 10;
/// As much of an answer that is no JSON is quoted, in bytes.
const MAX_QUOTE: usize = 200;
/// As much of Firecracker's reason for a refusal is shown, in bytes.
const MAX_FAULT: usize = 500;

/// Talks to the Firecracker at a socket, over a connection for each call.
#[derive(Clone, Debug)]
pub(in crate::backend::firecracker) struct Client {
    socket: PathBuf,
}

/// A call that did not succeed. All texts of the other end are printable.
#[derive(Debug, thiserror::Error)]
pub(in crate::backend::firecracker) enum ApiError {
    /// Firecracker says no; the message is its own.
    #[error("Firecracker refused `{request}`: {message}")]
    Refused { request: String, message: String },
    /// What came is no answer, or none that the API gives.
    #[error("Firecracker's answer to `{request}` is invalid: {reason}")]
    Unreadable { request: String, reason: String },
    /// No answer came.
    #[error("Firecracker did not answer `{request}`: {reason}")]
    Unanswered { request: String, reason: String },
}

/// `Error` of the schema.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Client {
    /// Talks to the socket at this path, which is not longer than a socket's may be: 107 bytes, by
    /// unix(7).
    pub(in crate::backend::firecracker) fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into() }
    }

    /// Whether somebody listens at the socket.
    pub(in crate::backend::firecracker) async fn is_listening(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// The body of the answer, once Firecracker has done what was asked.
    pub(in crate::backend::firecracker) async fn call(&self, request: &Request) -> Result<Bytes, ApiError> {
        let late = || ApiError::Unanswered {
            request: request.to_string(),
            reason: format!("no answer within {} s", request.patience.as_secs_f32()),
        };
        let (status, body) = timeout(request.patience, self.exchange(request)).await.map_err(|_| late())??;
        if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
            return Ok(body);
        }
        let request = request.to_string();
        Err(match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => ApiError::Refused { request, message: shown(&fault.fault_message) },
            Err(_) => {
                let quote = printable(&body[..body.len().min(MAX_QUOTE)]);
                ApiError::Unreadable { request, reason: format!("status {status}, {quote}") }
            }
        })
    }

    async fn exchange(&self, request: &Request) -> Result<(StatusCode, Bytes), ApiError> {
        let unanswered = |error: &dyn std::error::Error| unanswered(request, error);
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unanswered(&error))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_ANSWER);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| unanswered(&error))?;
        let exchange = async {
            let response = sender.send_request(http_request(request)).await.map_err(|error| failed(request, &error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => failed(request, &error),
                Err(error) if error.is::<LengthLimitError>() => unreadable(request, "more than 64 KiB"),
                Err(error) => unreadable(request, error.to_string()),
            })?;
            Ok((status, body.to_bytes()))
        };
        let (mut exchange, mut connection) = (pin!(exchange), Box::pin(connection));
        tokio::select! {
            answer = &mut exchange => return answer,
            // Its end is told to the exchange, after what had arrived before.
            _ = &mut connection => drop(connection),
        }
        exchange.await
    }
}

/// A fault message, printable and cut where it is too long.
fn shown(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_FAULT);
    let cut = if end < message.len() { "\u{2026}" } else { "" };
    printable(&message.as_bytes()[..end]) + cut
}

fn http_request(request: &Request) -> http::Request<Full<Bytes>> {
    let builder = http::Request::builder().method(&request.method).uri(&*request.path);
    let builder = builder.header(HOST, "localhost").header(ACCEPT, "application/json");
    let builder = if request.body.is_some() { builder.header(CONTENT_TYPE, "application/json") } else { builder };
    let body = request.body.clone().unwrap_or_default();
    builder.body(Full::new(body.into())).expect("the paths of the API are of letters, digits, `_`, `-` and `/`")
}

fn failed(request: &Request, error: &hyper::Error) -> ApiError {
    if error.is_parse() { unreadable(request, with_sources(error)) } else { unanswered(request, error) }
}

fn unreadable(request: &Request, reason: impl Into<String>) -> ApiError {
    ApiError::Unreadable { request: request.to_string(), reason: reason.into() }
}

fn unanswered(request: &Request, error: &dyn std::error::Error) -> ApiError {
    ApiError::Unanswered { request: request.to_string(), reason: with_sources(error) }
}

/// hyper's errors do not say in their own text what caused them.
fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = sources.map(ToString::to_string).collect();
    printable(texts.join(": ").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::backend::firecracker::api::VmState;

    /// What a call says whose other end answers so, and then closes the connection or keeps it.
    async fn answered(answer: &[u8], closes: bool) -> Result<Bytes, ApiError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = answer.to_vec();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
            if !closes {
                std::future::pending::<()>().await;
            }
        });
        let request = VmState::Paused.request().within(Duration::from_millis(200));
        let answered = Client::new(path).call(&request).await;
        server.abort();
        answered
    }

    fn with_body(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn answer_is_its_body_whether_or_not_the_connection_closes() {
        for closes in [true, false] {
            assert_eq!(answered(&with_body("200 OK", "{}"), closes).await.unwrap(), "{}");
            assert_eq!(answered(b"HTTP/1.1 204 No Content\r\n\r\n", closes).await.unwrap(), "");
        }
    }

    #[tokio::test]
    async fn fault_message_is_shown_as_it_is_but_printable() {
        let fault = "{\"fault_message\":\"The requested operation is not supported.\\u001b[2J\"}";
        let error = answered(&with_body("400 Bad Request", fault), false).await.unwrap_err();
        assert!(matches!(error, ApiError::Refused { .. }));
        assert_eq!(
            error.to_string(),
            "Firecracker refused `PATCH /vm`: The requested operation is not supported.^[[2J"
        );
    }

    #[tokio::test]
    async fn long_fault_message_is_cut() {
        let fault = format!("{{\"fault_message\":\"{}\"}}", "\u{e9}".repeat(1000));
        let error = answered(&with_body("400 Bad Request", &fault), false).await.unwrap_err();
        let message = "\u{e9}".repeat(MAX_FAULT / 2);
        assert_eq!(error.to_string(), format!("Firecracker refused `PATCH /vm`: {message}\u{2026}"));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_that_says_what_was_asked() {
        let long_body = with_body("200 OK", &"x".repeat(MAX_ANSWER + 1));
        let long_head = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; MAX_ANSWER * 2]].concat();
        let unreadable: [(&[u8], &str); 6] = [
            (b"\xff\x1b[2J garbage\r\n\r\n", "invalid HTTP"),
            (b"HTTP/9.9 200 OK\r\n\r\n", "HTTP"),
            (&long_body, "more than 64 KiB"),
            (&long_head, "too large"),
            (&with_body("400 Bad Request", "not \x1b JSON"), "status 400 Bad Request, not ^[ JSON"),
            (&with_body("302 Found", "{}"), "status 302 Found, {}"),
        ];
        for (answer, reason) in unreadable {
            let error = answered(answer, true).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ApiError::Unreadable { .. }) && text.contains(reason), "{text}");
            assert!(text.contains("`PATCH /vm`"), "{text}");
        }
    }

    #[tokio::test]
    async fn answer_that_is_cut_short_or_does_not_come_is_an_error() {
        let half_body = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{";
        for (answer, closes) in [
            (&b""[..], true),
            (b"HTTP/1.1 20", true),
            (half_body, true),
            (b"", false),
            (b"HTTP/1.1 20", false),
            (half_body, false),
        ] {
            let error = answered(answer, closes).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ApiError::Unanswered { .. }) && text.contains("`PATCH /vm`"), "{text}");
            assert_eq!(text.contains("within 0.2 s"), !closes, "{text}");
        }
    }

    #[tokio::test]
    async fn socket_that_nobody_listens_on_is_an_error() {
        let error = Client::new("/nonexistent/s").call(&VmState::Paused.request()).await.unwrap_err();
        assert!(error.to_string().contains("did not answer `PATCH /vm`: No such file"), "{error}");
    }
}
