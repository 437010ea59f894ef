//! The queue of a channel: messages of the client that the guest has not taken yet.
//!
//! russh gives a client room for more as soon as something has come, whether or not that was passed
//! on; and while a channel's queue is full it hears nothing at all. It does not hear, then, that
//! the client can take more of what the guest says, which may be what the guest waits for before it
//! takes more itself. So this queue takes all that comes, and the longer it gets, the more it slows
//! the client down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use russh::{ChannelMsg, ChannelReadHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// How many bytes may wait before the client is slowed down: a guest that is behind for a moment
/// catches up.
const PLENTY: usize = 16 << 20;
/// How long a packet waits, unless the guest catches up, when more than [`PLENTY`] bytes are
/// queued.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The wait doubles with each so many bytes more.
const STEP: usize = 8 << 20;
/// The longest wait of a packet: another message of the client is heard after the packets before
/// it.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Bytes that a message takes in memory besides its data.
const OVERHEAD: usize = 128;

/// The queue of a channel.
pub(super) struct Backlog {
    messages: mpsc::UnboundedReceiver<ChannelMsg>,
    held: Arc<Held>,
}

#[derive(Default)]
struct Held {
    bytes: AtomicUsize,
    /// Notified when few bytes wait again.
    caught_up: Notify,
}

impl Backlog {
    /// A queue that takes the messages of `incoming`, until the client closes the channel or the
    /// queue is dropped.
    pub(super) fn new(mut incoming: ChannelReadHalf) -> Backlog {
        let (sender, messages) = mpsc::unbounded_channel();
        let held = Arc::<Held>::default();
        let backlog = Backlog { messages, held: Arc::clone(&held) };
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = incoming.wait() => message,
                    () = sender.closed() => return,
                };
                let Some(message) = message else { return };
                let bytes = size(&message) + held.bytes.fetch_add(size(&message), Ordering::Relaxed);
                if sender.send(message).is_err() {
                    return;
                }
                if let Some(wait) = wait(bytes) {
                    let _ = timeout(wait, held.caught_up.notified()).await;
                }
            }
        });
        backlog
    }

    /// The next message; `None` after the client has closed the channel.
    pub(super) async fn next(&mut self) -> Option<ChannelMsg> {
        let message = self.messages.recv().await?;
        let size = size(&message);
        let before = self.held.bytes.fetch_sub(size, Ordering::Relaxed);
        if before > PLENTY && before - size <= PLENTY {
            self.held.caught_up.notify_one();
        }
        Some(message)
    }

    /// Reads the data of messages only, until the client ends it.
    pub(super) fn data(self) -> impl Stream<Item = std::io::Result<Bytes>> {
        stream::unfold(self, async |mut backlog| {
            loop {
                match backlog.next().await? {
                    ChannelMsg::Data { data } => return Some((Ok(data), backlog)),
                    ChannelMsg::Eof | ChannelMsg::Close => return None,
                    _ => {}
                }
            }
        })
    }
}

fn size(message: &ChannelMsg) -> usize {
    OVERHEAD
        + match message {
            ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => data.len(),
            _ => 0,
        }
}

/// How long the next message has to wait if `bytes` bytes are in the queue; `None` for not at all.
fn wait(bytes: usize) -> Option<Duration> {
    let beyond = bytes.checked_sub(PLENTY).filter(|beyond| *beyond > 0)?;
    let doubled = u32::try_from(beyond / STEP).unwrap_or(u32::MAX);
    Some(FIRST_WAIT.saturating_mul(2_u32.saturating_pow(doubled)).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlog_over_the_limit_slows_the_sender() {
        assert_eq!([0, PLENTY].map(wait), [None, None]);
        assert_eq!(wait(PLENTY + 1), Some(FIRST_WAIT));
        assert_eq!(wait(PLENTY + 2 * STEP), Some(4 * FIRST_WAIT));
        assert_eq!([PLENTY + 20 * STEP, usize::MAX].map(wait), [Some(LONGEST_WAIT); 2]);
    }
}
