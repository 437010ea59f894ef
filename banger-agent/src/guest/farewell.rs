//! Telling hosts how the machine is about to go: a VMM may not see the difference, nor tell either
//! from a panic.

use std::io;
use std::os::unix::net;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::stream::{Reader, Writer};
use crate::frame::Frame;
use crate::protocol::{AgentReply, PowerState};

/// How long the hosts may take to hear it. The machine goes all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the hosts are told.
pub(super) struct Farewell(watch::Sender<Option<PowerState>>);

impl Farewell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Farewell(watch::Sender::new(None)))
    }

    /// Tells every host that wants to know, and returns when they know.
    pub(super) async fn say(&self, state: PowerState) {
        self.0.send_replace(Some(state));
        let _ = timeout(PATIENCE, self.0.closed()).await;
    }

    /// Serves [`crate::protocol::AgentRequest::Farewell`].
    pub(super) async fn tell(&self, mut reader: Reader, mut writer: Writer) {
        let mut said = self.0.subscribe();
        let state = tokio::select! {
            said = said.wait_for(Option::is_some) => said.ok().and_then(|state| *state),
            // The host is gone, or does not want to know any more.
            _ = reader.next() => None,
        };
        if let Some(state) = state
            && writer.send(Frame::control(&AgentReply::Ok(state))).await.is_ok()
        {
            // It ends the stream when it has read that.
            while let Some(Ok(_)) = reader.next().await {}
        }
    }

    /// Says what PID 1 says on its socket; the end of the connection is the answer.
    pub(super) async fn follow(self: Arc<Self>, socket: net::UnixListener) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let socket = UnixListener::from_std(socket)?;
        loop {
            let (stream, _) = socket.accept().await?;
            if stream.peer_cred()?.pid() == Some(1) {
                self.pass_on(stream).await;
            }
        }
    }

    async fn pass_on(&self, mut stream: UnixStream) {
        let mut word = Vec::new();
        let read = timeout(PATIENCE, (&mut stream).take(64).read_to_end(&mut word)).await;
        if let (Ok(Ok(_)), Ok(state)) = (read, serde_json::from_slice(&word)) {
            self.say(state).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    use tokio::io::AsyncWriteExt;
    use tokio_util::codec::{FramedRead, FramedWrite};

    use super::*;
    use crate::frame::FrameCodec;
    use crate::link::{self, Mux, MuxStream};

    /// A host's stream on which `farewell` is told.
    async fn asked(farewell: &Arc<Farewell>) -> MuxStream {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (mux, driver) = Mux::host(host);
        tokio::spawn(driver);
        let farewell = Arc::clone(farewell);
        tokio::spawn(link::serve(guest, move |stream| {
            let farewell = Arc::clone(&farewell);
            let (read, write) = tokio::io::split(stream);
            let (reader, writer) = (FramedRead::new(read, FrameCodec), FramedWrite::new(write, FrameCodec));
            tokio::spawn(async move { farewell.tell(reader, writer).await });
        }));
        let mut stream = mux.open().await.unwrap();
        // A stream is announced by what is written to it: here, a part of a frame.
        stream.write_all(&[0]).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    async fn next(stream: &mut MuxStream) -> PowerState {
        let frame = FramedRead::new(stream, FrameCodec).next().await.unwrap().unwrap();
        match frame.message().unwrap() {
            AgentReply::Ok(state) => state,
            AgentReply::Error(failure) => panic!("{failure}"),
        }
    }

    #[tokio::test]
    async fn host_hears_the_farewell_before_the_machine_goes() {
        let farewell = Farewell::new();
        let mut host = asked(&farewell).await;
        let is_served = async {
            while farewell.0.receiver_count() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, is_served).await.unwrap();
        let saying = tokio::spawn({
            let farewell = Arc::clone(&farewell);
            async move { farewell.say(PowerState::Reboot).await }
        });
        assert_eq!(next(&mut host).await, PowerState::Reboot);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!saying.is_finished(), "the host has not ended its stream");
        drop(host);
        timeout(PATIENCE / 2, saying).await.unwrap().unwrap();
        // Who asks late hears it as well.
        assert_eq!(next(&mut asked(&farewell).await).await, PowerState::Reboot);
    }

    #[tokio::test]
    async fn nobody_waits_for_hosts_that_do_not_want_to_know() {
        let farewell = Farewell::new();
        timeout(PATIENCE / 2, farewell.say(PowerState::PowerOff)).await.unwrap();
    }

    #[tokio::test]
    async fn process_other_than_pid_1_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("power");
        let farewell = Farewell::new();
        tokio::spawn(Arc::clone(&farewell).follow(net::UnixListener::bind(&path).unwrap()));
        let posing = tokio::task::spawn_blocking(move || {
            let mut stream = net::UnixStream::connect(path).unwrap();
            let _ = stream.write_all(b"\"reboot\"").and_then(|()| stream.shutdown(Shutdown::Write));
            let _ = stream.read(&mut [0]);
        });
        posing.await.unwrap();
        assert_eq!(*farewell.0.borrow(), None);
    }

    #[tokio::test]
    async fn word_of_pid_1_is_passed_on() {
        let farewell = Farewell::new();
        for (word, state) in [("\"power_off\"", PowerState::PowerOff), ("\"reboot\"", PowerState::Reboot)] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(word.as_bytes()).await.unwrap();
            ours.shutdown().await.unwrap();
            farewell.pass_on(theirs).await;
            assert_eq!(*farewell.0.borrow(), Some(state));
            assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        }
    }
}
