//! A web server on loopback that serves the files of a directory, with ranges, and can interrupt
//! downloads.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request that a [`WebServer`] has received.
#[derive(Clone, Debug)]
pub struct LoggedRequest {
    /// The path, without the slash before it.
    pub path: String,
    /// The value of a `Range` header, without `bytes=`.
    pub range: Option<String>,
}

/// A web server, which ends with the test's process.
pub struct WebServer {
    /// Host and port.
    pub address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requests: Vec<LoggedRequest>,
    /// The end of a path, and after how many bytes responses to such paths are held.
    held: Option<(String, u64)>,
    /// Whether a response is held.
    is_holding: bool,
}

impl WebServer {
    /// Serves the files below `folder`.
    pub fn new(folder: PathBuf) -> WebServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, state) = (folder.clone(), Arc::clone(&shared));
                // Who has had enough closes the connection.
                thread::spawn(move || _ = serve(&stream, &folder, &state));
            }
        });
        WebServer { address, state }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Holds responses to paths that end in the given text after so many bytes, with the connection
    /// open. `None` holds no response from now on.
    pub fn hold(&self, what: Option<(&str, u64)>) {
        let mut state = self.state();
        state.held = what.map(|(path, bytes)| (path.to_owned(), bytes));
        state.is_holding = false;
    }

    /// Whether a client waits for the rest of a held response.
    pub fn is_holding(&self) -> bool {
        self.state().is_holding
    }

    /// All requests so far, in order.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.state().requests.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it was held")
    }
}

fn serve(mut stream: &TcpStream, folder: &Path, state: &Mutex<State>) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let Some(path) = first.split(' ').nth(1).filter(|_| first.starts_with("GET /")).map(|path| path[1..].to_owned())
    else {
        return Ok(());
    };
    let mut range = None;
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = Some(bytes.to_owned());
        }
    }
    let held = {
        let mut state = state.lock().expect("no panic while it was held");
        state.requests.push(LoggedRequest { path: path.clone(), range: range.clone() });
        state.held.clone().filter(|(held, _)| path.ends_with(held.as_str()))
    };
    // Not into memory: that would count as what a child takes, where that is measured.
    let Ok(mut file) = File::open(folder.join(&path)) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let whole = file.metadata()?.len();
    let start = range.and_then(|range| range.strip_suffix('-')?.parse().ok()).filter(|start| *start < whole);
    let (status, more) = match start {
        Some(start) => ("206 Partial Content", format!("content-range: bytes {start}-{}/{whole}\r\n", whole - 1)),
        None => ("200 OK", String::new()),
    };
    let kind = if path.contains("/manifests/") { "application/vnd.oci.image.manifest.v1+json" } else { "text/plain" };
    let length = whole - file.seek(SeekFrom::Start(start.unwrap_or(0)))?;
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    io::copy(&mut file.take(held.as_ref().map_or(length, |(_, bytes)| *bytes)), &mut { stream })?;
    if held.is_some() {
        state.lock().expect("no panic while it was held").is_holding = true;
        // Until the other side is gone.
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        io::copy(&mut { stream }, &mut io::sink())?;
    }
    Ok(())
}
