//! Merging small mux frames: what lies between the pipe and yamux on the host.
//!
//! yamux counts a window in bytes, but keeps an allocation for each data frame until it is read:
//! frames of one byte cost some 64 times what they carry. A [`Merging`] pipe knows how much of a
//! stream is unread ([`Unread`]). It passes frames on while the reader keeps up. The small frames
//! of a stream whose reader is behind wait here, as one run of bytes, and reach yamux as one frame
//! when the reader has read all before them. Frames of one stream keep their order; no stream waits
//! for another.
//!
//! Format of the frames: <https://github.com/hashicorp/yamux/blob/master/spec.md>.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// A data frame of fewer bytes is small.
const SMALL: usize = 1 << 10;
/// How many small frames of a stream may be unread in yamux.
const MAX_SMALL: usize = 128;
/// The most bytes of a merged frame; yamux takes up to 1 MiB.
const MAX_MERGED: usize = 512 << 10;

const HEADER: usize = 12;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const SYN: u16 = 1;
const FIN: u16 = 4;
const RST: u16 = 8;
/// Flags that end a stream.
const ENDS: u16 = FIN | RST;

/// What the peer has sent on the streams of a link and their readers have not read.
#[derive(Clone)]
pub(super) struct Unread(Arc<Mutex<State>>);

struct State {
    streams: HashMap<u32, Stream>,
    /// Streams whose reader has read all that yamux has of them, while more waits here.
    released: VecDeque<u32>,
    /// Bytes of all streams, in yamux and here.
    total: usize,
    /// The most that `total` may be.
    room: usize,
    /// Of who drives the link.
    waker: Option<Waker>,
}

#[derive(Default)]
struct Stream {
    /// Bytes that yamux has.
    unread: usize,
    /// Small frames among them.
    small: usize,
    /// What comes after them.
    waiting: Option<Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: BytesMut,
    /// How the peer's side of the stream ends after this: FIN, RST, or 0 if it goes on.
    end: u16,
}

impl Unread {
    /// Of a peer that may have sent `room` bytes that are unread, on all streams together.
    pub(super) fn new(room: usize) -> Unread {
        let state = State { streams: HashMap::new(), released: VecDeque::new(), total: 0, room, waker: None };
        Unread(Arc::new(Mutex::new(state)))
    }

    /// Follows the stream of this number from its first frame on.
    pub(super) fn follow(&self, id: u32) -> Followed {
        self.lock().streams.insert(id, Stream::default());
        Followed { id, unread: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that is followed until this is dropped.
pub(super) struct Followed {
    id: u32,
    unread: Unread,
}

impl Followed {
    /// Its reader has read so many bytes.
    pub(super) fn read(&self, count: usize) {
        let mut state = self.unread.lock();
        let state = &mut *state;
        let Some(stream) = state.streams.get_mut(&self.id) else { return };
        let count = count.min(stream.unread);
        stream.unread -= count;
        state.total -= count;
        if stream.unread == 0 {
            stream.small = 0;
            if stream.waiting.is_some() {
                state.released.push_back(self.id);
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut state = self.unread.lock();
        if let Some(stream) = state.streams.remove(&self.id) {
            state.total -= stream.unread + stream.waiting.map_or(0, |waiting| waiting.bytes.len());
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// It goes on, with these flags.
    Pass(u16),
    /// Its body is added to what waits.
    Wait,
}

impl State {
    /// Decides about a frame by its header.
    fn way(&mut self, kind: u8, flags: u16, id: u32, length: usize) -> io::Result<Way> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(Way::Pass(flags)) };
        match (kind, &mut stream.waiting) {
            // A reset ends the stream behind what was sent before it, as yamux has it.
            (WINDOW_UPDATE, Some(waiting)) => {
                waiting.end |= flags & ENDS;
                Ok(Way::Pass(flags & !ENDS))
            }
            (_, None) if flags & RST != 0 => Ok(Way::Pass(flags)),
            (DATA, waiting) if flags & SYN == 0 => {
                if length > self.room.saturating_sub(self.total) {
                    return Err(io::Error::other("the guest sends more than there is room for"));
                }
                let is_small = (1..SMALL).contains(&length);
                if waiting.is_some() || (is_small && stream.small >= MAX_SMALL) {
                    waiting.get_or_insert_default();
                    return Ok(Way::Wait);
                }
                self.total += length;
                stream.unread += length;
                stream.small += usize::from(is_small);
                Ok(Way::Pass(flags))
            }
            _ => Ok(Way::Pass(flags)),
        }
    }

    /// Bytes of a frame that waits. A stream that is not followed any more has no reader.
    fn wait(&mut self, id: u32, bytes: &[u8]) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.waiting.get_or_insert_default().bytes.extend_from_slice(bytes);
            self.total += bytes.len();
        }
    }

    /// The end of a frame that waits.
    fn waits(&mut self, id: u32, end: u16) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let waiting = stream.waiting.get_or_insert_default();
            waiting.end |= end;
            if stream.unread == 0 {
                self.released.push_back(id);
            }
        }
    }

    /// The next merged frame whose reader waits for it: its header and its body, and the header of
    /// a reset that comes next.
    fn release(&mut self) -> Option<[Bytes; 3]> {
        while let Some(id) = self.released.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            // It may have been released more than once.
            if stream.unread != 0 {
                continue;
            }
            let Some(mut waiting) = stream.waiting.take() else { continue };
            let body = waiting.bytes.split_to(waiting.bytes.len().min(MAX_MERGED)).freeze();
            let is_whole = waiting.bytes.is_empty();
            let end = if is_whole { waiting.end } else { 0 };
            stream.unread = body.len();
            if !is_whole {
                stream.waiting = Some(waiting);
            }
            if body.is_empty() && end == 0 {
                continue;
            }
            // What a frame with a reset carries is not read.
            let (flags, reset) = match end & RST {
                0 => (end, Bytes::new()),
                _ => (0, Bytes::copy_from_slice(&header(DATA, RST, id, 0))),
            };
            return Some([Bytes::copy_from_slice(&header(DATA, flags, id, body.len() as u32)), body, reset]);
        }
        None
    }
}

