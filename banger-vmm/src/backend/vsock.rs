//! Connections to an agent that listens at a port of its guest's vsock device.
//!
//! A VMM without a vsock device of the host's kernel offers a Unix socket instead: who connects to
//! it and writes `CONNECT <port>` gets `OK <number>`, and is connected to that port of the guest.
//! Firecracker (its `docs/vsock.md`) and vhost-device-vsock speak this protocol alike.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::{AgentConnector, AgentStream};
use crate::error::{IoContext, Result};

/// How long to wait between two failures to connect: an eighth of the time that has gone, within
/// these bounds. Neither VMM tells when somebody begins to listen in the guest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How long an answer may take. Firecracker gives a guest 2 seconds to take a connection; before
/// the guest has loaded a driver, it does not answer at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// The longest answer, in bytes: `OK`, a number of 32 bits, and the end of the line.
const MAX_ANSWER: usize = 32;

/// Connects to a port of a guest through its VMM's Unix socket.
#[derive(Debug)]
pub(crate) struct VsockConnector {
    /// The directory of the socket.
    _directory: File,
    /// The socket's path through that directory's descriptor: a path to a socket ends at 107 bytes
    /// (unix(7)).
    path: String,
    port: u32,
}

impl VsockConnector {
    /// For this port of the guest whose VMM listens at `socket`, now or later. The directory must
    /// exist.
    ///
    /// # Errors
    /// If the directory cannot be opened.
    pub(crate) fn new(socket: &Path, port: u32) -> Result<Self> {
        let directory = socket.parent().unwrap_or(Path::new("."));
        let name = socket.file_name().unwrap_or_default().to_string_lossy();
        let directory = File::open(directory).at("open", directory)?;
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        Ok(VsockConnector { _directory: directory, path, port })
    }

    async fn connect_once(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path).await?;
        // In one piece: vhost-device-vsock reads it with a single read.
        stream.write_all(format!("CONNECT {}\n", self.port).as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the line is the guest's.
        while answer.last() != Some(&b'\n') {
            if answer.len() == MAX_ANSWER {
                return Err(io::ErrorKind::InvalidData.into());
            }
            answer.push(stream.read_u8().await?);
        }
        // The number is the host's port in Firecracker, the guest's in vhost-device-vsock.
        match answer.starts_with(b"OK ") {
            true => Ok(stream),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AgentConnector for VsockConnector {
    /// Tries until somebody listens at the guest's port.
    fn connect(&mut self) -> BoxFuture<'_, AgentStream> {
        Box::pin(async move {
            let start = Instant::now();
            loop {
                // Whatever went wrong, the VMM or its guest may not be that far yet. One that never
                // will be ends, or is late.
                if let Ok(Ok(stream)) = timeout(ANSWER_LIMIT, self.connect_once()).await {
                    return Box::new(stream) as AgentStream;
                }
                sleep((start.elapsed() / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
            }
        })
    }

    /// The agent serves the last connection that came, and closes the others. A connection that this
    /// end gave up may come to the guest late, and so be the last.
    fn can_connect_again(&self) -> bool {
        true
    }

    /// Firecracker's device tells its guest of a transport reset (virtio 1.2, section 5.10.6.7) when
    /// a snapshot is written. The guest's kernel then drops its connections without a word.
    fn is_cut_by_snapshots(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use banger_agent::boot_config::AGENT_PORT;
    use tempfile::TempDir;
    use tokio::net::UnixListener;

    use super::*;

    fn socket_in(folder: &TempDir) -> PathBuf {
        folder.path().join("v.sock")
    }

    async fn accept(listener: &UnixListener) -> UnixStream {
        let mut stream = listener.accept().await.unwrap().0;
        let mut request = [0; 13];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"CONNECT 1000\n");
        stream
    }

    #[tokio::test]
    async fn connects_as_soon_as_somebody_listens_in_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket_in(&folder);
        let mut connector = VsockConnector::new(&socket, AGENT_PORT).unwrap();
        let guest = tokio::spawn(async move {
            // First there is no socket at all, then one of a VMM that is gone.
            sleep(Duration::from_millis(30)).await;
            drop(UnixListener::bind(&socket).unwrap());
            sleep(Duration::from_millis(30)).await;
            std::fs::remove_file(&socket).unwrap();
            let listener = UnixListener::bind(&socket).unwrap();
            // Nobody listens in the guest yet.
            drop(accept(&listener).await);
            let mut stream = accept(&listener).await;
            // The answer comes in pieces, its end together with what the guest says first.
            for piece in ["O", "K 10737", "41824\nhello"] {
                stream.write_all(piece.as_bytes()).await.unwrap();
                sleep(Duration::from_millis(5)).await;
            }
            let mut received = [0; 3];
            stream.read_exact(&mut received).await.unwrap();
            received
        });
        let mut stream = connector.connect().await;
        let mut received = [0; 5];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"hello");
        stream.write_all(b"you").await.unwrap();
        assert_eq!(&guest.await.unwrap(), b"you");
    }

    #[tokio::test]
    async fn second_connection_replaces_one_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_in(&folder)).unwrap();
        let mut connector = VsockConnector::new(&socket_in(&folder), AGENT_PORT).unwrap();
        for number in 0..2_u8 {
            let guest = async {
                let mut stream = accept(&listener).await;
                stream.write_all(b"OK 1000\n").await.unwrap();
                stream.write_all(&[number]).await.unwrap();
            };
            let (mut stream, ()) = tokio::join!(connector.connect(), guest);
            assert_eq!(stream.read_u8().await.unwrap(), number);
            assert!(stream.read_u8().await.is_err());
        }
    }

    #[tokio::test]
    async fn answer_that_is_none_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_in(&folder)).unwrap();
        let mut connector = VsockConnector::new(&socket_in(&folder), AGENT_PORT).unwrap();
        let guest = async {
            for answer in [&b"NO 1\n"[..], b"OK\n", b"\n", &[b'x'; 4096]] {
                let mut stream = accept(&listener).await;
                // The rest of a long one is refused once the other end is closed.
                let _ = stream.write_all(answer).await;
                let _ = stream.read_u8().await.expect_err("the connector closes it");
            }
            accept(&listener).await.write_all(b"OK 1\n!").await.unwrap();
        };
        let (mut stream, ()) = tokio::join!(connector.connect(), guest);
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
    }

    #[tokio::test(start_paused = true)]
    async fn silent_vmm_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_in(&folder)).unwrap();
        let mut connector = VsockConnector::new(&socket_in(&folder), AGENT_PORT).unwrap();
        let start = Instant::now();
        let guest = async {
            let silent = accept(&listener).await;
            accept(&listener).await.write_all(b"OK 1\n").await.unwrap();
            drop(silent);
        };
        tokio::join!(connector.connect(), guest);
        assert!((ANSWER_LIMIT..ANSWER_LIMIT * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn attempts_have_pauses_between_them() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_in(&folder)).unwrap();
        let mut connector = VsockConnector::new(&socket_in(&folder), AGENT_PORT).unwrap();
        let mut attempts = 0;
        let start = Instant::now();
        let guest = async {
            while start.elapsed() < Duration::from_millis(400) {
                drop(listener.accept().await.unwrap());
                attempts += 1;
            }
        };
        tokio::select! {
            () = guest => {}
            _ = connector.connect() => panic!("nobody answered"),
        }
        // 2 ms each for 16 ms, and then each an eighth longer than the one before.
        assert!((2..=40).contains(&attempts), "{attempts}");
    }

    #[tokio::test]
    async fn long_path_to_the_socket_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let directory = File::open(&deep).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/v.sock", directory.as_raw_fd())).unwrap();
        let mut connector = VsockConnector::new(&deep.join("v.sock"), AGENT_PORT).unwrap();
        let guest = async { accept(&listener).await.write_all(b"OK 1\n").await.unwrap() };
        tokio::join!(connector.connect(), guest);
    }
}