fn header(kind: u8, flags: u16, id: u32, length: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[1] = kind;
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header[4..8].copy_from_slice(&id.to_be_bytes());
    header[8..].copy_from_slice(&length.to_be_bytes());
    header
}

/// Where in the peer's frames the pipe is.
enum FramePosition {
    /// So many bytes of a header have come.
    Header([u8; HEADER], usize),
    /// So many bytes of a body are still to pass.
    Passing(usize),
    /// So many bytes of a body are still to be added to what waits.
    Waiting { id: u32, left: usize, end: u16 },
}

/// A pipe whose reader, yamux, gets small frames merged. What is written passes unchanged.
pub(super) struct Merging<T> {
    io: T,
    position: FramePosition,
    /// What is to be read before anything else.
    next: VecDeque<Bytes>,
    unread: Unread,
}

impl<T: AsyncBufRead + Unpin> Merging<T> {
    pub(super) fn new(io: T, unread: Unread) -> Merging<T> {
        Merging { io, position: FramePosition::Header([0; HEADER], 0), next: VecDeque::new(), unread }
    }

    /// Moves the peer's bytes on until there is something for yamux to read. False: the pipe is at
    /// its end.
    fn poll_advance(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if let FramePosition::Passing(1..) = self.position {
                return Poll::Ready(Ok(true));
            }
            {
                let mut state = self.unread.lock();
                self.next.extend(state.release().into_iter().flatten());
                // A reader that reads its last byte from now on calls.
                state.waker = Some(cx.waker().clone());
            }
            if !self.next.is_empty() {
                return Poll::Ready(Ok(true));
            }
            let bytes = ready!(Pin::new(&mut self.io).poll_fill_buf(cx))?;
            if bytes.is_empty() {
                return Poll::Ready(Ok(false));
            }
            let mut state = self.unread.lock();
            let count = match &mut self.position {
                FramePosition::Header(header, have) => {
                    let count = bytes.len().min(HEADER - *have);
                    header[*have..*have + count].copy_from_slice(&bytes[..count]);
                    *have += count;
                    if *have == HEADER {
                        let [_, kind, flags @ .., _, _, _, _, _, _, _, _] = *header;
                        let flags = u16::from_be_bytes(flags);
                        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
                        let (id, length) = (number(4), number(8) as usize);
                        self.position = match state.way(kind, flags, id, length)? {
                            Way::Pass(flags) => {
                                header[2..4].copy_from_slice(&flags.to_be_bytes());
                                self.next.push_back(Bytes::copy_from_slice(header));
                                FramePosition::Passing(if kind == DATA { length } else { 0 })
                            }
                            Way::Wait => FramePosition::Waiting { id, left: length, end: flags & ENDS },
                        };
                    }
                    count
                }
                FramePosition::Waiting { id, left, .. } => {
                    let count = bytes.len().min(*left);
                    state.wait(*id, &bytes[..count]);
                    *left -= count;
                    count
                }
                FramePosition::Passing(_) => 0,
            };
            match self.position {
                FramePosition::Waiting { id, left: 0, end } => {
                    state.waits(id, end);
                    self.position = FramePosition::Header([0; HEADER], 0);
                }
                FramePosition::Passing(0) if self.next.is_empty() => {
                    self.position = FramePosition::Header([0; HEADER], 0)
                }
                _ => {}
            }
            drop(state);
            Pin::new(&mut self.io).consume(count);
        }
    }
}

impl<T: AsyncBufRead + Unpin> AsyncRead for Merging<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.next.is_empty() && !ready!(this.poll_advance(cx))? {
            return Poll::Ready(Ok(()));
        }
        if let Some(next) = this.next.front_mut() {
            let count = next.len().min(buffer.remaining());
            buffer.put_slice(&next[..count]);
            next.advance(count);
            while this.next.front().is_some_and(Bytes::is_empty) {
                this.next.pop_front();
            }
        } else if let FramePosition::Passing(left) = &mut this.position {
            let most = buffer.remaining().min(*left);
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut part))?;
            let count = part.filled().len();
            buffer.advance(count);
            *left -= count;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Merging<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_released_twice_loses_no_data() {
        let unread = Unread::new(1 << 20);
        let followed = unread.follow(1);
        for _ in 0..MAX_SMALL {
            assert_eq!(unread.lock().way(DATA, 0, 1, 1).unwrap(), Way::Pass(0));
        }
        let wait = |bytes: &[u8]| {
            let mut state = unread.lock();
            assert_eq!(state.way(DATA, 0, 1, bytes.len()).unwrap(), Way::Wait);
            state.wait(1, bytes);
            state.waits(1, 0);
        };
        wait(b"first");
        // Its reader has read all, and asks once more.
        followed.read(MAX_SMALL);
        followed.read(0);
        let body = |state: &mut State| state.release().map(|[_, body, _]| body);
        assert_eq!(body(&mut unread.lock()).unwrap(), "first");
        assert_eq!(body(&mut unread.lock()), None);
        for _ in 0..MAX_SMALL {
            unread.lock().way(DATA, 0, 1, 1).unwrap();
        }
        wait(b"second");
        // It was released before, and its reader has not read what came then.
        unread.lock().released.push_back(1);
        assert_eq!(body(&mut unread.lock()), None);
        followed.read(MAX_SMALL + "first".len());
        assert_eq!(body(&mut unread.lock()).unwrap(), "second");
    }
}
